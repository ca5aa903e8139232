// home.db: a home's state in SQLite, which the command line and the control plane of the home open at once.
//
// Every change is one transaction on disk (WAL mode, synchronous=FULL): a crash leaves the state before or after it. It
// begins and ends within one synchronous call, so that nobody of another process waits longer than a disk takes, and
// nobody of this one can come in between: that is why it is not a part of the control plane's own database, whose
// transactions span awaits. Not through kysely either, which would take a third of the time of a short command to load.

import { closeSync, openSync, statSync } from "node:fs";
import type { DatabaseSync } from "node:sqlite";
import { errnoCode, errorMessage, StorageError } from "../../base/errors.ts";
import { Problem } from "./field-checks.ts";
import { emptyState, type HomeState, type HomeStateDraft } from "./home-state.ts";
import { HOME_MIGRATIONS, type Row, STATE_TABLES, type StateTable } from "./state-tables.ts";

/** Another process's transaction takes as long as its disk needs to sync. */
const BUSY_TIMEOUT_MS = 20_000;
/** SQLite's primary result codes. */
const BUSY = 5;
const CORRUPT = 11;
const NOT_A_DATABASE = 26;

export class StateFile {
  readonly path: string;
  readonly #database: DatabaseSync;
  /** Another file may come to be at the path: this one is not it then. */
  readonly #inode: number;
  /** As of SQLite's data_version, which other connections' commits change. */
  #known: { readonly version: number; readonly state: HomeState } | undefined;

  private constructor(path: string, database: DatabaseSync) {
    this.path = path;
    this.#database = database;
    this.#inode = statSync(path).ino;
  }

  /** StorageError `corrupt` where there is none, or it is damaged; `unsupported` after a newer version of Strata. */
  static open(path: string): StateFile {
    if (statSync(path, { throwIfNoEntry: false }) === undefined) {
      throw new StorageError(
        "corrupt",
        "no-home-state",
        `${path} is missing: it has the names of this home's branches`,
      );
    }
    return StateFile.#made(path, (file) => file.#migrate());
  }

  /** With this state, whatever was there: one transaction. */
  static create(path: string, state: HomeState): StateFile {
    makePrivateFile(path);
    return StateFile.#made(path, (file) => {
      // Kept in the file: whoever opens it later has it too.
      file.#database.exec("PRAGMA journal_mode = WAL");
      file.#migrate();
      file.#transaction("IMMEDIATE", () => file.#write(file.#read(), state));
    });
  }

  static #made(path: string, prepare: (file: StateFile) => void): StateFile {
    return describing(path, () => {
      const file = new StateFile(path, connect(path));
      try {
        prepare(file);
      } catch (error) {
        file.close();
        throw error;
      }
      return file;
    });
  }

  /** The path still leads to it. */
  isCurrent(): boolean {
    return statSync(this.path, { throwIfNoEntry: false })?.ino === this.#inode;
  }

  /** As the last transaction left it; shared, so not to be changed. */
  read(): HomeState {
    return describing(this.path, () => {
      if (this.#known?.version !== this.#pragma("data_version")) {
        // One snapshot, and its version.
        this.#transaction("DEFERRED", () => {
          this.#known = { state: this.#read(), version: this.#pragma("data_version") };
        });
      }
      return this.#known!.state;
    });
  }

  /** All of the change, on disk, or nothing of it where `change` throws. */
  update(change: (draft: HomeStateDraft) => void): void {
    describing(this.path, () => {
      this.#transaction("IMMEDIATE", () => {
        const before = this.#read();
        const draft = this.#read();
        change(draft);
        this.#write(before, draft);
      });
      this.#known = undefined;
    });
  }

  close(): void {
    this.#database.close();
  }

  #migrate(): void {
    const version = () => this.#pragma("user_version");
    if (version() > HOME_MIGRATIONS.length) {
      throw new StorageError(
        "unsupported",
        "newer-home",
        `${this.path} is of version ${version()}, and this Strata knows ${HOME_MIGRATIONS.length}: a newer one has used it`,
      );
    }
    while (version() < HOME_MIGRATIONS.length) {
      this.#transaction("IMMEDIATE", () => {
        const from = version();
        // Else another process was first.
        if (from < HOME_MIGRATIONS.length) {
          this.#database.exec(HOME_MIGRATIONS[from]!);
          this.#database.exec(`PRAGMA user_version = ${from + 1}`);
        }
      });
    }
  }

  #pragma(name: "user_version" | "data_version"): number {
    return Number(this.#database.prepare(`PRAGMA ${name}`).get()![name]);
  }

  #transaction(kind: "IMMEDIATE" | "DEFERRED", body: () => void): void {
    this.#database.exec(`BEGIN ${kind}`);
    try {
      body();
      this.#database.exec("COMMIT");
    } catch (error) {
      // A disk that is full has ended it already.
      if (this.#database.isTransaction) {
        this.#database.exec("ROLLBACK");
      }
      throw error;
    }
  }

  #read(): HomeStateDraft {
    const draft = emptyState();
    for (const table of STATE_TABLES) {
      const { name, columns } = table;
      const query = `select ${columns.join(", ")} from ${name} order by rowid`;
      for (const found of this.#database.prepare(query).all()) {
        table.put(draft, textsOf(table, found));
      }
    }
    return draft;
  }

  /** Only rows that differ, so that a change costs the same in a home of any size but for reading it. */
  #write(before: HomeState, after: HomeState): void {
    for (const table of STATE_TABLES) {
      const keyOf = (row: Row) => JSON.stringify(row.slice(0, table.keys));
      const old = new Map([...table.rowsOf(before)].map((row) => [keyOf(row), row]));
      const now = new Map([...table.rowsOf(after)].map((row) => [keyOf(row), row]));
      for (const [key, row] of old) {
        if (!now.has(key)) {
          this.#remove(table, row);
        }
      }
      for (const [key, row] of now) {
        if (JSON.stringify(old.get(key)) !== JSON.stringify(row)) {
          this.#put(table, row);
        }
      }
    }
  }

  #remove({ name, columns, keys }: StateTable, row: Row): void {
    const where = columns.slice(0, keys).map((column) => `${column} = ?`);
    this.#database
      .prepare(`delete from ${name} where ${where.join(" and ")}`)
      .run(...row.slice(0, keys));
  }

  /** A row that is there keeps its place in the order. */
  #put({ name, columns, keys }: StateTable, row: Row): void {
    const sets = columns.slice(keys).map((column) => `${column} = excluded.${column}`);
    const places = columns.map(() => "?").join(", ");
    const same = `on conflict (${columns.slice(0, keys).join(", ")}) do`;
    const otherwise = sets.length === 0 ? "nothing" : `update set ${sets.join(", ")}`;
    this.#database
      .prepare(
        `insert into ${name} (${columns.join(", ")}) values (${places}) ${same} ${otherwise}`,
      )
      .run(...row);
  }
}

function connect(path: string): DatabaseSync {
  // Not imported: the command line loads this file for every verb.
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
  const database = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS });
  database.exec("PRAGMA synchronous = FULL");
  return database;
}

function textsOf({ name, columns }: StateTable, found: Record<string, unknown>): Row {
  return columns.map((column) => {
    const value = found[column];
    if (typeof value !== "string") {
      throw new Problem(`${name}.${column} expected text`);
    }
    return value;
  });
}

/** SQLite makes its other files as private as this one. */
function makePrivateFile(path: string): void {
  try {
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    if (errnoCode(error) !== "EEXIST") {
      throw error;
    }
  }
}

function describing<T>(path: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof Problem) {
      throw new StorageError("corrupt", "bad-home-state", `${path}: ${error.message}`);
    }
    if (!(error instanceof Error && "errcode" in error)) {
      throw error;
    }
    const code = Number(error.errcode) & 0xff;
    const isDamage = code === CORRUPT || code === NOT_A_DATABASE;
    const kind = isDamage ? "corrupt" : code === BUSY ? "unavailable" : "internal";
    const message = `${path}: ${errorMessage(error)}`;
    throw new StorageError(kind, isDamage ? "bad-home-state" : "home-state", message, {
      cause: error,
    });
  }
}

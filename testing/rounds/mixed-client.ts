// A client of rows, sequences, tables and prepared transactions that comes back after each break and keeps a log of what it was told.

import assert from "node:assert/strict";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { BROKEN } from "../proxy/logged-client.ts";

/** Nobody stands between these clients and a Postgres that starts, stops or is no primary any more. */
const AWAY = new RegExp(`${BROKEN.source}|57P03|25006|timeout expired`, "i");
const PAUSE_MS = 20;
export const ACCOUNTS = 1000;
const ROWS_OF_A_TABLE = 400;
const MOST_TABLES = 6;

export const PREPARE_ROUNDS = [
  // Nobody writes to it but who looks at statistics.
  "create table counted (i int)",
  "create sequence numbers",
  `create table log (client int, n int, number bigint not null unique default nextval('numbers'), primary key (client, n))`,
  `create table accounts (id int primary key, balance int not null, note text) with (fillfactor = 80)`,
  `insert into accounts select i, 0, repeat('x', 80) from generate_series(1, ${ACCOUNTS}) i`,
];

/** Whether the server did what broke off, nobody knows before somebody looks. */
type Fate = "done" | "unknown";

export class MixedClient {
  readonly id: number;
  /** Rows of `log`, by their number. */
  readonly rows = new Map<number, Fate>();
  /** Each value of the sequence that this client was given, in their order, and for what. */
  readonly numbers: { readonly number: bigint; readonly owner: string }[] = [];
  /** Tables that are there, and those of which nobody knows. */
  readonly tables = new Map<string, Fate>();
  /** Told to be dropped. */
  readonly dropped = new Set<string>();
  /** Global names of transactions that were prepared, or perhaps, and not yet told to be committed; with their row. */
  readonly #prepared = new Map<string, number>();
  readonly #random: SeededRandom;
  readonly #url: () => string;
  #client: pg.Client | undefined;
  #next = 0;
  #stopping = false;
  #run: Promise<void> = Promise.resolve();

  /** `url` is of where the primary is when it is called. */
  constructor(id: number, url: () => string, random: SeededRandom) {
    this.id = id;
    this.#url = url;
    this.#random = random;
  }

  /** Works until `pause`. Rejects, from `pause`, with what no client may be told. */
  start(): void {
    this.#stopping = false;
    this.#run = this.#work();
    this.#run.catch(() => undefined);
  }

  /** Resolves when what it does is done, and nothing of it is prepared. */
  async pause(): Promise<void> {
    this.#stopping = true;
    await this.#run;
    await this.#finishPrepared();
  }

  async end(): Promise<void> {
    this.#stopping = true;
    await this.#run.catch(() => undefined);
    await this.#client?.end().catch(() => undefined);
    this.#client = undefined;
  }

  /** What somebody who looked says of a table of unknown fate. */
  settleTable(name: string, isThere: boolean): void {
    if (isThere) {
      this.tables.set(name, "done");
    } else {
      this.tables.delete(name);
    }
  }

  async #work(): Promise<void> {
    while (!this.#stopping) {
      const task = this.#random.int(20);
      if (task < 6) {
        await this.#insert();
      } else if (task < 9) {
        await this.#takeNumber();
      } else if (task < 14) {
        await this.#transfer();
      } else if (task < 15) {
        await this.#prepare();
      } else if (task < 16) {
        await this.#finishPrepared();
      } else {
        await this.#changeTables();
      }
    }
  }

  async #insert(): Promise<void> {
    const n = this.#next++;
    this.rows.set(n, "unknown");
    const rows = await this.#try("insert into log values ($1, $2) returning number", [this.id, n]);
    if (rows !== undefined) {
      this.rows.set(n, "done");
      this.#given(rows, `row ${this.id}:${n}`);
    }
  }

  async #takeNumber(): Promise<void> {
    const rows = await this.#try("select nextval('numbers') as number");
    if (rows !== undefined) {
      this.#given(rows, `question ${this.id}.${this.numbers.length}`);
    }
  }

  #given(rows: readonly Record<string, unknown>[], owner: string): void {
    this.numbers.push({ number: BigInt(rows[0]!["number"] as string), owner });
  }

  async #transfer(): Promise<void> {
    const [from, to] = [1 + this.#random.int(ACCOUNTS), 1 + this.#random.int(ACCOUNTS)];
    const amount = this.#random.int(100);
    // In the order of their numbers: two transfers never wait for each other in a circle.
    const changes = [
      [from, -amount],
      [to, amount],
    ].toSorted(([a], [b]) => a! - b!);
    await this.#try(
      `begin; ${changes.map(([id, by]) => `update accounts set balance = balance + ${by} where id = ${id};`).join("")} commit`,
    );
  }

  async #prepare(): Promise<void> {
    const n = this.#next++;
    const name = `rounds_${this.id}_${n}`;
    this.rows.set(n, "unknown");
    this.#prepared.set(name, n);
    await this.#try(
      `begin; insert into log values (${this.id}, ${n}); prepare transaction '${name}'`,
    );
  }

  /** What is prepared, whatever happened since, is committed; what never was is known to be nothing. */
  async #finishPrepared(): Promise<void> {
    for (const [name, n] of this.#prepared) {
      let isThere: boolean | undefined;
      while (isThere === undefined) {
        const rows = await this.#try("select 1 from pg_prepared_xacts where gid = $1", [name]);
        isThere = rows === undefined ? undefined : rows.length === 1;
      }
      if (!isThere) {
        // Committed by a try whose answer was lost, or never prepared: `unknown`.
        this.#prepared.delete(name);
      } else if ((await this.#try(`commit prepared '${name}'`)) !== undefined) {
        this.rows.set(n, "done");
        this.#prepared.delete(name);
      }
    }
  }

  async #changeTables(): Promise<void> {
    const mine = [...this.tables].filter(([, fate]) => fate === "done").map(([name]) => name);
    const name = mine.length === 0 ? undefined : this.#random.pick(mine);
    if (name === undefined || (mine.length < MOST_TABLES && this.#random.int(3) === 0)) {
      await this.#createTable();
    } else if (this.#random.int(4) === 0) {
      this.tables.set(name, "unknown");
      if ((await this.#try(`drop table ${name}`)) !== undefined) {
        this.tables.delete(name);
        this.dropped.add(name);
      }
    } else {
      const rewrites = [
        `alter table ${name} alter column i type ${this.#random.pick(["bigint", "int", "numeric"])}`,
        `begin; truncate ${name}; insert into ${name} ${someRows()}; commit`,
        `vacuum full ${name}`,
        `vacuum ${name}`,
        `reindex table ${name}`,
        `cluster ${name} using ${name}_t`,
        `begin; update ${name} set t = t || '.'; rollback`,
        `begin; drop index ${name}_t; create index ${name}_t on ${name} (t); commit`,
      ];
      await this.#try(this.#random.pick(rewrites));
    }
  }

  async #createTable(): Promise<void> {
    const name = `made_${this.id}_${this.#next++}`;
    this.tables.set(name, "unknown");
    const index = this.#random.pick(["i", "t", "t, i"]);
    const made = await this.#try(
      `begin; create table ${name} as ${someRows()}; create index ${name}_t on ${name} (${index}); commit`,
    );
    if (made !== undefined) {
      this.tables.set(name, "done");
    }
  }

  /** Undefined where the connection broke; then the next one is another. */
  async #try(sql: string, values?: unknown[]): Promise<Record<string, unknown>[] | undefined> {
    try {
      const client = await this.#connected();
      const { rows } = await client.query({ text: sql, values: values ?? [] });
      // Of several statements there are several results.
      return rows ?? [];
    } catch (error) {
      const { code = "", message } = error as { code?: string; message: string };
      assert.match(`${code} ${message}`, AWAY, `client ${this.id}: ${sql}: ${message}`);
      await this.#client?.end().catch(() => undefined);
      this.#client = undefined;
      await sleep(PAUSE_MS);
      return undefined;
    }
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client === undefined) {
      const client = new pg.Client({
        connectionString: this.#url(),
        connectionTimeoutMillis: 10_000,
      });
      client.on("error", () => {});
      await client.connect();
      this.#client = client;
    }
    return this.#client;
  }
}

const someRows = () => `select i, md5(i::text) as t from generate_series(1, ${ROWS_OF_A_TABLE}) i`;

/** What each table of a client has. */
export const TABLE_CONTENT = {
  rows: ROWS_OF_A_TABLE,
  sum: ((ROWS_OF_A_TABLE + 1) * ROWS_OF_A_TABLE) / 2,
};

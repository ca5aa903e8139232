// API keys: who may call the API, and what for. Only their hashes are kept.
//
//   strata_<12 hex digits, its number>_<43 letters: 256 random bits in base64url>

import { createHash, timingSafeEqual } from "node:crypto";
import { monotonicMs } from "../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import { randomBytes } from "../base/random.ts";
import { newNumber } from "./context.ts";
import { nowText } from "./inventory.ts";
import type { Database } from "./state/database.ts";
import type { ApiKeyRow, KeyScope } from "./state/tables.ts";

const KEY = /^strata_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$/;
/** Wrong keys from one address in this time; then it waits. A guess would take longer than the sun lasts. */
const FAILURES_WINDOW_MS = 10_000;
const MAX_FAILURES = 30;
/** Noted at most so often: not every request is a write. */
const LAST_USED_MS = 60_000;
/** Addresses whose failures are remembered. */
const MAX_ADDRESSES = 10_000;

export interface Caller {
  readonly keyId: number;
  readonly scope: KeyScope;
  /** It sees this project only; null: all. */
  readonly projectId: string | null;
}

export class Accounts {
  readonly #db: Database;
  readonly #failures = new Map<string, { count: number; sinceMs: number }>();
  readonly #notedMs = new Map<number, number>();

  constructor(db: Database) {
    this.#db = db;
  }

  /** The only time that the key itself is seen. */
  async create(
    name: string,
    scope: KeyScope,
    projectId: string | null,
  ): Promise<{ readonly row: ApiKeyRow; readonly key: string }> {
    const id = newNumber();
    const number = id.toString(16).padStart(12, "0");
    const key = `strata_${number}_${randomBytes(32).toString("base64url")}`;
    const row: ApiKeyRow = {
      id,
      name,
      hash: hashOf(key).toString("hex"),
      scope,
      project_id: projectId,
      created_at: nowText(),
      last_used_at: null,
      last_used_from_addr: "",
    };
    await this.#db.insertInto("api_keys").values(row).execute();
    return { row, key };
  }

  list(): Promise<ApiKeyRow[]> {
    return this.#db
      .selectFrom("api_keys")
      .selectAll()
      .orderBy("created_at")
      .orderBy("id")
      .execute();
  }

  /** StorageError `not-found`. */
  async revoke(id: number): Promise<ApiKeyRow> {
    const row = await this.#find(id);
    if (row === undefined) {
      throw new StorageError("not-found", "no-api-key", `API key ${id} not found`);
    }
    await this.#db.deleteFrom("api_keys").where("id", "=", id).execute();
    return row;
  }

  /** Of `Authorization: Bearer KEY`. StorageError `unauthorized`, or `too-many-requests` after many of these. */
  async authenticate(authorization: string | undefined, address: string): Promise<Caller> {
    this.#refuseGuessing(address);
    const key = /^bearer +(\S+)$/i.exec(authorization ?? "")?.[1] ?? "";
    const number = KEY.exec(key)?.[1];
    const row = number === undefined ? undefined : await this.#find(Number.parseInt(number, 16));
    if (row === undefined || !timingSafeEqual(hashOf(key), Buffer.from(row.hash, "hex"))) {
      if (authorization !== undefined) {
        this.#noteFailure(address);
      }
      const why =
        authorization === undefined
          ? "this request needs the header 'Authorization: Bearer API_KEY'"
          : "the API key is not valid";
      throw new StorageError("invalid", "unauthorized", why);
    }
    await this.#noteUse(row.id, address);
    return { keyId: row.id, scope: row.scope, projectId: row.project_id };
  }

  #find(id: number): Promise<ApiKeyRow | undefined> {
    return this.#db.selectFrom("api_keys").selectAll().where("id", "=", id).executeTakeFirst();
  }

  #refuseGuessing(address: string): void {
    const failures = this.#failures.get(address);
    if (failures === undefined) {
      return;
    }
    if (monotonicMs() - failures.sinceMs > FAILURES_WINDOW_MS) {
      this.#failures.delete(address);
    } else if (failures.count >= MAX_FAILURES) {
      const message = "too many requests with wrong API keys: wait some seconds";
      throw new StorageError("unavailable", "too-many-requests", message);
    }
  }

  #noteFailure(address: string): void {
    const failures = this.#failures.get(address) ?? { count: 0, sinceMs: monotonicMs() };
    failures.count++;
    if (this.#failures.size >= MAX_ADDRESSES) {
      this.#failures.clear();
    }
    this.#failures.set(address, failures);
  }

  async #noteUse(id: number, address: string): Promise<void> {
    const now = monotonicMs();
    if (now - (this.#notedMs.get(id) ?? -Infinity) > LAST_USED_MS) {
      this.#notedMs.set(id, now);
      await this.#db
        .updateTable("api_keys")
        .set({ last_used_at: nowText(), last_used_from_addr: address })
        .where("id", "=", id)
        .execute();
    }
  }
}

/** Makes a key of the home's own, and another one where `file` is gone or it was revoked. */
export async function ensureKey(
  accounts: Accounts,
  file: string,
  { name, scope }: { readonly name: string; readonly scope: KeyScope },
): Promise<void> {
  const key = readFileIfExists(file)?.toString("utf8").trim();
  const isValid = await accounts.authenticate(`Bearer ${key}`, name).then(
    () => true,
    () => false,
  );
  if (!isValid) {
    const { key: made } = await accounts.create(name, scope, null);
    writeFileDurably(file, `${made}\n`);
  }
}

function hashOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

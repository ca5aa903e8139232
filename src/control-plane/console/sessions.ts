// Who is logged in to the console: one-time links that become sessions, each standing for an API key.
//
// The browser has a session as a cookie that scripts cannot read; both it and a link's token are 256 random bits, of
// which only the hash is kept. Cookies are shared by all ports of a host: the name has the port in it, so that two homes
// do not log each other out.

import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { randomBytes } from "../../base/random.ts";
import type { Caller } from "../accounts.ts";
import { nowText } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";

const TOKEN = /^[A-Za-z0-9_-]{43}$/;
/** Somebody reads what a command has printed, and follows it. */
const LINK_SECONDS = 15 * 60;
const SESSION_SECONDS = 14 * 24 * 3600;
/** A guard against loops, not against people. */
const MAX_LINKS = 1000;
const MAX_SESSIONS = 10_000;

export interface Secret {
  /** In letters of base64url. */
  readonly token: string;
  readonly expiresAt: string;
}

/** A caller that came with a cookie. */
export interface SessionCaller extends Caller {
  /** Hash of its cookie's value. */
  readonly session: string;
}

export class Sessions {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** A link's token, for whoever has the API key `keyId`. Kept when this resolves. */
  async createLink(keyId: number): Promise<Secret> {
    const { token, hash, expiresAt } = newSecret(LINK_SECONDS);
    await serialized(this.#db, async (db) => {
      await makeRoom(db, "console_links", MAX_LINKS);
      await db
        .insertInto("console_links")
        .values({ hash, key_id: keyId, expires_at: expiresAt })
        .execute();
    });
    return { token, expiresAt };
  }

  /** A session for a link's token, which is worth nothing from then on. StorageError `unauthorized`. */
  async redeem(token: string): Promise<Secret> {
    const hash = hashOf(token);
    const link = TOKEN.test(token)
      ? await serialized(this.#db, async (db) => {
          const row = await db
            .selectFrom("console_links")
            .selectAll()
            .where("hash", "=", hash)
            .executeTakeFirst();
          await db.deleteFrom("console_links").where("hash", "=", hash).execute();
          return row;
        })
      : undefined;
    if (link === undefined || link.expires_at <= nowText()) {
      throw new StorageError(
        "invalid",
        "unauthorized",
        "this link was used already or is too old: 'strata console' prints a new one",
      );
    }
    return await this.open(link.key_id);
  }

  /** A session of whoever has the API key. Kept when this resolves. */
  async open(keyId: number): Promise<Secret> {
    const { token, hash, expiresAt } = newSecret(SESSION_SECONDS);
    const row = { hash, key_id: keyId, created_at: nowText(), expires_at: expiresAt };
    await serialized(this.#db, async (db) => {
      await makeRoom(db, "console_sessions", MAX_SESSIONS);
      await db.insertInto("console_sessions").values(row).execute();
    });
    return { token, expiresAt };
  }

  /** StorageError `unauthorized` where it has ended, or its API key is gone. */
  async callerOf(cookie: string): Promise<SessionCaller> {
    const hash = hashOf(cookie);
    const row = await this.#db
      .selectFrom("console_sessions")
      .innerJoin("api_keys", "api_keys.id", "console_sessions.key_id")
      .select(["api_keys.id", "api_keys.scope", "api_keys.project_id"])
      .where("console_sessions.hash", "=", hash)
      .where("console_sessions.expires_at", ">", nowText())
      .executeTakeFirst();
    if (row === undefined) {
      throw new StorageError("invalid", "unauthorized", "this session has ended: log in again");
    }
    return { keyId: row.id, scope: row.scope, projectId: row.project_id, session: hash };
  }

  async end(session: string): Promise<void> {
    await this.#db.deleteFrom("console_sessions").where("hash", "=", session).execute();
  }
}

/** Of the request; undefined where it has none. */
export function sessionCookie(request: IncomingMessage): string | undefined {
  const name = cookieName(request.socket.localPort ?? 0);
  for (const part of (request.headers.cookie ?? "").split(";")) {
    const at = part.indexOf("=");
    if (at > 0 && part.slice(0, at).trim() === name) {
      return part.slice(at + 1).trim();
    }
  }
  return undefined;
}

/** Value of `Set-Cookie`; an empty one takes the cookie away. */
export function setCookie(
  port: { number(): number; readonly isEncrypted: boolean },
  value: string,
): string {
  const maxAge = value === "" ? 0 : SESSION_SECONDS;
  const secure = port.isEncrypted ? "; Secure" : "";
  return `${cookieName(port.number())}=${value}; Path=/; Max-Age=${maxAge}; HttpOnly; SameSite=Strict${secure}`;
}

function cookieName(port: number): string {
  return `strata_session_${port}`;
}

function newSecret(seconds: number) {
  const token = randomBytes(32).toString("base64url");
  const expiresAt = new Date(nowMs() + seconds * 1000).toISOString();
  return { token, hash: hashOf(token), expiresAt };
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

/** Those whose time is over go; where there are too many nevertheless, all. */
async function makeRoom(
  db: Database,
  table: "console_links" | "console_sessions",
  most: number,
): Promise<void> {
  await db.deleteFrom(table).where("expires_at", "<=", nowText()).execute();
  const { count } = await db
    .selectFrom(table)
    .select((of) => of.fn.countAll<number>().as("count"))
    .executeTakeFirstOrThrow();
  if (Number(count) >= most) {
    await db.deleteFrom(table).execute();
  }
}

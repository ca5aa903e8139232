// Connections for statements over HTTP: kept for the next request of the same role in the same database of the same endpoint.

import { setIdleTimer, type Timer } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { clientError } from "../client/postgres-errors.ts";
import type { SqlConnection } from "./sql-connection.ts";

export interface SqlPoolSettings {
  /** Of one role in one database of one endpoint. */
  readonly maxConnections: number;
  readonly maxWaiting: number;
  readonly idleMs: number;
}

export const DEFAULT_SQL_POOL: SqlPoolSettings = {
  maxConnections: 20,
  maxWaiting: 1000,
  idleMs: 60_000,
};

interface Bucket {
  /** The one used last comes last, and is used next. */
  readonly idle: { readonly connection: SqlConnection; readonly timer: Timer }[];
  readonly waiting: ((connection: SqlConnection | undefined) => void)[];
  /** In use, being made, or idle. */
  count: number;
}

export interface Lease {
  readonly connection: SqlConnection;
  /** It has served others: it may have been closed just now. */
  readonly isReused: boolean;
}

export class SqlPool {
  readonly #settings: SqlPoolSettings;
  readonly #logger: Logger;
  readonly #buckets = new Map<string, Bucket>();

  constructor(settings: SqlPoolSettings, logger: Logger) {
    this.#settings = settings;
    this.#logger = logger;
  }

  get connections(): number {
    return [...this.#buckets.values()].reduce((sum, { count }) => sum + count, 0);
  }

  /** `make`: logs in. To be given back with `release`. StorageError 53300 where too many wait. */
  async acquire(key: string, make: () => Promise<SqlConnection>): Promise<Lease> {
    const bucket = this.#buckets.get(key) ?? { idle: [], waiting: [], count: 0 };
    this.#buckets.set(key, bucket);
    for (let last = bucket.idle.pop(); last !== undefined; last = bucket.idle.pop()) {
      last.timer.cancel();
      if (!last.connection.isClosed) {
        last.connection.hasAnswered = false;
        return { connection: last.connection, isReused: true };
      }
      bucket.count--;
    }
    if (bucket.count >= this.#settings.maxConnections) {
      if (bucket.waiting.length >= this.#settings.maxWaiting) {
        throw clientError("53300", "too-many-requests", "too many requests at once");
      }
      const given = await new Promise<SqlConnection | undefined>((resolve) =>
        bucket.waiting.push(resolve),
      );
      if (given !== undefined) {
        given.hasAnswered = false;
        return { connection: given, isReused: true };
      }
      // The place is ours, without a connection in it.
      bucket.count--;
    }
    bucket.count++;
    try {
      return { connection: await make(), isReused: false };
    } catch (error) {
      this.#vacate(key, bucket);
      throw error;
    }
  }

  /** Nothing of what one request has set is there for the next. */
  release(key: string, connection: SqlConnection): void {
    const bucket = this.#buckets.get(key)!;
    if (connection.isClosed || connection.status !== "I") {
      // In a transaction that nobody will end.
      connection.close();
      this.#vacate(key, bucket);
      return;
    }
    connection.command("DISCARD ALL").then(
      () => this.#offer(key, bucket, connection),
      (error: unknown) => {
        this.#logger.info({ reason: errorMessage(error) }, "pooled connection is of no more use");
        connection.close();
        this.#vacate(key, bucket);
      },
    );
  }

  #offer(key: string, bucket: Bucket, connection: SqlConnection): void {
    const next = bucket.waiting.shift();
    if (next !== undefined) {
      next(connection);
      return;
    }
    const drop = () => {
      const at = bucket.idle.findIndex((one) => one.connection === connection);
      if (at >= 0) {
        bucket.idle.splice(at, 1)[0]!.timer.cancel();
        connection.close();
        this.#vacate(key, bucket);
      }
    };
    connection.onClose = drop;
    bucket.idle.push({ connection, timer: setIdleTimer(drop, this.#settings.idleMs) });
  }

  /** A place is free: whoever waits makes a connection of his own. */
  #vacate(key: string, bucket: Bucket): void {
    const next = bucket.waiting.shift();
    if (next !== undefined) {
      next(undefined);
      return;
    }
    bucket.count--;
    if (bucket.count === 0 && this.#buckets.get(key) === bucket) {
      this.#buckets.delete(key);
    }
  }

  close(): void {
    for (const { idle } of this.#buckets.values()) {
      for (const { connection } of [...idle]) {
        connection.close();
      }
    }
  }
}

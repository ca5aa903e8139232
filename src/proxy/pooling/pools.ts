// All pools of a proxy, and a client's way into the one that is his.

import type { Duplex } from "node:stream";
import { ReceiveBudget } from "../../postgres/wire/wire-messages.ts";
import type { ComputeConnection } from "../compute/compute-connection.ts";
import { MessageWriter } from "./message-writer.ts";
import { PooledClient } from "./pooled-client.ts";
import { type PoolSettings, ServerPool } from "./server-pool.ts";
import { StatementTable } from "./statements.ts";

/** Unfinished messages of all clients. */
const MAX_UNFINISHED_BYTES = 512 * 1024 * 1024;

export class Pools {
  readonly #settings: PoolSettings;
  readonly #pools = new Map<string, ServerPool>();
  readonly #statements = new StatementTable();
  readonly #budget = new ReceiveBudget(MAX_UNFINISHED_BYTES);
  readonly #writer = new MessageWriter();

  constructor(settings: PoolSettings) {
    this.#settings = settings;
  }

  get serverConnections(): number {
    return [...this.#pools.values()].reduce((sum, { connections }) => sum + connections, 0);
  }

  /** Texts that some client has prepared. */
  get statements(): number {
    return this.#statements.size;
  }

  /**
   * `key`: all that a connection is made of: connections with the same are the same to clients. `login` makes one. Resolves to what
   * Postgres says at the start. To be left by `leave`.
   */
  async enter(
    key: string,
    login: () => Promise<ComputeConnection>,
  ): Promise<{ readonly pool: ServerPool; readonly greeting: Buffer }> {
    let pool = this.#pools.get(key);
    if (pool === undefined) {
      pool = new ServerPool(this.#settings, () => this.#pools.delete(key));
      this.#pools.set(key, pool);
    }
    pool.enter();
    try {
      if (pool.greeting === undefined) {
        await pool.release(await pool.acquire(login), false);
      }
      return { pool, greeting: pool.greeting! };
    } catch (error) {
      pool.leave();
      throw error;
    }
  }

  client(stream: Duplex, pool: ServerPool, login: () => Promise<ComputeConnection>): PooledClient {
    const [statements, budget, writer] = [this.#statements, this.#budget, this.#writer];
    return new PooledClient({ stream, pool, statements, budget, writer, login });
  }

  close(): void {
    for (const pool of this.#pools.values()) {
      pool.close();
    }
  }
}

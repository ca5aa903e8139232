// Server connections of one role in one database of one endpoint, with the same start-up parameters: for one transaction each.

import { monotonicMs, setIdleTimer, type Timer } from "../../base/clock.ts";
import { clientError } from "../client/postgres-errors.ts";
import type { ComputeConnection } from "../compute/compute-connection.ts";
import { PooledServer } from "./pooled-server.ts";

export interface PoolSettings {
  /** Of one pool. */
  readonly size: number;
  /** For a client whose turn does not come. */
  readonly waitTimeoutMs: number;
  readonly idleMs: number;
  /** Prepared statements that a server connection keeps. */
  readonly maxStatements: number;
}

export const DEFAULT_POOL_SETTINGS: PoolSettings = {
  size: 20,
  waitTimeoutMs: 120_000,
  idleMs: 60_000,
  maxStatements: 200,
};

interface Waiting {
  readonly give: (server: PooledServer | undefined) => void;
  readonly fail: (error: unknown) => void;
  readonly timer: Timer;
}

export class ServerPool {
  /** What Postgres says at the start; of the first connection. */
  greeting: Buffer | undefined;
  readonly #settings: PoolSettings;
  readonly #onEmpty: () => void;
  /** The one used last comes last, and is used next: caches are warm, and those that are too many go. */
  readonly #idle: { readonly server: PooledServer; readonly sinceMs: number }[] = [];
  /** In the order in which they came. */
  readonly #waiting = new Set<Waiting>();
  #count = 0;
  #clients = 0;
  #timer: Timer | undefined;

  constructor(settings: PoolSettings, onEmpty: () => void) {
    this.#settings = settings;
    this.#onEmpty = onEmpty;
  }

  get connections(): number {
    return this.#count;
  }

  /** The pool stays for as long as somebody is in it. */
  enter(): void {
    this.#clients++;
  }

  leave(): void {
    this.#clients--;
    this.#checkEmpty();
  }

  /** One that is idle; undefined where `acquire` has to be asked. `preferred`: the one that this client had last. */
  take(preferred: PooledServer | undefined): PooledServer | undefined {
    const at = this.#idle.findLastIndex(({ server }) => server === preferred);
    return (at < 0 ? this.#idle.pop() : this.#idle.splice(at, 1)[0])?.server;
  }

  /** `login`: makes a connection. StorageError 53300 where no turn comes in time, or what the login says. */
  async acquire(login: () => Promise<ComputeConnection>): Promise<PooledServer> {
    const idle = this.take(undefined);
    if (idle !== undefined) {
      return idle;
    }
    if (this.#count >= this.#settings.size) {
      const given = await this.#wait();
      if (given !== undefined) {
        return given;
      }
    } else {
      this.#count++;
    }
    try {
      const connection = await login();
      this.greeting ??= connection.greeting;
      const server = new PooledServer(connection, this.#settings.maxStatements);
      server.onGone = () => this.#lost(server);
      return server;
    } catch (error) {
      this.#vacate();
      throw error;
    }
  }

  /** Whatever the client left in the session is removed; a transaction that is open ends with the connection. */
  async release(server: PooledServer, inTransaction: boolean): Promise<void> {
    if (server.isGone) {
      return;
    }
    if (inTransaction) {
      server.close();
      return;
    }
    if (server.isDirty && !(await server.reset())) {
      return;
    }
    if (server.cancelling > 0) {
      server.onCancelled = () => this.#offer(server);
    } else {
      this.#offer(server);
    }
  }

  #offer(server: PooledServer): void {
    if (server.isGone) {
      return;
    }
    const next = this.#next();
    if (next !== undefined) {
      next.give(server);
      return;
    }
    this.#idle.push({ server, sinceMs: monotonicMs() });
    this.#timer ??= setIdleTimer(() => this.#closeIdle(), this.#settings.idleMs);
  }

  #wait(): Promise<PooledServer | undefined> {
    return new Promise((give, fail) => {
      const waiting: Waiting = {
        give,
        fail,
        timer: setIdleTimer(() => {
          this.#waiting.delete(waiting);
          fail(
            clientError(
              "53300",
              "pool-exhausted",
              `all ${this.#settings.size} connections of this pool were busy for ${this.#settings.waitTimeoutMs / 1000} s`,
              {
                hint: "Transactions that are left open, or sessions with SET or LISTEN, hold them.",
              },
            ),
          );
        }, this.#settings.waitTimeoutMs),
      };
      this.#waiting.add(waiting);
    });
  }

  #next(): Waiting | undefined {
    const next = this.#waiting.values().next().value;
    if (next !== undefined) {
      this.#waiting.delete(next);
      next.timer.cancel();
    }
    return next;
  }

  #lost(server: PooledServer): void {
    const at = this.#idle.findIndex((one) => one.server === server);
    if (at >= 0) {
      this.#idle.splice(at, 1);
    }
    this.#vacate();
  }

  /** A place is free: who waits makes a connection of his own. */
  #vacate(): void {
    const next = this.#next();
    if (next !== undefined) {
      next.give(undefined);
      return;
    }
    this.#count--;
    this.#checkEmpty();
  }

  #closeIdle(): void {
    this.#timer = undefined;
    const nowMs = monotonicMs();
    for (const { server, sinceMs } of [...this.#idle]) {
      if (nowMs - sinceMs >= this.#settings.idleMs) {
        server.close();
      }
    }
    if (this.#idle.length > 0) {
      const oldest = Math.min(...this.#idle.map(({ sinceMs }) => sinceMs));
      const inMs = Math.max(oldest + this.#settings.idleMs - nowMs, 1);
      this.#timer = setIdleTimer(() => this.#closeIdle(), inMs);
    }
  }

  #checkEmpty(): void {
    if (this.#count === 0 && this.#clients === 0) {
      this.#timer?.cancel();
      this.#onEmpty();
    }
  }

  close(): void {
    for (const { server } of [...this.#idle]) {
      server.close();
    }
  }
}

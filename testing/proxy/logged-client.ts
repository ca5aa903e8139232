// A client that comes back after each break, and remembers what it was told to be committed.

import assert from "node:assert/strict";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";

/** What a driver that tries again takes for a broken connection; everything else is for people. */
export const BROKEN = /ECONN|EPIPE|terminat|57P0[12]|closed|socket|not queryable/i;
const PAUSE_MS = 20;

export interface LoggedClientOptions {
  readonly id: number;
  /** Or one for each statement. */
  readonly keepsConnection: boolean;
  readonly config: pg.ClientConfig;
}

export const CREATE_LOG = "create table log (client int, n int, primary key (client, n))";

export class LoggedClient {
  readonly id: number;
  /** Highest number that was told to be committed; all below are, too. */
  acknowledged = 0;
  readonly #options: LoggedClientOptions;
  #client: pg.Client | undefined;
  #run: Promise<void> = Promise.resolve();
  #stopping = false;

  constructor(options: LoggedClientOptions) {
    this.#options = options;
    this.id = options.id;
  }

  /** Works until `stop`, with `pauseMs` between two statements. Rejects, from `stop`, with what no client may be told. */
  start(pauseMs: () => number): void {
    this.#stopping = false;
    this.#run = (async () => {
      while (!this.#stopping) {
        await this.#insert(this.acknowledged + 1);
        await sleep(pauseMs());
      }
    })();
    this.#run.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#run;
  }

  /** Resolves when it has been served once more. */
  async served(): Promise<void> {
    const before = this.acknowledged;
    while (this.acknowledged === before) {
      const failed = this.#run.then(() => assert.ok(this.#stopping, "it ended"));
      await Promise.race([sleep(PAUSE_MS), failed]);
    }
  }

  async end(): Promise<void> {
    await this.#client?.end().catch(() => undefined);
    this.#client = undefined;
  }

  /** Whether one that broke was done nobody knows, so it can be done again. */
  async #insert(n: number): Promise<void> {
    for (;;) {
      try {
        const client = await this.#connected();
        await client.query("insert into log values ($1, $2) on conflict do nothing", [this.id, n]);
        this.acknowledged = n;
        if (!this.#options.keepsConnection) {
          await this.end();
        }
        return;
      } catch (error) {
        const { code = "", message } = error as { code?: string; message: string };
        assert.match(`${code} ${message}`, BROKEN, `client ${this.id} was told: ${message}`);
        await this.end();
        await sleep(PAUSE_MS);
      }
    }
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client === undefined) {
      const client = new pg.Client(this.#options.config);
      client.on("error", () => {});
      await client.connect();
      this.#client = client;
    }
    return this.#client;
  }
}

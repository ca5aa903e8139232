// A load whose every change can be told from every other: inserts, updates, deletes and rollbacks, over connections that break.

import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { eventually, type Patience } from "../eventually.ts";

/** `id`: writer and number; see `idOf`. */
export const createChanged = (table: string) =>
  `create table ${table} (id text primary key, v text)`;
const PAUSE_MS = 20;
/** A row is deleted, if at all, when its writer is so many further. */
const DELETED_AFTER = 7;

export class ChangeWriter {
  /** Transactions `1..acknowledged` were told to be committed. */
  acknowledged = 0;
  readonly #id: number;
  readonly #table: string;
  readonly #config: () => pg.ClientConfig;
  readonly #random: SeededRandom;
  #client: pg.Client | undefined;
  #stopping = false;
  #run: Promise<void> = Promise.resolve();

  /** `id` tells writers of one table apart. */
  constructor(id: number, table: string, config: () => pg.ClientConfig, random: SeededRandom) {
    this.#id = id;
    this.#table = table;
    this.#config = config;
    this.#random = random;
  }

  /** Of the row that transaction `n` inserts. */
  idOf(n: number): string {
    return `${this.#id}-${n}`;
  }

  start(): void {
    this.#stopping = false;
    this.#run = (async () => {
      while (!this.#stopping) {
        try {
          await this.#transaction(this.acknowledged + 1);
          this.acknowledged++;
        } catch {
          // Whether it was committed nobody knows: it is done again, which changes nothing then.
          await this.#end();
          await sleep(PAUSE_MS);
        }
      }
    })();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#run;
    await this.#end();
  }

  async #end(): Promise<void> {
    await this.#client?.end().catch(() => undefined);
    this.#client = undefined;
  }

  async #transaction(n: number): Promise<void> {
    const client = await this.#connected();
    const random = this.#random;
    const table = this.#table;
    if (random.int(5) === 0) {
      await client.query("begin");
      await client.query(`insert into ${table} values ($1, 'never')`, [`never-${this.#id}-${n}`]);
      await client.query("rollback");
    }
    const text = "x".repeat(random.int(random.int(10) === 0 ? 5000 : 50));
    await client.query("begin");
    await client.query(`insert into ${table} values ($1, $2) on conflict do nothing`, [
      this.idOf(n),
      text,
    ]);
    if (random.int(2) === 0) {
      await client.query(`update ${table} set v = left(v || '.', 100) || $2 where id = $1`, [
        this.idOf(n - 1 - random.int(5)),
        `${n}`,
      ]);
    }
    if (random.int(3) === 0) {
      await client.query(`delete from ${table} where id = $1`, [this.idOf(n - DELETED_AFTER)]);
    }
    await client.query("commit");
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client === undefined) {
      const client = new pg.Client(this.#config());
      client.on("error", () => {});
      await client.connect();
      this.#client = client;
    }
    return this.#client;
  }
}

/** Waits until each of `writers` is told of `transactions` more. */
export async function moreWritten(
  writers: readonly ChangeWriter[],
  transactions: number,
  patience: Patience,
): Promise<void> {
  const until = writers.map(({ acknowledged }) => acknowledged + transactions);
  await eventually(
    "the writers to go on",
    () => writers.every(({ acknowledged }, i) => acknowledged >= until[i]!),
    patience,
  );
}

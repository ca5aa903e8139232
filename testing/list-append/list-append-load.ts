// A list-append workload through SQL, whose clients write down all that they saw.

import assert from "node:assert/strict";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { withClient } from "../tpcb.ts";
import {
  type Anomaly,
  checkListAppend,
  type HistoryTransaction,
  type Operation,
} from "./list-append-checker.ts";

const LISTS = 1000;
/** Lists in use at a time, and how long each gets. */
const ACTIVE_LISTS = 8;
const LIST_LENGTH = 30;
/** A server that is paused answers nothing; then the client gives up. */
const ANSWER_TIMEOUT_MS = 15_000;
/** Serialization failure and deadlock: the server says that it rolled back. */
const ABORTED = new Set(["40001", "40P01"]);

/**
 * `serializable`: Postgres keeps the order. `locked`: the default isolation (read committed), and each
 * transaction first locks all rows that it will use; the order is then also that of real time.
 */
export type Isolation = "serializable" | "locked";

export async function initializeLists(url: string): Promise<void> {
  await withClient(url, (client) =>
    client.query(`drop table if exists lists;
      create table lists(key int primary key, items int[] not null);
      insert into lists select i, '{}' from generate_series(0, ${LISTS - 1}) i`),
  );
}

/** Clients that run transactions of one to four reads and appends, until `stop`. */
export class ListAppendLoad {
  readonly history: HistoryTransaction[] = [];
  readonly errors: string[] = [];
  readonly #url: string;
  readonly #isolation: Isolation;
  readonly #workers: Promise<void>[];
  #committed = 0;
  #lastValue = 0;
  #stopping = false;

  constructor(
    url: string,
    isolation: Isolation,
    options: { clients?: number; seed?: number } = {},
  ) {
    this.#url = url;
    this.#isolation = isolation;
    this.#workers = Array.from({ length: options.clients ?? 6 }, (_, index) =>
      this.#work(index, new SeededRandom((options.seed ?? 1) * 1000 + index)),
    );
  }

  /** Waits until `count` more transactions were acknowledged. */
  async progress(count: number, timeoutMs = 60_000): Promise<void> {
    const target = this.#committed + count;
    const deadline = performance.now() + timeoutMs;
    while (this.#committed < target) {
      const last = this.errors.slice(-3).join(" | ");
      assert.ok(performance.now() < deadline, `no progress in ${timeoutMs} ms; errors: ${last}`);
      await sleep(20);
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#workers);
  }

  /** After `stop`: reads all lists, and checks the whole history against them. */
  async check(url = this.#url): Promise<Anomaly[]> {
    const result = await withClient(url, (client) => client.query("select key, items from lists"));
    const rows = result.rows as { key: number; items: number[] }[];
    const final = new Map(rows.map(({ key, items }) => [key, items]));
    return checkListAppend(this.history, final, { realTime: this.#isolation === "locked" });
  }

  /** How many transactions ended how. */
  get outcomes(): Record<HistoryTransaction["outcome"], number> {
    const counts = { committed: 0, aborted: 0, unknown: 0 };
    for (const { outcome } of this.history) {
      counts[outcome]++;
    }
    return counts;
  }

  async #work(index: number, random: SeededRandom): Promise<void> {
    let client: pg.Client | undefined;
    for (let number = 0; !this.#stopping; number++) {
      try {
        client ??= await this.#connect();
      } catch (error) {
        this.errors.push(String(error));
        await sleep(50);
        continue;
      }
      if (!(await this.#transaction(client, `${index}.${number}`, this.#plan(random)))) {
        void client.end().catch(() => {});
        client = undefined;
      }
    }
    await client?.end().catch(() => {});
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#url,
      connectionTimeoutMillis: 10_000,
      query_timeout: ANSWER_TIMEOUT_MS,
    });
    client.on("error", () => {});
    await client.connect();
    return client;
  }

  #plan(random: SeededRandom): Operation[] {
    return Array.from({ length: 1 + random.int(4) }, () => {
      const slot = random.int(ACTIVE_LISTS);
      const generation = Math.floor(this.#lastValue / (ACTIVE_LISTS * LIST_LENGTH));
      const key = (generation * ACTIVE_LISTS + slot) % LISTS;
      return random.bool()
        ? { op: "append", key, value: ++this.#lastValue }
        : { op: "read", key, values: [] };
    });
  }

  /** Whether the connection can be used again. */
  async #transaction(client: pg.Client, name: string, plan: Operation[]): Promise<boolean> {
    const startedAt = performance.now();
    const done: Operation[] = [];
    const record = (outcome: HistoryTransaction["outcome"], operations: readonly Operation[]) => {
      this.history.push({ name, outcome, operations, startedAt, endedAt: performance.now() });
    };
    try {
      await this.#begin(client, plan);
      for (const operation of plan) {
        done.push(await perform(client, operation));
      }
    } catch (error) {
      // COMMIT was not sent, so it never happens.
      record("aborted", plan);
      return this.#canGoOn(client, error);
    }
    try {
      const { command } = await client.query("commit");
      assert.equal(command, "COMMIT");
    } catch (error) {
      record(ABORTED.has(codeOf(error)) ? "aborted" : "unknown", done);
      return this.#canGoOn(client, error);
    }
    record("committed", done);
    this.#committed++;
    return true;
  }

  async #begin(client: pg.Client, plan: readonly Operation[]): Promise<void> {
    if (this.#isolation === "serializable") {
      await client.query("begin isolation level serializable");
      return;
    }
    await client.query("begin");
    const keys = plan.map(({ key }) => key);
    await client.query({
      name: "lock",
      text: "select key from lists where key = any($1::int[]) order by key for update",
      values: [keys],
    });
  }

  async #canGoOn(client: pg.Client, error: unknown): Promise<boolean> {
    if (ABORTED.has(codeOf(error))) {
      return client.query("rollback").then(
        () => true,
        () => false,
      );
    }
    this.errors.push(error instanceof Error ? error.message : String(error));
    return false;
  }
}

/** The operation with what it saw. */
async function perform(client: pg.Client, operation: Operation): Promise<Operation> {
  if (operation.op === "append") {
    const { key, value } = operation;
    const text = "update lists set items = items || $2::int where key = $1";
    const { rowCount } = await client.query({ name: "append", text, values: [key, value] });
    assert.equal(rowCount, 1);
    return operation;
  }
  const text = "select items from lists where key = $1";
  const { rows } = await client.query({ name: "read", text, values: [operation.key] });
  return { ...operation, values: (rows[0] as { items: number[] }).items };
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

// For tests: a client that inserts numbers wherever a branch's primary is, and keeps a log of what was acknowledged.

import type pg from "pg";
import { sleep } from "../src/base/clock.ts";
import { TestCluster } from "./cluster.ts";
import { connect } from "./tpcb.ts";

/** Three safekeepers, the endpoint `main` with what a PrimaryWriter writes to, and `r1`, which follows it. */
export async function clusterWithReplica(): Promise<TestCluster> {
  const cluster = await TestCluster.create({ safekeepers: 3 });
  try {
    await cluster.startEndpoint();
    await cluster.query("main", "create table log (n int primary key)");
    await cluster.ok("endpoint", "create", "r1", "--replica");
    await cluster.startEndpoint("r1");
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

export class PrimaryWriter {
  readonly acknowledged: number[] = [];
  readonly #done: Promise<void>;
  #stopped = false;

  /** `urls`: of all endpoints that may be the primary. Into table `log (n int primary key)`, from `first` on. */
  constructor(urls: readonly string[], first: number) {
    this.#done = this.#write(urls, first);
  }

  async #write(urls: readonly string[], first: number): Promise<void> {
    let n = first;
    for (let at = 0; !this.#stopped; at++) {
      let client: pg.Client | undefined;
      try {
        client = await connect(urls[at % urls.length]!);
        for (; !this.#stopped; n++) {
          await client.query(`insert into log values (${n})`);
          this.acknowledged.push(n);
        }
      } catch {
        // Stopped, killed, or a replica: what was not acknowledged may be there, so its number is not used again.
        n++;
        await sleep(20);
      } finally {
        await client?.end().catch(() => undefined);
      }
    }
  }

  async stop(): Promise<readonly number[]> {
    this.#stopped = true;
    await this.#done;
    return this.acknowledged;
  }
}

/** Of `acknowledged`, what the endpoint does not have. */
export async function lostRows(
  cluster: TestCluster,
  endpoint: string,
  acknowledged: readonly number[],
): Promise<number[]> {
  const rows = await cluster.query(endpoint, "select n from log");
  const present = new Set(rows.map((row) => Number(row["n"])));
  return acknowledged.filter((n) => !present.has(n));
}

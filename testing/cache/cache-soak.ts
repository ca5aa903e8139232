// Rounds on an endpoint whose data directory may hold far less than its data: load, kills, suspends; then all that was told is
// there, the disk is within the limit, memory does not grow.

import assert from "node:assert/strict";
import { join } from "node:path";
import type pg from "pg";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import type { TestCluster } from "../cluster.ts";
import { childOf, childrenOf } from "../compute/child-processes.ts";
import { eventually } from "../eventually.ts";
import { compareEndStates, readEndState } from "../pg-suites/end-state.ts";
import { ACCOUNTS_PER_BRANCH, checkConsistency, TpcbLoad, withClient } from "../tpcb.ts";
import { privateMb, type StoredBytes, storedBytes } from "./levels.ts";
import { AWAY, TableClient } from "./table-client.ts";

export interface CacheSoakOptions {
  readonly cluster: TestCluster;
  readonly seed: number;
  readonly limitBytes: number;
  readonly scale: number;
}

const MIB = 2 ** 20;
/**
 * Over the limit while nobody writes: maps, transaction status, catalogs and the first half a megabyte of each table and index that
 * was made here stay (docs/compute.md).
 */
const REST_BYTES = 48 * MIB;
/**
 * Over the limit at any time: what one transaction of several commands writes, a temporary table, and WAL's pages that storage has
 * not taken in, before a load is slowed down.
 */
const WORK_BYTES = 512 * MIB;
/** `max_wal_size` beside such a cache, `wal_keep_size`, and what a load writes while a checkpoint of it runs. */
const WAL_BYTES = 448 * MIB;
/** What an agent of hours has by itself: pages read ahead and on their way, and what its allocator keeps of past peaks. */
const AGENT_MB = 448;
const ROUND_MS = 15_000;
const SAMPLE_MS = 500;
const AMCHECK_ROUNDS = 10;
/**
 * A pageserver collects nothing in its first ten minutes, and what leaks has to have time for it. So those that are measured live
 * for so long; others die at any time.
 */
const LIFE_MS = { pageserver: 15 * 60_000, agent: 8 * 60_000, postgres: 3 * 60_000 };
type Mortal = keyof typeof LIFE_MS;
/** The highest of the last third, of the highest of the third before it. */
const MOST_GROWTH = 1.35;
const LEAST_ROUNDS = 12;
const PATIENCE = { timeoutMs: 300_000 };

interface Level {
  readonly restMb: number;
  readonly peakMb: number;
  readonly walMb: number;
  readonly agentMb: number;
  readonly evictorMb: number;
}

export class CacheSoak {
  readonly #options: CacheSoakOptions;
  readonly #random: SeededRandom;
  readonly #tables: TableClient;
  readonly #born = new Map<Mortal, number>();
  readonly #levels: Level[] = [];
  #acknowledged = 0;

  constructor(options: CacheSoakOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed);
    this.#tables = new TableClient(options.cluster.url(), new SeededRandom(options.seed + 1));
    for (const mortal of Object.keys(LIFE_MS) as Mortal[]) {
      this.#born.set(mortal, monotonicMs());
    }
  }

  get rounds(): number {
    return this.#levels.length;
  }

  /** What the data was made of has gone, as far as it may; how long that took goes into a line. */
  async begin(): Promise<void> {
    const started = monotonicMs();
    const first = mb(this.#stored().data);
    const rest = await this.#settled();
    const seconds = ((monotonicMs() - started) / 1000).toFixed(0);
    console.log(`${first} MB on the disk behind the load, ${mb(rest)} after ${seconds} s`);
  }

  async round(): Promise<void> {
    const { cluster, scale, seed } = this.#options;
    const started = monotonicMs();
    const name = `${this.rounds}-`;
    const load = new TpcbLoad(cluster.url(), { clients: 2, scale, seed: seed + this.rounds, name });
    const disk = this.#watchDisk();
    this.#tables.start();
    let done: string;
    try {
      await load.progress(20, PATIENCE.timeoutMs);
      await sleep(this.#random.int(ROUND_MS));
      done = await this.#death();
      await load.progress(20, PATIENCE.timeoutMs);
      await sleep(ROUND_MS - Math.min(ROUND_MS, monotonicMs() - started));
    } finally {
      await load.stop();
    }
    assert.deepEqual(
      load.errors.filter((message) => !AWAY.test(message)),
      [],
    );
    await this.#tables.pause();
    await this.#look((client) => this.#checkAccounts(client, load.acknowledged));
    await this.#tables.check();
    if (this.rounds % AMCHECK_ROUNDS === AMCHECK_ROUNDS - 1) {
      await checkConsistency(cluster.url());
      done += ", amcheck clean";
    }
    const restBytes = await this.#settled();
    const peak = await disk.stop();
    this.#acknowledged += load.acknowledged.length;
    this.#report(load.acknowledged.length, done, { restBytes, peak }, started);
  }

  /** All that was acknowledged is there, once; each account has what history says of it, by scan and by index. */
  async #checkAccounts(client: pg.Client, acknowledged: readonly string[]): Promise<void> {
    const accounts = this.#options.scale * ACCOUNTS_PER_BRANCH;
    const history = await client.query("select rtrim(filler) as name from pgbench_history");
    const present = new Set(history.rows.map((row: { name: string }) => row.name));
    assert.deepEqual(
      acknowledged.filter((name) => !present.has(name)),
      [],
      "acknowledged transactions are lost",
    );
    assert.equal(present.size, history.rows.length, "a transaction was done twice");
    const { rows } = await client.query(`
      select count(*)::int as accounts, sum(aid)::float8 as numbers,
        count(*) filter (where abalance <> coalesce(told, 0))::int as wrong
      from pgbench_accounts
      left join (select aid, sum(delta) as told from pgbench_history group by aid) h using (aid)`);
    const numbers = (accounts * (accounts + 1)) / 2;
    assert.deepEqual(rows, [{ accounts, numbers, wrong: 0 }], "accounts, by scan");
    const from = 1 + this.#random.int(accounts);
    const some = Math.min(20_000, accounts - from + 1);
    await client.query("set enable_seqscan = off; set enable_bitmapscan = off");
    const byIndex = await client.query(`
      select (select count(*)::int from pgbench_accounts where aid between ${from} and ${from + some - 1}) as aids,
        (select count(*)::int from pgbench_accounts where abalance <> 0) as changed`);
    await client.query("reset all; set enable_indexscan = off; set enable_indexonlyscan = off");
    const byScan = await client.query(
      "select count(*)::int as changed from pgbench_accounts where abalance + 0 <> 0",
    );
    const { changed } = byScan.rows[0];
    assert.deepEqual(byIndex.rows, [{ aids: some, changed }], "accounts, by index");
    // The next round begins with nothing, and this is a load of its own.
    await client.query("reset all");
    await client.query(
      `begin; truncate pgbench_history; update pgbench_accounts set abalance = 0 where abalance <> 0;
       update pgbench_tellers set tbalance = 0; update pgbench_branches set bbalance = 0; commit`,
    );
  }

  async #look<T>(body: (client: pg.Client) => Promise<T>): Promise<T> {
    const once = async () => {
      try {
        return await withClient(this.#options.cluster.url(), async (client) => ({
          result: await body(client),
        }));
      } catch (error) {
        const { code = "", message } = error as { code?: string; message: string };
        assert.match(`${code} ${message}`, AWAY, message);
        throw error;
      }
    };
    return (await eventually("the endpoint answers", once, PATIENCE)).result;
  }

  /** While somebody works that reads little, until what was written has gone. */
  async #settled(): Promise<number> {
    const { limitBytes } = this.#options;
    let bytes = 0;
    try {
      await eventually(
        "what was written is given back",
        async () => {
          await this.#look((client) => client.query("select count(*) from pgbench_tellers"));
          bytes = this.#stored().data;
          return bytes <= limitBytes + REST_BYTES;
        },
        PATIENCE,
      );
    } catch (error) {
      const message = `${mb(bytes)} MB on the disk at rest, of ${mb(limitBytes + REST_BYTES)}`;
      throw new Error(`${message}\n${await this.#gauges()}`, { cause: error });
    }
    return bytes;
  }

  #stored(): StoredBytes {
    return storedBytes(join(this.#options.cluster.home, "endpoints", "main", "pgdata"));
  }

  /** `stop` gives the most that was there, of each by itself. */
  #watchDisk(): { stop(): Promise<StoredBytes> } {
    const most = this.#options.limitBytes + WORK_BYTES;
    let peak = { data: 0, wal: 0 };
    let stopping = false;
    const run = (async () => {
      while (!stopping) {
        try {
          const { data, wal } = this.#stored();
          peak = { data: Math.max(peak.data, data), wal: Math.max(peak.wal, wal) };
        } catch {
          // The directory is made anew.
        }
        await sleep(SAMPLE_MS);
      }
    })();
    return {
      stop: async () => {
        stopping = true;
        await run;
        assert.ok(peak.data <= most, `${mb(peak.data)} MB on the disk, of ${mb(most)}`);
        assert.ok(peak.wal <= WAL_BYTES, `${mb(peak.wal)} MB of WAL, of ${mb(WAL_BYTES)}`);
        return peak;
      },
    };
  }

  async #gauges(): Promise<string> {
    const { internalHttpPort } = this.#options.cluster.endpointSpec();
    const answer = await fetch(`http://127.0.0.1:${internalHttpPort}/metrics`);
    const lines = (await answer.text()).split("\n");
    return lines.filter((line) => line.startsWith("strata_compute_local_cache")).join("\n");
  }

  async #death(): Promise<string> {
    const { cluster } = this.#options;
    if (this.#isOld("pageserver")) {
      await cluster.kill9("pageserver");
      await cluster.ok("pageserver", "start", "--start-timeout", "60s");
      this.#born.set("pageserver", monotonicMs());
      return "kill -9 pageserver";
    }
    if (this.#isOld("agent")) {
      const isKilled = this.#random.bool(0.5);
      await (isKilled ? cluster.kill9("agent-main") : cluster.ok("endpoint", "stop", "main"));
      await eventually(
        "the endpoint starts",
        async () => (await cluster.cli("endpoint", "start", "main")).code === 0,
        PATIENCE,
      );
      this.#born.set("agent", monotonicMs()).set("postgres", monotonicMs());
      return isKilled ? "kill -9 agent" : "suspend";
    }
    if (this.#isOld("postgres")) {
      const postmaster = cluster.pid("postgres-main");
      const evictor = childOf(postmaster, "strata-evictor");
      const backends = childrenOf(postmaster).filter((pid) => pid !== evictor);
      const isBackend = this.#random.bool(0.5);
      process.kill(isBackend ? this.#random.pick(backends) : postmaster, "SIGKILL");
      this.#born.set("postgres", monotonicMs());
      return isBackend ? "kill -9 backend" : "kill -9 postmaster";
    }
    const evictor = childOf(cluster.pid("postgres-main"), "strata-evictor");
    if (evictor !== undefined && this.#random.int(4) === 0) {
      process.kill(evictor, "SIGKILL");
      return "kill -9 evictor";
    }
    if (this.#random.int(4) === 0) {
      await cluster.kill9("safekeeper-1");
      await sleep(this.#random.int(300));
      await cluster.ok("safekeeper", "start", "1");
      return "kill -9 safekeeper";
    }
    return "nobody dies";
  }

  #isOld(mortal: Mortal): boolean {
    return monotonicMs() - this.#born.get(mortal)! > LIFE_MS[mortal];
  }

  #report(
    commits: number,
    done: string,
    { restBytes, peak }: { restBytes: number; peak: StoredBytes },
    startedMs: number,
  ): void {
    const { cluster } = this.#options;
    const evictor = childOf(cluster.pid("postgres-main"), "strata-evictor");
    assert.ok(evictor !== undefined, "strata-evictor runs");
    const level: Level = {
      restMb: restBytes / MIB,
      peakMb: peak.data / MIB,
      walMb: peak.wal / MIB,
      agentMb: privateMb(cluster.pid("agent-main")),
      evictorMb: privateMb(evictor),
    };
    this.#levels.push(level);
    assert.ok(level.agentMb <= AGENT_MB, `the agent has ${level.agentMb.toFixed(0)} MB`);
    const seconds = ((monotonicMs() - startedMs) / 1000).toFixed(0);
    console.log(
      `${this.rounds}: ${seconds} s, ${commits} commits, ${done}; disk ${level.restMb.toFixed(0)} MB, at most ${level.peakMb.toFixed(0)}, WAL ${level.walMb.toFixed(0)}; ` +
        `agent ${level.agentMb.toFixed(0)} MB, evictor ${level.evictorMb.toFixed(1)} MB`,
    );
  }

  /** The same from an endpoint that has nothing yet, and from this one after a suspend; nothing has grown. */
  async end(): Promise<void> {
    const { cluster } = this.#options;
    await checkConsistency(cluster.url());
    const [{ lsn }] = (await cluster.query("main", "select pg_current_wal_flush_lsn() as lsn")) as [
      { lsn: string },
    ];
    const here = await readEndState(cluster.url());
    await cluster.ok("endpoint", "create", "empty", "--branch-name", "main", "--lsn", lsn);
    await cluster.ok("endpoint", "start", "empty");
    const empty = await readEndState(cluster.url("empty"));
    await cluster.ok("endpoint", "stop", "empty", "--destroy");
    await cluster.ok("endpoint", "stop", "main");
    await cluster.ok("endpoint", "start", "main");
    const again = await readEndState(cluster.url());
    assert.deepEqual(here.damaged, []);
    assert.deepEqual(compareEndStates(here, empty), [], "as an empty cache has it");
    assert.deepEqual(compareEndStates(here, again), [], "after a suspend");
    console.log(
      `${here.sums.size} tables and sequences, ${here.indexes} indexes with amcheck: the same with an empty cache, and after a suspend`,
    );
    await this.#tables.end();
    const work = [...this.#tables.done].toSorted().map(([kind, count]) => `${kind} ${count}`);
    console.log(`${this.#acknowledged} commits acknowledged, none lost; ${work.join(", ")}`);
    this.#checkGrowth();
  }

  #checkGrowth(): void {
    if (this.rounds < LEAST_ROUNDS) {
      console.log(`${this.rounds} rounds are too few to say what grows`);
      return;
    }
    const third = Math.floor(this.rounds / 3);
    // The disk at rest is within its bound in each round, and anything below that: it is looked at until it is.
    for (const what of ["peakMb", "walMb", "agentMb", "evictorMb"] as const) {
      const highest = (some: readonly Level[]) => Math.max(...some.map((level) => level[what]));
      const before = highest(this.#levels.slice(-2 * third, -third));
      const last = highest(this.#levels.slice(-third));
      console.log(`${what}: at most ${before.toFixed(1)}, then ${last.toFixed(1)}`);
      const isBounded = what === "peakMb" || what === "walMb";
      assert.ok(isBounded || last <= MOST_GROWTH * before + 1, `${what} grows`);
    }
  }
}

const mb = (bytes: number) => (bytes / MIB).toFixed(1);

// `npm run test:soak`: hours of a small life in fast motion: load, branches, resets, deaths, lost disks; space and memory stay level.
//
// `npm run test:soak -- [--hours H] [--seed N]`. History of two minutes is kept, collected each minute. The store is an S3
// server in this process, so that layers can leave the pageserver's disk. Each round prints one line; the last ones say what was checked.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { monotonicMs } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { freeConfig, TestCluster, type Victim } from "../testing/cluster.ts";
import { S3Server } from "../testing/s3/s3-server.ts";
import {
  checkConsistency,
  checkTpcb,
  initializeTpcb,
  TpcbLoad,
  withClient,
} from "../testing/tpcb.ts";

const { values } = parseArgs({
  options: {
    hours: { type: "string", default: "1" },
    seed: { type: "string", default: "1" },
  },
});
const [hours, seed] = [Number(values.hours), Number(values.seed)];
if (!(hours > 0) || !Number.isSafeInteger(seed)) {
  console.error("usage: npm run test:soak -- [--hours H] [--seed N]");
  process.exit(1);
}

/**
 * A pageserver collects nothing in its first ten minutes, as there may be leases that it does not know of. So it lives for so
 * long, or history would never go; the others die at any time.
 */
const PAGESERVER_LIFE_MS = 15 * 60_000;
const BRANCHES = 4;
const SAFEKEEPERS = 3;
/** Rounds before space and memory are expected to be level: the first life of the pageserver, in which it begins to collect. */
const WARM_UP_ROUNDS = 30;
/** The highest of the last third, of the highest of the third before it. */
const MOST_GROWTH = 1.35;

interface Level {
  readonly storeBytes: number;
  readonly diskBytes: number;
  readonly pageserverMb: number;
  readonly safekeeperMb: number;
}

/** Of `branch list --json`. */
interface Listed {
  readonly name: string;
  readonly parent?: string | null;
}

class Soak {
  readonly #cluster: TestCluster;
  readonly #server: S3Server;
  readonly #random = new SeededRandom(seed);
  readonly #branches: string[] = [];
  #pageserverStartedMs = monotonicMs();
  #next = 0;
  readonly levels: Level[] = [];

  constructor(cluster: TestCluster, server: S3Server) {
    this.#cluster = cluster;
    this.#server = server;
  }

  /** Load on main, meanwhile something on a branch and a death; then all is checked. */
  async round(): Promise<void> {
    const cluster = this.#cluster;
    await resetBalances(cluster.url());
    const load = new TpcbLoad(cluster.url(), { clients: 2, seed: this.#next });
    let done: string;
    try {
      await load.progress(50, 120_000);
      done = await this.#branchWork();
      done += `, ${await this.#death()}`;
      await load.progress(200, 120_000);
    } finally {
      await load.stop();
    }
    await checkTpcb(cluster.url(), load.acknowledged);
    const level = this.#level();
    this.levels.push(level);
    console.log(
      `${this.levels.length}: ${load.acknowledged.length} commits, ${done}; store ${mb(level.storeBytes)} MB, disk ${mb(level.diskBytes)} MB, ` +
        `pageserver ${level.pageserverMb} MB, safekeepers ${level.safekeeperMb} MB`,
    );
  }

  /** A branch is made, written, read beside its parent's state, and an old one reset or deleted. */
  async #branchWork(): Promise<string> {
    const cluster = this.#cluster;
    const name = `b${this.#next++}`;
    const parent = this.#random.bool(0.7) ? "main" : this.#pick(["main", ...this.#branches]);
    await cluster.ok("branch", "create", name, "--parent", parent);
    this.#branches.push(name);
    await this.#write(name);
    let done = `${name} of ${parent}`;
    const withParent = await this.#branchesWithParent();
    if (withParent.length > 0 && this.#random.bool(0.4)) {
      const reset = this.#pick(withParent);
      await cluster.ok("branch", "reset", reset);
      await this.#write(reset);
      done += `, ${reset} reset`;
    }
    while (this.#branches.length > BRANCHES) {
      const [gone] = this.#branches.splice(this.#random.int(this.#branches.length), 1);
      await cluster.ok("branch", "delete", gone!);
      done += `, ${gone} deleted`;
    }
    return done;
  }

  /** One whose parent was deleted has none. */
  async #branchesWithParent(): Promise<string[]> {
    const listed = (await this.#cluster.json("branch", "list")) as Listed[];
    return listed.filter(({ name, parent }) => name !== "main" && parent).map(({ name }) => name);
  }

  async #write(branch: string): Promise<void> {
    const cluster = this.#cluster;
    const endpoint = `${branch}-${this.#next++}`;
    await cluster.startEndpoint(endpoint, branch);
    await withClient(cluster.url(endpoint), async (client) => {
      await client.query("update pgbench_accounts set abalance = abalance + 1 where aid % 7 = 0");
      await client.query("create table if not exists own (i int, pad text)");
      await client.query(
        "insert into own select g, repeat('x', 200) from generate_series(1, 2000) g",
      );
      const { rows } = await client.query("select count(*)::int as n from pgbench_accounts");
      assert.equal(rows[0].n, 100_000);
    });
    await cluster.ok("endpoint", "stop", endpoint, "--destroy");
  }

  async #death(): Promise<string> {
    const cluster = this.#cluster;
    const id = 1 + this.#random.int(SAFEKEEPERS);
    const kill = async (victim: Victim, ...restart: string[]) => {
      await cluster.kill9(victim);
      if (restart.length > 0) {
        await cluster.ok(...restart);
      }
      return `kill -9 ${victim}`;
    };
    if (monotonicMs() - this.#pageserverStartedMs > PAGESERVER_LIFE_MS) {
      await cluster.kill9("pageserver");
      const isLost = this.#random.bool(0.5);
      if (isLost) {
        cluster.loseDisk();
      }
      await cluster.ok("pageserver", "start", "--start-timeout", "60s");
      this.#pageserverStartedMs = monotonicMs();
      return isLost ? "pageserver's disk lost" : "kill -9 pageserver";
    }
    switch (this.#random.int(4)) {
      case 0:
        return kill(`safekeeper-${id}`, "safekeeper", "start", `${id}`);
      case 1:
        return kill("postgres-main");
      case 2:
        return kill("agent-main", "endpoint", "start", "main");
      default:
        return "nobody dies";
    }
  }

  #pick(names: readonly string[]): string {
    return names[this.#random.int(names.length)]!;
  }

  #level(): Level {
    const stored = [...this.#server.objects].filter(
      ([key]) => key.includes("/tenants/") || key.startsWith("tenants/"),
    );
    const ids = Array.from({ length: SAFEKEEPERS }, (_, i) => i + 1);
    return {
      storeBytes: stored.reduce((sum, [, { bytes }]) => sum + bytes.length, 0),
      diskBytes: bytesBelow(join(this.#cluster.home, "pageserver_1")),
      pageserverMb: residentMb(this.#cluster.pid("pageserver")),
      safekeeperMb: Math.max(...ids.map((id) => residentMb(this.#cluster.pid(`safekeeper-${id}`)))),
    };
  }

  /** Everything is as it should be, and nothing has grown. */
  async end(): Promise<void> {
    await checkConsistency(this.#cluster.url());
    for (const branch of this.#branches) {
      await this.#cluster.startEndpoint(`check-${branch}`, branch);
      await checkConsistency(this.#cluster.url(`check-${branch}`));
      await this.#cluster.ok("endpoint", "stop", `check-${branch}`);
    }
    console.log(`amcheck: clean, on main and ${this.#branches.length} branches`);
    console.log((await this.#cluster.ok("scrub", "--fix", "--min-age", "0s")).trim());
    assert.match(await this.#cluster.ok("scrub", "--min-age", "0s"), /nothing is wrong/);
    const levels = this.levels.slice(WARM_UP_ROUNDS);
    if (levels.length < 9) {
      console.log(
        `${levels.length} rounds after ${WARM_UP_ROUNDS} to warm up are too few to say what grows`,
      );
      return;
    }
    const third = Math.floor(levels.length / 3);
    for (const what of ["storeBytes", "diskBytes", "pageserverMb", "safekeeperMb"] as const) {
      const highest = (some: readonly Level[]) => Math.max(...some.map((level) => level[what]));
      const [before, last] = [
        highest(levels.slice(-2 * third, -third)),
        highest(levels.slice(-third)),
      ];
      console.log(`${what}: at most ${before}, then ${last}, ${(last / before).toFixed(2)} times`);
      assert.ok(last <= MOST_GROWTH * before, `${what} grows`);
    }
  }
}

const mb = (bytes: number) => (bytes / 1e6).toFixed(1);

function residentMb(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)![1]) / 1024);
}

function bytesBelow(directory: string): number {
  let sum = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && !entry.name.endsWith(".log")) {
      sum += sizeOf(join(entry.parentPath, entry.name));
    }
  }
  return sum;
}

function sizeOf(path: string): number {
  // Files come and go meanwhile.
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

async function resetBalances(url: string): Promise<void> {
  await withClient(url, async (client) => {
    await client.query("truncate pgbench_history");
    await client.query("update pgbench_accounts set abalance = 0 where abalance <> 0");
    await client.query("update pgbench_tellers set tbalance = 0");
    await client.query("update pgbench_branches set bbalance = 0");
  });
}

const server = await new S3Server().start();
Object.assign(process.env, server.env);
const cluster = await TestCluster.create({
  safekeepers: SAFEKEEPERS,
  pageserverOptions: {
    "checkpoint-distance": `${4 << 20}`,
    "compaction-period-ms": "1000",
    "eviction-period-ms": "5000",
    "max-resident-bytes": `${24 << 20}`,
    "scrub-period-ms": "60000",
    "scrub-min-age-ms": "60000",
  },
  config: { ...(await freeConfig(SAFEKEEPERS)), remoteStorage: server.location("soak") },
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => void cluster[Symbol.asyncDispose]().finally(() => process.exit(1)));
}
try {
  await cluster.ok(
    "tenant",
    "config",
    "--pitr-interval",
    "2m",
    "--gc-period",
    "1m",
    "--compaction-period",
    "1s",
  );
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
  const soak = new Soak(cluster, server);
  const end = performance.now() + hours * 3_600_000;
  while (performance.now() < end) {
    await soak.round();
  }
  await soak.end();
  console.log(`soak of ${hours} h, seed ${seed}: ${soak.levels.length} rounds, ok`);
} finally {
  await cluster[Symbol.asyncDispose]();
  await server.stop();
}

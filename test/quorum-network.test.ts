// The quorum on hosts between which the network is cut, also in one direction only.

import assert from "node:assert/strict";
import { after, before, type TestContext, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { initializeLists, ListAppendLoad } from "../testing/list-append/list-append-load.ts";
import { NetworkHosts } from "../testing/network-hosts.ts";
import { checkTpcb, initializeTpcb, TpcbLoad, withClient } from "../testing/tpcb.ts";

/** `npm run test:quorum -- --rounds N --seed N`. */
const ROUNDS = Number(process.env["STRATA_QUORUM_ROUNDS"] ?? 1);
const SEED = Number(process.env["STRATA_QUORUM_SEED"] ?? 1);
const SAFEKEEPERS = ["sk1", "sk2", "sk3"] as const;
type Host = (typeof SAFEKEEPERS)[number] | "storage" | "compute1" | "compute2";

const hosts = new NetworkHosts<Host>([...SAFEKEEPERS, "storage", "compute1", "compute2"]);
const random = new SeededRandom(SEED);
let cluster: TestCluster | undefined;
let skip: string | undefined;
/** Endpoints have the names of their hosts. */
let [active, standby]: ("compute1" | "compute2")[] = ["compute1", "compute2"];
const urls = new Map<Host, string>();
const acknowledged: string[] = [];
let loads = 0;

async function run(host: Host, ...args: string[]): Promise<void> {
  const result = await cluster!.cliBehind(hosts.on(host), ...args);
  const { stderr } = result;
  assert.equal(result.code, 0, `${host}: ${args.join(" ")}: ${stderr}\n${cluster!.logTails()}`);
}

const node = (id: number, host: Host) => ({
  id,
  listenPgAddr: `${hosts.address(host)}:5454`,
  listenHttpAddr: `${hosts.address(host)}:7676`,
});

before(async () => {
  skip = hosts.create();
  if (skip !== undefined) {
    return;
  }
  cluster = await TestCluster.create({
    start: false,
    config: {
      broker: { listenAddr: `${hosts.address("storage")}:50051` },
      pageservers: [node(1, "storage")],
      safekeepers: SAFEKEEPERS.map((host, i) => node(i + 1, host)),
      endpointBasePort: 5500,
      serviceTokens: true,
      // Both ways are to hold: with TLS, as such addresses have it, and without.
      plaintextNetwork: SEED % 2 === 0,
    },
  });
  await run("storage", "storage-broker", "start");
  await Promise.all([
    run("storage", "pageserver", "start"),
    ...SAFEKEEPERS.map((host, i) => run(host, "safekeeper", "start", `${i + 1}`)),
  ]);
  await run("compute1", "tenant", "create", "--set-default");
  for (const host of ["compute1", "compute2"] as const) {
    await run(host, "endpoint", "create", host, "--allow-multiple");
    // A unix socket is reached from outside of the host's network.
    urls.set(host, cluster.socketUrl(host));
  }
  await run(active!, "endpoint", "start", active!);
  await initializeTpcb(urls.get(active!)!);
  await initializeLists(urls.get(active!)!);
  await withClient(urls.get(active!)!, (client) =>
    client.query("create table unread as select generate_series(1, 1000) as id"),
  );
});
after(async () => {
  await cluster?.[Symbol.asyncDispose]();
  hosts.destroy();
});

function networkTest(name: string, body: (t: TestContext) => Promise<void>): void {
  test(name, async (t) => {
    if (skip !== undefined) {
      t.skip(skip);
      return;
    }
    await body(t).finally(() => hosts.heal());
  });
}

function newLoad(host: Host): TpcbLoad {
  return new TpcbLoad(urls.get(host)!, { name: `${++loads}/`, seed: SEED + loads });
}

/** What is not on the compute when the pageserver goes away cannot be read until it is back. */
async function readEverything(url: string): Promise<void> {
  await withClient(url, async (client) => {
    await client.query("create extension if not exists pageinspect");
    const { rows } = await client.query(`
      select count(get_raw_page(c.oid::regclass::text, fork, block))::int as pages
      from pg_class c, unnest(array['main', 'fsm', 'vm', 'init']) fork,
        generate_series(0, pg_relation_size(c.oid, fork) / 8192 - 1) block
      where c.relkind in ('r', 'm', 't', 'i')`);
    assert.ok(rows[0].pages > 2000, `${rows[0].pages} pages`);
  });
}

async function underTpcb(body: (load: TpcbLoad) => Promise<void>): Promise<void> {
  const load = newLoad(active!);
  try {
    await load.progress(50);
    await body(load);
    hosts.heal();
    await load.progress(50);
  } finally {
    hosts.heal();
    await load.stop();
    acknowledged.push(...load.acknowledged);
  }
  await checkTpcb(urls.get(active!)!, acknowledged);
}

/** Cuts one direction between two hosts, or the other, or both. */
function cutSomehow(a: Host, b: Host): void {
  const how = random.int(3);
  if (how !== 0) {
    hosts.cut(a, b);
  }
  if (how !== 1) {
    hosts.cut(b, a);
  }
}

for (let round = 1; round <= ROUNDS; round++) {
  networkTest(
    `round ${round}: one safekeeper is cut off from the compute, in either direction`,
    () =>
      underTpcb(async (load) => {
        const safekeeper = random.pick(SAFEKEEPERS);
        hosts.cut(active!, safekeeper);
        await load.progress(50);
        hosts.heal();
        hosts.cut(random.pick(SAFEKEEPERS), active!);
        await load.progress(50);
      }),
  );

  networkTest(`round ${round}: two safekeepers are cut off: commits wait`, () =>
    underTpcb(async (load) => {
      const reachable = random.pick(SAFEKEEPERS);
      for (const safekeeper of SAFEKEEPERS.filter((one) => one !== reachable)) {
        cutSomehow(active!, safekeeper);
      }
      await load.waits();
      const before = load.acknowledged.length;
      await sleep(1000);
      assert.equal(load.acknowledged.length, before, "a commit was acknowledged without a quorum");
    }),
  );

  networkTest(`round ${round}: list-append while cuts come and go`, async (t) => {
    const load = new ListAppendLoad(urls.get(active!)!, random.pick(["serializable", "locked"]), {
      seed: SEED + round,
    });
    try {
      for (let i = 0; i < 3; i++) {
        await load.progress(50);
        cutSomehow(random.pick(SAFEKEEPERS), random.pick([active!, "storage"]));
        cutSomehow(random.pick(SAFEKEEPERS), random.pick([standby!, "storage"]));
        await sleep(random.int(500));
        hosts.heal();
      }
      await load.progress(50);
    } finally {
      hosts.heal();
      await load.stop();
    }
    t.diagnostic(JSON.stringify(load.outcomes));
    assert.deepEqual(await load.check(), []);
    await initializeLists(urls.get(active!)!);
  });

  networkTest(`round ${round}: broker and pageserver are cut off: commits go on`, () =>
    underTpcb(async (load) => {
      await readEverything(urls.get(active!)!);
      for (const host of [...SAFEKEEPERS, active!]) {
        cutSomehow("storage", host);
      }
      await load.progress(100);
    }),
  );

  networkTest(
    `round ${round}: a compute that is cut off and replaced commits nothing more`,
    async () => {
      const old = active!;
      const load = newLoad(old);
      try {
        await load.progress(50);
        for (const host of [...SAFEKEEPERS, "storage"] as const) {
          cutSomehow(old, host);
        }
        await load.waits();
        const before = load.acknowledged.length;
        [active, standby] = [standby!, old];
        await run(active, "endpoint", "start", active, "--allow-multiple");
        const names = "select rtrim(filler) as name from pgbench_history";
        const { rows } = await withClient(urls.get(active)!, (client) => client.query(names));
        const found = new Set(rows.map((row: { name: string }) => row.name));
        await underTpcb(async () => {
          hosts.heal();
          await eventually("the old compute ends", () => !isRunning(old));
        });
        // What a quorum had before is acknowledged truly, however late.
        const late = load.acknowledged.slice(before);
        assert.deepEqual(
          late.filter((name) => !found.has(name)),
          [],
        );
      } finally {
        await load.stop();
        acknowledged.push(...load.acknowledged);
      }
      await checkTpcb(urls.get(active)!, acknowledged);
    },
  );
}

networkTest("a read that waited for the pageserver goes on soon after the network does", () =>
  withClient(urls.get(active!)!, async (client) => {
    hosts.cut(
      ...random.pick<[Host, Host]>([
        ["storage", active!],
        [active!, "storage"],
      ]),
    );
    // The compute is another one than wrote it.
    const reading = client.query("select count(*)::int as rows from unread");
    // TCP would try again 25 s after the cut.
    await sleep(15_000);
    hosts.heal();
    const healed = performance.now();
    assert.equal((await reading).rows[0].rows, 1000);
    const tookMs = performance.now() - healed;
    assert.ok(tookMs < 9000, `${tookMs} ms`);
  }),
);

/** The agent removes its pid file at its end. */
function isRunning(host: "compute1" | "compute2"): boolean {
  try {
    return cluster!.pid(`agent-${host}`) > 0;
  } catch {
    return false;
  }
}

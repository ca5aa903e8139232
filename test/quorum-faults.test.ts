// The quorum on real processes: what clients saw committed stays, in an order that they could have seen.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { TestCluster, type Victim } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import {
  type Isolation,
  initializeLists,
  ListAppendLoad,
} from "../testing/list-append/list-append-load.ts";
import { directoryOf, loseDirectory, pause, pauseTree } from "../testing/process-faults.ts";
import { fillDisk, mountSmallDisk, unmountSmallDisk } from "../testing/small-disk.ts";
import { checkConsistency, checkTpcb, initializeTpcb, TpcbLoad } from "../testing/tpcb.ts";

/** `npm run test:quorum -- --rounds N --seed N`. */
const ROUNDS = Number(process.env["STRATA_QUORUM_ROUNDS"] ?? 1);
const SEED = Number(process.env["STRATA_QUORUM_SEED"] ?? 1);
/** The safekeeper with a disk of its own, and how large that is. */
const SMALL = 3;
const SMALL_DISK_BYTES = 256 * 1024 * 1024;

const random = new SeededRandom(SEED);
let cluster: TestCluster;
let noSmallDisk: string | undefined;
/** The endpoint that leads, and the one that will take over. */
let [active, standby] = ["main", "second"];
/** Of all loads so far. */
const acknowledged: string[] = [];
let loads = 0;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3, start: false });
  noSmallDisk = mountSmallDisk(directoryOf(cluster, SMALL), SMALL_DISK_BYTES);
  await cluster.ok("start");
  await cluster.ok("tenant", "create", "--set-default");
  await cluster.startEndpoint(active);
  await cluster.ok("endpoint", "create", standby, "--branch-name", "main", "--allow-multiple");
  await initializeTpcb(cluster.url());
  await initializeLists(cluster.url());
});
after(async () => {
  if (cluster !== undefined) {
    await cluster.cli("stop", "--mode", "immediate");
    unmountSmallDisk(directoryOf(cluster, SMALL));
    await cluster[Symbol.asyncDispose]();
  }
});

interface Load {
  progress(count: number): Promise<void>;
}

const start = (id: number) => cluster.ok("safekeeper", "start", `${id}`);
const startEndpoint = (id: string) => cluster.ok("endpoint", "start", id, "--allow-multiple");

/** A load of TPC-B with `body`; afterwards all that any load was told is there. */
async function underTpcb(body: (load: TpcbLoad) => Promise<void>): Promise<void> {
  const load = new TpcbLoad(cluster.url(active), { name: `${++loads}/`, seed: SEED + loads });
  try {
    await load.progress(50);
    await body(load);
    await load.progress(50);
  } finally {
    await load.stop();
    acknowledged.push(...load.acknowledged);
  }
  await checkTpcb(cluster.url(active), acknowledged);
}

/** Nothing is acknowledged until `restore` is called. */
async function withoutQuorum(load: TpcbLoad, restore: () => void): Promise<void> {
  try {
    await load.waits();
    const before = load.acknowledged.length;
    await sleep(700);
    assert.equal(load.acknowledged.length, before, "a commit was acknowledged without a quorum");
  } finally {
    restore();
  }
}

/** Faults of single processes, from which all comes back by itself. */
const FAULTS: Record<string, (load: Load) => Promise<void>> = {
  "a paused safekeeper": async (load) => {
    const resume = pause(cluster.pid(`safekeeper-${1 + random.int(3)}`));
    await load.progress(50).finally(resume);
  },
  "a killed safekeeper": async (load) => {
    const id = 1 + random.int(3);
    await cluster.kill9(`safekeeper-${id}`);
    await load.progress(50);
    await start(id);
  },
  "all safekeepers killed": async () => {
    for (const id of [1, 2, 3]) {
      await cluster.kill9(`safekeeper-${id}`);
    }
    await sleep(random.int(500));
    await Promise.all([1, 2, 3].map(start));
  },
  "a killed postmaster": () => cluster.kill9(`postgres-${active}` as Victim),
  "a killed agent": async () => {
    await cluster.kill9(`agent-${active}` as Victim);
    await startEndpoint(active);
  },
  "a paused compute": async () => {
    const resume = pauseTree(cluster.pid(`agent-${active}` as Victim));
    await sleep(random.int(2000));
    resume();
  },
  "a killed pageserver": async (load) => {
    await cluster.kill9("pageserver");
    await sleep(random.int(300));
    await cluster.ok("pageserver", "start");
    await load.progress(1);
  },
};
/** In the first round, for each isolation; later rounds pick. */
const FIRST: Record<Isolation, string[]> = {
  serializable: ["a paused safekeeper", "a killed postmaster"],
  locked: ["all safekeepers killed", "a killed agent"],
};

for (let round = 1; round <= ROUNDS; round++) {
  for (const isolation of ["serializable", "locked"] as const) {
    const names = Object.keys(FAULTS);
    const faults = round === 1 ? FIRST[isolation] : [1, 2, 3].map(() => random.pick(names));
    test(`round ${round}: ${isolation} list-append with ${faults.join(", ")}`, async (t) => {
      const load = new ListAppendLoad(cluster.url(active), isolation, { seed: SEED + round });
      try {
        await load.progress(100);
        for (const fault of faults) {
          await FAULTS[fault]!(load);
          await load.progress(100);
        }
      } finally {
        await load.stop();
      }
      t.diagnostic(JSON.stringify(load.outcomes));
      assert.deepEqual(await load.check(), []);
      await initializeLists(cluster.url(active));
    });
  }

  test(`round ${round}: two of three safekeepers paused: commits wait`, () =>
    underTpcb(async (load) => {
      const away = 1 + random.int(3);
      const pids = [1, 2, 3]
        .filter((id) => id !== away)
        .map((id) => cluster.pid(`safekeeper-${id}`));
      await withoutQuorum(load, pause(...pids));
    }));

  test(`round ${round}: a safekeeper loses its directory, is filled again, and makes the majority`, () =>
    underTpcb(async (load) => {
      const lost = 1 + (round % 3);
      const other = 1 + ((round + 1) % 3);
      await loseDirectory(cluster, lost);
      await load.progress(50);
      // Empty, it must not help anybody to a majority.
      const resume = pause(cluster.pid(`safekeeper-${other}`));
      await withoutQuorum(load, resume);
      await cluster.ok("timeline", "safekeeper-migrate", "--new-sk-set", "1,2,3");
      await cluster.kill9(`safekeeper-${other}`);
      await load.progress(50);
      await start(other);
    }));

  test(`round ${round}: a safekeeper with a full disk`, async (t) => {
    if (noSmallDisk !== undefined) {
      t.skip(noSmallDisk);
      return;
    }
    await underTpcb(async (load) => {
      const giveBack = fillDisk(directoryOf(cluster, SMALL));
      try {
        await load.progress(100);
      } finally {
        giveBack();
      }
      // Now it is needed.
      await cluster.kill9("safekeeper-1");
      await load.progress(50);
      await start(1);
    });
  });

  for (const paused of ["agent and Postgres", "agent"] as const) {
    test(`round ${round}: ${paused} paused, replaced and resumed: it commits nothing more`, async () => {
      const old = active;
      const load = new TpcbLoad(cluster.url(old), { name: `${++loads}/`, seed: SEED + loads });
      let resume = () => {};
      try {
        await load.progress(50);
        const pid = cluster.pid(`agent-${old}` as Victim);
        resume = paused === "agent" ? pause(pid) : pauseTree(pid);
        await load.waits();
        const before = load.acknowledged.length;
        [active, standby] = [standby, old];
        await startEndpoint(active);
        const found = await historyNames(active);
        await underTpcb(async () => {
          resume();
          await isGone(old);
        });
        await sleep(500);
        // An answer that was due already is true, and may still come: one for each connection.
        const late = load.acknowledged.slice(before);
        assert.ok(late.length <= 8);
        assert.deepEqual(
          late.filter((name) => !found.has(name)),
          [],
          "the replaced compute acknowledged what it did not have on a quorum",
        );
      } finally {
        resume();
        await load.stop();
        acknowledged.push(...load.acknowledged);
      }
      await checkTpcb(cluster.url(active), acknowledged);
    });
  }

  test(`round ${round}: two computes started at once: one stays, nothing is lost or done twice`, async () => {
    await cluster.ok("endpoint", "stop", active);
    const both = [active, standby];
    const rivals = both.map(
      (id) =>
        new TpcbLoad(cluster.url(id), { name: `${++loads}/`, clients: 4, seed: SEED + loads }),
    );
    try {
      await Promise.all(both.map((id) => cluster.cli("endpoint", "start", id, "--allow-multiple")));
      const loser = await eventually("one of them ends", async () =>
        both.find((id) => !isRunning(id)),
      );
      [active, standby] = [both.find((id) => id !== loser)!, loser];
      await rivals[both.indexOf(active)]!.progress(100);
    } finally {
      await Promise.all(rivals.map((load) => load.stop()));
      acknowledged.push(...rivals.flatMap((load) => load.acknowledged));
    }
    await checkTpcb(cluster.url(active), acknowledged);
  });
}

test("after all of it: amcheck is clean, also on a compute that starts afresh", async () => {
  await cluster.ok("endpoint", "stop", active);
  await cluster.ok("endpoint", "start", active);
  await checkTpcb(cluster.url(active), acknowledged);
  await checkConsistency(cluster.url(active));
});

async function historyNames(id: string): Promise<Set<unknown>> {
  const rows = await cluster.query(id, "select rtrim(filler) as name from pgbench_history");
  return new Set(rows.map((row) => row["name"]));
}

/** The agent removes its pid file at its end. */
function isRunning(id: string): boolean {
  try {
    return existsSync(`/proc/${cluster.pid(`agent-${id}` as Victim)}`);
  } catch {
    return false;
  }
}

function isGone(id: string): Promise<true> {
  return eventually(`${id} ends`, () => !isRunning(id));
}

import assert from "node:assert/strict";
import { readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { createIn, homeIn, standInAgent } from "../../../testing/homes/stand-in-home.ts";
import { REAL_CLOCK, replaceClock } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";
import { Meter, type Seen, settle } from "./meter.ts";
import { countTransfer } from "./transfer.ts";

const time = (text: string) => Date.parse(text);

function seen(of: { sinceMs?: number; cpuMs?: number; lastLsn?: number; size?: number }): Seen {
  const { sinceMs, cpuMs = 0, lastLsn = 100, size } = of;
  const run = sinceMs === undefined ? {} : { run: "1", sinceMs, cpuMs };
  return {
    endpoints: [{ id: "ep", projectId: "p", ...run }],
    timelines: [{ projectId: "p", timelineId: "t", startLsn: 100 as Lsn, lastLsn: lastLsn as Lsn }],
    sizes: new Map(size === undefined ? [] : [["p", size]]),
  };
}

async function rows(db: Database, granularity: string) {
  const all = await db
    .selectFrom("consumption")
    .selectAll()
    .where("granularity", "=", granularity)
    .orderBy("frame_start")
    .execute();
  return all.map((row) => [
    ...[row.frame_start, row.active_ms, row.cpu_ms, row.written_bytes, row.size_bytes],
  ]);
}

const look = (db: Database, what: Seen, nowMs: number, isFirst = false) =>
  serialized(db, (transaction) => settle(transaction, what, { nowMs, isFirst }));

test("settle: what was used is in the hour, the day and the month in which it was, to the millisecond", async (t) => {
  const { db } = await scratchState(t);
  await look(db, seen({}), time("2026-11-30T22:00:00Z"), true);
  const sinceMs = time("2026-11-30T23:59:59.500Z");
  await look(
    db,
    seen({ sinceMs, cpuMs: 700, lastLsn: 180, size: 5000 }),
    time("2026-12-01T00:00:01Z"),
  );
  assert.deepEqual(await rows(db, "hourly"), [
    ["2026-11-30T23:00:00.000Z", 500, 0, 0, null],
    ["2026-12-01T00:00:00.000Z", 1000, 700, 80, 5000],
  ]);
  assert.deepEqual(await rows(db, "monthly"), [
    ["2026-11-01T00:00:00.000Z", 500, 0, 0, null],
    ["2026-12-01T00:00:00.000Z", 1000, 700, 80, 5000],
  ]);
  await look(
    db,
    seen({ sinceMs, cpuMs: 750, lastLsn: 190, size: 4000 }),
    time("2026-12-01T00:00:16Z"),
  );
  const later = seen({ sinceMs, cpuMs: 760, lastLsn: 190 });
  await look(db, later, time("2026-12-01T00:00:20Z"));
  await look(db, seen({ lastLsn: 191 }), time("2026-12-01T00:00:31Z"));
  assert.deepEqual((await rows(db, "daily")).at(-1), [
    ...["2026-12-01T00:00:00.000Z", 20_000, 760, 91, 5000],
  ]);
});

test("settle: a look that does not get to its end counts nothing, and the next one all of it, once", async (t) => {
  const { db } = await scratchState(t);
  await look(db, seen({}), 0, true);
  const use = seen({ sinceMs: 1000, cpuMs: 40, lastLsn: 130 });
  const crash = serialized(db, async (transaction) => {
    await settle(transaction, use, { nowMs: 9000, isFirst: false });
    throw new Error("crash");
  });
  await assert.rejects(crash, /crash/);
  assert.deepEqual(await rows(db, "hourly"), []);
  for (let i = 0; i < 3; i++) {
    await look(db, use, 9000);
  }
  assert.deepEqual(await rows(db, "hourly"), [["1970-01-01T00:00:00.000Z", 8000, 40, 30, null]]);
});

test("settle: the first look is where counting begins, and of two first ones one is", async (t) => {
  const { db } = await scratchState(t);
  const before = seen({ sinceMs: 1000, cpuMs: 4000, lastLsn: 900 });
  await look(db, before, 50_000, true);
  await look(db, seen({ sinceMs: 1000, cpuMs: 4100, lastLsn: 950 }), 51_000, true);
  assert.deepEqual(await rows(db, "hourly"), []);
  await look(db, seen({ sinceMs: 1000, cpuMs: 4200, lastLsn: 960 }), 52_000);
  assert.deepEqual(await rows(db, "hourly"), [["1970-01-01T00:00:00.000Z", 2000, 200, 60, null]]);
});

test("countTransfer: each report once, in the hour in which it came; not of endpoints that nobody knows", async (t) => {
  const { db } = await scratchState(t);
  const project = newProjectRow("p");
  await db.insertInto("projects").values(project).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" });
  await db.insertInto("branches").values(branch).execute();
  await db
    .insertInto("endpoints")
    .values(newEndpointRow("ep", branch, "read_write"))
    .execute();
  const [first, later] = [time("2026-11-30T22:10:00Z"), time("2026-11-30T23:10:00Z")];
  const report = { proxy: "one", sequence: 1, bytes: { ep: 100, br: 7, gone: 1000 } };
  await countTransfer(db, report, first);
  await countTransfer(db, report, later);
  await countTransfer(db, { ...report, sequence: 2, bytes: { ep: 1 } }, later);
  await countTransfer(db, report, later);
  await countTransfer(db, { proxy: "another", sequence: 1, bytes: { ep: 20 } }, later);
  const found = await db
    .selectFrom("consumption")
    .select(["project_id", "granularity", "frame_start", "transfer_bytes"])
    .orderBy("granularity")
    .orderBy("frame_start")
    .execute();
  assert.deepEqual(
    found.map((row) => [row.project_id, row.granularity, row.frame_start, row.transfer_bytes]),
    [
      ["p", "daily", "2026-11-30T00:00:00.000Z", 128],
      ["p", "hourly", "2026-11-30T22:00:00.000Z", 107],
      ["p", "hourly", "2026-11-30T23:00:00.000Z", 21],
      ["p", "monthly", "2026-11-01T00:00:00.000Z", 128],
    ],
  );
});

/** What the endpoint's cursor says, and how long its project was active. */
async function counted(db: Database) {
  const cursors = await db.selectFrom("meter_endpoints").selectAll().execute();
  const uses = db.selectFrom("consumption").select("active_ms").where("granularity", "=", "hourly");
  const activeMs = (await uses.execute()).reduce((sum, row) => sum + row.active_ms, 0);
  return { cursors: cursors.map(({ active_until_ms }) => active_until_ms), activeMs };
}

test("Meter.look: an endpoint whose endpoint.json cannot be read is counted as before, and once", async (t) => {
  const { db } = await scratchState(t);
  const home = await homeIn(t);
  const { directory } = await createIn(home, "ep");
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" });
  await db.insertInto("branches").values(branch).execute();
  await db
    .insertInto("endpoints")
    .values(newEndpointRow("ep", branch, "read_write"))
    .execute();
  const began = time("2026-11-30T22:10:00Z");
  await db
    .insertInto("meter")
    .values({ since: new Date(began).toISOString() })
    .execute();
  const pidFile = join(directory, "compute.pid");
  standInAgent(t, { workdir: directory, pidFile });
  utimesSync(pidFile, began / 1000, began / 1000);
  let wallMs = began;
  replaceClock({ ...REAL_CLOCK, nowMs: () => wallMs });
  t.after(() => replaceClock(REAL_CLOCK));
  const meter = new Meter({
    ...{ home, db, logger: createLogger("control_plane", "silent") },
    inventory: { refresh: async () => {} },
  } as unknown as ConstructorParameters<typeof Meter>[0]);
  const file = join(directory, "endpoint.json");
  const good = readFileSync(file);
  for (const [text, seconds] of [
    [good, 10],
    ["{", 20],
    [good, 30],
  ] as const) {
    writeFileSync(file, text);
    wallMs = began + seconds * 1000;
    await meter.look({ withSizes: false });
    assert.deepEqual(await counted(db), { cursors: [wallMs], activeMs: seconds * 1000 });
  }
});

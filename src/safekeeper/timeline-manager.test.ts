import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { SimulatedDisk } from "../../simulation/simulated-disk.ts";
import { newTimeline, silentContext } from "../../simulation/simulated-timeline.ts";
import { FIRST_LSN, SYSTEM_ID, TIMELINE_IDS } from "../../simulation/simulated-wal.ts";
import { generateTimelineId, type TimelineId } from "../base/ids.ts";
import { SeededRandom } from "../base/random.ts";
import { NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import { CONTROL_FILE_NAME, writeControlFile } from "./control-file.ts";
import { TimelineManager } from "./timeline-manager.ts";

const WORKDIR = "/sk";
const { tenantId } = TIMELINE_IDS;

function emptyDisk(seed: number): SimulatedDisk {
  const disk = new SimulatedDisk(new SeededRandom(seed));
  disk.makeDirectory(WORKDIR);
  disk.fsyncDirectory("/");
  return disk;
}

function start(disk: SimulatedDisk): TimelineManager {
  const manager = new TimelineManager(WORKDIR, silentContext(1, disk));
  manager.loadAll();
  return manager;
}

function create(manager: TimelineManager, timelineId: TimelineId): void {
  manager.create({
    ...TIMELINE_IDS,
    timelineId,
    mconf: NO_MEMBERSHIP,
    systemId: SYSTEM_ID,
    walSegSize: undefined,
    startLsn: FIRST_LSN,
    commitLsn: undefined,
  });
}

/** As a pull does: files beside, then all of it under its name. */
function install(disk: SimulatedDisk, manager: TimelineManager, timelineId: TimelineId): void {
  const place = manager.reserve(tenantId, timelineId);
  disk.makeDirectory(place.directory);
  const state = { ...newTimeline(NO_MEMBERSHIP), timelineId };
  writeControlFile(join(place.directory, CONTROL_FILE_NAME), state, disk);
  place.install();
  place.release();
}

/** Whether it came to its end; where not, the process was killed. */
function untilKilled(disk: SimulatedDisk, action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (!disk.crashed) {
      throw error;
    }
    return false;
  } finally {
    disk.processEnded();
  }
}

for (const [how, make] of [
  [
    "created",
    (_disk: SimulatedDisk, manager: TimelineManager, id: TimelineId) => create(manager, id),
  ],
  ["pulled", install],
] as const) {
  test(`TimelineManager: a timeline that was ${how} is there after a power cut, whatever was killed before`, () => {
    for (let operations = 0, finished = false; !finished; operations++) {
      const disk = emptyDisk(operations);
      const timelineId = generateTimelineId();
      const first = start(disk);
      disk.operationsLeft = operations;
      finished = untilKilled(disk, () => make(disk, first, timelineId));
      // The machine went on, so the next process sees all that the killed one has done.
      const second = start(disk);
      if (second.find(tenantId, timelineId) === undefined) {
        make(disk, second, timelineId);
      }
      disk.powerCut("nothing");
      const found = start(disk).find(tenantId, timelineId);
      assert.equal(found?.timelineId, timelineId, `killed after ${operations} disk operations`);
      assert.ok(operations < 100);
    }
  });

  test(`TimelineManager: whichever sync fails while a timeline is ${how}, one that is served is durable`, () => {
    for (let goodSyncs = 0, failed = true; failed; goodSyncs++) {
      const disk = emptyDisk(goodSyncs);
      const timelineId = generateTimelineId();
      let manager = start(disk);
      Object.assign(disk, { goodSyncs, failingSyncs: 1 });
      try {
        make(disk, manager, timelineId);
      } catch {
        assert.equal(manager.find(tenantId, timelineId), undefined);
      }
      failed = disk.failingSyncs === 0;
      disk.failingSyncs = 0;
      if (manager.find(tenantId, timelineId) === undefined) {
        disk.processEnded();
        manager = start(disk);
      }
      if (manager.find(tenantId, timelineId) === undefined) {
        make(disk, manager, timelineId);
      }
      disk.powerCut("nothing");
      assert.ok(start(disk).find(tenantId, timelineId), `the sync after ${goodSyncs} failed`);
    }
  });
}

const EXCLUDING = {
  generation: 7,
  members: [{ id: 2, host: "other", pgPort: 1 }],
  newMembers: undefined,
};
const REMOVALS = [
  ["a deletion", (manager: TimelineManager, id: TimelineId) => manager.delete(tenantId, id, true)],
  [
    "an exclusion",
    (manager: TimelineManager, id: TimelineId) => manager.exclude(tenantId, id, EXCLUDING),
  ],
] as const;
for (const [name, remove] of REMOVALS) {
  test(`TimelineManager: whichever sync of ${name} fails, one that is said to be done is durable`, () => {
    for (let goodSyncs = 0, failed = true; failed; goodSyncs++) {
      const disk = emptyDisk(goodSyncs);
      const timelineId = generateTimelineId();
      const manager = start(disk);
      create(manager, timelineId);
      Object.assign(disk, { goodSyncs, failingSyncs: 1 });
      try {
        remove(manager, timelineId);
      } catch {
        // Whoever asked asks again; what may come back after a power cut is not "not found".
        const refused = { kind: "unavailable", code: "timeline-half-removed" };
        assert.throws(() => manager.get(tenantId, timelineId), refused);
        assert.throws(() => create(manager, timelineId), refused);
        assert.equal(manager.find(tenantId, timelineId), undefined);
        remove(manager, timelineId);
      }
      failed = disk.failingSyncs === 0;
      disk.failingSyncs = 0;
      assert.throws(() => manager.get(tenantId, timelineId), { kind: "not-found" });
      disk.powerCut();
      assert.equal(start(disk).find(tenantId, timelineId), undefined);
      assert.ok(goodSyncs < 100);
    }
  });
}

test("TimelineManager: after a restart what a removal left is gone for good, though the removal's sync failed", () => {
  const disk = emptyDisk(1);
  const timelineId = generateTimelineId();
  const manager = start(disk);
  create(manager, timelineId);
  const timeline = manager.get(tenantId, timelineId);
  timeline.close();
  Object.assign(disk, { goodSyncs: 0, failingSyncs: 1 });
  assert.throws(() => manager.delete(tenantId, timelineId, true));
  disk.processEnded();
  const second = start(disk);
  assert.throws(() => second.get(tenantId, timelineId), { kind: "not-found" });
  disk.powerCut("nothing");
  assert.equal(start(disk).find(tenantId, timelineId), undefined);
});

test("TimelineManager: nobody is excluded while a copy is on its way, which would come after it", () => {
  const manager = start(emptyDisk(1));
  const timelineId = generateTimelineId();
  const place = manager.reserve(tenantId, timelineId);
  const exclude = () => manager.exclude(tenantId, timelineId, EXCLUDING);
  assert.throws(exclude, { kind: "conflict", code: "timeline-incoming" });
  place.release();
  assert.throws(exclude, { kind: "not-found" });
});

test("TimelineManager: a copy that was deleted while it was on its way does not come", () => {
  const disk = emptyDisk(1);
  const manager = start(disk);
  const timelineId = generateTimelineId();
  const place = manager.reserve(tenantId, timelineId);
  disk.makeDirectory(place.directory);
  const state = { ...newTimeline(NO_MEMBERSHIP), timelineId };
  writeControlFile(join(place.directory, CONTROL_FILE_NAME), state, disk);
  assert.equal(manager.delete(tenantId, timelineId, false), false);
  assert.throws(() => place.install(), { kind: "conflict", code: "timeline-deleted" });
  place.release();
  assert.throws(() => manager.get(tenantId, timelineId), { kind: "not-found" });
  assert.equal(disk.exists(place.directory), false);
});

test("TimelineManager: a timeline that was deleted stays so after a power cut; half a one is never served", () => {
  for (let operations = 0, finished = false; !finished; operations++) {
    const disk = emptyDisk(operations);
    const timelineId = generateTimelineId();
    const other = generateTimelineId();
    const manager = start(disk);
    create(manager, timelineId);
    create(manager, other);
    disk.operationsLeft = operations;
    finished = untilKilled(disk, () => void manager.delete(tenantId, timelineId, true));
    disk.powerCut();
    const after = start(disk);
    assert.ok(after.find(tenantId, other) !== undefined);
    assert.equal(after.counts.broken, 0);
    if (finished) {
      assert.equal(after.find(tenantId, timelineId), undefined);
    }
    assert.ok(operations < 100);
  }
});

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { diskFault, SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { newTimeline, silentContext } from "../../../simulation/simulated-timeline.ts";
import { receiveSnapshot } from "../../../simulation/simulated-transfer.ts";
import {
  FIRST_LSN,
  SEGMENT_SIZE,
  SYSTEM_ID,
  TIMELINE_IDS,
} from "../../../simulation/simulated-wal.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { carryOutAtOnce } from "../../base/disk-steps.ts";
import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { NO_MEMBERSHIP } from "../../safekeeper-protocol/membership.ts";
import { TimelineManager } from "../timeline-manager.ts";
import { snapshotLayout } from "./snapshot.ts";
import { SnapshotReceiver } from "./snapshot-receiver.ts";
import { TAR_END } from "./tar.ts";

const { tenantId, timelineId } = TIMELINE_IDS;
const WORKDIR = "/sk";
const wal = new WalBuilder({ startLsn: FIRST_LSN, systemId: SYSTEM_ID, segmentSize: SEGMENT_SIZE });
for (const bytes of [200, 9000, 40_000, 300]) {
  wal.appendFilled(bytes);
}
const decision = {
  nodeId: 1,
  donor: {
    nodeId: 2,
    mconf: NO_MEMBERSHIP,
    term: 3,
    lastLogTerm: 3,
    flushLsn: wal.endLsn,
  },
  term: 4,
  mconf: NO_MEMBERSHIP,
};

function archive(flushedLsn: Lsn): Buffer {
  const state = { ...newTimeline(NO_MEMBERSHIP), term: 3, flushedLsn, commitLsn: flushedLsn };
  const parts = [...snapshotLayout(state, FIRST_LSN)].map((part) =>
    part instanceof Uint8Array ? part : wal.read(part.lsn, part.end),
  );
  return Buffer.concat([...parts, TAR_END]);
}

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

test("SnapshotReceiver: a timeline without WAL is taken too, where it begins in the middle of a segment", () => {
  const place = start(emptyDisk(1)).reserve(tenantId, timelineId);
  const timeline = receiveSnapshot(place, archive(FIRST_LSN), decision);
  assert.deepEqual([timeline.state.flushLsn, timeline.state.persistent.term], [FIRST_LSN, 4]);
});

test("SnapshotReceiver: a donor that is in a membership without this node by then is not copied", () => {
  const place = start(emptyDisk(1)).reserve(tenantId, timelineId);
  const without = {
    generation: 9,
    members: [{ id: 2, host: "h", pgPort: 1 }],
    newMembers: undefined,
  };
  const state = { ...newTimeline(without), flushedLsn: FIRST_LSN };
  const parts = [...snapshotLayout(state, FIRST_LSN)] as Uint8Array[];
  const refused = { kind: "invalid", code: "not-a-member" };
  assert.throws(
    () => receiveSnapshot(place, Buffer.concat([...parts, TAR_END]), decision),
    refused,
  );
});

test("SnapshotReceiver: killed at any disk operation, or by a power cut, there is a whole timeline or none", () => {
  const whole = archive(wal.endLsn);
  for (let operations = 0, served = false; !served; operations++) {
    for (const cut of [false, true]) {
      const disk = emptyDisk(operations);
      const place = start(disk).reserve(tenantId, timelineId);
      disk.operationsLeft = operations;
      try {
        receiveSnapshot(place, whole, decision);
        served = true;
      } catch (error) {
        if (!disk.crashed) {
          throw error;
        }
      }
      if (cut) {
        disk.powerCut();
      } else {
        disk.processEnded();
      }
      const manager = start(disk);
      assert.equal(manager.counts.broken, 0, `killed after ${operations} disk operations`);
      const timeline = manager.find(tenantId, timelineId);
      assert.ok(timeline !== undefined || !served);
      if (timeline !== undefined) {
        const reader = timeline.openReader();
        const bytes = reader.read(FIRST_LSN, wal.endLsn - FIRST_LSN);
        assert.deepEqual(Buffer.from(bytes), Buffer.from(wal.read(FIRST_LSN, wal.endLsn)));
        reader.close();
      }
    }
    assert.ok(operations < 200);
  }
});

test("SnapshotReceiver: whatever sync fails, a timeline that is served is durable", () => {
  const whole = archive(wal.endLsn);
  for (let goodSyncs = 0, failed = true; failed; goodSyncs++) {
    const disk = emptyDisk(goodSyncs);
    const manager = start(disk);
    const place = manager.reserve(tenantId, timelineId);
    Object.assign(disk, { goodSyncs, failingSyncs: 1 });
    try {
      receiveSnapshot(place, whole, decision);
    } catch {
      assert.equal(manager.find(tenantId, timelineId), undefined);
    }
    failed = disk.failingSyncs === 0;
    const wasServed = manager.find(tenantId, timelineId) !== undefined;
    disk.failingSyncs = 0;
    disk.powerCut("nothing");
    const isThere = start(disk).find(tenantId, timelineId) !== undefined;
    assert.ok(isThere || !wasServed, `the sync after ${goodSyncs} failed`);
    assert.ok(goodSyncs < 100);
  }
});

test("SnapshotReceiver: whatever disk operation fails, nothing is left, or a whole timeline that a restart serves", () => {
  const whole = archive(wal.endLsn);
  const tenantDirectory = join(WORKDIR, tenantId);
  for (const failure of ["ENOSPC", "EIO"] as const) {
    for (let operations = 0, failed = true; failed; operations++) {
      const disk = emptyDisk(operations);
      const manager = start(disk);
      const place = manager.reserve(tenantId, timelineId);
      let operationsLeft = operations;
      failed = false;
      disk.onOperation = ({ path }) => {
        if (operationsLeft-- === 0) {
          failed = true;
          throw diskFault(failure, path);
        }
      };
      const what = `${failure} at operation ${operations}`;
      try {
        receiveSnapshot(place, whole, decision);
      } catch (error) {
        const kind = failure === "ENOSPC" ? "unavailable" : "internal";
        const isRefused = manager.counts.broken === 1;
        assert.ok(error instanceof StorageError && (isRefused || error.kind === kind), what);
      }
      disk.onOperation = undefined;
      place.release();
      if (manager.counts.broken === 1) {
        disk.processEnded();
      } else {
        if (failed) {
          assert.deepEqual(manager.list(), [], what);
          const names = disk.exists(tenantDirectory) ? disk.list(tenantDirectory) : [];
          assert.deepEqual(names, [], what);
          receiveSnapshot(manager.reserve(tenantId, timelineId), whole, decision);
        }
        disk.powerCut("nothing");
      }
      assert.equal(start(disk).get(tenantId, timelineId).state.flushLsn, wal.endLsn, what);
      assert.ok(operations < 200);
    }
  }
});

test("SnapshotReceiver: an archive cut anywhere, or with a bit flipped in its WAL, is refused", () => {
  const whole = archive(wal.endLsn);
  const receive = (bytes: Uint8Array) => {
    const disk = emptyDisk(1);
    const place = start(disk).reserve(tenantId, timelineId);
    const receiver = new SnapshotReceiver(place, TIMELINE_IDS, decision);
    carryOutAtOnce(receiver.take(bytes), disk);
    receiver.finish();
  };
  const refuses = (bytes: Uint8Array, what: string) =>
    assert.throws(() => receive(bytes), { kind: "corrupt" }, what);
  receive(whole);
  for (let length = 0; length < whole.length - 1; length += 997) {
    refuses(whole.subarray(0, length), `cut at ${length}`);
  }
  const at = whole.indexOf(Buffer.from(wal.read(FIRST_LSN, wal.endLsn).subarray(0, 64)));
  for (let offset = 0; offset < 8000; offset += 731) {
    const flipped = Buffer.from(whole);
    flipped[at + offset]! ^= 4;
    refuses(flipped, `bit at ${offset}`);
  }
});

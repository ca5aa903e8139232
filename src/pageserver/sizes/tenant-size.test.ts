import assert from "node:assert/strict";
import { test } from "node:test";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { encodeSize } from "../ingest/relation-heads.ts";
import { relBlockPrefix, relSizePrefix } from "../layers/key.ts";
import { DEFAULT_UPKEEP, type UpkeepSettings } from "../retention/tenant-config.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";
import { syntheticSize } from "./tenant-size.ts";
import { exclusiveBytes, LogicalSizes, physicalBytes } from "./timeline-sizes.ts";

const BLOCKS = relBlockPrefix(1663, 5, 16384, 0);
const SIZE = relSizePrefix(1663, 5, 16384, 0);
const OTHER_SIZE = relSizePrefix(1663, 5, 16385, 0);
/** So much history is read. */
const horizon = (gcHorizonBytes: number): UpkeepSettings => ({
  ...DEFAULT_UPKEEP,
  pitrIntervalMs: 0,
  gcHorizonBytes,
});
const MB = 1 << 20;

/** The relation has so many blocks from here on, `walBytes` of WAL later. */
function resize(timeline: Timeline, blocks: number, walBytes: number): Lsn {
  const lsn = toLsn(timeline.lastRecordLsn + walBytes);
  timeline.putImage(SIZE, 0, lsn, encodeSize(blocks));
  timeline.advance(lsn, timeline.lastRecordLsn);
  return lsn;
}

function branchOf(tenant: Tenant, ancestor: Timeline, ancestorLsn: Lsn): Promise<Timeline> {
  const { timelineId: ancestorTimelineId } = ancestor;
  return tenant.createBranch({ timelineId: generateTimelineId(), ancestorTimelineId, ancestorLsn });
}

async function sizeOf(tenant: Tenant, horizonBytes: number): Promise<number> {
  return (await syntheticSize(tenant, horizon(horizonBytes), new LogicalSizes())).size;
}

test("LogicalSizes: blocks of all relations, at any LSN, those that were dropped not counted", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  const sizes = new LogicalSizes();
  // The fixture's relation has all blocks there are.
  assert.equal(await sizes.at(timeline, timeline.lastRecordLsn), 0xffff_ffff * 8192);
  assert.equal(await sizes.at(timeline, resize(timeline, 0, 8)), 0);
  const one = resize(timeline, 3, 8);
  const two = putRecord(timeline, OTHER_SIZE, 0, encodeSize(2));
  const dropped = toLsn(two + 8);
  timeline.putTombstone(SIZE, 0, dropped);
  timeline.advance(dropped, two);
  for (let i = 0; i < 2; i++) {
    assert.deepEqual(
      [
        await sizes.at(timeline, one),
        await sizes.at(timeline, two),
        await sizes.at(timeline, dropped),
      ],
      [3 * 8192, 5 * 8192, 2 * 8192],
    );
  }
});

test("LogicalSizes: a branch without changes is not counted anew, one with changes is", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const sizes = new LogicalSizes();
  const lsn = resize(root, 3, 8);
  assert.equal(await sizes.at(root, lsn), 3 * 8192);
  const branch = await branchOf(tenant, await branchOf(tenant, root, lsn), lsn);
  branch.scan = () => assert.fail("its ancestor's is known");
  assert.equal(await sizes.at(branch, lsn), 3 * 8192);
  const other = await branchOf(tenant, root, lsn);
  const changed = resize(other, 4, 8);
  resize(root, 5, 8);
  assert.equal(await sizes.at(root, changed), 5 * 8192);
  assert.equal(await sizes.at(other, changed), 4 * 8192, "at the same LSN");
});

test("syntheticSize: by hand: a window, a branch in it, one far below it, an idle one, a lease", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  resize(root, 1000, 1 * MB);
  await root.checkpoint();
  const first = root.lastRecordLsn;
  const logical = 1000 * 8192;
  assert.equal(await sizeOf(tenant, 0), logical);
  resize(root, 2000, 64 * MB);
  await root.checkpoint();
  const head = root.lastRecordLsn;
  assert.equal(await sizeOf(tenant, 0), 2 * logical, "the head alone");
  assert.equal(await sizeOf(tenant, 64 * MB), logical + 64 * MB, "all since the first");
  // Both states, without what is between them.
  const old = await branchOf(tenant, root, first);
  assert.equal(await sizeOf(tenant, 0), 3 * logical);
  // Its own WAL comes on top.
  resize(old, 1001, 104);
  assert.equal(await sizeOf(tenant, 0), 3 * logical + 104);
  // Where the root's window begins it has its first size still.
  assert.equal(await sizeOf(tenant, MB), 2 * logical + MB + 104);
  const idle = await branchOf(tenant, root, head);
  assert.equal(await sizeOf(tenant, 0), 3 * logical + 104, "at the head: nothing more");
  assert.ok(idle.lastRecordLsn === head);
  // From where the idle one reads, WAL is cheaper than a second snapshot.
  const near = resize(root, 2000, 104);
  await root.checkpoint();
  assert.equal(await sizeOf(tenant, 0), 3 * logical + 208);
  root.grantLease(near, 60_000);
  const last = resize(root, 2000, 64 * MB);
  await root.checkpoint();
  assert.equal(await sizeOf(tenant, 0), 5 * logical + 208, "the lease holds what it reads");
  assert.equal(root.lastRecordLsn, last);
});

test("syntheticSize: branch points below the cutoff are read through their branches, after a collection too", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const first = resize(root, 100, 1000);
  const branch = await branchOf(tenant, root, first);
  const deeper = await branchOf(tenant, branch, first);
  // Both begin with one snapshot.
  await branchOf(tenant, root, first);
  resize(root, 200, 64 * MB);
  await root.checkpoint();
  const before = await sizeOf(tenant, 0);
  assert.equal(before, (100 + 200) * 8192);
  await root.advanceGcCutoff(root.lastRecordLsn);
  while (await root.compact("collect")) {
    // To the end.
  }
  assert.equal(await sizeOf(tenant, 0), before);
  assert.equal(deeper.ancestor, branch);
});

test("physicalBytes, exclusiveBytes: what it made, and what only it can read", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const sizeBelow = () => physicalBytes(root);
  putRecord(root, BLOCKS, 0, new Uint8Array(8192).fill(1));
  await root.checkpoint();
  const shared = sizeBelow();
  assert.equal(exclusiveBytes(tenant).get(root), shared, "nobody else is there");
  const branch = await branchOf(tenant, root, root.lastRecordLsn);
  assert.equal(exclusiveBytes(tenant).get(root), 0, "the branch reads all of it");
  assert.equal(exclusiveBytes(tenant).get(branch), 0);
  putRecord(root, BLOCKS, 0, new Uint8Array(8192).fill(2));
  await root.checkpoint();
  putRecord(branch, BLOCKS, 0, new Uint8Array(8192).fill(3));
  await branch.checkpoint();
  assert.equal(exclusiveBytes(tenant).get(root), physicalBytes(root) - shared);
  assert.equal(exclusiveBytes(tenant).get(branch), physicalBytes(branch));
  // By name now, and still not its own.
  await branch.detachFromAncestor();
  assert.equal(exclusiveBytes(tenant).get(root), physicalBytes(root) - shared);
  assert.equal(exclusiveBytes(tenant).get(branch), physicalBytes(branch));
  await tenant.deleteTimeline(root.timelineId);
  assert.equal(exclusiveBytes(tenant).get(branch), physicalBytes(branch) + shared);
});

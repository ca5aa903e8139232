import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  FIXTURE_START_LSN,
  FIXTURE_SYSTEM_ID,
  putRecord,
  StorageFixture,
} from "../../../testing/storage-fixture.ts";
import { generateTenantId, generateTimelineId } from "../../base/ids.ts";
import { toLsn } from "../../base/lsn.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { recordBoundary } from "./retention.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const PAGE = new Uint8Array(8192).fill(1);

test("createTenant: idempotent, also at once, and survives a restart", async () => {
  await using fixture = await StorageFixture.create();
  const id = generateTenantId();
  const [a, b] = await Promise.all([
    fixture.manager.createTenant(id),
    fixture.manager.createTenant(id),
  ]);
  assert.equal(a, b);
  assert.equal(await fixture.manager.createTenant(id), a);
  await fixture.reopen();
  assert.deepEqual(fixture.manager.tenant(id).timelines, []);
  assert.throws(() => fixture.manager.tenant(generateTenantId()), { kind: "not-found" });
});

test("createRoot: idempotent, one conflict at once, properties survive a restart", async () => {
  await using fixture = await StorageFixture.create();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const parameters = {
    timelineId: generateTimelineId(),
    pgVersion: 17,
    dataChecksums: false,
    systemId: FIXTURE_SYSTEM_ID,
    walSegmentSize: 1 << 24,
    startLsn: FIXTURE_START_LSN,
    prevRecordLsn: toLsn(FIXTURE_START_LSN - 0x78),
    layerPaths: [],
  };
  const both = await Promise.allSettled([
    tenant.createRoot(parameters),
    tenant.createRoot(parameters),
  ]);
  assert.deepEqual(both.map((result) => result.status).sort(), ["fulfilled", "rejected"]);
  const refused = both.find((result) => result.status === "rejected")!;
  assert.equal(refused.reason.kind, "conflict");
  const timeline = tenant.timeline(parameters.timelineId);
  assert.equal(await tenant.createRoot({ ...parameters, systemId: 5n }), timeline);
  await assert.rejects(tenant.createRoot({ ...parameters, pgVersion: 16 }), { kind: "conflict" });
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, parameters.timelineId);
  assert.equal(again.systemId, FIXTURE_SYSTEM_ID);
  assert.equal(again.startLsn, FIXTURE_START_LSN);
  assert.equal(again.prevRecordLsn, FIXTURE_START_LSN - 0x78);
  assert.equal(again.pgVersion, 17);
  assert.equal(again.walSegmentSize, 1 << 24);
});

test("createBranch: rules of the branch LSN", async () => {
  await using fixture = await StorageFixture.create();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const root = await fixture.createRoot();
  const lsns = Array.from({ length: 20 }, () => putRecord(root, REL, 0, PAGE));
  const create = (ancestor: typeof root, lsn?: number, timelineId = generateTimelineId()) =>
    tenant.createBranch({
      timelineId,
      ancestorTimelineId: ancestor.timelineId,
      ...(lsn === undefined ? {} : { ancestorLsn: toLsn(lsn) }),
    });

  const head = await create(root);
  assert.equal(head.startLsn, lsns.at(-1));
  assert.equal(head.lastRecordLsn, head.startLsn);
  assert.equal(head.prevRecordLsn, 0);
  assert.equal(head.systemId, FIXTURE_SYSTEM_ID);

  const middle = await create(root, lsns[5]! + 3);
  assert.equal(middle.ancestorLsn, lsns[5]);
  await assert.rejects(create(root, lsns.at(-1)! + 8), { kind: "unavailable" });
  await assert.rejects(create(root, FIXTURE_START_LSN - 8), { kind: "invalid" });
  await assert.rejects(
    tenant.createBranch({
      timelineId: generateTimelineId(),
      ancestorTimelineId: generateTimelineId(),
    }),
    { kind: "not-found" },
  );

  // Below the ancestor's own start the state is its ancestor's.
  const older = await create(head, lsns[5]);
  assert.equal(older.ancestor, root);

  // The same again is fine, another LSN or ancestor is not.
  assert.equal(await create(root, lsns[5], middle.timelineId), middle);
  assert.equal(await create(root, undefined, middle.timelineId), middle);
  await assert.rejects(create(root, lsns[6], middle.timelineId), { kind: "conflict" });
  await assert.rejects(create(head, undefined, middle.timelineId), { kind: "conflict" });
});

test("recordBoundary: cuts to 8 bytes and out of page headers", () => {
  assert.equal(recordBoundary(toLsn(0x2000_0137)), 0x2000_0130);
  assert.equal(recordBoundary(toLsn(0x2000_2008)), 0x2000_2000);
  assert.equal(recordBoundary(toLsn(0x2000_2018)), 0x2000_2018);
  assert.equal(recordBoundary(toLsn(0x2100_0020)), 0x2100_0000);
  assert.equal(recordBoundary(toLsn(0x2100_0028)), 0x2100_0028);
});

test("deleteTimeline: branches of it stay as they are; gone after, also after a restart", async () => {
  await using fixture = await StorageFixture.create();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const root = await fixture.createRoot();
  putRecord(root, REL, 0, PAGE);
  const branch = await fixture.createBranch(root);
  const start = branch.startLsn;
  await tenant.deleteTimeline(root.timelineId);
  await assert.rejects(tenant.deleteTimeline(root.timelineId), { kind: "not-found" });
  assert.equal(branch.ancestor, undefined);
  assert.deepEqual(branch.readPage(REL, 0, start), PAGE);
  await fixture.reopen();
  const again = fixture.manager.tenant(fixture.tenantId);
  const [left] = again.timelines;
  assert.deepEqual([again.timelines.length, left!.timelineId], [1, branch.timelineId]);
  // The history before the branch point too.
  assert.equal(left!.minReadableLsn, FIXTURE_START_LSN);
  assert.deepEqual(left!.readPage(REL, 0, start), PAGE);
  assert.equal(left!.readPage(REL, 0, FIXTURE_START_LSN), undefined);
  await again.deleteTimeline(branch.timelineId);
  assert.deepEqual(readdirSync(fixture.timelinesDirectory), []);
});

test("load: unfinished creations and deletions are cleared", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  await fixture.close();
  for (const suffix of ["-0a0b0c0d.___temp", ".___deleted"]) {
    const path = join(fixture.timelinesDirectory, generateTimelineId() + suffix);
    mkdirSync(path);
    writeFileSync(join(path, "index_part.json"), "{}");
  }
  await fixture.open();
  assert.deepEqual(readdirSync(fixture.timelinesDirectory), [root.timelineId]);
});

test("load: a damaged index breaks its timeline and its branches, no other", async () => {
  await using fixture = await StorageFixture.create();
  const broken = await fixture.createRoot();
  const whole = await fixture.createRoot();
  const branch = await fixture.createBranch(broken);
  const path = join(fixture.timelinesDirectory, broken.timelineId, "index_part.json");
  const intact = readFileSync(path, "utf8");
  for (const damaged of [intact.replace("1/1000", "1/1008"), intact.slice(0, 99), "", "[]"]) {
    await fixture.close();
    writeFileSync(path, damaged);
    await fixture.open();
    const again = fixture.manager.tenant(fixture.tenantId);
    const corrupt = { kind: "corrupt" };
    assert.throws(() => again.timeline(broken.timelineId), corrupt);
    assert.throws(() => again.timeline(branch.timelineId), corrupt);
    assert.equal(again.brokenTimelines.size, 2);
    assert.deepEqual(
      again.timelines.map((timeline) => timeline.timelineId),
      [whole.timelineId],
    );
    await assert.rejects(again.deleteTimeline(broken.timelineId), { kind: "conflict" });
  }
  await fixture.close();
  writeFileSync(path, intact);
  await fixture.open();
  assert.equal(fixture.manager.tenant(fixture.tenantId).timelines.length, 3);
});

test("load: a timeline without its index is reported, not removed", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  await fixture.close();
  rmSync(join(fixture.timelinesDirectory, root.timelineId, "index_part.json"));
  await fixture.open();
  assert.throws(() => fixture.manager.timeline(fixture.tenantId, root.timelineId), {
    kind: "corrupt",
  });
  assert.equal(readdirSync(join(fixture.timelinesDirectory, root.timelineId)).length, 1);
});

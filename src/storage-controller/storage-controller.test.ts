import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { FakeStorageNode } from "../../testing/fake-storage-node.ts";
import { parseTenantId, parseTimelineId, unshardedId } from "../base/ids.ts";
import { toLsn } from "../base/lsn.ts";
import type { ComputeStatus } from "../compute/api.ts";
import type { RunningCompute } from "./computes.ts";
import type { ControllerState, ControllerStore, MembershipRecord } from "./controller-state.ts";
import { migrateSafekeepers } from "./safekeeper-migrate.ts";
import { type NewTimeline, StorageController } from "./storage-controller.ts";

const TENANT = parseTenantId("a".repeat(32));
const FIRST = parseTimelineId("1".repeat(32));
const SECOND = parseTimelineId("2".repeat(32));

/** Keeps what it is told in memory, and the order of it. */
class MemoryStore implements ControllerStore {
  readonly nodes: Pick<ControllerState, "pageservers" | "safekeepers">;
  readonly records = new Map<string, Map<string, MembershipRecord>>();
  readonly held: string[] = [];

  constructor(nodes: Pick<ControllerState, "pageservers" | "safekeepers">) {
    this.nodes = nodes;
  }

  read(): ControllerState {
    return { ...this.nodes, memberships: this.records };
  }

  async setMembership(
    tenantId: string,
    timelineId: string,
    record: MembershipRecord | undefined,
  ): Promise<void> {
    const timelines = this.records.get(tenantId) ?? new Map<string, MembershipRecord>();
    this.records.set(tenantId, timelines);
    if (record === undefined) {
      timelines.delete(timelineId);
    } else {
      timelines.set(timelineId, record);
    }
  }

  exclusively<T>(name: string, body: () => Promise<T>): Promise<T> {
    this.held.push(name);
    return body();
  }
}

async function makeController(t: TestContext, computes: readonly RunningCompute[] = []) {
  const pageserver = new FakeStorageNode(TENANT);
  const safekeepers = [1, 2, 3].map(() => new FakeStorageNode(TENANT));
  const node = async (fake: FakeStorageNode, id: number) => ({
    id,
    listenPgAddr: `127.0.0.1:${id}`,
    listenHttpAddr: await fake.listen(t),
  });
  const store = new MemoryStore({
    pageservers: [await node(pageserver, 7)],
    safekeepers: await Promise.all(safekeepers.map((fake, i) => node(fake, i + 1))),
  });
  const controller = new StorageController(store, {
    runningPrimaries: () => computes,
    runningReplicas: () => [],
  });
  return { controller, store, pageserver, safekeepers };
}

function newTimeline(more: Partial<NewTimeline> = {}): NewTimeline {
  const ids = { tenantId: TENANT, timelineId: FIRST };
  const root = { pgVersion: 17, dataChecksums: false };
  return { ...ids, ...root, versionNumber: (major) => major * 10_000, ...more };
}

test("StorageController: a tenant is one shard, on the pageserver that there is", async (t) => {
  const { controller, store } = await makeController(t);
  const [node] = store.nodes.pageservers;
  assert.deepEqual(controller.locate(TENANT), [{ shardId: unshardedId(TENANT), node }]);
  assert.equal(controller.placementOf(TENANT, FIRST).pageserver, node);
  for (const pageservers of [[], [node!, { ...node!, id: 8 }]]) {
    const lost = new StorageController(new MemoryStore({ ...store.nodes, pageservers }), {
      runningPrimaries: () => [],
      runningReplicas: () => [],
    });
    assert.throws(() => lost.locate(TENANT), {
      code: "no-placement",
      message: new RegExp(`tenant ${TENANT} is placed on none`),
    });
  }
});

test("StorageController.createTimeline: chosen safekeepers are on record before any hears of it", async (t) => {
  const { controller, store, pageserver, safekeepers } = await makeController(t);
  const all = controller.placementOf(TENANT, FIRST);
  assert.deepEqual([all.safekeepers.length, all.isRecorded], [3, false]);
  pageserver.failNext = "POST";
  const wanted = newTimeline({ safekeepers: [1, 3] });
  await assert.rejects(controller.createTimeline(wanted), /out of order/);
  assert.deepEqual(store.records.get(TENANT)?.get(FIRST), { generation: 1, members: [1, 3] });
  await controller.createTimeline(wanted);
  assert.deepEqual(
    safekeepers.map((fake) => fake.timelines.size),
    [1, 0, 1],
  );
  const placement = controller.placementOf(TENANT, FIRST);
  assert.deepEqual(
    [placement.safekeepers.map(({ id }) => id), placement.isRecorded],
    [[1, 3], true],
  );
  await assert.rejects(controller.createTimeline(newTimeline({ safekeepers: [4] })), {
    code: "no-node",
  });
});

/** At which a record can end, and at which none can. */
const [BOUNDARY, PAGE_START] = [toLsn(0x2100), toLsn(0x2000)];

test("StorageController.createTimeline: of a branch of what is known pageserver and safekeepers are told at once", async (t) => {
  const { controller, pageserver, safekeepers } = await makeController(t);
  await controller.createTimeline(newTimeline());
  const told = Promise.withResolvers<void>();
  pageserver.beforeCreate = () => told.promise;
  safekeepers[2]!.beforeCreate = async () => told.resolve();
  const ancestor = { timelineId: FIRST, lsn: BOUNDARY };
  const info = await controller.createTimeline(newTimeline({ timelineId: SECOND, ancestor }));
  assert.equal(info.start_lsn, "0/2100");
  for (const { starts } of safekeepers) {
    assert.deepEqual(starts, ["0/10", "0/2100"]);
  }
});

test("StorageController.createTimeline: of a branch whose beginning only the pageserver can tell safekeepers hear it then", async (t) => {
  const { controller, pageserver, safekeepers } = await makeController(t);
  await controller.createTimeline(newTimeline());
  pageserver.startLsn = "0/1FF8";
  const ancestor = { timelineId: FIRST, lsn: PAGE_START };
  await controller.createTimeline(newTimeline({ timelineId: SECOND, ancestor }));
  assert.deepEqual(safekeepers[0]!.starts, ["0/10", "0/1FF8"]);
});

test("StorageController.createTimeline: when it has failed nothing of it is under way any more", async (t) => {
  const { controller, pageserver, safekeepers } = await makeController(t);
  await controller.createTimeline(newTimeline());
  pageserver.beforeCreate = () => Promise.reject(new Error("gone"));
  const gate = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  safekeepers[1]!.beforeCreate = () => {
    asked.resolve();
    return gate.promise;
  };
  const ancestor = { timelineId: FIRST, lsn: BOUNDARY };
  let isOver = false;
  const failed = controller
    .createTimeline(newTimeline({ timelineId: SECOND, ancestor }))
    .finally(() => {
      isOver = true;
    });
  failed.catch(() => undefined);
  await asked.promise;
  // Its failure is heard meanwhile.
  await controller.timeline(TENANT, FIRST);
  assert.equal(isOver, false);
  gate.resolve();
  await assert.rejects(failed);
  assert.ok(safekeepers[1]!.timelines.has(SECOND));
});

test("StorageController.placementOf: while membership changes, old members and new ones", async (t) => {
  const { controller, store } = await makeController(t);
  await store.setMembership(TENANT, FIRST, { generation: 2, members: [1], newMembers: [2] });
  const ids = (timelineId: typeof FIRST) =>
    controller.placementOf(TENANT, timelineId).safekeepers.map(({ id }) => id);
  assert.deepEqual(ids(FIRST), [1, 2]);
  assert.deepEqual(ids(SECOND), [1, 2, 3]);
});

test("StorageController.deleteTimeline: from everywhere, whatever is left of it; its record goes last", async (t) => {
  const { controller, store, pageserver, safekeepers } = await makeController(t);
  await controller.createTimeline(newTimeline({ safekeepers: [1, 2] }));
  // A copy of one that was a member once.
  safekeepers[2]!.timelines.set(FIRST, { ancestor: null, pgVersion: 17 });
  safekeepers[1]!.away = true;
  await assert.rejects(controller.deleteTimeline(TENANT, FIRST), /out of order/);
  assert.ok(store.records.get(TENANT)?.has(FIRST));
  assert.equal(pageserver.timelines.size + safekeepers[2]!.timelines.size, 0);
  safekeepers[1]!.away = false;
  await controller.deleteTimeline(TENANT, FIRST);
  assert.equal(safekeepers[1]!.timelines.size, 0);
  assert.ok(!store.records.get(TENANT)?.has(FIRST));
  await controller.deleteTimeline(TENANT, FIRST);
});

test("StorageController.newestLsn: a running compute may know the most, or nothing, or not answer", async (t) => {
  const compute = (status: () => Promise<Partial<ComputeStatus>>): RunningCompute => ({
    id: "main",
    status: status as RunningCompute["status"],
  });
  const { controller, pageserver } = await makeController(t, [
    compute(async () => ({ commitLsn: "0/400", flushLsn: "0/440", insideLsn: "0/2000" })),
    compute(async () => ({ commitLsn: null, flushLsn: null, insideLsn: null })),
    compute(() => Promise.reject(new Error("no answer"))),
  ]);
  await controller.createTimeline(newTimeline());
  const newest = () => controller.newestLsn(TENANT, FIRST);
  assert.deepEqual(await newest(), { lsn: 0x400, flushLsn: 0x440, insideLsn: 0x2000 });
  pageserver.lsn = "0/500";
  assert.deepEqual(await newest(), { lsn: 0x500, flushLsn: 0x500, insideLsn: 0x2000 });
  pageserver.lsn = "0/3000";
  assert.deepEqual(await newest(), { lsn: 0x3000, flushLsn: 0x3000, insideLsn: 0x3000 });
});

test("migrateSafekeepers: one change of a timeline at a time; unknown safekeepers are refused first", async (t) => {
  const { controller, store } = await makeController(t);
  const wanted = { tenantId: TENANT, timelineId: FIRST, abort: false, timeoutMs: 1000 };
  await assert.rejects(
    migrateSafekeepers(controller, { ...wanted, newMembers: [9] }, () => {}),
    { code: "no-node" },
  );
  assert.deepEqual(store.held, [`membership ${FIRST}`]);
  assert.equal(store.records.size, 0);
});

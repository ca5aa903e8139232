import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { eventually } from "../../../testing/eventually.ts";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { StorageError } from "../../base/errors.ts";
import { generateTenantId } from "../../base/ids.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { deletedTenantKey, timelinePrefix } from "./remote-paths.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const page = (fill: number) => new Uint8Array(8192).fill(fill);

/** A tenant with a root that the store has, and a branch. */
async function withTenant(store: MemoryObjectStore) {
  const fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await fixture.createBranch(root);
  putRecord(root, REL, 1, page(2));
  await root.checkpoint();
  await root.makeDurable();
  return { fixture, root };
}

const objectsOf = (store: MemoryObjectStore, { tenantId }: StorageFixture) =>
  store.keys.filter((key) => key.startsWith(`tenants/${tenantId}/`));

const isGone = (store: MemoryObjectStore, fixture: StorageFixture) =>
  eventually("all objects are gone", () => objectsOf(store, fixture).length === 0);

test("deleteTenant: files and objects go, others stay, and its id is not given again", async () => {
  const store = new MemoryObjectStore();
  const { fixture, root } = await withTenant(store);
  await using first = fixture;
  const other = generateTenantId();
  await first.manager.createTenant(other);
  await Promise.all([
    first.manager.deleteTenant(first.tenantId),
    first.manager.deleteTenant(first.tenantId),
  ]);
  assert.deepEqual(objectsOf(store, first), []);
  assert.deepEqual(readdirSync(join(first.directory, "tenants")), [other]);
  assert.throws(() => root.readPage(REL, 0, root.lastRecordLsn), { code: "shutting-down" });
  const isRefused = async (fixture: StorageFixture) => {
    assert.throws(() => fixture.manager.tenant(first.tenantId), { message: /was deleted/ });
    await assert.rejects(fixture.manager.createTenant(first.tenantId), { code: "tenant-deleted" });
    await fixture.manager.deleteTenant(first.tenantId);
  };
  await isRefused(first);
  await first.reopen();
  await isRefused(first);
  await first.close();
  await using second = await StorageFixture.attach(first.tenantId, { store });
  await isRefused(second);
  assert.deepEqual(
    second.manager.tenants.map(({ tenantId }) => tenantId),
    [other],
  );
  // One that never was needs no mark.
  await second.manager.deleteTenant(generateTenantId());
  const marks = store.keys.filter((key) => key.startsWith("deleted-tenants/"));
  assert.equal(marks.length, 1);
});

test("deleteTenant: without an object store, too", async () => {
  await using fixture = await StorageFixture.create();
  await fixture.createRoot();
  await fixture.manager.deleteTenant(fixture.tenantId);
  await fixture.reopen();
  assert.deepEqual(fixture.manager.tenants, []);
  await assert.rejects(fixture.manager.createTenant(fixture.tenantId), { code: "tenant-deleted" });
  // A process that was killed had come as far as the mark.
  mkdirSync(fixture.timelinesDirectory, { recursive: true });
  await fixture.reopen();
  assert.equal(existsSync(fixture.timelinesDirectory), false);
});

test("deleteTenant: wherever a process ends after the mark, the next one finishes", async () => {
  const store = new MemoryObjectStore();
  const { fixture } = await withTenant(store);
  await using first = fixture;
  const mark = deletedTenantKey(first.tenantId, first.manager.resources.generation.number);
  await first.close();
  await store.put(mark, Buffer.from("{}"));
  // Half of its files and objects are gone already.
  const [timeline] = readdirSync(first.timelinesDirectory);
  writeFileSync(join(first.timelinesDirectory, timeline!, "index_part.json"), "");
  await store.delete(objectsOf(store, first).slice(0, 2));
  await first.open();
  assert.deepEqual(first.manager.tenants, []);
  assert.equal(existsSync(first.timelinesDirectory), false);
  await isGone(store, first);
  // The mark is of this generation now: of two processes before, one may still have had the tenant.
  assert.equal(store.keys.includes(mark), false);
  await first.reopen();
  assert.throws(() => first.manager.tenant(first.tenantId), { message: /was deleted/ });
});

test("deleteTenant: a pageserver that was replaced can neither delete nor bring back", async () => {
  const store = new MemoryObjectStore();
  const { fixture, root } = await withTenant(store);
  await using stale = fixture;
  await using current = await StorageFixture.attach(stale.tenantId, { store });
  await assert.rejects(stale.manager.deleteTenant(stale.tenantId), { kind: "fenced" });
  assert.equal(stale.manager.timeline(stale.tenantId, root.timelineId), root);
  assert.equal(store.keys.filter((key) => key.startsWith("deleted-tenants/")).length, 0);

  await current.manager.deleteTenant(stale.tenantId);
  putRecord(root, REL, 2, page(3));
  await root.checkpoint();
  const putsAgain = () => eventually("it puts something", () => objectsOf(store, stale).length > 0);
  await putsAgain();
  await current.manager.removeStrayObjects();
  await isGone(store, stale);
  putRecord(root, REL, 2, page(4));
  await root.checkpoint();
  await putsAgain();
  await using next = await StorageFixture.attach(stale.tenantId, { store });
  assert.deepEqual(next.manager.tenants, []);
  await isGone(store, stale);
});

test("deleteTenant: what a replaced pageserver was told does not count where the tenant was used after it", async () => {
  const store = new MemoryObjectStore();
  const { fixture, root } = await withTenant(store);
  await using stale = fixture;
  await using current = await StorageFixture.attach(stale.tenantId, { store });
  // Its question whether it was current came too late: it answered `fenced`.
  const { number } = stale.manager.resources.generation;
  await store.put(deletedTenantKey(stale.tenantId, number), Buffer.from("{}"));
  await current.manager.timeline(stale.tenantId, root.timelineId).holdInStore();
  await current.reopen();
  current.manager.timeline(stale.tenantId, root.timelineId);
  await current.manager.createTenant(stale.tenantId);
  await current.manager.deleteTenant(stale.tenantId);
  await current.reopen();
  assert.deepEqual(current.manager.tenants, []);
});

test("deleteTenant: a store that does not answer leaves the tenant as it is, or half deleted until it is asked again", async () => {
  let isAway = (_: string): boolean => false;
  // No retry changes it.
  const away = () => new StorageError("conflict", "away", "away");
  class Store extends MemoryObjectStore {
    override put(...call: Parameters<MemoryObjectStore["put"]>) {
      return isAway(call[0]) ? Promise.reject(away()) : super.put(...call);
    }
    override list(...call: Parameters<MemoryObjectStore["list"]>) {
      return isAway(call[0].prefix ?? "") ? Promise.reject(away()) : super.list(...call);
    }
  }
  const store = new Store();
  const { fixture, root } = await withTenant(store);
  await using first = fixture;
  const { manager, tenantId } = first;
  isAway = () => true;
  await assert.rejects(manager.deleteTenant(tenantId), { message: "away" });
  assert.equal(manager.timeline(tenantId, root.timelineId), root);
  isAway = (key) => key.startsWith("deleted-tenants/");
  await assert.rejects(manager.deleteTenant(tenantId), { message: "away" });
  assert.throws(() => manager.tenant(tenantId), { code: "tenant-deleting" });
  await assert.rejects(manager.createTenant(tenantId), { code: "tenant-deleted" });
  isAway = () => false;
  await manager.deleteTenant(tenantId);
  assert.throws(() => manager.tenant(tenantId), { kind: "not-found" });
  assert.deepEqual(objectsOf(store, first), []);
});

test("deleteTenant: one that comes to nothing takes no layers along of a timeline that is being deleted", async () => {
  const listing = Promise.withResolvers<void>();
  let slowPrefix = "";
  let isAsked = false;
  class Store extends MemoryObjectStore {
    override async put(...call: Parameters<MemoryObjectStore["put"]>) {
      if (call[0].startsWith("deleted-tenants/")) {
        isAsked = true;
        throw new StorageError("unavailable", "away", "away");
      }
      await super.put(...call);
    }
    override async list(...call: Parameters<MemoryObjectStore["list"]>) {
      if (call[0].prefix === slowPrefix) {
        await listing.promise;
      }
      return super.list(...call);
    }
  }
  const store = new Store();
  const { fixture, root } = await withTenant(store);
  await using first = fixture;
  const { manager, tenantId } = first;
  slowPrefix = timelinePrefix(tenantId, root.timelineId);
  const layersOf = () => store.keys.filter((key) => key.startsWith(`${slowPrefix}0`));
  await manager.tenant(tenantId).deleteTimeline(root.timelineId);
  // What the branch reads.
  const [shared] = layersOf();
  assert.ok(shared !== undefined);
  // Its store does not say whether the tenant is deleted; then the process ends.
  manager.deleteTenant(tenantId).catch(() => undefined);
  await eventually("the tenant is closed", () => isAsked);
  listing.resolve();
  await setTimeout(20);
  await manager.resources.remote!.deletions.flush();
  await first.close();
  assert.ok(layersOf().includes(shared));
});

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { FakeStorageNode } from "../../testing/fake-storage-node.ts";
import { parseTenantId, parseTimelineId, type TimelineId } from "../base/ids.ts";
import { toLsn } from "../base/lsn.ts";
import { createBranch } from "./branches/create-branch.ts";
import {
  branchNames,
  checkBranchName,
  createTimeline,
  deleteBranch,
  deleteTenant,
  majorOf,
  removeUnfinished,
  renameBranch,
  resolveBranch,
  splitNameAtLsn,
} from "./branches.ts";
import { pgBinOf } from "./config.ts";
import { controllerOf } from "./controller.ts";
import { StrataHome } from "./home.ts";
import { withHomeShared } from "./lock.ts";
import { recordSwitch } from "./state/home-state.ts";

const TENANT = parseTenantId("a".repeat(32));
const FIRST = parseTimelineId("1".repeat(32));
const SECOND = parseTimelineId("2".repeat(32));

async function makeHome(t: TestContext, safekeeperCount = 1) {
  const directory = mkdtempSync(join(tmpdir(), "strata-timelines-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const pageserver = new FakeStorageNode(TENANT);
  const safekeepers = Array.from({ length: safekeeperCount }, () => new FakeStorageNode(TENANT));
  const node = async (fake: FakeStorageNode, i: number) => ({
    id: i + 1,
    listenPgAddr: `127.0.0.1:${i + 1}`,
    listenHttpAddr: await fake.listen(t),
  });
  const home = new StrataHome(directory);
  home.create(
    {},
    {
      broker: { listenAddr: "127.0.0.1:100" },
      pageservers: [await node(pageserver, 100)].map((one) => ({ ...one, id: 1 })),
      safekeepers: await Promise.all(safekeepers.map(node)),
    },
    "empty-dir-ok",
  );
  const [safekeeper, ...others] = safekeepers;
  return { home, pageserver, safekeeper: safekeeper!, others };
}

test("createTimeline: pageserver, safekeepers, then the name; names and ids are unique", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  const wanted = { tenantId: TENANT, timelineId: FIRST, branchName: "main" };
  await createTimeline(home, wanted);
  assert.deepEqual([...pageserver.timelines.keys()], [FIRST]);
  assert.deepEqual([...safekeeper.timelines.keys()], [FIRST]);
  assert.equal(resolveBranch(home.config(), TENANT, "main"), FIRST);
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
  await assert.rejects(createTimeline(home, wanted), { kind: "conflict" });
  await assert.rejects(createTimeline(home, { ...wanted, branchName: "x" }), /as branch 'main'/);
  await assert.rejects(createTimeline(home, { ...wanted, branchName: "a b" }), { kind: "invalid" });
  assert.throws(() => resolveBranch(home.config(), TENANT, "toString"), { kind: "not-found" });
});

test("createTimeline: a root of any major; safekeepers are told the version, a branch has its ancestor's", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  const root = { tenantId: TENANT, timelineId: FIRST, branchName: "main" };
  await assert.rejects(createTimeline(home, { ...root, pgVersion: 13 }), /13 is not supported/);
  assert.equal(pageserver.timelines.size, 0);
  await createTimeline(home, { ...root, pgVersion: 15 });
  assert.equal(pageserver.timelines.get(FIRST)!.pgVersion, 15);
  assert.equal(Math.floor(safekeeper.timelines.get(FIRST)!.pgVersion / 10_000), 15);
  const ancestor = { timelineId: FIRST, lsn: toLsn(256) };
  await createTimeline(home, { tenantId: TENANT, timelineId: SECOND, branchName: "dev", ancestor });
  assert.equal(Math.floor(safekeeper.timelines.get(SECOND)!.pgVersion / 10_000), 15);
});

test("createTimeline: names are no more than names, and may look like people's git branches", async (t) => {
  const { home, pageserver } = await makeHome(t);
  const names = [
    "__proto__",
    "constructor",
    "toString",
    "hasOwnProperty",
    "feature/foo",
    "#12-fix",
  ];
  names.push("user@host", "a+b", "größe", "x@0", "a=b,c%d", "n".repeat(255));
  for (const branchName of names) {
    await createTimeline(home, { tenantId: TENANT, branchName });
    await assert.rejects(createTimeline(home, { tenantId: TENANT, branchName }), {
      code: "branch-exists",
    });
  }
  const config = home.config();
  const ids = names.map((name) => resolveBranch(config, TENANT, name));
  assert.deepEqual(new Set(ids), new Set(pageserver.timelines.keys()));
  assert.equal(ids.length, names.length);
  assert.deepEqual(
    ids.map((id) => branchNames(config, TENANT).get(id)),
    names,
  );
  await deleteBranch(home, TENANT, "__proto__");
  assert.throws(() => resolveBranch(home.config(), TENANT, "__proto__"), { kind: "not-found" });
  assert.equal(pageserver.timelines.size, names.length - 1);
});

test("renameBranch: the timeline and a reset that is under way go with the name; a taken one is refused", async (t) => {
  const { home } = await makeHome(t);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "dev" });
  await createTimeline(home, { tenantId: TENANT, timelineId: SECOND, branchName: "other" });
  const reset = { asked: "reset", restart: [] };
  home.update((draft) => recordSwitch(draft, TENANT, "dev", reset));
  assert.throws(() => renameBranch(home, TENANT, "dev", "other"), { code: "branch-exists" });
  assert.throws(() => renameBranch(home, TENANT, "nosuch", "x"), { code: "no-branch" });
  renameBranch(home, TENANT, "dev", "work");
  const { branchNameMappings, branchSwitches } = home.config();
  assert.deepEqual([...branchNameMappings.get(TENANT)!].toSorted(), [
    ["other", SECOND],
    ["work", FIRST],
  ]);
  assert.deepEqual([...branchSwitches.get(TENANT)!.keys()], ["work"]);
});

test("checkBranchName: refuses what listings and name@lsn stumble over", () => {
  const wrong = ["", "a b", "a\nb", "-x", ".x", "/x", "a~b", "a:b", "a*b", "it's", "n".repeat(256)];
  for (const name of [...wrong, "main@0/16F9A00", "\u202ex"]) {
    assert.throws(() => checkBranchName(name), { code: "bad-branch-name" }, JSON.stringify(name));
  }
});

test("splitNameAtLsn: the last @, and only before an LSN", () => {
  assert.deepEqual(splitNameAtLsn("main@0/16F9A00"), { name: "main", lsn: "0/16F9A00" });
  assert.deepEqual(splitNameAtLsn("a@b@1/2"), { name: "a@b", lsn: "1/2" });
  for (const name of ["main", "user@host", "@0/1", "a@", "a@0/x"]) {
    assert.deepEqual(splitNameAtLsn(name), { name });
  }
});

test("createTimeline: an id that is in use is refused, and never gets to be cleaned up", async (t) => {
  const { home, pageserver } = await makeHome(t);
  // Made by somebody else: this home has no name for it.
  pageserver.timelines.set(FIRST, { ancestor: null, pgVersion: 17 });
  const wanted = { tenantId: TENANT, timelineId: FIRST, branchName: "main" };
  await assert.rejects(createTimeline(home, wanted), { code: "timeline-exists" });
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
  await createTimeline(home, { tenantId: TENANT, branchName: "main" });
  assert.ok(pageserver.timelines.has(FIRST));
});

test("createBranch: an id that is in use is refused, and never gets to be cleaned up", async (t) => {
  const { home, pageserver } = await makeHome(t);
  const silent = () => {};
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  pageserver.timelines.set(SECOND, { ancestor: null, pgVersion: 17 });
  const wanted = { tenantId: TENANT, timelineId: SECOND };
  await assert.rejects(createBranch(home, "dev", wanted, silent), { code: "timeline-exists" });
  assert.equal(home.config().unfinishedTimelines.size, 0);
  pageserver.timelines.delete(SECOND);
  await createBranch(home, "dev", wanted, silent);
  assert.equal(resolveBranch(home.config(), TENANT, "dev"), SECOND);
});

test("deleteBranch: with a safekeeper away it is remembered until that one has let go, also if the name is used again", async (t) => {
  const { home, safekeeper, others } = await makeHome(t, 3);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "dev" });
  const [second, third] = others;
  third!.away = true;
  await assert.rejects(deleteBranch(home, TENANT, "dev"), { code: "delete-unfinished" });
  assert.ok(!safekeeper.timelines.has(FIRST));
  const again = { tenantId: TENANT, branchName: "dev", safekeepers: [1, 2] };
  await createTimeline(home, again);
  assert.ok(third!.timelines.has(FIRST));
  assert.deepEqual(home.config().unfinishedTimelines, new Map([[TENANT, new Set([FIRST])]]));
  await assert.rejects(
    createTimeline(home, { ...again, branchName: "x", timelineId: FIRST }),
    /still being removed/,
  );
  third!.away = false;
  await createTimeline(home, { ...again, branchName: "other" });
  assert.ok(!third!.timelines.has(FIRST));
  assert.equal(second!.timelines.size, 2);
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
});

test("removeUnfinished: what a safekeeper missed is also made up for by a deletion, or by itself", async (t) => {
  const { home, safekeeper } = await makeHome(t);
  for (const branchName of ["one", "two", "three"]) {
    await createTimeline(home, { tenantId: TENANT, branchName });
  }
  safekeeper.away = true;
  await assert.rejects(deleteBranch(home, TENANT, "one"), { code: "delete-unfinished" });
  await assert.rejects(deleteBranch(home, TENANT, "two"), { code: "delete-unfinished" });
  assert.equal(home.config().unfinishedTimelines.get(TENANT)?.size, 2);
  await removeUnfinished(home);
  assert.equal(safekeeper.timelines.size, 3);
  safekeeper.away = false;
  await deleteBranch(home, TENANT, "three");
  assert.equal(safekeeper.timelines.size, 0);
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
});

test("majorOf: the pageserver knows; without it the message says what to do", async (t) => {
  const { home, pageserver } = await makeHome(t);
  const wanted = { tenantId: TENANT, timelineId: FIRST, branchName: "main", pgVersion: 14 };
  await createTimeline(home, wanted);
  assert.equal(await majorOf(home, TENANT, FIRST), 14);
  await assert.rejects(majorOf(home, TENANT, SECOND), { kind: "not-found" });
  pageserver.failNext = "GET";
  await assert.rejects(majorOf(home, TENANT, FIRST), /run 'npx strata start' first/);
});

test("pgBinOf: --pg-bin is of the home's own major", async (t) => {
  const { home } = await makeHome(t);
  const config = { ...home.config(), pgVersion: 16, pgBin: "/opt/postgres/bin" };
  assert.equal(pgBinOf(config, 16), "/opt/postgres/bin");
  assert.equal(pgBinOf(config, 17), undefined);
});

test("createTimeline: what a failure left behind is removed by the next creation", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  safekeeper.failNext = "POST";
  const wanted = { tenantId: TENANT, timelineId: FIRST, branchName: "main" };
  await assert.rejects(createTimeline(home, wanted), /out of order/);
  assert.deepEqual([...pageserver.timelines.keys()], [FIRST]);
  assert.throws(() => resolveBranch(home.config(), TENANT, "main"), { kind: "not-found" });
  await createTimeline(home, { ...wanted, timelineId: SECOND });
  assert.deepEqual([...pageserver.timelines.keys()], [SECOND]);
  assert.equal(resolveBranch(home.config(), TENANT, "main"), SECOND);
});

test("createTimeline: a leftover whose lock would be the new one's own is removed as well", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  safekeeper.failNext = "POST";
  const wanted = { tenantId: TENANT, branchName: "main" };
  await assert.rejects(createTimeline(home, { ...wanted, timelineId: FIRST }), /out of order/);
  // 0x11 and 0x51 have one of the 64 locks.
  const sharesLock = parseTimelineId("51".repeat(16));
  await createTimeline(home, { ...wanted, timelineId: sharesLock });
  assert.deepEqual([...pageserver.timelines.keys()], [sharesLock]);
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
});

test("createTimeline: many at once; what one is making is no leftover for another", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  const held = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  safekeeper.beforeCreate = async () => {
    asked.resolve();
    await held.promise;
  };
  const branch = (timelineId: TimelineId, branchName: string) =>
    withHomeShared(home, () => createTimeline(home, { tenantId: TENANT, timelineId, branchName }));
  const slow = branch(SECOND, "slow");
  await asked.promise;
  safekeeper.beforeCreate = undefined;
  // Its creation begins with the removal of what others have left.
  await branch(parseTimelineId("3".repeat(32)), "quick");
  assert.deepEqual(pageserver.deleted, []);
  assert.ok(home.config().unfinishedTimelines.get(TENANT)?.has(SECOND));
  await branch(parseTimelineId("4".repeat(32)), "slow");
  held.resolve();
  await assert.rejects(slow, { kind: "conflict", code: "branch-exists" });
  assert.deepEqual(pageserver.deleted, [SECOND], "nobody gets to know of it");
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
});

test("deleteBranch: branches of it are named and stay; cut short, the next command finishes it", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  const ancestor = { timelineId: FIRST, lsn: toLsn(256) };
  await createTimeline(home, { tenantId: TENANT, timelineId: SECOND, branchName: "dev", ancestor });
  assert.deepEqual(await deleteBranch(home, TENANT, "main"), {
    timelineId: FIRST,
    detached: ["dev"],
  });
  assert.deepEqual([...pageserver.timelines.keys()], [SECOND]);
  safekeeper.failNext = "DELETE";
  await assert.rejects(deleteBranch(home, TENANT, "dev"), /out of order/);
  assert.throws(() => resolveBranch(home.config(), TENANT, "dev"), { kind: "not-found" });
  assert.ok(safekeeper.timelines.has(SECOND));
  await createTimeline(home, { tenantId: TENANT, branchName: "dev" });
  assert.ok(!safekeeper.timelines.has(SECOND));
  assert.ok(!pageserver.timelines.has(SECOND));
  assert.deepEqual(home.config().unfinishedTimelines, new Map());
});

test("newestLsn: the furthest of pageserver and safekeepers, also with one of them down", async (t) => {
  const { home, pageserver, safekeeper } = await makeHome(t);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  pageserver.lsn = "0/200";
  safekeeper.lsn = "0/300";
  const newest = async () => (await controllerOf(home).newestLsn(TENANT, FIRST)).lsn;
  assert.equal(await newest(), 0x300);
  safekeeper.failNext = "GET";
  assert.equal(await newest(), 0x200);
});

test("a change of safekeepers that goes on after its branch was deleted leaves no record", async (t) => {
  const { home } = await makeHome(t);
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  const { store } = controllerOf(home);
  const record = { generation: 2, members: [1] };
  await store.setMembership(TENANT, FIRST, record);
  assert.deepEqual(home.config().memberships.get(TENANT)?.get(FIRST)?.generation, 2);
  await deleteBranch(home, TENANT, "main");
  await assert.rejects(store.setMembership(TENANT, FIRST, { ...record, generation: 3 }), {
    kind: "not-found",
  });
  assert.equal(home.config().memberships.size, 0);
});

test("deleteTenant: names first, then all that stores it; what was away is told when it is back", async (t) => {
  const { home, pageserver, safekeeper, others } = await makeHome(t, 2);
  const wanted = { tenantId: TENANT, timelineId: FIRST, branchName: "main", safekeepers: [1, 2] };
  await createTimeline(home, wanted);
  home.update((draft) => {
    draft.defaultTenantId = TENANT;
  });
  others[0]!.away = true;
  await assert.rejects(deleteTenant(home, TENANT), { code: "delete-unfinished" });
  assert.equal(pageserver.timelines.size + safekeeper.timelines.size, 0);
  assert.equal(others[0]!.timelines.size, 1);
  let { branchNameMappings, defaultTenantId, unfinishedTenants, memberships } = home.config();
  assert.deepEqual([branchNameMappings.size, defaultTenantId], [0, undefined]);
  assert.deepEqual(unfinishedTenants, new Set([TENANT]));
  others[0]!.away = false;
  await removeUnfinished(home);
  assert.equal(others[0]!.timelines.size, 0);
  ({ unfinishedTenants, memberships } = home.config());
  assert.deepEqual([unfinishedTenants.size, memberships.size], [0, 0]);
});

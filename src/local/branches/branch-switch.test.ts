import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { FakeStorageNode } from "../../../testing/fake-storage-node.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { toLsn } from "../../base/lsn.ts";
import { createTimeline, resolveBranch } from "../branches.ts";
import { findEndpoint } from "../endpoints.ts";
import { StrataHome } from "../home.ts";
import { recordSwitch } from "../state/home-state.ts";
import { type SwitchedBranch, switchBranch } from "./branch-switch.ts";

const TENANT = parseTenantId("a".repeat(32));
const FIRST = parseTimelineId("1".repeat(32));
const BRANCH: SwitchedBranch = {
  tenantId: TENANT,
  name: "dev",
  asked: "reset",
  restart: false,
};
const target = async () => ({ ancestor: { timelineId: FIRST, lsn: toLsn(256) } });

/** `main`, and `dev` of it with a primary endpoint and, where asked, a read-only one. */
async function makeHome(t: TestContext, { reader = false } = {}) {
  const directory = mkdtempSync(join(tmpdir(), "strata-switch-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const pageserver = new FakeStorageNode(TENANT);
  const safekeeper = new FakeStorageNode(TENANT);
  const node = async (fake: FakeStorageNode, port: number) => ({
    id: 1,
    listenPgAddr: `127.0.0.1:${port}`,
    listenHttpAddr: await fake.listen(t),
  });
  const home = new StrataHome(directory);
  home.create(
    {},
    {
      broker: { listenAddr: "127.0.0.1:100" },
      pageservers: [await node(pageserver, 1)],
      safekeepers: [await node(safekeeper, 2)],
    },
    "empty-dir-ok",
  );
  await createTimeline(home, { tenantId: TENANT, timelineId: FIRST, branchName: "main" });
  await createTimeline(home, { tenantId: TENANT, branchName: "dev", ...(await target()) });
  const timelineId = resolveBranch(home.config(), TENANT, "dev");
  const endpoint = (id: string, mode: unknown) => {
    mkdirSync(join(home.endpointsDirectory(), id), { recursive: true });
    const addresses = { pgAddr: "127.0.0.1:1", httpAddr: "127.0.0.1:2" };
    const spec = {
      endpointId: id,
      tenantId: TENANT,
      timelineId,
      mode,
      pgVersion: 17,
      pgHost: "127.0.0.1",
      pgPort: 20_000,
      internalHttpPort: 20_001,
      pageserver: addresses,
      safekeepers: mode === "primary" ? [{ id: 1, ...addresses }] : [],
      settings: {},
    };
    writeFileSync(join(home.endpointsDirectory(), id, "endpoint.json"), JSON.stringify(spec));
  };
  endpoint("dev", "primary");
  if (reader) {
    endpoint("reader", { static: "0/100" });
  }
  return { home, pageserver, safekeeper, timelineId };
}

/** As endpoint.json has it. */
function onDisk(home: StrataHome, id: string): string {
  const text = readFileSync(join(home.endpointsDirectory(), id, "endpoint.json"), "utf8");
  return JSON.parse(text).timelineId;
}

test("switchBranch: another timeline under the name, endpoints with it, the old one gone", async (t) => {
  const { home, pageserver, safekeeper, timelineId } = await makeHome(t);
  await switchBranch(home, BRANCH, target, () => {});
  const now = resolveBranch(home.config(), TENANT, "dev");
  assert.notEqual(now, timelineId);
  assert.deepEqual(new Set(pageserver.timelines.keys()), new Set([FIRST, now]));
  assert.deepEqual(new Set(safekeeper.timelines.keys()), new Set([FIRST, now]));
  assert.equal(onDisk(home, "dev"), now);
  const { branchSwitches, unfinishedTimelines } = home.config();
  assert.deepEqual([branchSwitches.size, unfinishedTimelines.size], [0, 0]);
});

test("switchBranch: kept under another name, with its read-only endpoints; else those are refused", async (t) => {
  const { home, pageserver, timelineId } = await makeHome(t, { reader: true });
  await assert.rejects(
    switchBranch(home, BRANCH, target, () => {}),
    { code: "branch-has-endpoints", message: /reader/ },
  );
  assert.equal(resolveBranch(home.config(), TENANT, "dev"), timelineId);
  assert.equal(pageserver.timelines.size, 2);
  for (const preserveUnder of ["main", "dev", "a b"]) {
    await assert.rejects(switchBranch(home, { ...BRANCH, preserveUnder }, target, () => {}));
  }
  await switchBranch(home, { ...BRANCH, preserveUnder: "before" }, target, () => {});
  assert.equal(resolveBranch(home.config(), TENANT, "before"), timelineId);
  assert.equal(onDisk(home, "reader"), timelineId);
  assert.equal(onDisk(home, "dev"), resolveBranch(home.config(), TENANT, "dev"));
  assert.ok(pageserver.timelines.has(timelineId));
});

test("switchBranch: a failure before the name changes over leaves the branch, and the next try cleans up", async (t) => {
  const { home, pageserver, safekeeper, timelineId } = await makeHome(t);
  safekeeper.failNext = "POST";
  await assert.rejects(switchBranch(home, BRANCH, target, () => {}));
  assert.equal(resolveBranch(home.config(), TENANT, "dev"), timelineId);
  assert.equal(pageserver.timelines.size, 3);
  await switchBranch(home, BRANCH, target, () => {});
  assert.equal(pageserver.timelines.size, 2);
});

test("switchBranch: cut short behind the change-over, endpoints are on the new timeline, and a repeat only ends it", async (t) => {
  const { home, pageserver, timelineId } = await makeHome(t);
  const preserved = { ...BRANCH, asked: "restore", preserveUnder: "before" };
  const before = readFileSync(join(home.endpointsDirectory(), "dev", "endpoint.json"));
  await switchBranch(home, preserved, target, () => {});
  const now = resolveBranch(home.config(), TENANT, "dev");
  // As a kill leaves it right behind that step.
  writeFileSync(join(home.endpointsDirectory(), "dev", "endpoint.json"), before);
  const record = { asked: "restore", restart: [], moved: { from: timelineId, to: now } };
  home.update((draft) => recordSwitch(draft, TENANT, "dev", record));
  assert.equal(onDisk(home, "dev"), timelineId);
  assert.equal(findEndpoint(home, "dev").spec.timelineId, now);
  const unasked = () => assert.fail("the new timeline is there");
  await switchBranch(home, preserved, unasked, () => {});
  assert.equal(resolveBranch(home.config(), TENANT, "dev"), now);
  assert.equal(onDisk(home, "dev"), now);
  assert.equal(home.config().branchSwitches.size, 0);
  // Another one begins anew, wherever the first ended.
  home.update((draft) => recordSwitch(draft, TENANT, "dev", record));
  await switchBranch(home, BRANCH, target, () => {});
  const last = resolveBranch(home.config(), TENANT, "dev");
  assert.notEqual(last, now);
  assert.equal(onDisk(home, "dev"), last);
  assert.deepEqual(new Set(pageserver.timelines.keys()), new Set([FIRST, timelineId, last]));
});

import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { freePort } from "../../testing/free-port.ts";
import { createIn as create, homeIn, runStorage } from "../../testing/homes/stand-in-home.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { toLsn } from "../base/lsn.ts";
import { START_READS_NAME } from "../compute/api.ts";
import { controllerOf } from "./controller.ts";
import {
  damagedEndpoints,
  destroyEndpoint,
  type Endpoint,
  findEndpoint,
  findEvenDamaged,
  listEndpoints,
  type NewEndpoint,
  refreshPlacement,
  setEndpointMode,
  setEndpointSettings,
  setExtensionDirectory,
  startEndpoint,
  stopEndpoint,
} from "./endpoints.ts";

test("createEndpoint: ports of its own; the highest port does not end them", async (t) => {
  const home = await homeIn(t);
  const first = await create(home, "first", { pgPort: 65_535 });
  assert.equal(first.spec.pgPort, 65_535);
  const ports = [65_535, first.spec.internalHttpPort];
  for (const id of ["second", "third"]) {
    const { spec } = await create(home, id);
    ports.push(spec.pgPort, spec.internalHttpPort);
  }
  assert.equal(new Set(ports).size, 6);
  assert.ok(ports.slice(1).every((port) => port >= home.config().endpointBasePort));
});

test("createEndpoint: a port of another endpoint or of the storage is refused, running or not; so is one for both", async (t) => {
  const home = await homeIn(t);
  const { spec } = await create(home, "first");
  await assert.rejects(create(home, "x", { pgPort: spec.internalHttpPort }), {
    kind: "conflict",
    message: `port ${spec.internalHttpPort} belongs to endpoint first`,
  });
  await assert.rejects(create(home, "x", { pgPort: 3 }), /belongs to pageserver 1/);
  await assert.rejects(create(home, "x", { internalHttpPort: 1 }), /belongs to the storage broker/);
  const port = await freePort();
  await assert.rejects(
    create(home, "x", { pgPort: port, internalHttpPort: port }),
    /belongs to Po/,
  );
  assert.deepEqual(
    listEndpoints(home).map(({ id }) => id),
    ["first"],
  );
});

test("createEndpoint: a full disk keeps it from what other starts have learnt only", async (t) => {
  const home = await homeIn(t);
  const first = await create(home, "first");
  writeFileSync(join(first.directory, START_READS_NAME), "{}");
  const { directory } = await create(home, "second");
  assert.equal(readFileSync(join(directory, START_READS_NAME), "utf8"), "{}");
  const third = join(home.endpointsDirectory(), "third");
  mkdirSync(third);
  symlinkSync("/dev/full", join(third, START_READS_NAME));
  assert.equal((await create(home, "third")).directory, third);
  assert.deepEqual(readdirSync(third), ["endpoint.json"]);
});

test("listEndpoints: a damaged endpoint.json hides no other, and is named with its path and field", async (t) => {
  const home = await homeIn(t);
  await create(home, "good");
  const texts: Record<string, (text: string) => string> = {
    cut: (text) => text.slice(0, 40),
    empty: () => "",
    field: (text) => text.replace(/"pgPort": \d+/, '"pgPort": "many"'),
    list: () => "[]",
  };
  for (const [id, damage] of Object.entries(texts)) {
    const file = join((await create(home, id)).directory, "endpoint.json");
    writeFileSync(file, damage(readFileSync(file, "utf8")));
  }
  const folder = join((await create(home, "folder")).directory, "endpoint.json");
  rmSync(folder);
  mkdirSync(folder);
  // Neither of these is an endpoint at all.
  mkdirSync(join(home.endpointsDirectory(), "unfinished"));
  writeFileSync(join(home.endpointsDirectory(), "notes.txt"), "");
  assert.deepEqual(
    listEndpoints(home).map(({ id }) => id),
    ["good"],
  );
  const damaged = damagedEndpoints(home);
  assert.deepEqual(
    damaged.map(({ id }) => id),
    ["cut", "empty", "field", "folder", "list"],
  );
  for (const { id, directory, problem } of damaged) {
    assert.match(problem.message, new RegExp(`^in ${directory}: `), id);
    assert.throws(() => findEndpoint(home, id), problem);
    await assert.rejects(create(home, id), { code: "endpoint-exists" });
  }
  assert.match(damaged[2]!.problem.message, /endpoint\.json is wrong: pgPort/);
});

test("refreshPlacement: an endpoint follows its timeline; a read-only one has no safekeepers", async (t) => {
  const home = await homeIn(t);
  const made = await create(home, "main");
  const reader = await create(home, "reader", { staticLsn: toLsn(0x100) });
  assert.deepEqual(made.spec.pageserver, { pgAddr: "127.0.0.1:2", httpAddr: "127.0.0.1:3" });
  const node = (id: number) => ({ id, listenPgAddr: "h:7", listenHttpAddr: `h:${id}` });
  const moved = { pageserver: node(8), safekeepers: [node(9)], isRecorded: false };
  for (const endpoint of [made, reader]) {
    refreshPlacement(endpoint, moved);
  }
  const main = findEndpoint(home, "main").spec;
  assert.deepEqual(main.pageserver, { pgAddr: "h:7", httpAddr: "h:8" });
  assert.deepEqual(main.safekeepers, made.spec.safekeepers, "those of its creation");
  refreshPlacement(findEndpoint(home, "main"), { ...moved, isRecorded: true });
  assert.deepEqual(findEndpoint(home, "main").spec.safekeepers, [
    { id: 9, pgAddr: "h:7", httpAddr: "h:9" },
  ]);
  refreshPlacement(findEndpoint(home, "reader"), { ...moved, isRecorded: true });
  assert.deepEqual(findEndpoint(home, "reader").spec.safekeepers, []);
});

test("a damaged endpoint can be stopped and destroyed", async (t) => {
  const home = await homeIn(t);
  const { directory } = await create(home, "broken");
  writeFileSync(join(directory, "endpoint.json"), "{");
  const found = findEvenDamaged(home, "broken");
  const said: string[] = [];
  await stopEndpoint(found, "fast", (line) => said.push(line));
  assert.deepEqual(said, ["endpoint broken is already stopped"]);
  destroyEndpoint(found);
  assert.throws(() => findEvenDamaged(home, "broken"), { kind: "not-found" });
  await create(home, "broken");
});

test("createEndpoint: begins with what starts of its branch have read, or of the tenant's last one", async (t) => {
  const home = await homeIn(t);
  const record = (endpoint: Endpoint) => join(endpoint.directory, "start-reads.json");
  const first = await create(home, "first");
  assert.equal(existsSync(record(first)), false);
  writeFileSync(record(first), "first");
  utimesSync(record(first), 1000, 1000);
  const other = await create(home, "other", { timelineId: parseTimelineId("c".repeat(32)) });
  assert.equal(readFileSync(record(other), "utf8"), "first");
  writeFileSync(record(other), "other");
  utimesSync(record(other), 2000, 2000);
  const same = await create(home, "same");
  assert.equal(readFileSync(record(same), "utf8"), "first");
  rmSync(record(same));
  const branch = await create(home, "branch", { timelineId: parseTimelineId("d".repeat(32)) });
  assert.equal(readFileSync(record(branch), "utf8"), "other");
  const checked = (endpoint: Endpoint) => join(endpoint.directory, "checked-postgres");
  writeFileSync(checked(first), "postgres");
  const strangers: Partial<NewEndpoint>[] = [
    { pgVersion: 16 },
    { tenantId: parseTenantId("e".repeat(32)) },
  ];
  for (const more of strangers) {
    const stranger = await create(home, `stranger-${Object.keys(more)}`, more);
    assert.equal(existsSync(record(stranger)), false);
    // Which Postgres can be started is no matter of a tenant's.
    assert.equal(existsSync(checked(stranger)), more.pgVersion === undefined);
  }
});

test("createEndpoint: one that is prewarmed begins with what its branch had in memory, another one does not", async (t) => {
  const home = await homeIn(t);
  const prewarmed = { settings: { "strata.prewarm": "on" } };
  const list = (endpoint: Endpoint) => join(endpoint.directory, "autoprewarm.blocks");
  const first = await create(home, "first", prewarmed);
  assert.equal(existsSync(list(first)), false);
  writeFileSync(list(first), "first");
  const branch = { timelineId: parseTimelineId("c".repeat(32)) };
  assert.equal(
    readFileSync(list(await create(home, "hot", { ...prewarmed, ...branch })), "utf8"),
    "first",
  );
  assert.equal(existsSync(list(await create(home, "cold", branch))), false);
  const wrong = { settings: { "strata.prewarm": "2" } };
  await assert.rejects(create(home, "wrong", wrong), { kind: "invalid", message: /on or off/ });
});

test("createEndpoint, setEndpointSettings: a limit of the local cache that cannot be is refused, and nothing is made", async (t) => {
  const home = await homeIn(t);
  const settings = { "strata.local_cache": "1MB" };
  const refused = { kind: "invalid", message: /must be at least 16MB/ };
  await assert.rejects(create(home, "small", { settings }), refused);
  assert.throws(() => findEndpoint(home, "small"), { kind: "not-found" });
  const endpoint = await create(home, "good", { settings: { "strata.local_cache": "64MB" } });
  assert.throws(() => setEndpointSettings(endpoint, settings), refused);
  assert.deepEqual(findEndpoint(home, "good").spec.settings, { "strata.local_cache": "64MB" });
  setEndpointSettings(endpoint, { "strata.local_cache": "0" });
  assert.deepEqual(findEndpoint(home, "good").spec.settings, { "strata.local_cache": "0" });
});

test("createEndpoint, setExtensionDirectory: a directory with extensions is kept without links; what is none is refused, and nothing is made", async (t) => {
  const home = await homeIn(t);
  const own = mkdtempSync(join(tmpdir(), "strata-extensions-"));
  t.after(() => rmSync(own, { recursive: true, force: true }));
  chmodSync(own, 0o755);
  const refused = { kind: "invalid", message: /it has no share\/extension/ };
  await assert.rejects(create(home, "bad", { extensionDir: own }), refused);
  assert.throws(() => findEndpoint(home, "bad"), { kind: "not-found" });
  mkdirSync(join(own, "share", "extension"), { recursive: true });
  symlinkSync(own, join(own, "link"));
  await create(home, "good", { extensionDir: join(own, "link") });
  assert.equal(findEndpoint(home, "good").spec.extensionDir, own);
  setExtensionDirectory(findEndpoint(home, "good"), undefined);
  assert.equal(findEndpoint(home, "good").spec.extensionDir, undefined);
  setExtensionDirectory(findEndpoint(home, "good"), own);
  assert.equal(findEndpoint(home, "good").spec.extensionDir, own);
});

test("startEndpoint: one that was promoted or demoted meanwhile is not started as what it was", async (t) => {
  const home = await homeIn(t);
  const primary = await create(home, "one");
  const replica = await create(home, "two", { replica: true });
  assert.equal(replica.spec.mode, "replica");
  assert.equal(replica.spec.safekeepers.length, 1);
  setEndpointMode(primary, "replica");
  setEndpointMode(replica, "primary");
  const { tenantId, timelineId } = primary.spec;
  const ids = [parseTenantId(tenantId), parseTimelineId(timelineId)] as const;
  const placement = controllerOf(home).placementOf(...ids);
  for (const endpoint of [primary, replica]) {
    await assert.rejects(
      startEndpoint(home, endpoint, placement, { timeoutMs: 60_000, print: () => {} }),
      { code: "endpoint-moved", message: /has just become a (primary|replica): start it again/ },
    );
  }
});

test("startEndpoint: settings that were changed before it had the lock are those that it starts with", async (t) => {
  const home = await homeIn(t);
  runStorage(t, home);
  const before = await create(home, "one");
  setEndpointSettings(before, { work_mem: "64MB" });
  const placement = controllerOf(home).placementOf(
    parseTenantId(before.spec.tenantId),
    parseTimelineId(before.spec.timelineId),
  );
  const moved = { ...placement, pageserver: { ...placement.pageserver, listenPgAddr: "h:7" } };
  let seen: Endpoint | undefined;
  const spawnNothing = () => {
    seen = findEndpoint(home, "one");
    return { pid: 0, ended: () => "stand-in", release: () => {} };
  };
  await assert.rejects(
    startEndpoint(home, before, moved, { timeoutMs: 60_000, print: () => {}, spawn: spawnNothing }),
    /stand-in/,
  );
  assert.deepEqual(seen?.spec.settings, { work_mem: "64MB" });
  assert.equal(seen?.spec.pageserver.pgAddr, "h:7");
});

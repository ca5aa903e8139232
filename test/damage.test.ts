// Damaged files: a clear error that names them, no wrong row, others unharmed, all back after the repair.

import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { formatLsn, type Lsn, parseLsn, segmentNumber, walFileName } from "../src/base/lsn.ts";
import { TestCluster } from "../testing/cluster.ts";
import {
  checkOwnRows,
  damage,
  flipByte,
  type OwnBranch,
  ownBranch,
  request,
  stopBranch,
  timelineFiles,
  timelineInfo,
} from "../testing/damage.ts";
import { eventually } from "../testing/eventually.ts";

const SEGMENT_BYTES = 1 << 24;
const DELTA_LAYER = /__[0-9A-F]{16}-[0-9A-F]{16}/;

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
});
after(() => cluster?.[Symbol.asyncDispose]());

// Whatever was damaged in a test: main, which lies beside, reads, writes, and starts anew.
afterEach(async () => {
  await cluster.query("main", "insert into t values (0)", "delete from t where i = 0");
  const rows = await cluster.query("main", "select count(*)::int n, sum(i)::int s from t");
  assert.deepEqual(rows, [{ n: 1000, s: 500_500 }]);
});

const pageserver = () => cluster.config().pageservers[0]!.listenHttpAddr;
const safekeeper = (id: number) => cluster.config().safekeepers[id - 1]!.listenHttpAddr;
const timelinePath = ({ tenantId, timelineId }: OwnBranch) =>
  `/v1/tenant/${tenantId}/timeline/${timelineId}`;

/** A branch whose rows are in a layer file, with its endpoint and the pageserver stopped. */
async function branchInLayer(name: string): Promise<{ branch: OwnBranch; layer: string }> {
  const branch = await ownBranch(cluster, name);
  await stopBranch(cluster, branch);
  const flushed = await request(pageserver(), "PUT", `${timelinePath(branch)}/checkpoint`);
  assert.equal(flushed.status, 200);
  await cluster.ok("pageserver", "stop");
  const layers = timelineFiles(cluster, "pageserver_1", branch.timelineId, DELTA_LAYER);
  const layer = layers.toSorted((a, b) => statSync(b).size - statSync(a).size)[0];
  assert.ok(layer !== undefined && statSync(layer).size > 100_000, "no layer with the rows");
  return { branch, layer };
}

test("a flipped byte in a layer file: an I/O error where the rows were, the log names file and offset", async () => {
  const { branch, layer } = await branchInLayer("flipped");
  const restore = flipByte(layer, Math.floor(statSync(layer).size / 2));
  try {
    await cluster.ok("pageserver", "start");
    await cluster.ok("endpoint", "start", "flipped");
    await assert.rejects(cluster.query("flipped", "select count(*), sum(i) from own"), {
      // 14 to 16 name one block, later ones those of one read.
      message:
        /^could not read blocks? \d+(\.\.\d+)? in file "base\/\d+\/\d+": Input\/output error$/,
      code: "58030",
    });
    const log = readFileSync(join(cluster.home, "endpoints", "flipped", "compute.log"), "utf8");
    assert.match(log, new RegExp(`layer ${layer}, offset \\d+: the block's checksum is wrong`));
    // What lies in other blocks is still there.
    assert.deepEqual(await cluster.query("flipped", "select count(*)::int n from t"), [
      { n: 1000 },
    ]);
  } finally {
    restore();
  }
  // Nothing is restarted: the same session's next try succeeds.
  await checkOwnRows(cluster, "flipped");
  await cluster.ok("endpoint", "stop", branch.name);
});

test("a truncated layer file: the endpoint does not start, the file and its size are named", async () => {
  const { branch, layer } = await branchInLayer("truncated");
  const { size } = statSync(layer);
  const half = Math.floor(size / 2);
  const restore = damage(layer, (bytes) => bytes.subarray(0, half));
  try {
    await cluster.ok("pageserver", "start");
    const error = await cluster.fails("endpoint", "start", "truncated");
    const problem = `layer ${layer}, offset ${half}: the file should have ${size} bytes`;
    assert.ok(error.startsWith("command failed: start endpoint truncated: "), error);
    assert.ok(error.endsWith(problem), error);
  } finally {
    restore();
  }
  await cluster.ok("endpoint", "start", "truncated");
  await checkOwnRows(cluster, branch.name);
  await cluster.ok("endpoint", "stop", branch.name);
});

/** Another digit in an LSN; the result puts the old one back. */
function flipStartLsn(index: string): () => void {
  const at = readFileSync(index, "latin1").indexOf('"start_lsn": "0/') + '"start_lsn": "0/'.length;
  return damage(index, (bytes) => {
    bytes[at] = bytes[at] === 0x31 ? 0x32 : 0x31;
    return bytes;
  });
}

test("a flipped byte in index_part.json: the object store has another one", async () => {
  const { branch } = await branchInLayer("index");
  const [index] = timelineFiles(cluster, "pageserver_1", branch.timelineId, /^index_part\.json$/);
  flipStartLsn(index!);
  await cluster.ok("pageserver", "start");
  await cluster.ok("endpoint", "start", "index");
  await checkOwnRows(cluster, "index");
  await cluster.ok("endpoint", "stop", "index");
});

test("a flipped byte in each index of a timeline: that one is refused, its ancestor and others are served", async () => {
  const { branch } = await branchInLayer("everywhere");
  const indexes = ["pageserver_1", "object_store"].flatMap((directory) =>
    timelineFiles(cluster, directory, branch.timelineId, /^index_part\.json/),
  );
  assert.ok(indexes.length >= 2, `${indexes}`);
  const restores = indexes.map(flipStartLsn);
  const stored = indexes.at(-1)!.slice(join(cluster.home, "object_store").length + 1);
  const problem = `load ${stored}: index ${stored}: the checksum is wrong`;
  try {
    await cluster.ok("pageserver", "start");
    assert.deepEqual(await request(pageserver(), "GET", timelinePath(branch)), {
      status: 500,
      msg: problem,
    });
    assert.equal(
      await cluster.fails("endpoint", "start", "everywhere"),
      `command failed: start endpoint everywhere: start the compute: get the state at ${await endOf(branch)}: ${problem}`,
    );
    assert.match(
      await cluster.fails("branch", "create", "child", "--parent", "everywhere"),
      new RegExp(`^command failed: .*${problem}$`),
    );
  } finally {
    for (const restore of restores) {
      restore();
    }
  }
  await cluster.ok("pageserver", "restart");
  await cluster.ok("endpoint", "start", "everywhere");
  await checkOwnRows(cluster, "everywhere");
  await cluster.ok("endpoint", "stop", "everywhere");
});

/** Where the branch's WAL ends on the safekeepers. */
async function endOf(branch: OwnBranch): Promise<string> {
  const response = await fetch(`http://${safekeeper(1)}${timelinePath(branch)}`);
  return ((await response.json()) as { flush_lsn: string }).flush_lsn;
}

test("safekeeper.control: one damaged is outvoted, two are a clear error of the start", async () => {
  const branch = await ownBranch(cluster, "control");
  await stopBranch(cluster, branch);
  const controls = timelineFiles(
    cluster,
    "safekeepers",
    branch.timelineId,
    /^safekeeper\.control$/,
  );
  assert.equal(controls.length, 3);
  const restores = new Map<number, () => void>();
  const damageOn = async (id: number) => {
    await cluster.ok("safekeeper", "stop", `${id}`);
    restores.set(id, flipByte(controls[id - 1]!, 20));
    await cluster.ok("safekeeper", "start", `${id}`);
    const answer = await request(safekeeper(id), "GET", timelinePath(branch));
    assert.equal(answer.status, 500);
    assert.match(answer.msg, CONTROL_PROBLEM);
  };
  try {
    await damageOn(1);
    await cluster.ok("endpoint", "start", "control");
    await checkOwnRows(cluster, "control");
    await cluster.query("control", "insert into own values (0, repeat(md5('0'), 8))");
    await cluster.ok("endpoint", "stop", "control");
    await damageOn(2);
    const error = await cluster.fails("endpoint", "start", "control");
    assert.match(
      error,
      /^command failed: start endpoint control: start the compute: safekeeper [12]: /,
    );
    assert.match(error, CONTROL_PROBLEM);
  } finally {
    for (const [id, restore] of restores) {
      await cluster.ok("safekeeper", "stop", `${id}`);
      restore();
      await cluster.ok("safekeeper", "start", `${id}`);
    }
  }
  await cluster.ok("endpoint", "start", "control");
  await cluster.query("control", "delete from own where i = 0");
  await checkOwnRows(cluster, "control");
  await cluster.ok("endpoint", "stop", "control");
});
const CONTROL_PROBLEM =
  /load timeline from \S+\/sk[12]\/\S+: safekeeper control file: checksum does not match$/;

test("a truncated WAL segment: that safekeeper refuses the timeline and says why, the others go on", async () => {
  const branch = await ownBranch(cluster, "short");
  await stopBranch(cluster, branch);
  const [segment] = segments(branch);
  await cluster.ok("safekeeper", "stop", "1");
  const restore = damage(segment!, (bytes) => bytes.subarray(0, 8192));
  try {
    await cluster.ok("safekeeper", "start", "1");
    const answer = await request(safekeeper(1), "GET", timelinePath(branch));
    assert.equal(answer.status, 500);
    assert.match(
      answer.msg,
      /^load timeline from \S+: WAL segment of 0\/[0-9A-F]+ ends before it$/,
    );
    await cluster.ok("endpoint", "start", "short");
    await checkOwnRows(cluster, "short");
    await cluster.ok("endpoint", "stop", "short");
  } finally {
    await cluster.ok("safekeeper", "stop", "1");
    restore();
    await cluster.ok("safekeeper", "start", "1");
  }
  await cluster.ok("endpoint", "start", "short");
  await checkOwnRows(cluster, "short");
  await cluster.ok("endpoint", "stop", "short");
});

/** The segments with the branch's last WAL, of each safekeeper. */
function segments({ timelineId }: OwnBranch): string[] {
  const files = timelineFiles(cluster, "safekeepers", timelineId, /^[0-9A-F]{24}$/);
  const newest = files
    .map((path) => path.slice(-24))
    .sort()
    .at(-1)!;
  return files.filter((path) => path.endsWith(newest));
}

/** Where the next record will begin, its header in one page, in a fresh segment. */
async function nextRecord(name: string): Promise<Lsn> {
  await cluster.query(name, "create table filler(i int)", "select pg_switch_wal()");
  for (;;) {
    const sql = "select pg_current_wal_insert_lsn() as lsn";
    const [row] = await cluster.query(name, "insert into filler values (1)", sql);
    const lsn = parseLsn(String(row!["lsn"]))!;
    if (lsn % 8192 > 64 && lsn % 8192 < 8100) {
      return lsn;
    }
  }
}

/** Changes the WAL of a stopped branch at `lsn`, on the first `copies` safekeepers. */
function damageWal(branch: OwnBranch, lsn: number, copies: number, change: (b: Buffer) => void) {
  const name = walFileName(segmentNumber(lsn as Lsn, SEGMENT_BYTES));
  const files = timelineFiles(cluster, "safekeepers", branch.timelineId, new RegExp(`^${name}$`));
  assert.equal(files.length, 3);
  const restores = files.slice(0, copies).map((path) =>
    damage(path, (bytes) => {
      change(bytes.subarray(lsn % SEGMENT_BYTES));
      return bytes;
    }),
  );
  return () => {
    for (const restore of restores) {
      restore();
    }
  };
}

/** With no layers of it, the pageserver has to take the branch's WAL in again. */
async function takeInAgain(): Promise<void> {
  await cluster.kill9("pageserver");
  await cluster.ok("pageserver", "start");
}

for (const [name, what, problem, change] of [
  ["crc", "a record with a bad CRC", "incorrect record checksum", (b) => (b[20]! ^= 1)],
  [
    "long",
    "an impossible length",
    "invalid record length 2147483632",
    (b) => b.writeUInt32LE(0x7ffffff0),
  ],
] as readonly [string, string, string, (bytes: Buffer) => unknown][]) {
  test(`WAL with ${what}: an intact copy is taken; where all are damaged ingest stops there`, async () => {
    const branch = await ownBranch(cluster, name);
    const lsn = await nextRecord(name);
    await cluster.query(name, "insert into filler select generate_series(1, 100)");
    await stopBranch(cluster, branch);
    await refusedAndBack(branch, lsn, change, new RegExp(`WAL at ${formatLsn(lsn)}: ${problem}`));
  });
}

test("WAL of a foreign system: ingest stops and names both identifiers", async () => {
  const branch = await ownBranch(cluster, "foreign");
  const lsn = await nextRecord("foreign");
  await stopBranch(cluster, branch);
  const { system_id } = await timelineInfo(cluster, branch.tenantId, branch.timelineId);
  const segmentStart = lsn - (lsn % SEGMENT_BYTES);
  await refusedAndBack(
    branch,
    segmentStart,
    (bytes) => bytes.writeBigUInt64LE(4711n, 24),
    new RegExp(`WAL of system 4711, expected ${system_id}`),
  );
});

/** Two damaged copies cost nothing; three stop ingest with `problem`; restored, all rows are back. */
async function refusedAndBack(
  branch: OwnBranch,
  lsn: number,
  change: (bytes: Buffer) => unknown,
  problem: RegExp,
): Promise<void> {
  const { name, tenantId, timelineId } = branch;
  let restore = damageWal(branch, lsn, 2, change);
  try {
    await takeInAgain();
    await cluster.ok("endpoint", "start", name);
    await checkOwnRows(cluster, name);
    await stopBranch(cluster, branch);
  } finally {
    restore();
  }
  restore = damageWal(branch, lsn, 3, change);
  try {
    await takeInAgain();
    const { walreceiver } = await eventually("the receiver fails", async () => {
      const info = await timelineInfo(cluster, tenantId, timelineId);
      return info.walreceiver.state === "failed" ? info : undefined;
    });
    assert.match(walreceiver.error ?? "", problem);
    const error = await cluster.fails("endpoint", "start", name);
    assert.match(error, new RegExp(`^command failed: start endpoint ${name}: start the compute: `));
    assert.match(error, problem);
  } finally {
    restore();
  }
  await takeInAgain();
  await cluster.ok("endpoint", "start", name);
  await checkOwnRows(cluster, name);
  await cluster.ok("endpoint", "stop", name);
}

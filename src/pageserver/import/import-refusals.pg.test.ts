// Imports that must not be: what is wrong is said, and nothing is left. And those that are broken off, and asked for again.

import assert from "node:assert/strict";
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { STOCK_USER, StockCluster, takeBaseBackup } from "../../../testing/stock-cluster.ts";
import { sleep } from "../../base/clock.ts";
import { errorKind } from "../../base/errors.ts";
import {
  generateTenantId,
  generateTimelineId,
  type TenantId,
  type TimelineId,
} from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { decodeSize } from "../ingest/relation-heads.ts";
import { relBlockPrefix, relSizePrefix } from "../layers/key.ts";
import { createRegistry, IngestMetrics } from "../metrics.ts";
import { TenantManager } from "../storage/tenant-manager.ts";
import type { Timeline } from "../storage/timeline.ts";
import { WalReceivers } from "../wal-receivers.ts";
import { TimelineImports } from "./timeline-imports.ts";

const logger = createLogger("test");
logger.level = "error";
const tenantId = generateTenantId();

let scratch: string;
let tenants: TenantManager;
let receivers: WalReceivers;
let imports: TimelineImports;
let cluster: StockCluster;
/** Stopped, with checksums. */
let stopped: string;
/** Of the running server, with its WAL. */
let backup: string;
/** Of a table: its file in the stopped directory. */
let file: string;
let copies = 0;

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "strata-import-"));
  tenants = await TenantManager.open({ workdir: scratch, logger });
  receivers = new WalReceivers(new IngestMetrics(createRegistry()), logger);
  imports = new TimelineImports(tenants, receivers, logger, 700);
  cluster = await StockCluster.create({ initdbArgs: ["--data-checksums"] });
  await cluster.start();
  const client = await cluster.connect();
  await client.query("create table t as select generate_series(1, 20000) i");
  const { rows } = await client.query<{ path: string }>("select pg_relation_filepath('t') as path");
  file = rows[0]!.path;
  backup = join(cluster.workdir, "backup");
  const connection = { host: cluster.workdir, port: 5432, user: STOCK_USER };
  await takeBaseBackup(connection, cluster.installation.major, backup, { withWal: true });
  await cluster.stop();
  stopped = cluster.copyData("stopped");
  await cluster.start();
});
after(async () => {
  await imports.close();
  await receivers.close();
  await tenants.close({ flush: false });
  await cluster.destroy();
  await rm(scratch, { recursive: true, force: true });
});

function copyOf(directory: string, change: (copy: string) => void): string {
  const copy = join(scratch, `copy-${copies++}`);
  cpSync(directory, copy, { recursive: true, verbatimSymlinks: true });
  change(copy);
  return copy;
}

async function importOf(directory: string, timelineId = generateTimelineId()): Promise<Timeline> {
  for (;;) {
    const { timeline } = await imports.request(tenantId, timelineId, directory);
    if (timeline !== undefined) {
      await imports.release(tenantId, timelineId);
      return timeline;
    }
    await sleep(10);
  }
}

function timelineDirectories(): string[] {
  const directory = join(scratch, "tenants", tenantId, "timelines");
  return existsSync(directory) ? readdirSync(directory) : [];
}

async function refuses(directory: string, kind: string, message: RegExp): Promise<void> {
  const there = timelineDirectories();
  await assert.rejects(importOf(directory), (error: Error) => {
    assert.match(error.message, message);
    assert.equal(errorKind(error), kind, error.message);
    return true;
  });
  assert.deepEqual(timelineDirectories(), there);
}

test("what is no data directory", async () => {
  await refuses(join(scratch, "nowhere"), "not-found", /there is no '.*nowhere'/);
  await refuses(scratch, "invalid", /not a data directory of Postgres: it has no PG_VERSION/);
  const older = copyOf(stopped, (copy) => writeFileSync(join(copy, "PG_VERSION"), "13\n"));
  await refuses(older, "unsupported", /13/);
  const other = copyOf(stopped, (copy) => writeFileSync(join(copy, "PG_VERSION"), "14\n"));
  await refuses(other, "unsupported", /pg_control version/);
  const torn = copyOf(stopped, (copy) => writeFileSync(join(copy, "global/pg_control"), "torn"));
  await refuses(torn, "corrupt", /pg_control of 4 bytes has no valid checksum/);
});

test("a running server, and one that was not stopped cleanly", async () => {
  await refuses(
    cluster.dataDir,
    "invalid",
    /a server runs on it \(pid \d+ .*\): stop it, or use pg_basebackup/,
  );
  const crashed = copyOf(cluster.dataDir, (copy) => rmSync(join(copy, "postmaster.pid")));
  await refuses(crashed, "invalid", /not stopped cleanly .*'in production'.*no base backup/);
});

test("tablespaces are named", async () => {
  const linked = copyOf(stopped, (copy) => symlinkSync("/srv/fast", join(copy, "pg_tblspc/16999")));
  await refuses(linked, "unsupported", /it has tablespaces: 16999 \(\/srv\/fast\)/);
  const listed = copyOf(backup, (copy) =>
    writeFileSync(join(copy, "tablespace_map"), "17000 /srv/slow\n"),
  );
  await refuses(listed, "unsupported", /it has tablespaces: 17000 \(\/srv\/slow\)/);
});

test("damaged files: half a page, a flipped bit, a hole between segments", async () => {
  const half = copyOf(stopped, (copy) => truncateSync(join(copy, file), 8192 * 3 + 100));
  await refuses(half, "corrupt", new RegExp(`${file} has 24676 bytes`));
  const flipped = copyOf(stopped, (copy) => {
    const bytes = readFileSync(join(copy, file));
    bytes[8192 * 5 + 4000]! ^= 1;
    writeFileSync(join(copy, file), bytes);
  });
  await refuses(flipped, "corrupt", new RegExp(`${file}: block 5 has a wrong checksum`));
  // Not torn: it was so before the backup began.
  const inBackup = copyOf(backup, (copy) => cpSync(join(flipped, file), join(copy, file)));
  await refuses(inBackup, "corrupt", /block 5 has a wrong checksum/);
  const hole = copyOf(stopped, (copy) =>
    writeFileSync(join(copy, `${file}.1`), new Uint8Array(8192)),
  );
  await refuses(hole, "corrupt", /\.1 has 8192 bytes/);
});

test("WAL that is missing, or ends before the backup does", async () => {
  const walOf = (copy: string) =>
    readdirSync(join(copy, "pg_wal")).filter((name) => /^[0-9A-F]{24}$/.test(name));
  const none = copyOf(backup, (copy) => {
    for (const name of walOf(copy)) {
      rmSync(join(copy, "pg_wal", name));
    }
  });
  await refuses(none, "invalid", /there are no WAL segments in/);
  const early = copyOf(backup, (copy) => {
    const segment = join(copy, "pg_wal", walOf(copy)[0]!);
    const label = readFileSync(join(copy, "backup_label"), "utf8");
    const offset =
      Number.parseInt(/START WAL LOCATION: \w+\/(\w+)/.exec(label)![1]!, 16) % (16 << 20);
    // The first record of the backup's WAL is whole, its end is not there.
    const zeros = new Uint8Array(statSync(segment).size - offset - 8192);
    const fd = openSync(segment, "r+");
    writeSync(fd, zeros, 0, zeros.length, offset + 8192 - (offset % 8192));
    writeSync(fd, new Uint8Array(40), 0, 40, offset + 40);
    closeSync(fd);
  });
  await refuses(early, "invalid", /the WAL ends at .*before the end of the backup/);
});

test("another segment size of WAL", async () => {
  const other = await StockCluster.create({ initdbArgs: ["--wal-segsize=32"] });
  try {
    await refuses(other.dataDir, "unsupported", /WAL segment size 33554432, not 16777216/);
  } finally {
    await other.destroy();
  }
});

test("a relation of more than one segment, and an empty one that a truncation has left", async () => {
  const big = copyOf(stopped, (copy) => {
    const path = join(copy, "base/5/99000");
    writeFileSync(path, "");
    truncateSync(path, 1 << 30);
    writeFileSync(`${path}.1`, readFileSync(join(copy, file)).subarray(0, 0));
    truncateSync(`${path}.1`, 3 * 8192);
    const short = join(copy, "base/5/99001");
    writeFileSync(short, new Uint8Array(8192));
    writeFileSync(`${short}.1`, "");
    mkdirSync(join(copy, "my_files"));
  });
  const timelineId = generateTimelineId();
  const status = await imports.request(tenantId, timelineId, big);
  assert.match(status.leftOut.join("\n"), /not Postgres's own: my_files/);
  const timeline = await importOf(big, timelineId);
  const sizeOf = (rel: number) =>
    decodeSize(timeline.readValue(relSizePrefix(1663, 5, rel, 0), 0, timeline.lastRecordLsn)!);
  assert.equal(sizeOf(99000), 131072 + 3);
  assert.equal(sizeOf(99001), 1);
  const last = timeline.readPage(relBlockPrefix(1663, 5, 99000, 0), 131074, timeline.lastRecordLsn);
  assert.deepEqual(last, new Uint8Array(8192));
});

/** Waits until an import has written something, and is not done. */
async function halfWay(id: TimelineId, directory: string): Promise<void> {
  while ((await imports.request(tenantId, id, directory)).progress.doneBytes === 0) {
    await sleep(1);
  }
}

test("broken off, by who asked or by silence: nothing is left, and it can be done again", async () => {
  const there = timelineDirectories();
  const id = generateTimelineId();
  await halfWay(id, stopped);
  assert.throws(() => imports.requireReleased(tenantId, id), /is being imported/);
  await assert.rejects(imports.request(tenantId, id, backup), /is being imported from/);
  await imports.release(tenantId, id);
  assert.deepEqual(timelineDirectories(), there);
  await halfWay(id, stopped);
  await sleep(1500);
  imports.requireReleased(tenantId, id);
  // By then it was done, and is let go of; or it was not, and is gone.
  const timeline = await importOf(stopped, id);
  assert.equal(await importOf(stopped, id), timeline);
  assert.deepEqual(timelineDirectories().sort(), [...there, id].sort());
  await assert.rejects(importOf(await otherCluster(), id), /already exists, of another cluster/);
});

async function otherCluster(): Promise<string> {
  const other = await StockCluster.create();
  try {
    return copyOf(other.dataDir, () => undefined);
  } finally {
    await other.destroy();
  }
}

test("a process that ends in the middle leaves nothing", async () => {
  const tenant: TenantId = generateTenantId();
  const id = generateTimelineId();
  await imports.request(tenant, id, stopped);
  const directory = join(scratch, "tenants", tenant, "timelines");
  const deadline = 5000;
  for (let waited = 0; !existsSync(directory) || readdirSync(directory).length === 0; waited++) {
    assert.ok(waited < deadline);
    await sleep(1);
  }
  const crashed = join(scratch, "crashed");
  mkdirSync(join(crashed, "tenants"), { recursive: true });
  cpSync(join(scratch, "tenants", tenant), join(crashed, "tenants", tenant), { recursive: true });
  await imports.release(tenant, id);
  const after = await TenantManager.open({ workdir: crashed, logger });
  assert.deepEqual(after.tenant(tenant).timelines, []);
  assert.deepEqual(readdirSync(join(crashed, "tenants", tenant, "timelines")), []);
  await after.close({ flush: false });
});

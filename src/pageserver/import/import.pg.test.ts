// Imports of stock clusters, stopped ones and base backups under load, compared page by page with what stock makes of them.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { EACH_MAJOR } from "../../../testing/each-major.ts";
import { pageSource } from "../../../testing/imported-timeline.ts";
import { prepareMixedWorkload, runMixedWorkload } from "../../../testing/mixed-workload.ts";
import {
  copyTree,
  STOCK_USER,
  StockCluster,
  takeBaseBackup,
} from "../../../testing/stock-cluster.ts";
import { generateTenantId, generateTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import { runPostgresTool } from "../../postgres/installation.ts";
import { FSM_FORK } from "../../postgres/relation-path.ts";
import type { PgMajor } from "../../postgres/versions.ts";
import { compareRelationFiles, compareSlruPages } from "../../wal-verify/directory-comparison.ts";
import { readComputeState } from "../compute-state.ts";
import { slruBlockPrefix } from "../layers/key.ts";
import { TenantManager } from "../storage/tenant-manager.ts";
import type { Timeline } from "../storage/timeline.ts";
import { type ImportSource, openImportSource } from "./import-source.ts";
import { type ImportProgress, importTimeline } from "./import-timeline.ts";

const logger = createLogger("test");
logger.level = "warn";

let scratch: string;
let tenants: TenantManager;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "strata-import-"));
  const config = { checkpointDistanceBytes: 8 << 20 };
  tenants = await TenantManager.open({ workdir: scratch, logger, config });
});
after(async () => {
  await tenants.close({ flush: false });
  await rm(scratch, { recursive: true, force: true });
});

async function importOf(directory: string): Promise<{ timeline: Timeline; source: ImportSource }> {
  const tenant = await tenants.createTenant(generateTenantId());
  const source = openImportSource(directory);
  const progress: ImportProgress = { phase: "copy", doneBytes: 0, totalBytes: 0 };
  const timeline = await importTimeline(tenant, generateTimelineId(), source, {
    resources: tenants.resources,
    logger,
    progress,
    signal: new AbortController().signal,
  });
  assert.equal(progress.phase, source.wal === undefined ? "copy" : "replay");
  assert.ok(progress.doneBytes <= progress.totalBytes);
  return { timeline, source };
}

/** Lets stock Postgres recover a copy of the directory, and stop. */
async function recovered(cluster: StockCluster, directory: string, name: string): Promise<string> {
  const copy = join(cluster.workdir, name);
  copyTree(directory, copy);
  const run = (...args: string[]) =>
    runPostgresTool(cluster.installation, "pg_ctl", ["-D", copy, "-w", ...args]);
  const settings = `-c autovacuum=off -c unix_socket_directories=${cluster.workdir} -c port=5499`;
  await run("-l", join(cluster.workdir, `${name}.log`), "-o", settings, "start");
  await run("-m", "fast", "stop");
  return copy;
}

async function compare(timeline: Timeline, directory: string, checksums: boolean): Promise<number> {
  const lsn = timeline.lastRecordLsn;
  const unlogged = new Set<number>();
  for (const database of readdirSync(join(directory, "base"))) {
    for (const name of readdirSync(join(directory, "base", database))) {
      const match = /^(\d+)_init$/.exec(name);
      unlogged.add(Number(match?.[1] ?? 0));
    }
  }
  const result = await compareRelationFiles({
    directory,
    source: pageSource(timeline, lsn),
    forks: [0, 2, 3],
    only: (rel) => rel.fork === 3 || !unlogged.has(rel.relNumber),
    ignoreChecksum: checksums,
  });
  assert.deepEqual(result.mismatches, []);
  const slru = compareSlruPages(directory, (kind, pageno) =>
    timeline.readPage(slruBlockPrefix(kind, Math.floor(pageno / 32)), pageno % 32, lsn),
  );
  assert.deepEqual(slru.mismatches, []);
  assert.ok(
    ![...pageSource(timeline, lsn).forks!()].some(
      (fork) => fork.fork !== FSM_FORK && fork.fork !== 3 && unlogged.has(fork.relNumber),
    ),
  );
  return result.pages;
}

async function importEverywhere(major: PgMajor, checksums: boolean): Promise<void> {
  const cluster = await StockCluster.create({
    pgMajor: major,
    initdbArgs: checksums ? ["--data-checksums"] : major >= 18 ? ["--no-data-checksums"] : [],
    settings: { track_commit_timestamp: major % 2 === 0 ? "on" : "off" },
  });
  try {
    await cluster.start();
    const client = await cluster.connect();
    await prepareMixedWorkload(client);
    await client.query("create unlogged table u as select generate_series(1, 5000) i");
    await client.query("create index on u(i)");
    await client.query("select pg_create_physical_replication_slot('old_standby')");
    const online = join(cluster.workdir, "online");
    const [, lsn] = await Promise.all([
      runMixedWorkload(cluster, { scale: 0.5, seed: major }),
      (async () => {
        const connection = { host: cluster.workdir, port: 5432, user: STOCK_USER };
        await takeBaseBackup(connection, major, online, { withWal: true });
        const second = await cluster.connect();
        return cluster.currentLsn(second);
      })(),
    ]);
    await cluster.stop();
    await compareBackup(cluster, online, lsn, checksums);
    const { timeline, source } = await importOf(cluster.dataDir);
    assert.equal(timeline.startLsn, timeline.minReadableLsn);
    assert.ok((await compare(timeline, cluster.dataDir, checksums)) > 1000);
    assert.match(source.leftOut.join("\n"), /old_standby/);
    assert.match(source.leftOut.join("\n"), /unlogged/);
    assert.equal(
      readComputeState(timeline, timeline.lastRecordLsn).systemId,
      `${source.control.systemId}`,
    );
  } finally {
    await cluster.destroy();
  }
}

async function compareBackup(
  cluster: StockCluster,
  online: string,
  atEnd: Lsn,
  checksums: boolean,
): Promise<void> {
  const { timeline, source } = await importOf(online);
  assert.ok(timeline.minReadableLsn > source.image.lsn);
  assert.ok(timeline.minReadableLsn <= timeline.lastRecordLsn);
  assert.ok(timeline.minReadableLsn <= atEnd);
  assert.equal(timeline.startLsn, timeline.lastRecordLsn);
  assert.throws(
    () => timeline.checkKept((timeline.minReadableLsn - 8) as Lsn),
    /below .*, the oldest LSN kept/,
  );
  const copy = await recovered(cluster, online, "recovered");
  assert.ok((await compare(timeline, copy, checksums)) > 500);
}

for (const major of EACH_MAJOR) {
  test(`import: PostgreSQL ${major}, stopped and as a base backup under load, page for page as stock's`, () =>
    importEverywhere(major, major % 2 === 1));
}

// What a pageserver is asked to do while it is killed, or finds its disk full, at each of its steps.

import assert from "node:assert/strict";
import { cpSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { errorKind } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { type Lsn, parseLsn } from "../../src/base/lsn.ts";
import { PagestreamClient } from "../../src/pageserver/client.ts";
import { relBlockPrefix } from "../../src/pageserver/layers/key.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import type { FailingPageserver } from "./failing-pageserver.ts";
import { DEV, type HomeOptions, LEAF, MAIN, type PageHome, settled, TENANT } from "./page-home.ts";
import { REL } from "./page-wal.ts";

const OLD_HOME = join(import.meta.dirname, "../homes/storage-1");
const NEW = parseTimelineId("c1".repeat(16));
const NEW_TENANT = "c0".repeat(16);
/** Of pages that do not compress: more than a layer that the serving thread writes itself. */
const LARGE_RECORDS = 160;

export interface Try {
  readonly home: PageHome;
  /** Of the life that is at hand. */
  readonly pageserver: FailingPageserver;
}

export interface Operation {
  readonly name: string;
  readonly options?: HomeOptions;
  /** Before the process starts. */
  readonly arrange?: (home: PageHome) => void | Promise<void>;
  /** Before anything fails. */
  readonly prepare?: (at: Try) => Promise<void>;
  /** The failpoint counts from the start of the process on. */
  readonly fromStart?: boolean;
  /** The process ends by it. */
  readonly stops?: boolean;
  /** What a client does; asked again where it was not answered. */
  readonly run: (at: Try) => Promise<void>;
  /** Beside what is checked after each. */
  readonly check?: (at: Try) => Promise<void>;
  /** Likewise, when the process has been killed once more. */
  readonly checkStopped?: (at: Try) => Promise<void>;
}

/** An LSN of main's past: in the middle of what it has. */
function past(home: PageHome): Lsn {
  const { versions } = home.wal(MAIN);
  return versions[Math.floor(versions.length / 3)]!.lsn;
}

async function keepNothing({ pageserver: { http } }: Try): Promise<void> {
  await http.patchTenantConfig(TENANT, { pitr_interval: "0s", gc_horizon: 0 });
}

async function collect({ pageserver: { http } }: Try): Promise<void> {
  await http.doGc(TENANT, MAIN, { dryRun: false, force: true });
}

/** Gone is gone, whoever asked. */
async function remove({ pageserver: { http } }: Try, timelineId: string): Promise<void> {
  await http.deleteTimeline(TENANT, timelineId).catch((error: unknown) => {
    if (errorKind(error) !== "not-found") {
      throw error;
    }
  });
}

async function layersOf({ pageserver: { http } }: Try, timelineId = MAIN) {
  return (await http.listLayers(TENANT, timelineId)).historic_layers;
}

async function readAll({ home, pageserver }: Try): Promise<void> {
  const timeline = { tenantId: TENANT, timelineId: MAIN };
  const client = await PagestreamClient.connect(pageserver.pgAddr, timeline);
  try {
    for (const { blkno, lsn } of home.wal(MAIN).versions) {
      await client.getPage(REL, blkno, lsn);
    }
  } finally {
    client.close();
  }
}

const CREATIONS: readonly Operation[] = [
  {
    name: "a tenant is made",
    run: async ({ pageserver: { http } }) => {
      await http.createTenant(NEW_TENANT);
    },
    check: async ({ pageserver: { http } }) => {
      assert.ok((await http.listTenants()).some(({ id }) => id === NEW_TENANT));
    },
  },
  {
    name: "a root is made",
    run: async ({ pageserver: { http } }) => {
      await http.createTimeline(TENANT, { new_timeline_id: NEW });
    },
    check: async ({ pageserver: { http } }) => {
      await http.getTimeline(TENANT, NEW);
    },
  },
  {
    name: "a root is made, and initdb's layer for it",
    run: async ({ pageserver: { http } }) => {
      await http.createTimeline(TENANT, { new_timeline_id: NEW, data_checksums: true });
    },
    check: async ({ pageserver: { http } }) => {
      assert.equal((await http.getTimeline(TENANT, NEW)).data_checksums, true);
    },
  },
  {
    name: "a branch is made",
    run: ({ home, pageserver }) => home.createBranch(pageserver, NEW, MAIN, past(home)),
  },
  {
    name: "a branch is set back: another one of the past, then it is deleted",
    options: { hurries: true },
    run: async (at) => {
      await at.home.createBranch(at.pageserver, NEW, MAIN, past(at.home));
      at.home.forget(LEAF);
      await remove(at, LEAF);
    },
  },
  {
    name: "a tenant's settings are changed",
    run: async ({ pageserver: { http } }) => {
      await http.patchTenantConfig(TENANT, { pitr_interval: "1h" });
    },
    check: async ({ pageserver: { http } }) => {
      const { tenant_specific_overrides: set } = await http.getTenantConfig(TENANT);
      assert.deepEqual(set, { pitr_interval: "1h" });
    },
  },
];

/** WAL for main that is written once, however often the operation is asked for. */
function writeOnce(home: PageHome, records: number, isDense = false): void {
  const wal = home.wal(MAIN);
  if (wal.versions.length === home.copiedVersions) {
    wal.write(records, { isDense });
  }
}

const LAYERS: readonly Operation[] = [
  {
    name: "WAL is taken in and flushed",
    run: async ({ home, pageserver }) => {
      writeOnce(home, 6);
      await home.flush(pageserver, MAIN);
    },
  },
  {
    name: "a large layer is flushed, by the other thread",
    run: async ({ home, pageserver }) => {
      writeOnce(home, LARGE_RECORDS, true);
      await home.flush(pageserver, MAIN);
    },
  },
  {
    name: "a process ends in order, with WAL in memory",
    stops: true,
    prepare: async ({ home, pageserver }) => {
      writeOnce(home, 6);
      await home.takenIn(pageserver, MAIN);
    },
    run: ({ pageserver }) => pageserver.stop("SIGTERM"),
  },
  {
    name: "layers are compacted",
    options: { hurries: true },
    run: ({ pageserver: { http } }) => http.compact(TENANT, MAIN),
    check: async (at) => {
      assert.ok((await layersOf(at)).length < 10);
    },
  },
  {
    name: "history is collected, and its layers are deleted",
    options: { hurries: true },
    prepare: keepNothing,
    run: collect,
    check: async (at) => {
      const { min_readable_lsn: oldest } = await at.pageserver.http.getTimeline(TENANT, MAIN);
      assert.ok(parseLsn(oldest)! > past(at.home));
    },
  },
  {
    name: "an LSN is leased, and then below the cutoff",
    prepare: async (at) => {
      await keepNothing(at);
      // Its index is of this generation then: nothing but the lease is written for the next one.
      await at.pageserver.http.leaseLsn(TENANT, MAIN, at.home.wal(MAIN).endLsn);
    },
    run: async (at) => {
      const lsn = past(at.home);
      // What was promised holds in the next life as well, which is not asked again.
      if (at.home.leases.length === 0) {
        await at.pageserver.http.leaseLsn(TENANT, MAIN, lsn);
        at.home.leases.push({ timelineId: MAIN, lsn });
      }
      await collect(at);
    },
  },
  {
    name: "layers leave the disk, and come back when they are read",
    options: {
      ownStore: true,
      args: ["--eviction-period-ms", "50", "--max-resident-bytes", "0"],
    },
    fromStart: true,
    // Of flushed layers each has metadata, which stays.
    arrange: async (home) => {
      const before = await home.start();
      await before.http.compact(TENANT, MAIN);
      await home.quiet(before);
      await before.stop("SIGTERM");
      home.separateStore();
    },
    run: async (at) => {
      await settled("layers have left the disk", async () =>
        (await layersOf(at)).some(({ remote }) => remote) ? undefined : "none",
      );
      await readAll(at);
    },
  },
];

const isArchived = async ({ pageserver: { http } }: Try, timelineId: string) => {
  const { offloaded } = await http.listTimelinesAndOffloaded(TENANT);
  return offloaded.some(({ timeline_id: id }) => id === timelineId);
};

/** Those that are archived are not on the disk. */
const offloaded = ({ home }: Try) =>
  settled("archived timelines have left the disk", async () => {
    const names = readdirSync(join(home.directory, "disk", "tenants", TENANT, "timelines"));
    return names.includes(LEAF) || names.includes(DEV) ? names.join(", ") : undefined;
  });

async function archiveBoth({ pageserver: { http } }: Try): Promise<void> {
  await http.setArchival(TENANT, LEAF, "Archived");
  await http.setArchival(TENANT, DEV, "Archived");
}

async function unarchiveBoth({ pageserver: { http } }: Try): Promise<void> {
  await http.setArchival(TENANT, DEV, "Unarchived");
  await http.setArchival(TENANT, LEAF, "Unarchived");
}

const ARCHIVING: readonly Operation[] = [
  {
    name: "a branch and its branch are archived",
    run: archiveBoth,
    check: async (at) => {
      assert.ok((await isArchived(at, LEAF)) && (await isArchived(at, DEV)));
      await offloaded(at);
      await unarchiveBoth(at);
    },
  },
  {
    name: "a branch and its branch are unarchived",
    prepare: async (at) => {
      await archiveBoth(at);
      await offloaded(at);
    },
    run: unarchiveBoth,
  },
  {
    name: "a root is deleted, which detaches its archived branch",
    options: { hurries: true },
    prepare: async (at) => {
      await archiveBoth(at);
      await offloaded(at);
    },
    run: async (at) => {
      at.home.forget(MAIN);
      await remove(at, MAIN);
    },
    check: unarchiveBoth,
  },
];

const ENDS: readonly Operation[] = [
  {
    name: "a leaf is deleted",
    options: { hurries: true },
    run: async (at) => {
      at.home.forget(LEAF);
      await remove(at, LEAF);
    },
  },
  {
    name: "a root is deleted, which detaches its branches",
    options: { hurries: true },
    run: async (at) => {
      at.home.forget(MAIN);
      await remove(at, MAIN);
    },
  },
  {
    name: "a tenant is deleted",
    run: async ({ home, pageserver: { http } }) => {
      home.forgetAll();
      await http.deleteTenant(TENANT);
    },
    check: async ({ home, pageserver: { http } }) => {
      assert.deepEqual(await http.listTenants(), []);
      assert.deepEqual(readdirSync(join(home.directory, "disk", "tenants")), []);
      const store = await home.openStore();
      assert.deepEqual((await store.list({ prefix: "tenants/" })).objects, []);
    },
  },
  {
    name: "a branch is detached",
    run: ({ pageserver: { http } }) => http.detachFromAncestor(TENANT, LEAF),
    check: async ({ pageserver: { http } }) => {
      assert.equal((await http.getTimeline(TENANT, LEAF)).ancestor_timeline_id, null);
    },
  },
];

const STARTS: readonly Operation[] = [
  {
    name: "a process starts after a kill, and takes in what was in memory",
    fromStart: true,
    arrange: async (home) => {
      const before = await home.start();
      writeOnce(home, 6);
      await home.takenIn(before, MAIN);
      await before.stop();
    },
    run: ({ home, pageserver }) => home.flush(pageserver, MAIN),
  },
  {
    name: "an empty disk is filled from the store",
    fromStart: true,
    options: { ownStore: true },
    arrange: (home) => rmSync(home.giveDiskAway(), { recursive: true }),
    run: async (at) => {
      writeOnce(at.home, 6);
      await at.home.flush(at.pageserver, MAIN);
      await readAll(at);
    },
  },
  {
    name: "another machine takes over, and the former one goes on",
    fromStart: true,
    options: { ownStore: true },
    arrange: async (home) => {
      const former = await home.startOther(home.giveDiskAway());
      // It has had the tenant, and it has something that is not in the store yet.
      await former.http.patchTenantConfig(TENANT, { pitr_interval: "0s", gc_horizon: 0 });
      writeOnce(home, 6);
      await home.takenIn(former, MAIN);
    },
    run: async ({ home, pageserver }) => {
      for (const { http } of home.others) {
        // Whatever it says, and nobody waits for it: another has the tenant, or not yet.
        void http
          .checkpoint(TENANT, MAIN)
          .then(() => http.compact(TENANT, MAIN))
          .then(() => http.doGc(TENANT, MAIN, { dryRun: false, force: true }))
          .catch(() => undefined);
      }
      home.wal(MAIN).write(2);
      await home.flush(pageserver, MAIN);
      await home.stopOthers();
    },
  },
];

/** What `testing/homes/storage-1` holds: each page is one byte again and again. */
const OLD_TENANT = parseTenantId("27683c8590ab999f708ca0a7e6498b12");
const OLD_PAGES = [
  { timelineId: "5a8d5a5e125e1371d3792c70c5e846a6", bytes: [4, 2] },
  { timelineId: "b".repeat(32), bytes: [3, 2] },
];

/** By reading the disk and the store as the next process would. */
async function checkOldPages({ home }: Try): Promise<void> {
  const manager = await TenantManager.open({
    workdir: join(home.directory, "disk"),
    store: await home.openStore(),
    logger: createLogger("test", "silent"),
  });
  try {
    const prefix = relBlockPrefix(REL.spcOid, REL.dbOid, REL.relNumber, REL.fork);
    for (const { timelineId, bytes } of OLD_PAGES) {
      const timeline = manager.timeline(OLD_TENANT, parseTimelineId(timelineId));
      for (const [block, byte] of bytes.entries()) {
        const page = timeline.readPage(prefix, block, timeline.lastRecordLsn);
        assert.deepEqual(Buffer.from(page ?? []), Buffer.alloc(PAGE_SIZE, byte));
      }
    }
  } finally {
    await manager.close({ flush: false });
  }
}

const OTHER_HOMES: readonly Operation[] = [
  {
    name: "a home of storage version 1 is put into an empty store",
    fromStart: true,
    arrange: (home) => {
      home.forgetAll();
      home.emptyStore();
      for (const name of ["disk/tenants", "disk/generation", "disk/deletions"]) {
        rmSync(join(home.directory, name), { recursive: true });
      }
      cpSync(OLD_HOME, join(home.directory, "disk"), { recursive: true });
    },
    run: async ({ pageserver: { http } }) => {
      for (const { timelineId } of OLD_PAGES) {
        await http.detachFromAncestor(OLD_TENANT, timelineId);
      }
    },
    checkStopped: checkOldPages,
  },
  {
    name: "a stopped server is imported, with its tenant",
    arrange: async (home) => {
      await home.stockCluster();
    },
    run: async ({ home, pageserver: { http } }) => {
      const { dataDir } = await home.stockCluster();
      await settled("the import", async () => {
        const { timeline, phase } = await http.importPgdata(NEW_TENANT, NEW, dataDir);
        return timeline === null ? phase : undefined;
      });
      await http.releaseImport(NEW_TENANT, NEW);
    },
    check: async ({ pageserver: { http } }) => {
      await http.getTimeline(NEW_TENANT, NEW);
    },
  },
];

export const OPERATIONS: readonly Operation[] = [
  ...CREATIONS,
  ...LAYERS,
  ...ARCHIVING,
  ...ENDS,
  ...STARTS,
  ...OTHER_HOMES,
];

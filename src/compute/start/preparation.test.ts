// What a start makes before it knows where it begins: on a full disk, and where it was stopped meanwhile.

import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fillDisk, mountSmallDisk, unmountSmallDisk } from "../../../testing/small-disk.ts";
import { createLogger } from "../../base/log.ts";
import { WAL_SEGMENT_SIZE } from "../../base/lsn.ts";
import { WireServer } from "../../postgres/wire/wire-server.ts";
import { CHECKED_POSTGRES_NAME, type EndpointSpec } from "../api.ts";
import { dataDirectoryOf, PostgresSide } from "../postgres-side.ts";
import type { WalPath } from "../wal/wal-path.ts";

const logger = createLogger("preparation-test", "silent");

const SPEC: EndpointSpec = {
  endpointId: "main",
  tenantId: "1".repeat(32),
  timelineId: "2".repeat(32),
  mode: { static: "0/1000" },
  pgVersion: 17,
  pgHost: "127.0.0.1",
  pgPort: 5432,
  internalHttpPort: 5433,
  // Nobody listens there.
  pageserver: { pgAddr: "127.0.0.1:1", httpAddr: "127.0.0.1:1" },
  safekeepers: [],
  settings: {},
};

/** Of one that may write nothing has to be known here but that it is there. */
const WAL = { fence: () => undefined } as unknown as WalPath;

/** That Postgres's user may enter: else the data directory would be elsewhere. */
function makeWorkdir(t: TestContext): string {
  const workdir = mkdtempSync(join(tmpdir(), "strata-preparation-"));
  chmodSync(workdir, 0o755);
  t.after(() => rmSync(workdir, { recursive: true, force: true }));
  return workdir;
}

test("prepare: where the last run has left no space, and the library was not looked at yet, that run's directory goes first", async (t) => {
  const workdir = join(makeWorkdir(t), "small");
  const noMount = mountSmallDisk(workdir, 2 * 2 ** 20);
  if (noMount !== undefined) {
    t.skip(noMount);
    return;
  }
  const dataDirectory = dataDirectoryOf(workdir);
  const options = { workdir, wal: undefined, leaveSubscriptions: false, logger };
  const side = new PostgresSide({ spec: SPEC, ...options });
  try {
    assert.ok(dataDirectory.startsWith(workdir), "on the small disk");
    mkdirSync(dataDirectory, { recursive: true });
    fillDisk(dataDirectory);
    await side.prepare();
    assert.ok(existsSync(join(workdir, CHECKED_POSTGRES_NAME)));
    assert.ok(existsSync(join(dataDirectory, "base")));
    assert.ok(!existsSync(join(dataDirectory, "filler")));
  } finally {
    await side.close();
    unmountSmallDisk(workdir);
  }
});

/** As compute_state tells the newest state. */
function stateOf(pgVersion: number): string {
  const none = Object.fromEntries(
    ["timeLineId", "prevTimeLineId", "walLevel", "nextFullXid", "nextOid", "nextMulti"]
      .concat(["nextMultiOffset", "oldestXid", "oldestXidDb", "oldestMulti", "oldestMultiDb"])
      .concat(["time", "oldestCommitTsXid", "newestCommitTsXid", "oldestActiveXid"])
      .map((name) => [name, 0]),
  );
  return JSON.stringify({
    ...{ lsn: "0/1000", prevRecordLsn: "0/800", timelineStartLsn: "0/800", systemId: "1" },
    ...{ pgVersion, walSegmentSize: WAL_SEGMENT_SIZE, checkPoint: { ...none, redo: "0/1000" } },
    ...{ controlFile: "", relationMaps: [], databases: [], tablespaces: [], twoPhase: [] },
    ...{ replicationOrigins: [], standbySnapshots: [], auxFiles: [] },
  });
}

test("prepare: who was stopped before the newest state was there makes nothing of it", async (t) => {
  const workdir = makeWorkdir(t);
  const asked = Promise.withResolvers<void>();
  const stopped = Promise.withResolvers<void>();
  const pageserver = new WireServer({
    logger,
    async onQuery(session, sql) {
      if (!sql.startsWith("compute_state")) {
        return;
      }
      asked.resolve();
      await stopped.promise;
      session.sendRows(["compute_state"], [[stateOf(SPEC.pgVersion)]], "SELECT 1");
    },
  });
  const { port } = await pageserver.listen("127.0.0.1", 0);
  t.after(() => pageserver.close());
  const address = `127.0.0.1:${port}`;
  const spec = { ...SPEC, mode: "primary" as const, pageserver: { pgAddr: address, httpAddr: "" } };
  const side = new PostgresSide({ spec, workdir, wal: WAL, leaveSubscriptions: false, logger });
  const preparing = side.prepare();
  preparing.catch(() => undefined);
  await asked.promise;
  await side.close();
  stopped.resolve();
  await assert.rejects(preparing, { kind: "unavailable", code: "closed" });
  assert.ok(!readdirSync(dataDirectoryOf(workdir)).includes("PG_VERSION"));
});

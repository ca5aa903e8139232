// The pageserver that `bench/getpage.ts` measures, in a process of its own: a relation of images, all in the cache.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { toLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import type { TenantTimeline } from "../src/pageserver/api.ts";
import { relBlockPrefix, relSizePrefix } from "../src/pageserver/layers/key.ts";
import { Pageserver } from "../src/pageserver/pageserver.ts";
import { PAGE_SIZE } from "../src/postgres/page.ts";
import {
  FIXTURE_START_LSN,
  FIXTURE_SYSTEM_ID,
  writeImageLayer,
} from "../testing/storage-fixture.ts";

/** Told to the parent process once, when pages can be asked for. */
export interface ServedRelation extends TenantTimeline {
  readonly port: number;
  readonly blocks: number;
}

export const MEASURED_RELATION = { spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };
export const MEASURED_LSN = FIXTURE_START_LSN;
/** 64 MB, half of the block cache. */
const BLOCKS = 8192;

function* relation() {
  const { spcOid, dbOid, relNumber, fork } = MEASURED_RELATION;
  const prefix = relBlockPrefix(spcOid, dbOid, relNumber, fork);
  const random = new SeededRandom(1);
  for (let index = 0; index < BLOCKS; index++) {
    const value = new Uint8Array(PAGE_SIZE);
    new Uint32Array(value.buffer).forEach((_, at, words) => {
      words[at] = random.int(2 ** 31);
    });
    yield { prefix, index, value };
  }
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, BLOCKS, true);
  yield { prefix: relSizePrefix(spcOid, dbOid, relNumber, fork), index: 0, value: size };
}

/** Serves until the parent process is gone; answers each of its messages with the processor time used so far. */
async function serve(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), "strata-bench-"));
  const workdir = join(scratch, "pageserver");
  mkdirSync(workdir);
  const layer = await writeImageLayer(scratch, MEASURED_LSN, relation());
  const pageserver = await Pageserver.start({
    id: 1,
    workdir,
    listenPg: "127.0.0.1:0",
    listenHttp: "127.0.0.1:0",
    logger: createLogger("bench", "warn"),
  });
  const [tenantId, timelineId] = [generateTenantId(), generateTimelineId()];
  const tenant = await pageserver.tenants.createTenant(tenantId);
  await tenant.createRoot({
    timelineId,
    pgVersion: 17,
    dataChecksums: false,
    systemId: FIXTURE_SYSTEM_ID,
    walSegmentSize: 1 << 24,
    startLsn: MEASURED_LSN,
    prevRecordLsn: toLsn(MEASURED_LSN - 0x78),
    layerPaths: [{ path: join(scratch, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
  process.on("message", () => process.send!(process.cpuUsage()));
  process.once("disconnect", async () => {
    await pageserver.close({ flush: false });
    rmSync(scratch, { recursive: true, force: true });
  });
  const served: ServedRelation = { tenantId, timelineId, port: pageserver.pgPort, blocks: BLOCKS };
  process.send!(served);
}

if (process.send !== undefined) {
  await serve();
}

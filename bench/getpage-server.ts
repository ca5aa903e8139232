// The pageserver that `bench/getpage.ts` measures, in a process of its own: a relation of images, all in the cache.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { toLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import type { TenantTimeline } from "../src/pageserver/api.ts";
import { relBlockPrefix, relSizePrefix } from "../src/pageserver/layers/key.ts";
import { Pageserver } from "../src/pageserver/pageserver.ts";
import type { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
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

/** Answer to each message of the parent process. */
export interface UsedSoFar extends NodeJS.CpuUsage {
  readonly compactions: number;
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

/** Of random changes that take turns, so that each compaction has images to make. */
const NEIGHBOUR_BLOCKS = 4096;
const NEIGHBOUR_BYTES_A_TURN = 256 << 10;
const NEIGHBOUR_TURN_MS = 10;
/** 4 MB. */
const NEIGHBOUR_FLUSH_TURNS = 16;

/** Another tenant's timeline, into which 20 MB of changes come each second, and which is flushed and compacted all the time. */
class Neighbour {
  isBusy = false;
  /** Steps of compaction that did something. */
  compactions = 0;
  #stopping = false;
  readonly #done: Promise<void>;

  constructor(tenants: TenantManager) {
    this.#done = this.#run(tenants);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #run(tenants: TenantManager): Promise<void> {
    const tenant = await tenants.createTenant(generateTenantId());
    const timeline = await tenant.createRoot({
      timelineId: generateTimelineId(),
      pgVersion: 17,
      dataChecksums: false,
      systemId: FIXTURE_SYSTEM_ID,
      walSegmentSize: 1 << 24,
      startLsn: MEASURED_LSN,
      prevRecordLsn: toLsn(MEASURED_LSN - 0x78),
      layerPaths: [],
    });
    const { spcOid, dbOid, relNumber, fork } = MEASURED_RELATION;
    const prefix = relBlockPrefix(spcOid, dbOid, relNumber, fork);
    const random = new SeededRandom(2);
    const page = Uint8Array.from({ length: PAGE_SIZE }, () => random.int(256));
    let compacting = Promise.resolve();
    for (let turn = 0; !this.#stopping; turn++) {
      await sleep(NEIGHBOUR_TURN_MS);
      if (!this.isBusy) {
        continue;
      }
      const lsn = toLsn(timeline.lastRecordLsn + 64);
      for (let bytes = 0; bytes < NEIGHBOUR_BYTES_A_TURN; bytes += PAGE_SIZE) {
        page[random.int(PAGE_SIZE)] = random.int(256);
        timeline.putImage(prefix, random.int(NEIGHBOUR_BLOCKS), lsn, page.slice());
      }
      timeline.advance(lsn, toLsn(0));
      if (turn % NEIGHBOUR_FLUSH_TURNS === 0) {
        await timeline.checkpoint();
        compacting = compacting.then(async () => {
          this.compactions += (await timeline.compact()) ? 1 : 0;
        });
      }
    }
    await compacting;
  }
}

/**
 * Serves until the parent process is gone; answers each of its messages with what was used so far. `neighbour`: from
 * then on another timeline is busy, until another message comes.
 */
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
  const neighbour = new Neighbour(pageserver.tenants);
  process.on("message", (message) => {
    neighbour.isBusy = message === "neighbour";
    const used: UsedSoFar = { ...process.cpuUsage(), compactions: neighbour.compactions };
    process.send!(used);
  });
  process.once("disconnect", async () => {
    await neighbour.stop();
    await pageserver.close({ flush: false });
    rmSync(scratch, { recursive: true, force: true });
  });
  const served: ServedRelation = { tenantId, timelineId, port: pageserver.pgPort, blocks: BLOCKS };
  process.send!(served);
}

if (process.send !== undefined) {
  await serve();
}

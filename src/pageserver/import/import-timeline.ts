// Makes a root timeline of a stock data directory: its files as image layers, its WAL by the ingest of all WAL.

import { monotonicMs, turn } from "../../base/clock.ts";
import { StorageError, withContext } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn, MAX_LSN } from "../../base/lsn.ts";
import { interpretRecord } from "../../wal-decoder/interpret-record.ts";
import { ImageOutput, OutputFiles, type OutputLayer } from "../compaction/output-layers.ts";
import { WalIngest } from "../ingest/walingest.ts";
import { isPagePrefix } from "../layers/key.ts";
import { FIRST_KEY, isMetadataPrefix, LAST_KEY } from "../layers/layer-format.ts";
import { type IndexPart, readIndexPart, writeIndexPart } from "../storage/index-part.ts";
import type { StorageResources } from "../storage/storage-resources.ts";
import type { StagedRoot, Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";
import type { ImportSource } from "./import-source.ts";

/** Others are served in between. */
const SLICE_MS = 4;
/** Of an image layer file. */
const TARGET_BYTES = 128 << 20;

export interface ImportProgress {
  /** `copy`: of the bytes in the cluster's files; `replay`: of WAL. */
  phase: "copy" | "replay";
  doneBytes: number;
  totalBytes: number;
}

export interface ImportOptions {
  readonly resources: StorageResources;
  readonly logger: Logger;
  /** Kept up to date. */
  readonly progress: ImportProgress;
  /** Ends it: `unavailable`. */
  readonly signal: AbortSignal;
}

/**
 * The timeline's own WAL begins where the source's ends, and it can be read from where that is consistent: a stopped
 * server's end, a backup's end. Nothing of it exists before it is whole. Closes the source. StorageError `corrupt` where
 * its files are damaged, `invalid` where its WAL ends before the backup does.
 */
export async function importTimeline(
  tenant: Tenant,
  timelineId: TimelineId,
  source: ImportSource,
  options: ImportOptions,
): Promise<Timeline> {
  try {
    return await tenant.buildRoot(timelineId, async (staged) => {
      const part = await writeImages(tenant, timelineId, staged, source, options);
      return source.wal === undefined ? part : await replay(staged, part, source.wal, options);
    });
  } finally {
    source.wal?.reader.close();
  }
}

/** Gives way to others after each slice of time. */
class Slices {
  readonly #signal: AbortSignal;
  #start = monotonicMs();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  get isOver(): boolean {
    return monotonicMs() - this.#start >= SLICE_MS;
  }

  async next(): Promise<void> {
    await turn();
    if (this.#signal.aborted) {
      throw new StorageError("unavailable", "import-cancelled", "the import was broken off");
    }
    this.#start = monotonicMs();
  }
}

async function writeImages(
  tenant: Tenant,
  timelineId: TimelineId,
  { directory }: StagedRoot,
  { image }: ImportSource,
  { resources, progress, signal }: ImportOptions,
): Promise<IndexPart> {
  const { control, lsn } = image;
  const files = new OutputFiles({
    directory,
    disk: resources.disk,
    number: resources.generation.nextLayer(),
    targetBytes: TARGET_BYTES,
  });
  const output = new ImageOutput(files, lsn, { start: FIRST_KEY, end: LAST_KEY });
  const slices = new Slices(signal);
  progress.totalBytes = image.totalBytes;
  let inMetadata = false;
  try {
    await output.prepare();
    for (const { prefix, index, value } of image.values()) {
      if (!inMetadata && isMetadataPrefix(prefix)) {
        inMetadata = true;
        await output.finishBlocks();
        await output.prepare();
      }
      output.add({ prefix, index }, value);
      if (isPagePrefix(prefix)) {
        progress.doneBytes += value.length;
      }
      if (slices.isOver) {
        await output.settle();
        await output.prepare();
        await slices.next();
      }
    }
    await output.finish();
  } catch (error) {
    await files.discard();
    throw error;
  }
  return {
    tenantId: tenant.tenantId,
    timelineId,
    ancestor: undefined,
    pgVersion: control.version.major,
    dataChecksums: control.dataChecksums,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: lsn,
    diskConsistentLsn: lsn,
    prevRecordLsn: image.prevRecordLsn,
    gcCutoffLsn: lsn,
    leases: [],
    generation: resources.generation.number,
    deleted: false,
    layers: files.finished.map((layer) => indexLayer(layer, timelineId)),
  };
}

function indexLayer({ fileName, sizeBytes }: OutputLayer, maker: TimelineId) {
  return { fileName, sizeBytes, maker, capLsn: MAX_LSN };
}

async function replay(
  staged: StagedRoot,
  part: IndexPart,
  wal: NonNullable<ImportSource["wal"]>,
  options: ImportOptions,
): Promise<IndexPart> {
  const { progress, resources } = options;
  progress.phase = "replay";
  progress.doneBytes = 0;
  progress.totalBytes = wal.reader.totalBytes;
  await writeIndexPart(staged.directory, part, resources.disk);
  const timeline = staged.open(part);
  try {
    await takeIn(timeline, wal, options);
    await timeline.checkpoint();
  } finally {
    await timeline.close();
  }
  const written = readIndexPart(staged.directory, resources.disk);
  if (written === undefined) {
    throw new Error("the index that was just written is gone");
  }
  const end = written.diskConsistentLsn;
  return { ...written, startLsn: end, gcCutoffLsn: wal.consistency.reached(wal.reader.end!) };
}

async function takeIn(
  timeline: Timeline,
  { reader, consistency }: NonNullable<ImportSource["wal"]>,
  { logger, progress, signal }: ImportOptions,
): Promise<void> {
  const ingest = new WalIngest(timeline, logger);
  const slices = new Slices(signal);
  const start = timeline.lastRecordLsn;
  let at: Lsn = INVALID_LSN;
  try {
    for (let record = reader.next(); record !== undefined; record = reader.next()) {
      at = record.startLsn;
      ingest.beginRecord(record.startLsn, record.endLsn);
      interpretRecord(record, ingest);
      const rest = ingest.restOfRecord(signal);
      if (rest !== undefined) {
        await rest;
      }
      ingest.endRecord();
      consistency.note(record);
      if (slices.isOver) {
        ingest.publish();
        progress.doneBytes = timeline.lastRecordLsn - start;
        await timeline.ingestReady();
        await slices.next();
      }
    }
    ingest.publish();
  } catch (error) {
    throw at === INVALID_LSN ? error : withContext(error, `replay the record at ${formatLsn(at)}`);
  }
  consistency.reached(reader.end!);
}

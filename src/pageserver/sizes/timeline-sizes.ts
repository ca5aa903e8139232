// How large a timeline is: what a database server would say, what its layers take, what its deletion would free.

import { monotonicMs, turn } from "../../base/clock.ts";
import type { Lsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { decodeSize } from "../ingest/relation-heads.ts";
import { KEYSPACE_RELATION_SIZE } from "../layers/key.ts";
import { type LayerFile, LayerNotResident } from "../layers/layer-file.ts";
import type { SetLayer } from "../storage/layer-set.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";

/** Page service has its turn after so many milliseconds. */
const SLICE_MS = 2;
/** Some 100 bytes each. */
const MAX_KNOWN = 20_000;

/** What is at an LSN never changes, so it is counted once. */
export class LogicalSizes {
  readonly #known = new Map<string, number>();

  /** Bytes in all forks of all relations, as Neon's current_logical_size. Errors as a read's. */
  async at(timeline: Timeline, lsn: Lsn): Promise<number> {
    const key = `${ownerOf(timeline, lsn).timelineId}@${lsn}`;
    const known = this.#known.get(key);
    if (known !== undefined) {
      return known;
    }
    const bytes = (await countBlocks(timeline, lsn)) * PAGE_SIZE;
    if (this.#known.size >= MAX_KNOWN) {
      this.#known.clear();
    }
    this.#known.set(key, bytes);
    return bytes;
  }
}

/** Whose state it is: a branch that has nothing of its own yet shares its ancestor's. */
function ownerOf(timeline: Timeline, lsn: Lsn): Timeline {
  let owner = timeline;
  while (owner.ancestor !== undefined && lsn <= owner.startLsn) {
    owner = owner.ancestor;
  }
  return owner;
}

async function countBlocks(timeline: Timeline, lsn: Lsn): Promise<number> {
  for (;;) {
    try {
      return await countInSlices(timeline, lsn);
    } catch (error) {
      if (!(error instanceof LayerNotResident)) {
        throw error;
      }
      await timeline.whenResident(() => {
        if (!error.layer.isResident) {
          throw error;
        }
      });
    }
  }
}

async function countInSlices(timeline: Timeline, lsn: Lsn): Promise<number> {
  let blocks = 0;
  let sliceStart = monotonicMs();
  for (const { value } of timeline.scan([KEYSPACE_RELATION_SIZE], lsn)) {
    blocks += decodeSize(value);
    if (monotonicMs() - sliceStart > SLICE_MS) {
      await turn();
      sliceStart = monotonicMs();
    }
  }
  return blocks;
}

/** Bytes of layers that it made and reads. */
export function physicalBytes(timeline: Timeline): number {
  return timeline.ownedLayers
    .filter(({ maker }) => maker === timeline.timelineId)
    .reduce((sum, { file }) => sum + file.sizeBytes, 0);
}

/** Whether a layer of one timeline's is one that another has by name as well. */
export function sharedLayers(tenant: Tenant): (layer: Pick<SetLayer, "file" | "maker">) => boolean {
  const users = new Map<LayerFile, number>();
  for (const timeline of [...tenant.timelines, ...tenant.archived.openedTimelines]) {
    for (const { file } of timeline.ownedLayers) {
      users.set(file, (users.get(file) ?? 0) + 1);
    }
  }
  return ({ file, maker }) =>
    (users.get(file) ?? 0) > 1 || tenant.archived.borrows(maker, file.fileName);
}

/** Of each timeline the bytes of layers that no other can read: neither by name, nor as a branch of it. */
export function exclusiveBytes(tenant: Tenant): Map<Timeline, number> {
  const isShared = sharedLayers(tenant);
  return new Map(
    tenant.timelines.map((timeline) => {
      const inherited = Math.max(-1, ...timeline.branchPoints.lsns);
      const own = timeline.ownedLayers.filter(
        (layer) => layer.file.lsnStart > inherited && !isShared(layer),
      );
      return [timeline, own.reduce((sum, { file }) => sum + file.sizeBytes, 0)];
    }),
  );
}

// Collection of old history: how far it may go, what holds it, what it does to the layers of one timeline.

import { monotonicMs, nowMs } from "../../base/clock.ts";
import { formatLsn, type Lsn, maxLsn, minLsn, toLsn } from "../../base/lsn.ts";
import { formatTimestamp, POSTGRES_EPOCH_MS } from "../../base/timestamp.ts";
import { type GcHolder, type GcResult, LAYER_FATES, type LayerFate } from "../api.ts";
import { hasInheritedSubscriptions } from "../compute-state.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { findLsnByTimestamp, timestampOfLsn } from "../lsn-by-timestamp.ts";
import { sharedLayers } from "../sizes/timeline-sizes.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";
import type { UpkeepSettings } from "./tenant-config.ts";

/**
 * The LSN below which history may go: the newest that is older than the PITR interval, at most what is on disk. Where no
 * time is known that is before all there is, nothing may go; nor while the next start has to detach subscriptions.
 */
export async function collectionCutoff(
  timeline: Timeline,
  settings: Pick<UpkeepSettings, "pitrIntervalMs" | "gcHorizonBytes">,
): Promise<Lsn> {
  const { gcCutoffLsn } = timeline;
  const oldest = (await isToDetach(timeline))
    ? timeline.startLsn
    : await oldestWanted(timeline, settings);
  return maxLsn(gcCutoffLsn, minLsn(oldest, timeline.diskConsistentLsn));
}

/**
 * An imported cluster with subscriptions that no compute could detach yet: that there are some is known from where it begins. Of a
 * branch its ancestor keeps that.
 */
function isToDetach(timeline: Timeline): Promise<boolean> {
  return timeline.whenResident(
    () =>
      timeline.ancestor === undefined &&
      hasInheritedSubscriptions(timeline, timeline.lastRecordLsn),
  );
}

async function oldestWanted(
  timeline: Timeline,
  { pitrIntervalMs, gcHorizonBytes }: Pick<UpkeepSettings, "pitrIntervalMs" | "gcHorizonBytes">,
): Promise<Lsn> {
  if (pitrIntervalMs === 0) {
    return toLsn(Math.max(0, timeline.lastRecordLsn - gcHorizonBytes));
  }
  const timeUs = (nowMs() - pitrIntervalMs - POSTGRES_EPOCH_MS) * 1000;
  const { kind, lsn } = await findLsnByTimestamp(timeline, timeUs);
  return kind === "present" || kind === "future" ? lsn : timeline.gcCutoffLsn;
}

export interface CollectionRequest {
  /** In place of the tenant's. */
  readonly gcHorizonBytes?: number | undefined;
  /** In place of the tenant's; of a dry run only. */
  readonly pitrIntervalMs?: number | undefined;
  /** Nothing changes. */
  readonly dryRun: boolean;
  /** Does not wait for leases. */
  readonly force: boolean;
}

export async function collectTimeline(
  tenant: Tenant,
  timeline: Timeline,
  settings: UpkeepSettings,
  {
    gcHorizonBytes = settings.gcHorizonBytes,
    pitrIntervalMs = settings.pitrIntervalMs,
    dryRun,
  }: CollectionRequest,
): Promise<GcResult> {
  const cutoff = await collectionCutoff(timeline, { gcHorizonBytes, pitrIntervalMs });
  const commitUs = await timestampOfLsn(timeline, cutoff);
  const begins = (await isToDetach(timeline)) ? [timeline.startLsn] : [];
  // From here on nothing waits until all is noted.
  const planned = [...timeline.collectionFates(cutoff)];
  const fates = new Map(planned.map(([{ file }, fate]) => [file, fate]));
  const removed = planned.flatMap(([layer, fate]) => (fate === "removed" ? [layer] : []));
  // A look at all layers of the tenant: most collections of most branches remove none.
  const isShared = removed.length === 0 ? undefined : sharedLayers(tenant);
  const result = {
    timeline_id: timeline.timelineId,
    dry_run: dryRun,
    gc_cutoff_lsn: formatLsn(cutoff),
    gc_cutoff_time: commitUs === undefined ? null : formatTimestamp(commitUs),
    held: [...begins.map(bySubscriptions), ...holders(tenant, timeline, cutoff)],
    total: count(fates.keys()),
    ...countFates(fates),
    freed: count(removed.filter((layer) => !isShared!(layer)).map(({ file }) => file)),
    layers: [...fates].map(([file, fate]) => ({
      layer_file_name: file.fileName,
      layer_file_size: file.sizeBytes,
      fate,
    })),
  };
  if (dryRun) {
    return { ...result, written: null };
  }
  await timeline.advanceGcCutoff(cutoff);
  while (await timeline.compact("collect")) {
    // Image layers first, where those are what makes others superfluous.
  }
  return { ...result, written: count(timeline.layers.filter((file) => !fates.has(file))) };
}

/** It also keeps the cutoff from going any further. */
function bySubscriptions(lsn: Lsn): GcHolder {
  return { lsn: formatLsn(lsn), kind: "subscriptions", timeline_id: null, valid_until: null };
}

/** Whose LSNs below the cutoff stay readable, the oldest first. */
function holders(tenant: Tenant, timeline: Timeline, cutoff: Lsn): GcHolder[] {
  const archived = tenant.archived.childrenOf(timeline.timelineId);
  const branches = [
    ...tenant.timelines
      .filter(({ ancestor }) => ancestor === timeline)
      .map(({ timelineId, ancestorLsn: lsn }) => ({ lsn, timelineId, leftMs: undefined })),
    ...archived.map(({ ancestor, timelineId }) => {
      return { lsn: ancestor!.lsn, timelineId, leftMs: undefined };
    }),
  ].filter(({ lsn }) => lsn < cutoff);
  const leases = [...timeline.leases.left(monotonicMs())]
    .filter(([lsn]) => lsn < cutoff)
    .map(([lsn, leftMs]) => ({ lsn, timelineId: undefined, leftMs }));
  return [...branches, ...leases]
    .toSorted((a, b) => a.lsn - b.lsn)
    .map(({ lsn, timelineId, leftMs }) => ({
      lsn: formatLsn(lsn),
      kind: timelineId === undefined ? "lease" : "branch",
      timeline_id: timelineId ?? null,
      valid_until: leftMs === undefined ? null : new Date(nowMs() + leftMs).toISOString(),
    }));
}

function count(files: Iterable<LayerFile>): { layers: number; bytes: number } {
  let [layers, bytes] = [0, 0];
  for (const { sizeBytes } of files) {
    layers++;
    bytes += sizeBytes;
  }
  return { layers, bytes };
}

function countFates(fates: ReadonlyMap<LayerFile, LayerFate>) {
  const files = (wanted: LayerFate) =>
    [...fates].filter(([, fate]) => fate === wanted).map(([file]) => file);
  return Object.fromEntries(LAYER_FATES.map((fate) => [fate, count(files(fate))])) as Record<
    LayerFate,
    { layers: number; bytes: number }
  >;
}

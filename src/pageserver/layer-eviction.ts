// Keeps the pageserver's disk from filling up: layers that the object store has, and that nobody has read for long, leave it.

import { stat, statfs } from "node:fs/promises";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errorMessage } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { LayerFile } from "./layers/layer-file.ts";
import { mayHaveMetadata } from "./layers/layer-format.ts";
import type { Tenant } from "./storage/tenant.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";

/** Neon's disk_usage_based_eviction, and a limit of one's own. */
export interface EvictionSettings {
  readonly periodMs: number;
  /** Of the file system that the layers lie on, as `df` counts. */
  readonly maxUsagePercent: number;
  readonly minAvailableBytes: number;
  /** All layer files together. */
  readonly maxResidentBytes: number;
}

export const DEFAULT_EVICTION: EvictionSettings = {
  periodMs: 60_000,
  maxUsagePercent: 80,
  minAvailableBytes: 2 * 1024 ** 3,
  maxResidentBytes: Number.POSITIVE_INFINITY,
};

/** Bytes of a file system. */
export interface DiskUsage {
  readonly usedBytes: number;
  readonly availableBytes: number;
}

interface Candidate {
  readonly tenant: Tenant;
  readonly file: LayerFile;
}

/** What is too much on the disk. */
export function excessBytes(
  settings: EvictionSettings,
  { usedBytes, availableBytes }: DiskUsage,
  residentBytes: number,
): number {
  const { maxUsagePercent, minAvailableBytes, maxResidentBytes } = settings;
  // As df: what only root may use counts as neither.
  const total = usedBytes + availableBytes;
  return Math.max(
    0,
    usedBytes - (total * maxUsagePercent) / 100,
    minAvailableBytes - availableBytes,
    residentBytes - maxResidentBytes,
  );
}

/**
 * Layers that may go: the store has them, no compaction is reading them, and ingest does not read them, which cannot wait
 * for a download in the middle of a record.
 */
export function mayEvict(file: LayerFile): boolean {
  return file.isResident && file.isStored && file.pins === 0 && !mayHaveMetadata(file.name);
}

export class LayerEviction {
  readonly #tenants: TenantManager;
  readonly #directory: string;
  readonly #settings: EvictionSettings;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  /** The last look found more than it could free. */
  #isStuck = false;
  readonly #loop: Promise<void>;

  /** `directory`: where the layers lie. */
  constructor(
    tenants: TenantManager,
    directory: string,
    settings: Partial<EvictionSettings>,
    logger: Logger,
  ) {
    this.#tenants = tenants;
    this.#directory = directory;
    this.#settings = { ...DEFAULT_EVICTION, ...settings };
    this.#logger = logger;
    this.#loop = this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    const { useClock } = this.#tenants.resources;
    const startMs = monotonicMs();
    while (!signal.aborted) {
      await sleep(this.#settings.periodMs, signal).catch(() => undefined);
      if (signal.aborted) {
        return;
      }
      await this.evict().catch((error: unknown) => {
        this.#logger.error({ error }, "layers could not be evicted");
      });
      useClock.now = Math.floor((monotonicMs() - startMs) / 1000) + 1;
    }
  }

  /** One look; returns the bytes that were freed. */
  async evict(): Promise<number> {
    const { bsize, blocks, bfree, bavail } = await statfs(this.#directory);
    const usage = { usedBytes: (blocks - bfree) * bsize, availableBytes: bavail * bsize };
    const resident = this.#resident();
    const bytes = resident.reduce((sum, { file }) => sum + file.sizeBytes, 0);
    const excess = excessBytes(this.#settings, usage, bytes);
    let freed = 0;
    let count = 0;
    const oldestFirst = (a: Candidate, b: Candidate) => a.file.lastUse - b.file.lastUse;
    const candidates = excess > 0 ? resident.sort(oldestFirst) : [];
    for (const { tenant, file } of candidates) {
      if (freed >= excess || this.#closing.signal.aborted) {
        break;
      }
      // Others may have got hold of it since.
      if (mayEvict(file) && (await this.#evictOne(tenant, file))) {
        freed += file.sizeBytes;
        count++;
      }
    }
    if (freed > 0) {
      this.#logger.info({ excess, freed, layers: count }, "layers evicted");
    }
    if (freed < excess && !this.#isStuck) {
      this.#logger.warn(
        { excess, freed },
        "the disk stays too full: no other layer may be evicted",
      );
    }
    this.#isStuck = freed < excess;
    return freed;
  }

  #resident(): Candidate[] {
    return this.#tenants.tenants.flatMap((tenant) =>
      [...tenant.layerFiles]
        .filter(({ isResident }) => isResident)
        .map((file) => ({ tenant, file })),
    );
  }

  async #evictOne(tenant: Tenant, file: LayerFile): Promise<boolean> {
    try {
      // A store in a directory of the same disk has the same file under another name: that would free nothing.
      if ((await stat(file.path)).nlink > 1) {
        return false;
      }
      await tenant.evict(file);
      return true;
    } catch (error) {
      this.#logger.warn({ path: file.path, reason: errorMessage(error) }, "layer is not evicted");
      return false;
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#loop;
  }
}

// Imports that are under way: one for each timeline, as long as somebody asks how far it is.

import { setIdleTimer, type Timer } from "../../base/clock.ts";
import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import type { TenantManager } from "../storage/tenant-manager.ts";
import type { Timeline } from "../storage/timeline.ts";
import type { WalReceivers } from "../wal-receivers.ts";
import { type ImportSource, openImportSource } from "./import-source.ts";
import { type ImportProgress, importTimeline } from "./import-timeline.ts";

/** Who wants it asks every second: an import that nobody asks about for so long is broken off. */
const DEFAULT_LEASE_MS = 60_000;

export interface ImportStatus {
  readonly progress: ImportProgress;
  readonly leftOut: readonly string[];
  /** Set once it is done. */
  readonly timeline: Timeline | undefined;
}

interface Import {
  readonly path: string;
  readonly progress: ImportProgress;
  readonly leftOut: readonly string[];
  readonly cancel: AbortController;
  readonly lease: Timer;
  readonly ended: Promise<void>;
  timeline: Timeline | undefined;
  failure: unknown;
}

/**
 * A killed process leaves nothing of an import. Until it is released a timeline that was imported cannot be deleted, so
 * that whoever asked for it has time to give it a name.
 */
export class TimelineImports {
  readonly #tenants: TenantManager;
  readonly #receivers: WalReceivers;
  readonly #logger: Logger;
  readonly #leaseMs: number;
  readonly #imports = new Map<string, Import>();
  #closed = false;

  constructor(
    tenants: TenantManager,
    receivers: WalReceivers,
    logger: Logger,
    leaseMs: number = DEFAULT_LEASE_MS,
  ) {
    this.#tenants = tenants;
    this.#receivers = receivers;
    this.#logger = logger;
    this.#leaseMs = leaseMs;
  }

  /**
   * Begins it, with the tenant where there is none, or says how far it is; to be asked again and again. Idempotent by the timeline's id. StorageError as
   * openImportSource and importTimeline, once: to ask again begins anew; `conflict` where the timeline is another's.
   */
  async request(tenantId: TenantId, timelineId: TimelineId, path: string): Promise<ImportStatus> {
    const key = `${tenantId}/${timelineId}`;
    const running = this.#imports.get(key) ?? this.#begin(key, tenantId, timelineId, path);
    if (running.path !== path) {
      const message = `timeline ${timelineId} is being imported from '${running.path}'`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    if (running.failure !== undefined) {
      this.#imports.delete(key);
      throw withContext(running.failure, `import '${path}'`);
    }
    running.lease.restart();
    return running;
  }

  #begin(key: string, tenantId: TenantId, timelineId: TimelineId, path: string): Import {
    if (this.#closed) {
      throw new StorageError("unavailable", "shutting-down", "the pageserver is closing");
    }
    const source = openImportSource(path);
    const cancel = new AbortController();
    const begun: Import = {
      path,
      progress: { phase: "copy", doneBytes: 0, totalBytes: source.image.totalBytes },
      leftOut: source.leftOut,
      cancel,
      lease: setIdleTimer(() => void this.#end(key, begun), this.#leaseMs),
      ended: Promise.resolve().then(() => this.#run(tenantId, timelineId, source, begun)),
      timeline: undefined,
      failure: undefined,
    };
    this.#imports.set(key, begun);
    return begun;
  }

  async #run(
    tenantId: TenantId,
    timelineId: TimelineId,
    source: ImportSource,
    begun: Import,
  ): Promise<void> {
    const logger = this.#logger.child({ tenant: tenantId, timeline: timelineId });
    logger.info({ path: begun.path, bytes: source.image.totalBytes }, "import began");
    try {
      const tenant = await this.#tenants.createTenant(tenantId);
      if (tenant.hasTimeline(timelineId)) {
        source.wal?.reader.close();
        const timeline = existing(tenant.timeline(timelineId), source);
        await timeline.makeDurable();
        begun.timeline = timeline;
      } else {
        begun.timeline = await importTimeline(tenant, timelineId, source, {
          resources: this.#tenants.resources,
          logger,
          progress: begun.progress,
          signal: begun.cancel.signal,
        });
      }
      this.#receivers.start(begun.timeline);
      logger.info({}, "import done");
    } catch (error) {
      begun.failure = error;
      logger.info({ error }, "import failed");
    }
  }

  /** StorageError `conflict` while it is imported, or was and is not released. */
  requireReleased(tenantId: TenantId, timelineId: TimelineId): void {
    if (this.#imports.has(`${tenantId}/${timelineId}`)) {
      const message = `timeline ${timelineId} is being imported`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
  }

  /** The same of all of a tenant's. */
  requireNoneOf(tenantId: TenantId): void {
    if ([...this.#imports.keys()].some((key) => key.startsWith(`${tenantId}/`))) {
      const message = `a timeline of tenant ${tenantId} is being imported`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
  }

  /** Breaks it off, or lets go of the timeline that it made. Nothing where there is none. */
  async release(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    const key = `${tenantId}/${timelineId}`;
    const begun = this.#imports.get(key);
    if (begun !== undefined) {
      await this.#end(key, begun);
    }
  }

  async #end(key: string, begun: Import): Promise<void> {
    begun.lease.cancel();
    begun.cancel.abort();
    await begun.ended;
    if (this.#imports.get(key) === begun) {
      this.#imports.delete(key);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#imports].map(([key, begun]) => this.#end(key, begun)));
  }
}

/** It was imported by a request whose answer was lost. */
function existing(timeline: Timeline, { control }: ImportSource): Timeline {
  const same = timeline.ancestor === undefined && timeline.systemId === control.systemId;
  if (!same || timeline.pgVersion !== control.version.major) {
    const message = `timeline ${timeline.timelineId} already exists, of another cluster`;
    throw new StorageError("conflict", "timeline-exists", message);
  }
  return timeline;
}

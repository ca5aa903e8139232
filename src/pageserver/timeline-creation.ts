// Creation, deletion and archiving of timelines and tenants as requests see them: templates, waiting for the ancestor, WAL.

import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { randomBytes } from "../base/random.ts";
import type { InitdbTemplates } from "./ingest/initdb-import.ts";
import type { Tenant } from "./storage/tenant.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";
import type { Timeline } from "./storage/timeline.ts";
import type { WalReceivers } from "./wal-receivers.ts";

/** A branch point that is on its way arrives in milliseconds; one in the future never does. */
const DEFAULT_ANCESTOR_WAIT_MS = 10_000;

export interface TimelineParameters {
  readonly timelineId: TimelineId;
  readonly ancestorTimelineId: TimelineId | undefined;
  readonly ancestorLsn: Lsn | undefined;
  readonly pgVersion: number;
  /** Of a root; a branch has its ancestor's. */
  readonly dataChecksums: boolean;
}

export class TimelineCreation {
  readonly #tenants: TenantManager;
  readonly #templates: InitdbTemplates;
  readonly #receivers: WalReceivers;
  readonly #ancestorWaitMs: number;

  constructor(
    tenants: TenantManager,
    templates: InitdbTemplates,
    receivers: WalReceivers,
    ancestorWaitMs: number = DEFAULT_ANCESTOR_WAIT_MS,
  ) {
    this.#tenants = tenants;
    this.#templates = templates;
    this.#receivers = receivers;
    this.#ancestorWaitMs = ancestorWaitMs;
  }

  /**
   * Idempotent for equal parameters, else `conflict`. `unavailable` where the ancestor does not
   * reach the LSN in time, `invalid` where it is below what is kept.
   */
  async create(tenantId: TenantId, parameters: TimelineParameters): Promise<Timeline> {
    const timeline =
      parameters.ancestorTimelineId === undefined
        ? await this.#createRoot(tenantId, parameters)
        : await this.#createBranch(tenantId, parameters.ancestorTimelineId, parameters);
    this.#receivers.start(timeline);
    return timeline;
  }

  async #createRoot(tenantId: TenantId, parameters: TimelineParameters): Promise<Timeline> {
    const tenant = this.#tenants.tenant(tenantId);
    const template = await this.#templates.get(parameters.pgVersion, parameters.dataChecksums);
    return tenant.createRoot({
      timelineId: parameters.timelineId,
      pgVersion: parameters.pgVersion,
      dataChecksums: template.dataChecksums,
      // As Postgres's own: 64 bits, never 0; below 2^63, since some tools read it as signed.
      systemId: (randomBytes(8).readBigUInt64LE() >> 1n) | 1n,
      walSegmentSize: template.walSegmentSize,
      startLsn: template.lsn,
      prevRecordLsn: template.prevRecordLsn,
      layerPaths: [
        {
          path: join(template.directory, template.layer.fileName),
          sizeBytes: template.layer.sizeBytes,
        },
      ],
    });
  }

  async #createBranch(
    tenantId: TenantId,
    ancestorTimelineId: TimelineId,
    parameters: TimelineParameters,
  ): Promise<Timeline> {
    const tenant = this.#tenants.tenant(tenantId);
    const ancestor = tenant.timeline(ancestorTimelineId);
    const { timelineId, ancestorLsn } = parameters;
    if (ancestorLsn !== undefined && ancestorLsn > ancestor.lastRecordLsn) {
      try {
        await ancestor.waitForLsn(ancestorLsn, this.#ancestorWaitMs);
      } catch (error) {
        throw new StorageError(
          "unavailable",
          "branch-lsn-not-reached",
          `timeline ${ancestorTimelineId} has not reached ${formatLsn(ancestorLsn)}, ` +
            `its last record is at ${formatLsn(ancestor.lastRecordLsn)}`,
          { cause: error },
        );
      }
    }
    return tenant.createBranch({
      timelineId,
      ancestorTimelineId,
      ...(ancestorLsn === undefined ? {} : { ancestorLsn }),
    });
  }

  /** Nobody uses it from here on. Errors as ArchivedTimelines.archive. */
  archive(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    return this.#withoutIngest(tenantId, timelineId, (tenant) =>
      tenant.archived.archive(timelineId),
    );
  }

  /** WAL is taken in again. Errors as ArchivedTimelines.unarchive. */
  async unarchive(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    this.#receivers.start(await this.#tenants.tenant(tenantId).archived.unarchive(timelineId));
  }

  /** Branches of it are detached. */
  delete(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    return this.#withoutIngest(tenantId, timelineId, (tenant) => tenant.deleteTimeline(timelineId));
  }

  async #withoutIngest(
    tenantId: TenantId,
    timelineId: TimelineId,
    work: (tenant: Tenant) => Promise<void>,
  ): Promise<void> {
    const tenant = this.#tenants.tenant(tenantId);
    // Ingest must not write into files that are going away.
    await this.#receivers.stop(tenantId, timelineId);
    try {
      await work(tenant);
    } catch (error) {
      if (tenant.hasTimeline(timelineId)) {
        this.#receivers.start(tenant.timeline(timelineId));
      }
      throw error;
    }
  }

  /** Idempotent; errors as TenantManager.deleteTenant's. */
  async deleteTenant(tenantId: TenantId): Promise<void> {
    const timelines = () => this.#find(tenantId)?.timelines ?? [];
    // Ingest must not write into files that are going away.
    await Promise.all(
      timelines().map(({ timelineId }) => this.#receivers.stop(tenantId, timelineId)),
    );
    try {
      await this.#tenants.deleteTenant(tenantId);
    } catch (error) {
      for (const timeline of timelines()) {
        this.#receivers.start(timeline);
      }
      throw error;
    }
  }

  #find(tenantId: TenantId): Tenant | undefined {
    return this.#tenants.tenants.find((tenant) => tenant.tenantId === tenantId);
  }
}

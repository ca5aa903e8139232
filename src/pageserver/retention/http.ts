// Routes about how long history is kept and what that takes: settings, collection, leases, compaction, sizes.

import { nowMs } from "../../base/clock.ts";
import { parseTenantId } from "../../base/ids.ts";
import { INVALID_LSN, parseLsn } from "../../base/lsn.ts";
import { formatDurationMs, parseDurationMs } from "../../base/text/duration.ts";
import { type Route, route } from "../../http/route.ts";
import { tenantParams, timelineParams } from "../../http/schemas.ts";
import {
  gcRequestSchema,
  gcResultSchema,
  lsnLeaseRequestSchema,
  lsnLeaseSchema,
  syntheticSizeSchema,
  type TenantConfigInfo,
  tenantConfigInfoSchema,
  tenantConfigPatchSchema,
  tenantConfigPutSchema,
} from "../api.ts";
import { syntheticSize } from "../sizes/tenant-size.ts";
import type { LogicalSizes } from "../sizes/timeline-sizes.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { TenantManager } from "../storage/tenant-manager.ts";
import type { LayerUpkeep } from "./layer-upkeep.ts";
import { LSN_LEASE_MS } from "./lsn-lease.ts";

export interface RetentionRouteOptions {
  readonly tenants: TenantManager;
  readonly upkeep: LayerUpkeep;
  readonly sizes: LogicalSizes;
}

/** For WAL that is on its way. */
const WAIT_LSN_MS = 10_000;

const TIMELINE = "/v1/tenant/{tenant}/timeline/{timeline}";

export function retentionRoutes(options: RetentionRouteOptions): Route[] {
  return [...configRoutes(options), ...collectionRoutes(options), ...sizeRoutes(options)];
}

function configRoutes({ tenants, upkeep }: RetentionRouteOptions): Route[] {
  return [
    route(
      {
        method: "PUT",
        path: "/v1/tenant/config",
        summary: "Sets how a tenant is kept; what is not given is the default again.",
        scope: "admin",
        body: tenantConfigPutSchema,
      },
      async ({ body: { tenant_id, ...config } }) => {
        await tenants.tenant(parseTenantId(tenant_id)).settings.replace(config);
      },
    ),
    route(
      {
        method: "PATCH",
        path: "/v1/tenant/config",
        summary: "Sets what is given of how a tenant is kept; null: the default again.",
        scope: "admin",
        body: tenantConfigPatchSchema,
      },
      async ({ body: { tenant_id, ...patch } }) => {
        await tenants.tenant(parseTenantId(tenant_id)).settings.patch(patch);
      },
    ),
    route(
      {
        method: "GET",
        path: "/v1/tenant/{tenant}/config",
        summary: "How a tenant is kept: what is set, and what counts.",
        scope: "tenant",
        params: tenantParams,
        answer: tenantConfigInfoSchema,
      },
      ({ params }) => describeConfig(tenants.tenant(params.tenant), upkeep),
    ),
  ];
}

function sizeRoutes({ tenants, upkeep, sizes }: RetentionRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/v1/tenant/{tenant}/synthetic_size",
        summary: "What all that can be read of a tenant takes at least, as snapshots and WAL.",
        scope: "tenant",
        params: tenantParams,
        answer: syntheticSizeSchema,
      },
      ({ params }) => {
        const tenant = tenants.tenant(params.tenant);
        return syntheticSize(tenant, upkeep.settingsOf(tenant), sizes);
      },
    ),
  ];
}

function describeConfig(tenant: Tenant, upkeep: LayerUpkeep): TenantConfigInfo {
  const { config } = tenant.settings;
  const settings = upkeep.settingsOf(tenant);
  return {
    tenant_specific_overrides: config,
    effective_config: {
      pitr_interval: formatDurationMs(settings.pitrIntervalMs),
      gc_horizon: settings.gcHorizonBytes,
      gc_period: formatDurationMs(settings.gcPeriodMs),
      compaction_period: formatDurationMs(settings.compactionPeriodMs),
    },
  };
}

function collectionRoutes({ tenants, upkeep }: RetentionRouteOptions): Route[] {
  return [
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/do_gc`,
        summary: "Collects the timeline's old history now; or says what that would do.",
        scope: "admin",
        params: timelineParams,
        body: gcRequestSchema,
        answer: gcResultSchema,
      },
      ({ params, body }) =>
        upkeep.collectNow(tenants.timeline(params.tenant, params.timeline), {
          gcHorizonBytes: body.gc_horizon ?? undefined,
          pitrIntervalMs: parseDurationMs(body.pitr_interval ?? ""),
          dryRun: body.dry_run === true,
          force: body.force === true,
        }),
    ),
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/compact`,
        summary:
          "Compacts the timeline's layers as far as it is worth it; answered when that is done.",
        scope: "admin",
        params: timelineParams,
      },
      async ({ params }) => {
        while (await tenants.timeline(params.tenant, params.timeline).compact()) {
          // To the end.
        }
      },
    ),
    route(
      {
        method: "POST",
        path: `${TIMELINE}/lsn_lease`,
        summary: "What is at an LSN stays readable for a while.",
        scope: "tenant",
        params: timelineParams,
        body: lsnLeaseRequestSchema,
        answer: lsnLeaseSchema,
      },
      async ({ params, body }) => {
        const timeline = tenants.timeline(params.tenant, params.timeline);
        const lsn = parseLsn(body.lsn) ?? INVALID_LSN;
        timeline.checkKept(lsn);
        await timeline.waitForLsn(lsn, WAIT_LSN_MS);
        await timeline.promiseLease(lsn, LSN_LEASE_MS);
        return { valid_until: new Date(nowMs() + LSN_LEASE_MS).toISOString() };
      },
    ),
  ];
}

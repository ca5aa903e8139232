// tenant-manifest.json-<generation>: says that each timeline of the tenant has an index of this generation.
//
// Ours, format version 1. One JSON object: `format_version`, `tenant_id`, `generation`. What counts is that it is there
// (remote-paths.ts); its content is for people.

import type { TenantId } from "../../base/ids.ts";
import { TENANT_MANIFEST_FORMAT_VERSION } from "../layers/format-versions.ts";

export interface TenantManifest {
  readonly tenantId: TenantId;
  readonly generation: number;
}

export function encodeTenantManifest({ tenantId, generation }: TenantManifest): Uint8Array {
  const body = { format_version: TENANT_MANIFEST_FORMAT_VERSION, tenant_id: tenantId, generation };
  return Buffer.from(`${JSON.stringify(body, null, 1)}\n`);
}

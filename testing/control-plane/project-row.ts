// A project as the control plane's database holds it, for tests that need one there.

import type { ProjectRow } from "../../src/control-plane/state/tables.ts";

export function newProjectRow(id: string): ProjectRow {
  const at = "2026-11-30T00:00:00.000Z";
  return {
    ...{ id, tenant_id: "a".repeat(32), name: id, pg_version: 17, history_retention_seconds: 0 },
    ...{ settings: "{}", default_endpoint_settings: "{}", creating: 0 },
    ...{ created_at: at, updated_at: at },
  };
}

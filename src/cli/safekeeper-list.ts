// What `safekeeper status` and `safekeeper list` print.

import type { TimelinePosition } from "../storage-controller/safekeeper-positions.ts";
import { formatBytes, formatTable } from "./output.ts";

/** No lines where there are no timelines. */
export function formatPositions(rows: readonly TimelinePosition[]): string[] {
  if (rows.length === 0) {
    return [];
  }
  const withTenant = new Set(rows.map((row) => row.tenant_id)).size > 1;
  const header = ["BRANCH", "SK", "STATE", "GEN", "MEMBERS", "TERM", "FLUSH", "COMMIT", "LAG"];
  header.push("BACKUP LAG", "REMOTE LAG", "PEERS", "READERS", "READER LAG");
  const cell = (value: string | number | null | undefined) => `${value ?? "---"}`;
  const bytes = (value: number | null | undefined) => (value == null ? "---" : formatBytes(value));
  const cells = (row: TimelinePosition) => [
    row.branch_name ?? row.timeline_id,
    cell(row.safekeeper_id),
    row.state,
    cell(row.generation),
    cell([row.members, row.new_members].filter((set) => set != null).join(" > ") || null),
    cell(row.term),
    cell(row.flush_lsn),
    cell(row.commit_lsn),
    bytes(row.lag_bytes),
    bytes(row.backup_lag_bytes),
    bytes(row.remote_lag_bytes),
    cell(row.peers),
    row.readers?.join(",") || "---",
    bytes(row.reader_lag_bytes),
  ];
  const table = formatTable(
    withTenant ? ["TENANT", ...header] : header,
    rows.map((row) => (withTenant ? [row.tenant_id, ...cells(row)] : cells(row))),
  );
  return table.split("\n");
}

// Counts and sizes by resource manager or kind of record, as pg_waldump's --stats.

import { formatLsn, INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { RM_MAX_BUILTIN_ID, RM_XACT_ID, rmgrName } from "../postgres/rmgr.ts";
import type { PgVersion } from "../postgres/versions.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { imageBytes, recordName } from "./record-text.ts";

export interface WalStatsRow {
  readonly type: string;
  readonly count: number;
  /** Bytes without page images. */
  readonly recordSize: number;
  readonly imageSize: number;
}

interface Sums {
  count: number;
  recordSize: number;
  imageSize: number;
}

export class WalStats {
  readonly #perRecord: boolean;
  /** By rmid * 16 + the high half of xl_info. */
  readonly #sums: Sums[] = Array.from({ length: 256 * 16 }, () => ({
    count: 0,
    recordSize: 0,
    imageSize: 0,
  }));
  #version: PgVersion | undefined;
  #startLsn = INVALID_LSN;
  #endLsn = INVALID_LSN;

  /** `startLsn`: the first record looked at, whether it counts or not. */
  constructor(perRecord: boolean) {
    this.#perRecord = perRecord;
  }

  set startLsn(lsn: Lsn) {
    this.#startLsn = lsn;
  }

  /** Counts a decoded record. */
  add(record: XLogRecord): void {
    // A transaction's highest bit is a flag.
    const kind = (record.info >> 4) & (record.rmid === RM_XACT_ID ? 0x07 : 0x0f);
    const sums = this.#sums[record.rmid * 16 + kind]!;
    const images = imageBytes(record);
    sums.count++;
    sums.recordSize += record.length - images;
    sums.imageSize += images;
    this.#version = record.version;
    this.#endLsn = record.endLsn;
  }

  /** By manager: all built-in ones and what else occurred. By record: what occurred. */
  rows(): WalStatsRow[] {
    const rows: WalStatsRow[] = [];
    for (let rmid = 0; rmid < 256; rmid++) {
      const sums = this.#sums.slice(rmid * 16, rmid * 16 + 16);
      if (this.#perRecord) {
        sums.forEach((sum, kind) => {
          if (sum.count > 0) {
            const name = recordName(this.#version!, rmid, kind << 4);
            rows.push({ type: `${rmgrName(rmid)}/${name}`, ...sum });
          }
        });
        continue;
      }
      const total = add(sums);
      if (rmid <= RM_MAX_BUILTIN_ID || total.count > 0) {
        rows.push({ type: rmgrName(rmid), ...total });
      }
    }
    return rows;
  }

  /** The table, without a newline at the end; undefined where no record was counted. */
  table(): string | undefined {
    if (this.#endLsn === INVALID_LSN) {
      return undefined;
    }
    const rows = this.rows();
    const total = add(rows);
    const combined = total.recordSize + total.imageSize;
    const lines = [
      `WAL statistics between ${formatLsn(this.#startLsn)} and ${formatLsn(this.#endLsn)}:`,
      columns("Type", ["N", "Record size", "FPI size", "Combined size"], "(%)"),
      columns("----", ["-", "-----------", "--------", "-------------"], "---"),
    ];
    for (const row of rows) {
      const cells = [
        [row.count, total.count],
        [row.recordSize, total.recordSize],
        [row.imageSize, total.imageSize],
        [row.recordSize + row.imageSize, combined],
      ] as const;
      const text = cells.map(
        ([part, whole]) => `${`${part}`.padStart(20)} (${percent(part, whole).padStart(6)})`,
      );
      lines.push(`${row.type.padEnd(27)} ${text.join(" ")}`);
    }
    const rule = "--------".padStart(20);
    lines.push(
      `${" ".repeat(27)} ${[rule, rule, rule].join(` ${" ".repeat(8)} `)} ${" ".repeat(8)} ${rule}`,
    );
    const share = (part: number) => `[${percent(part, combined)}%]`.padEnd(9);
    const totals = [
      `${`${total.count}`.padStart(20)} ${" ".repeat(9)}`,
      `${`${total.recordSize}`.padStart(20)} ${share(total.recordSize)}`,
      `${`${total.imageSize}`.padStart(20)} ${share(total.imageSize)}`,
      `${`${combined}`.padStart(20)} [100%]`,
    ];
    lines.push(`${"Total".padEnd(27)} ${totals.join("")}`);
    return lines.join("\n");
  }
}

function add(parts: readonly Readonly<Sums>[]): Sums {
  const total = { count: 0, recordSize: 0, imageSize: 0 };
  for (const part of parts) {
    total.count += part.count;
    total.recordSize += part.recordSize;
    total.imageSize += part.imageSize;
  }
  return total;
}

function percent(part: number, whole: number): string {
  return (whole === 0 ? 0 : (100 * part) / whole).toFixed(2);
}

function columns(first: string, titles: readonly string[], share: string): string {
  const cells = titles.map((title) => `${title.padStart(20)} ${share.padStart(8)}`);
  return `${first.padEnd(27)} ${cells.join(" ")}`;
}

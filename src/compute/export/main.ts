// The process that writes a branch out: ExportSpec as its argument, ExportMessages on stdout, one a line.

import { identifyBy } from "../../base/auth/service-token.ts";
import { errorKind, errorMessage } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { formatLsn, parseLsn } from "../../base/lsn.ts";
import { trustServices } from "../../base/network/service-tls.ts";
import type { ExportMessage, ExportSpec } from "../api.ts";
import { exportDirectory } from "./export-directory.ts";

const REPORT_BYTES = 4 << 20;

function tell(message: ExportMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function run(spec: ExportSpec): Promise<void> {
  const { pgAddr, tenantId, timelineId, lsn, directory } = spec;
  identifyBy(spec.tokenFile);
  const { trust } = spec;
  if (trust !== undefined) {
    trustServices(() => trust);
  }
  let told = 0;
  const { bytes, ...exported } = await exportDirectory({
    pgAddr,
    timeline: { tenantId, timelineId },
    lsn: parseLsn(lsn)!,
    directory,
    logger: createLogger("export"),
    onProgress: (doneBytes, totalBytes) => {
      if (doneBytes - told >= REPORT_BYTES) {
        told = doneBytes;
        tell({ kind: "progress", doneBytes, totalBytes });
      }
    },
  });
  tell({ kind: "done", lsn: formatLsn(exported.lsn), pgVersion: exported.pgVersion, bytes });
}

try {
  await run(JSON.parse(process.argv[2] ?? "") as ExportSpec);
} catch (error) {
  tell({ kind: "failed", errorKind: errorKind(error), message: errorMessage(error) });
  process.exitCode = 1;
}

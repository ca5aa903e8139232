// A branch written out as a data directory of stock Postgres, by a process of its own.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { ownTokenFile } from "../../base/auth/service-token.ts";
import { StorageError } from "../../base/errors.ts";
import { ownTrust } from "../../base/network/service-tls.ts";
import { programOf } from "../../base/program-files.mjs";
import type { ExportMessage, ExportSpec } from "../../compute/api.ts";

export type Exported = Extract<ExportMessage, { kind: "done" }>;

/** StorageErrors of exportDirectory; `internal` where the process is killed. Ends with this process. */
export async function exportBranch(
  spec: ExportSpec,
  onProgress: (doneBytes: number, totalBytes: number) => void,
): Promise<Exported> {
  const child = spawn(
    process.execPath,
    [
      "--disable-warning=ExperimentalWarning",
      programOf("compute/export/main.ts"),
      JSON.stringify({ ...spec, tokenFile: ownTokenFile(), trust: ownTrust() }),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const ended = new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(`${signal ?? `exit code ${code}`}`));
  });
  let last: ExportMessage | undefined;
  for await (const line of createInterface({ input: child.stdout })) {
    last = JSON.parse(line) as ExportMessage;
    if (last.kind === "progress") {
      onProgress(last.doneBytes, last.totalBytes);
    }
  }
  const how = await ended;
  if (last?.kind === "done") {
    return last;
  }
  if (last?.kind === "failed") {
    throw new StorageError(last.errorKind, "export-failed", last.message);
  }
  throw new StorageError("internal", "export-ended", `the export ended early: ${how}`);
}

// A process that has loaded all that an agent needs, and waits until it is told whose agent it is.
//
// It is somebody's child, with a channel to it, and ends with it: until it has been given a directory nothing of it may
// be left over. From then on it is an agent like any other, which outlives who started it.

import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { SpareFiles } from "../data-directory/spare-files.ts";
import { runtimeDirectory } from "../postgres/installation.ts";
import type { WarmAgentMessage, WarmAgentWork } from "./api.ts";
import { rehearse } from "./start/rehearsal.ts";

const NOTHING_MORE = 0;
/** Where agents wait: what the next first start of an endpoint takes. No endpoint's name begins so. */
const SPARES_NAME = ".spare";
/** What a branch's first start takes: of two databases that have had sessions. */
const SPARES = { files: 160, directories: 8 };
const [STDOUT, STDERR] = [1, 2];

/**
 * Resolves when this process is the agent of a directory: it works there, writes to its log, and `process.argv` is
 * what an agent's is that was started for it; with what startAgent() takes beside. Ends the process where there is nobody any more to give it one.
 */
export async function waitForWork(): Promise<{ beganMs: number; sharedSpares: string }> {
  const gone = () => process.exit(NOTHING_MORE);
  process.once("disconnect", gone);
  if (!process.connected) {
    gone();
  }
  const told = new Promise<WarmAgentWork>((resolve) => {
    process.once("message", (message) => resolve(message as WarmAgentWork));
  });
  await loadAll();
  const sharedSpares = join(runtimeDirectory(process.cwd()), SPARES_NAME);
  await tell("ready");
  // Work that comes meanwhile does not wait for it.
  const busy = new AbortController();
  rehearse()
    .then(() => SpareFiles.makeShared(sharedSpares, SPARES, busy.signal))
    .catch(() => undefined);
  const work = await told;
  busy.abort();
  const beganMs = monotonicMs();
  process.chdir(work.workdir);
  moveOutput(work.logFile);
  process.argv.splice(2, process.argv.length, "--workdir", work.workdir, ...work.args);
  process.off("disconnect", gone);
  // Before it is told, because from then on nobody else becomes the agent of this directory.
  await tell("taken");
  process.disconnect();
  return { beganMs, sharedSpares };
}

/** What the files of the agent load when they need it, which a start would have to wait for. */
async function loadAll(): Promise<void> {
  await Promise.all([
    import("./agent.ts"),
    import("./http.ts"),
    import("./pages/lease-keeper.ts"),
    import("./postgres-side.ts"),
    import("./sessions/activity.ts"),
    import("./sessions/apply-configuration.ts"),
    import("./sessions/catalog-objects.ts"),
    import("./sessions/configuration.ts"),
    import("./sessions/superuser-password.ts"),
    import("../http/authorize.ts"),
    import("../http/server.ts"),
  ]);
}

/** Of this process, whoever writes: Node's own last words too. */
function moveOutput(logFile: string): void {
  for (const descriptor of [STDOUT, STDERR]) {
    closeSync(descriptor);
    // The kernel gives the lowest number that is free (open(2)); nothing else of this process opens files now.
    if (openSync(logFile, "a", 0o600) !== descriptor) {
      throw new StorageError("internal", "log-not-moved", `cannot write to ${logFile}`);
    }
  }
}

/** Resolves when it is on its way; ends the process where whom it tells is gone. */
function tell(message: WarmAgentMessage): Promise<void> {
  return new Promise((resolve) => {
    process.send!(message, undefined, {}, (error) => {
      if (error !== null) {
        process.exit(NOTHING_MORE);
      }
      resolve();
    });
  });
}

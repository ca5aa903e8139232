// What all our long-running processes share: start, pid file, signals, one clear line when they cannot start.

import { mkdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorMessage } from "./errors.ts";
import type { Logger } from "./log.ts";

export interface DaemonOptions {
  /** The pid file is `<workdir>/<name>.pid`, written once `start` has resolved. */
  readonly name: string;
  readonly workdir: string;
  readonly logger: Logger;
  /** Resolves when it listens; returns how to stop it in an orderly way. */
  start(): Promise<() => Promise<void>>;
}

/**
 * Runs until SIGTERM or SIGINT (orderly stop, exit 0) or SIGQUIT (at once). A failed start is one
 * line `fatal: ...` on stderr and exit 1.
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const { name, workdir, logger } = options;
  const pidFile = join(workdir, `${name}.pid`);
  let stop: () => Promise<void>;
  try {
    mkdirSync(workdir, { recursive: true });
    stop = await options.start();
    writeFileSync(pidFile, `${process.pid}\n`);
  } catch (error) {
    logger.error({ error }, "start failed");
    process.stderr.write(`fatal: ${errorMessage(error)}\n`);
    process.exit(1);
  }
  let stopping = false;
  const shutDown = (signal: string) => {
    if (stopping) {
      return;
    }
    stopping = true;
    logger.info({ signal }, "stopping");
    stop().then(
      () => {
        unlinkSync(pidFile);
        process.exit(0);
      },
      (error) => {
        logger.error({ error }, "stop failed");
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", shutDown);
  process.on("SIGINT", shutDown);
  process.on("SIGQUIT", () => process.exit(3));
}

// What all our long-running processes share: start, pid file, signals, one clear line when they cannot start.

import { mkdirSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { errnoCode, errorMessage, StorageError } from "./errors.ts";
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
 * Makes this process the only one in `workdir`. The lock is a listening socket in Linux's abstract
 * namespace (unix(7)), named after the directory itself, whatever path leads to it: the kernel frees it
 * when the process dies, so no lock file is ever left over. It does not reach over hosts, nor into other
 * network namespaces. StorageError `conflict` where another process has it.
 */
export async function lockDirectory(workdir: string): Promise<void> {
  const { dev, ino } = statSync(workdir);
  const server = createServer((socket) => socket.destroy());
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ path: `\0strata-workdir-${dev}-${ino}` }, resolve);
    });
  } catch (error) {
    if (errnoCode(error) === "EADDRINUSE") {
      const message = `another process works in ${workdir}`;
      throw new StorageError("conflict", "directory-locked", message);
    }
    throw error;
  }
  server.unref();
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
    await lockDirectory(workdir);
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

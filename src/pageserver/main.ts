// The pageserver process: command line, pid file, signals.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { errorMessage, StorageError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { Pageserver } from "./pageserver.ts";

const OPTIONS = {
  id: { type: "string", default: "1" },
  workdir: { type: "string" },
  "listen-pg": { type: "string", default: "127.0.0.1:64000" },
  "listen-http": { type: "string", default: "127.0.0.1:9898" },
  broker: { type: "string", default: "http://127.0.0.1:50051" },
  "pg-version": { type: "string" },
  "pg-bin": { type: "string" },
  "checkpoint-distance": { type: "string" },
  "wait-lsn-timeout-ms": { type: "string" },
} as const;

function parseCount(text: string | undefined, name: string): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  if (!/^\d{1,15}$/.test(text)) {
    throw new StorageError(
      "invalid",
      "bad-option",
      `--${name} must be a whole number, got '${text}'`,
    );
  }
  return Number(text);
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS, strict: true });
  if (values.workdir === undefined) {
    throw new StorageError("invalid", "bad-option", "--workdir is required");
  }
  const workdir = resolve(values.workdir);
  mkdirSync(workdir, { recursive: true });
  const logger = createLogger("pageserver");
  const checkpointDistanceBytes = parseCount(values["checkpoint-distance"], "checkpoint-distance");
  const waitLsnTimeoutMs = parseCount(values["wait-lsn-timeout-ms"], "wait-lsn-timeout-ms");
  process.on("SIGQUIT", () => process.exit(1));
  const pageserver = await Pageserver.start({
    id: parseCount(values.id, "id") ?? 1,
    workdir,
    listenPg: values["listen-pg"],
    listenHttp: values["listen-http"],
    broker: values.broker,
    pgVersion: parseCount(values["pg-version"], "pg-version"),
    pgBin: values["pg-bin"],
    logger,
    prepareTemplate: true,
    ...(checkpointDistanceBytes === undefined ? {} : { storage: { checkpointDistanceBytes } }),
    ...(waitLsnTimeoutMs === undefined ? {} : { waitLsnTimeoutMs }),
  });
  const pidFile = join(workdir, "pageserver.pid");
  writeFileSync(pidFile, `${process.pid}\n`);
  logger.info(
    { pgPort: pageserver.pgPort, httpPort: pageserver.httpPort, workdir },
    "pageserver is listening",
  );
  let stopping = false;
  const stop = async (signal: string) => {
    if (stopping) {
      return;
    }
    stopping = true;
    logger.info({ signal }, "stopping");
    try {
      await pageserver.close({ flush: true });
      rmSync(pidFile, { force: true });
      process.exit(0);
    } catch (error) {
      logger.error({ error }, "stop failed");
      process.exit(1);
    }
  };
  process.on("SIGTERM", () => void stop("SIGTERM"));
  process.on("SIGINT", () => void stop("SIGINT"));
}

main().catch((error: unknown) => {
  process.stderr.write(`fatal: ${errorMessage(error)}\n`);
  process.exit(1);
});

// Command line, files, signals and listeners of the compute agent.

import { appendFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { errnoCode, errorMessage, StorageError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { parseEndpointSpec } from "./api.ts";
import { HttpListener } from "./http-listener.ts";
import { checkPortFree } from "./ports.ts";
import { Supervisor } from "./supervisor.ts";

const HTTP_HOST = "127.0.0.1";
/** So that the answer to POST /terminate leaves before we do. */
const LAST_ANSWER_MS = 50;

/** Callers of a compute that waits for storage are answered from then on. */
const LISTEN_DELAY_MS = 200;

/** Runs the agent to its end; the process's exit code. */
export async function runAgent(args: readonly string[]): Promise<number> {
  const logger = createLogger("compute");
  let http: HttpListener | undefined;
  let pidFile: string | undefined;
  try {
    const workdir = workdirOf(args);
    const spec = readSpec(workdir);
    let failure: unknown;
    const listen = () => {
      listener.listen(HTTP_HOST, spec.internalHttpPort).catch((error: unknown) => {
        failure = error;
        void supervisor.terminate("immediate");
      });
    };
    const supervisor = new Supervisor({ spec, workdir, logger, onPostgresSpawned: listen });
    const listener = new HttpListener(supervisor);
    http = listener;
    await checkPortFree(HTTP_HOST, spec.internalHttpPort);
    setTimeout(listen, LISTEN_DELAY_MS).unref();
    const file = join(workdir, "compute.pid");
    pidFile = file;
    writeFileSync(file, `${process.pid}\n`);
    supervisor.onStatus((status) => {
      // The last line is how it stands, so that whoever waits for a start need not ask us.
      appendFileSync(file, `${status}\n`);
      if (status === "running") {
        listener.serveSoon();
      }
    });
    logger.info(
      { endpoint: spec.endpointId, httpPort: spec.internalHttpPort, pgPort: spec.pgPort },
      "compute agent has started",
    );
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      let asked = false;
      process.on(signal, () => {
        void supervisor.terminate(asked ? "immediate" : "fast");
        asked = true;
      });
    }
    process.on("SIGQUIT", () => {
      void supervisor.terminate("immediate").finally(() => process.exit(1));
    });
    await supervisor.run();
    if (failure !== undefined) {
      throw failure;
    }
    await new Promise((done) => setTimeout(done, LAST_ANSWER_MS));
    return 0;
  } catch (error) {
    logger.fatal({ error }, "compute agent gives up");
    process.stderr.write(`fatal: ${errorMessage(error)}\n`);
    return 1;
  } finally {
    http?.close();
    if (pidFile !== undefined) {
      rmSync(pidFile, { force: true });
    }
  }
}

function workdirOf(args: readonly string[]): string {
  const [option, directory] = args[0]?.startsWith("--workdir=")
    ? ["--workdir", args[0].slice("--workdir=".length)]
    : args;
  if (option !== "--workdir" || directory === undefined || directory === "") {
    throw new StorageError("invalid", "usage", "usage: compute --workdir DIR");
  }
  return resolve(directory);
}

function readSpec(workdir: string) {
  const path = join(workdir, "endpoint.json");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    const missing = errnoCode(cause) === "ENOENT";
    throw new StorageError(
      missing ? "not-found" : "internal",
      "no-endpoint-spec",
      `read ${path}: ${missing ? "no such file" : errorMessage(cause)}`,
      { cause },
    );
  }
  return parseEndpointSpec(text);
}

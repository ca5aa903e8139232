// The compute agent: one endpoint's supervisor behind its HTTP listener.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TokenVerifier } from "../base/auth/service-token.ts";
import { setIdleTimer, sleep } from "../base/clock.ts";
import type { RunningDaemon } from "../base/daemon.ts";
import { errnoCode, errorMessage, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { boundLogs } from "../base/logs/log-rotation.ts";
import { forgetFrugalMalloc } from "../base/memory/malloc.ts";
import { requireFree } from "../base/network/ports.ts";
import { POSTGRES_LOG_NAME, parseEndpointSpec } from "./api.ts";
import { HttpListener } from "./http-listener.ts";
import { Supervisor } from "./supervisor.ts";

const HTTP_HOST = "127.0.0.1";
/** So that the answer to POST /terminate leaves before we do. */
const LAST_ANSWER_MS = 50;

/** Callers of a compute that waits for storage are answered from then on. */
const LISTEN_DELAY_MS = 200;

/** In a directory that no other process works in. */
export async function startAgent(options: {
  readonly workdir: string;
  readonly logger: Logger;
  /** Who changes something must show it a token; absent: everybody on this machine may. */
  readonly callers?: TokenVerifier | undefined;
  /** When this process was told whose agent it is, on the monotonic clock; 0: from its start on. */
  readonly beganMs?: number;
  /** Where files are that agents have made ahead which waited (data-directory/spare-files.ts). */
  readonly sharedSpares?: string | undefined;
}): Promise<RunningDaemon> {
  const { workdir, logger, callers, beganMs = 0, sharedSpares } = options;
  forgetFrugalMalloc();
  const spec = readSpec(workdir);
  let failure: unknown;
  const listen = () => {
    listener.listen(HTTP_HOST, spec.internalHttpPort).catch((error: unknown) => {
      failure = error;
      void supervisor.terminate("immediate");
    });
  };
  const supervisor = new Supervisor({
    ...{ spec, workdir, logger, beganMs, sharedSpares },
    onPostgresSpawned: listen,
  });
  const listener = new HttpListener(supervisor, logger, { callers });
  await requireFree(HTTP_HOST, spec.internalHttpPort, "start the agent");
  setIdleTimer(listen, LISTEN_DELAY_MS);
  boundLogs([join(workdir, POSTGRES_LOG_NAME)], logger);
  logger.info(
    { endpoint: spec.endpointId, httpPort: spec.internalHttpPort, pgPort: spec.pgPort },
    "compute agent has started",
  );
  return {
    run: async (tell) => {
      supervisor.onStatus((status) => {
        // The pid file says how it stands, so that whoever waits for a start need not ask us.
        tell(status);
        if (status === "running") {
          listener.serveSoon();
        }
      });
      await supervisor.run();
      if (failure !== undefined) {
        throw failure;
      }
      await sleep(LAST_ANSWER_MS);
    },
    stop: async (mode) => {
      await supervisor.terminate(mode);
    },
  };
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

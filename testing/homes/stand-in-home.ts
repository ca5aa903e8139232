// A home without daemons, in which endpoints are made, and started with stand-ins: what src/local does with them costs milliseconds so.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { controllerOf } from "../../src/local/controller.ts";
import { ensureCredentials } from "../../src/local/credentials.ts";
import { type Daemon, type DaemonChild, watched } from "../../src/local/daemon.ts";
import { createEndpoint, type Endpoint, type NewEndpoint } from "../../src/local/endpoints.ts";
import { StrataHome } from "../../src/local/home.ts";
import { ensureServiceKeys } from "../../src/local/service-keys.ts";
import { freeEndpointPorts } from "../free-port.ts";

export async function homeIn(t: TestContext, endpointBasePort?: number): Promise<StrataHome> {
  const directory = mkdtempSync(join(tmpdir(), "strata-endpoints-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const home = new StrataHome(join(directory, "home"));
  home.create(
    { endpointBasePort: endpointBasePort ?? (await freeEndpointPorts()) },
    {
      broker: { listenAddr: "127.0.0.1:1" },
      pageservers: [{ id: 1, listenPgAddr: "127.0.0.1:2", listenHttpAddr: "127.0.0.1:3" }],
      safekeepers: [{ id: 1, listenPgAddr: "127.0.0.1:4", listenHttpAddr: "127.0.0.1:5" }],
    },
    "must-not-exist",
  );
  return home;
}

export function createIn(
  home: StrataHome,
  id: string,
  more: Partial<NewEndpoint> = {},
): Promise<Endpoint> {
  const timeline = {
    tenantId: parseTenantId("a".repeat(32)),
    timelineId: parseTimelineId("b".repeat(32)),
  };
  const wanted = { id, ...timeline, pgVersion: 17, allowMultiple: true, ...more };
  const { tenantId, timelineId } = timeline;
  return createEndpoint(home, wanted, controllerOf(home).placementOf(tenantId, timelineId));
}

/** Processes that count as the home's pageserver and safekeeper. */
export function runStorage(t: TestContext, home: StrataHome): void {
  ensureCredentials(home);
  ensureServiceKeys(home);
  for (const [directory, pidFile] of [
    [home.pageserverDirectory(1), "pageserver.pid"],
    [home.safekeeperDirectory(1), "safekeeper.pid"],
  ] as const) {
    mkdirSync(directory, { recursive: true });
    const child = idle(t, directory);
    writeFileSync(join(directory, pidFile), `${child.pid}\n`);
  }
}

/** An agent that says at once that its Postgres runs. */
export function standInAgent(
  t: TestContext,
  { workdir, pidFile }: Pick<Daemon, "workdir" | "pidFile">,
): DaemonChild {
  const child = idle(t, workdir);
  writeFileSync(pidFile, `${child.pid}\nrunning\n`);
  return watched(child);
}

function idle(t: TestContext, workdir: string): ChildProcess {
  const child = spawn("sh", ["-c", "read -r line", "sh", "--workdir", workdir]);
  t.after(() => child.kill());
  return child;
}

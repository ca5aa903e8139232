// A whole Strata whose pageserver ends at a failpoint, however it is started.

import assert from "node:assert/strict";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import type { TestCluster } from "../cluster.ts";
import type { Failpoint } from "./hooked-process.ts";

const HOOK = join(import.meta.dirname, "file-steps.ts");
/** Of a machine that is busy: a flush comes with each megabyte of WAL. */
const DEADLINE_MS = 300_000;

/** Starts the pageserver, which counts its steps from the first one on: it may have ended when this resolves. */
export async function startArmed(cluster: TestCluster, failpoint: Failpoint): Promise<void> {
  const { NODE_OPTIONS: before = "" } = process.env;
  Object.assign(process.env, {
    NODE_OPTIONS: `${before} --import ${HOOK}`,
    STRATA_FAILPOINT: failpoint,
    STRATA_FAILPOINT_ROOT: cluster.home,
  });
  try {
    // Fails where it ends before it answers.
    await cluster.cli("pageserver", "start");
  } finally {
    process.env["NODE_OPTIONS"] = before;
    delete process.env["STRATA_FAILPOINT"];
    delete process.env["STRATA_FAILPOINT_ROOT"];
  }
}

/** Resolves when its failpoint has ended the pageserver. */
export async function untilPageserverEnded(cluster: TestCluster): Promise<void> {
  const deadline = monotonicMs() + DEADLINE_MS;
  while ((await statusOfPageserver(cluster)) === "running") {
    assert.ok(monotonicMs() < deadline, "the pageserver did not come to its failpoint");
    await sleep(100);
  }
}

async function statusOfPageserver(cluster: TestCluster): Promise<string> {
  const rows = (await cluster.json("status")) as { name: string; status: string }[];
  return rows.find(({ name }) => name.startsWith("pageserver"))!.status;
}

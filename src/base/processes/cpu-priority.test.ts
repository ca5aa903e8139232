import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { test } from "node:test";
import { mayRaisePriority } from "../../../testing/may-raise-priority.ts";

const MODULE = JSON.stringify(new URL("./cpu-priority.ts", import.meta.url).href);

/** What a process of its own tells that raises itself, from `nice`, leading a session or not, run by the command `by`. */
async function raised(
  nice: number,
  leads: boolean,
  by: readonly string[] = [],
): Promise<Record<string, unknown>> {
  const script = `
    const { raisePriority, giveOrdinaryPriority } = await import(${MODULE});
    const { getPriority, setPriority } = await import("node:os");
    const { readFileSync } = await import("node:fs");
    const { spawn } = await import("node:child_process");
    setPriority(${nice});
    const isRaised = raisePriority();
    const child = spawn("sleep", ["60"]);
    const inherited = getPriority(child.pid);
    giveOrdinaryPriority(child.pid);
    giveOrdinaryPriority(undefined);
    const told = { isRaised, again: raisePriority(), nice: getPriority(), inherited, given: getPriority(child.pid) };
    child.kill("SIGKILL");
    let group = null;
    try { group = Number(/nice (-?\\d+)/.exec(readFileSync("/proc/self/autogroup", "utf8"))[1]); } catch {}
    console.log(JSON.stringify({ ...told, group }));`;
  const [program, ...args] = [...by, process.execPath, "--input-type=module", "-e", script];
  const child = spawn(program!, args, {
    stdio: ["ignore", "pipe", "inherit"],
    detached: leads,
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  await new Promise((resolve) => child.on("close", resolve));
  return JSON.parse(output);
}

const hasGroups = existsSync("/proc/self/autogroup");

test("raisePriority: ten steps up, its session's group too, and children are as the process was", async () => {
  const nice = Math.max(getPriority(), 3);
  const told = await raised(nice, true);
  if (!mayRaisePriority() && told["isRaised"] === false) {
    assert.deepEqual([told["nice"], told["given"]], [nice, nice]);
    return;
  }
  assert.deepEqual(told, {
    isRaised: true,
    again: false,
    nice: nice - 10,
    inherited: nice - 10,
    given: nice,
    group: hasGroups ? nice - 10 : null,
  });
});

test("raisePriority: the group of somebody else's session stays as it is", async () => {
  const group = () => (hasGroups ? readFileSync("/proc/self/autogroup", "utf8") : "nice 0");
  const before = group();
  await raised(Math.max(getPriority(), 3), false);
  const now = group();
  if (now !== before) {
    // Ours, that of who runs the tests.
    writeFileSync("/proc/self/autogroup", /-?\d+$/.exec(before.trim())![0]);
  }
  assert.equal(now, before);
});

/** A command that runs another one without the right to do as it likes, but down to a nice value of 20 - `limit`. */
function limitedTo(limit: number): string[] {
  const rest = ["--inh-caps=-sys_nice", "--bounding-set=-sys_nice"];
  return ["prlimit", `--nice=${limit}:${limit}`, "setpriv", ...rest];
}

/** Why not: there are no such commands, or no right to use them; more than there is may be given by CAP_SYS_RESOURCE only. */
function cannotLimitTo(limit: number): string | false {
  const [program, ...args] = limitedTo(limit);
  const can = spawnSync(program!, [...args, "true"]).status === 0;
  return can ? false : `a limit of nice values of ${limit} cannot be set here`;
}

for (const [limit, isRaised] of [
  [27, true],
  [26, false],
  [0, false],
] as const) {
  test(`raisePriority: who has no right but an RLIMIT_NICE of ${limit} is ${isRaised ? "" : "not "}raised from 3 to -7`, {
    skip: cannotLimitTo(limit),
  }, async () => {
    const { isRaised: was, nice, inherited, given } = await raised(3, true, limitedTo(limit));
    const now = isRaised ? -7 : 3;
    assert.deepEqual([was, nice, inherited, given], [isRaised, now, now, 3]);
  });
}

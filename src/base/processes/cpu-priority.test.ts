import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { test } from "node:test";
import { mayRaisePriority } from "../../../testing/may-raise-priority.ts";

const MODULE = JSON.stringify(new URL("./cpu-priority.ts", import.meta.url).href);

/** What a process of its own tells that raises itself, `nice` steps down from us, leading a session or not. */
async function raised(nice: number, leads: boolean): Promise<Record<string, unknown>> {
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
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
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

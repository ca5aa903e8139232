import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { ProcessTable } from "./endpoint-runs.ts";

// A grandchild burns processor time and ends; its parent lives on, as a Postgres does whose session has ended.
const BURN =
  "for (const end = process.cpuUsage().user + 400_000; process.cpuUsage().user < end; );";
const PARENT = `
  const { spawnSync } = require("node:child_process");
  spawnSync(process.execPath, ["-e", ${JSON.stringify(BURN)}]);
  process.stdout.write("burnt");
  process.stdin.resume();
`;

test("ProcessTable.cpuMsOf: processor time of a process, of its children, and of those of them that have ended", async () => {
  const outer = `require("node:child_process").spawn(process.execPath, ["-e", ${JSON.stringify(PARENT)}], { stdio: "inherit" })`;
  const child = spawn(process.execPath, ["-e", outer], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    assert.equal(said.toString(), "burnt");
    const cpuMs = new ProcessTable().cpuMsOf(child.pid!);
    assert.ok(cpuMs >= 390, `${cpuMs} ms`);
    assert.ok(new ProcessTable().cpuMsOf(process.pid) >= cpuMs);
  } finally {
    child.stdin.end();
    child.kill();
    await once(child, "exit");
  }
  assert.equal(new ProcessTable().cpuMsOf(child.pid!), 0);
});

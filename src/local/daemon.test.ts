import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type Daemon, daemonState, lastWords, startDaemon, stopDaemon } from "./daemon.ts";
import { sendSignal, waitForExit } from "./processes.ts";

/** Listens on a socket of its own choice; `MODE` makes it misbehave. */
const DAEMON_SOURCE = `
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { lockDirectory } from ${JSON.stringify(join(import.meta.dirname, "..", "base", "daemon.ts"))};
const workdir = process.argv[process.argv.indexOf("--workdir") + 1];
const mode = process.argv.at(-1);
if (mode === "locked") globalThis.lock = lockDirectory(workdir);
if (mode === "fails") {
  console.error("fatal: the disk is made of cheese");
  process.exit(1);
}
process.on("SIGTERM", () => { if (mode !== "deaf") process.exit(0); });
if (mode !== "silent") writeFileSync(join(workdir, "d.pid"), String(process.pid));
setInterval(() => {}, 1000);
`;

function daemonIn(t: TestContext, mode: string, addresses: string[] = []): Daemon {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "strata-daemon-")));
  const entry = join(directory, "main.mjs");
  writeFileSync(entry, DAEMON_SOURCE);
  const daemon: Daemon = {
    name: "thing",
    workdir: directory,
    pidFile: join(directory, "d.pid"),
    logFile: join(directory, "d.log"),
    entry,
    args: [mode],
    addresses,
    otherPorts: "take another",
    probe: async () => true,
  };
  t.after(async () => {
    const state = daemonState(daemon);
    if (state.state === "running") {
      sendSignal(state.pid, "SIGKILL");
      await waitForExit(state.pid, 60_000);
    }
    rmSync(directory, { recursive: true, force: true });
  });
  return daemon;
}

function collect(): { lines: string[]; print: (line: string) => void } {
  const lines: string[] = [];
  return { lines, print: (line) => lines.push(line) };
}

test("startDaemon, stopDaemon: a whole life, each verb twice", async (t) => {
  const daemon = daemonIn(t, "good");
  const { lines, print } = collect();
  const pid = await startDaemon(daemon, { timeoutMs: 60_000, print });
  assert.deepEqual(daemonState(daemon), { state: "running", pid });
  assert.equal(await startDaemon(daemon, { timeoutMs: 60_000, print }), pid);
  await stopDaemon(daemon, "fast", print);
  assert.deepEqual(daemonState(daemon), { state: "stopped" });
  await stopDaemon(daemon, "fast", print);
  assert.deepEqual(lines, [
    `thing started and passed status check, pid: ${pid}`,
    `thing is already running, pid: ${pid}`,
    `Stopping thing with pid ${pid} gracefully..`,
    "thing stopped",
    "thing is already stopped",
  ]);
});

test("startDaemon: one that is just ending is waited for, and another one started", async (t) => {
  const daemon = daemonIn(t, "good");
  const child = spawn("sh", ["-c", "read -r line", "sh", "--workdir", daemon.workdir]);
  t.after(() => child.kill());
  writeFileSync(daemon.pidFile, `${child.pid}\n`);
  assert.deepEqual(daemonState(daemon), { state: "running", pid: child.pid });
  let mayAnswer = false;
  const probe = async () => {
    // The one before says no more, and ends.
    child.stdin.end();
    return mayAnswer;
  };
  child.once("exit", () => {
    mayAnswer = true;
  });
  const { lines, print } = collect();
  const pid = await startDaemon({ ...daemon, probe }, { timeoutMs: 60_000, print });
  assert.notEqual(pid, child.pid);
  assert.deepEqual(lines, [`thing started and passed status check, pid: ${pid}`]);
});

test("startDaemon: one that ends at once gives its own words", async (t) => {
  const daemon = daemonIn(t, "fails");
  await assert.rejects(startDaemon(daemon, { timeoutMs: 60_000, print: () => {} }), {
    kind: "unavailable",
    message: "start thing: the disk is made of cheese",
  });
});

test("startDaemon: one that never answers is ended, and its log is named", async (t) => {
  const daemon = daemonIn(t, "silent");
  await assert.rejects(startDaemon(daemon, { timeoutMs: 500, print: () => {} }), /d\.log/);
  assert.equal(daemonState(daemon).state, "stopped");
});

test("startDaemon: a taken port is named with its holder, nothing is started", async (t) => {
  const server: Server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const bound = server.address();
  assert.ok(bound !== null && typeof bound === "object");
  const address = `127.0.0.1:${bound.port}`;
  const daemon = daemonIn(t, "good", [address]);
  await assert.rejects(startDaemon(daemon, { timeoutMs: 60_000, print: () => {} }), {
    kind: "conflict",
    message: new RegExp(`${address} is already in use by pid ${process.pid} .*; take another$`),
  });
  assert.equal(existsSync(daemon.pidFile), false);
});

test("daemonState: a pid file of a dead process, and of a stranger that got its number", async (t) => {
  const daemon = daemonIn(t, "good");
  writeFileSync(daemon.pidFile, "999999999\n");
  assert.equal(daemonState(daemon).state, "crashed");
  writeFileSync(daemon.pidFile, `${process.pid}\n`);
  assert.equal(daemonState(daemon).state, "crashed");
  await stopDaemon(daemon, "fast", () => {});
  assert.equal(existsSync(daemon.pidFile), false);
});

test("daemonState, stopDaemon: without its pid file, or with a damaged one, the lock tells", async (t) => {
  const daemon = daemonIn(t, "locked");
  const pid = await startDaemon(daemon, { timeoutMs: 60_000, print: () => {} });
  for (const damage of [() => writeFileSync(daemon.pidFile, "x"), () => rmSync(daemon.pidFile)]) {
    damage();
    assert.deepEqual(daemonState(daemon), { state: "running", pid });
  }
  await stopDaemon(daemon, "fast", () => {});
  assert.deepEqual(daemonState(daemon), { state: "stopped" });
});

test("lastWords: an error line of the log where there is no fatal one", (t) => {
  const daemon = daemonIn(t, "good");
  const lines = [
    '{"level":"error","msg":"old"}',
    '{"level":"error","msg":"cannot start","error":{"message":"no disk"}}',
    '{"level":"info","msg":"stopping"}',
  ];
  writeFileSync(daemon.logFile, `${lines.join("\n")}\n`);
  assert.equal(lastWords(daemon.logFile, 0), "cannot start: no disk");
  writeFileSync(daemon.logFile, '{"level":"warn","msg":"tried again","reason":"nobody there"}\n');
  assert.equal(lastWords(daemon.logFile, 0), "tried again: nobody there");
  assert.equal(lastWords(join(daemon.workdir, "none"), 0), undefined);
});

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";

const EXPERIMENTAL = "--disable-warning=ExperimentalWarning";

interface Child {
  readonly pid: number;
  readonly ended: Promise<{ code: number | null; signal: string | null; stderr: string }>;
  kill(signal: NodeJS.Signals): void;
  /** Resolves when it has said so on stdout. */
  says(word: string): Promise<void>;
}

/** A daemon whose `start` is `body`, of `{ values, workdir, logger }`. */
function daemon(t: TestContext, args: readonly string[], body: string): Child {
  const program = `
    import { runDaemon, wholeNumber } from ${JSON.stringify(join(import.meta.dirname, "daemon.ts"))};
    setInterval(() => {}, 1000);
    await runDaemon({ name: "thing", options: { size: { type: "string" }, listen: { type: "string" } }, start: async ({ values, workdir, logger }) => {
      ${body}
    }});
    console.log("started");`;
  const child = spawn(
    process.execPath,
    [EXPERIMENTAL, "--input-type=module", "-e", program, "--", ...args],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  t.after(() => child.kill("SIGKILL"));
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk;
  });
  const ended = once(child, "close").then(([code, signal]) => ({ code, signal, stderr }));
  return {
    pid: child.pid!,
    ended,
    kill: (signal) => child.kill(signal),
    says: async (word) => {
      while (!stdout.includes(`${word}\n`)) {
        await Promise.race([
          once(child.stdout, "data"),
          ended.then((end) => assert.fail(`ended without saying ${word}: ${end.stderr}`)),
        ]);
      }
    },
  };
}

function directory(t: TestContext): { workdir: string; pidFile: string } {
  const root = mkdtempSync(join(tmpdir(), "strata daemon-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  return { workdir: root, pidFile: join(root, "thing.pid") };
}

const STOPS = 'return { stop: async (mode) => console.log("stop " + mode) };';

test("runDaemon: the second in a directory is refused by whatever path, names the first, changes nothing", async (t) => {
  const { workdir, pidFile } = directory(t);
  const link = `${workdir}.link`;
  symlinkSync(workdir, link);
  t.after(() => rmSync(link));
  const first = daemon(t, ["--workdir", workdir], STOPS);
  await first.says("started");
  for (const path of [workdir, link]) {
    const second = await daemon(t, ["--workdir", path], STOPS).ended;
    assert.equal(second.code, 1);
    const line = `fatal: another process (pid ${first.pid}) works in ${path}\n`;
    assert.ok(second.stderr.endsWith(line), second.stderr);
    assert.equal(readFileSync(pidFile, "utf8"), `${first.pid}\n`);
  }
});

test("runDaemon: an address that others can reach is refused", async (t) => {
  const { workdir } = directory(t);
  const args = ["--workdir", workdir, "--listen", "0.0.0.0:1"];
  const refused = await daemon(t, args, STOPS).ended;
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /^fatal: --listen 0\.0\.0\.0:1: others can reach it/m);
  await daemon(t, [...args, "--plaintext-network", "--auth-keys", workdir], STOPS).says("started");
});

test("runDaemon: after kill -9 the next one starts, and replaces the pid file", async (t) => {
  const { workdir, pidFile } = directory(t);
  const first = daemon(t, ["--workdir", workdir], STOPS);
  await first.says("started");
  first.kill("SIGKILL");
  await first.ended;
  assert.equal(readFileSync(pidFile, "utf8"), `${first.pid}\n`);
  const second = daemon(t, ["--workdir", workdir], STOPS);
  await second.says("started");
  assert.equal(readFileSync(pidFile, "utf8"), `${second.pid}\n`);
});

test("runDaemon: SIGTERM and SIGINT stop in order, SIGQUIT and a second SIGTERM at once", async (t) => {
  const { workdir, pidFile } = directory(t);
  for (const [signal, mode, code] of [
    ["SIGTERM", "fast", 0],
    ["SIGINT", "fast", 0],
    ["SIGQUIT", "immediate", 3],
  ] as const) {
    const child = daemon(t, ["--workdir", workdir], STOPS);
    await child.says("started");
    assert.ok(existsSync(pidFile));
    child.kill(signal);
    await child.says(`stop ${mode}`);
    assert.equal((await child.ended).code, code);
    assert.equal(existsSync(pidFile), false);
  }
  const slow = `return { stop: async (mode) => {
    console.log("stop " + mode);
    await (mode === "fast" ? new Promise(() => {}) : undefined);
  } };`;
  // The fast one ends by the other.
  const both = `const quit = Promise.withResolvers(); return { stop: async (mode) => {
    console.log("stop " + mode);
    await (mode === "fast" ? quit.promise : quit.resolve());
  } };`;
  for (const body of [slow, both]) {
    const child = daemon(t, ["--workdir", workdir], body);
    await child.says("started");
    child.kill("SIGTERM");
    await child.says("stop fast");
    child.kill("SIGTERM");
    await child.says("stop immediate");
    assert.equal((await child.ended).code, 3);
  }
});

test("runDaemon: one that ends by itself; one that cannot go on; its words in the pid file", async (t) => {
  const { workdir, pidFile } = directory(t);
  const told = `return { stop: async () => {}, run: async (tell) => {
    const goOn = new Promise((resolve) => process.once("SIGUSR2", resolve));
    tell("running");
    console.log("told");
    await goOn;
    if (values.size === "0") throw new Error("too small");
  } };`;
  const good = daemon(t, ["--workdir", workdir], told);
  await good.says("told");
  assert.equal(readFileSync(pidFile, "utf8"), `${good.pid}\nrunning\n`);
  good.kill("SIGUSR2");
  assert.equal((await good.ended).code, 0);
  const bad = daemon(t, ["--workdir", workdir, "--size", "0"], told);
  await bad.says("told");
  bad.kill("SIGUSR2");
  const { code, stderr } = await bad.ended;
  assert.equal(code, 1);
  assert.match(stderr, /fatal: too small\n$/);
  assert.equal(existsSync(pidFile), false);
});

test("runDaemon: what nobody foresaw ends it with a line, and its pid file stays", async (t) => {
  const { workdir, pidFile } = directory(t);
  for (const body of [
    `setTimeout(() => { throw new Error("a bug") }, 50); ${STOPS}`,
    `setTimeout(() => { Promise.reject(new Error("a bug")) }, 50); ${STOPS}`,
  ]) {
    const { code, stderr } = await daemon(t, ["--workdir", workdir], body).ended;
    assert.equal(code, 1);
    assert.match(stderr, /"level":"fatal".*"uncaught error"/);
    assert.match(stderr, /^fatal: a bug$/m);
    assert.ok(existsSync(pidFile));
  }
});

test("runDaemon: a wrong command line and a failed start are one line, and leave no pid file", async (t) => {
  const { workdir, pidFile } = directory(t);
  const size = `if (wholeNumber(values, "size", { least: 2 }) === 7) throw new Error("no seven"); ${STOPS}`;
  const file = join(workdir, "file");
  writeFileSync(file, "");
  for (const [args, line] of [
    [[], /^fatal: --workdir is required$/m],
    [["--workdir", workdir, "--color", "red"], /^fatal: .*'--color'/m],
    [["--workdir", workdir, "--size", "x"], /^fatal: --size must be a whole number .* got 'x'$/m],
    [["--workdir", workdir, "--size", "1"], /^fatal: --size must be .* at least 2, got '1'$/m],
    [["--workdir", workdir, "--size", "7"], /^fatal: no seven$/m],
    [["--workdir", file], /^fatal: .*EEXIST/m],
  ] as const) {
    const { code, stderr } = await daemon(t, args, size).ended;
    assert.equal(code, 1);
    assert.match(stderr, line);
    assert.equal(existsSync(pidFile), false);
  }
});

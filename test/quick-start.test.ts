// README's commands as they stand there: the blocks of "Start" and the transcript of "Step by step".

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import {
  type Block,
  fencedBlocks,
  matchesShown,
  shellCommands,
  transcript,
} from "../testing/docs/readme-blocks.ts";

const ROOT = join(import.meta.dirname, "..");
const BLOCKS = fencedBlocks(readFileSync(join(ROOT, "README.md"), "utf8"));
const URL_PRINTED = /Postgres is ready: +(postgresql:\/\/\S+)/;
const START_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 120_000;

/** A home of its own for commands that run in this checkout, as a reader's do. */
class Reader implements AsyncDisposable {
  readonly #directory = mkdtempSync(join(tmpdir(), "strata-readme-"));
  readonly #environment: NodeJS.ProcessEnv;

  constructor() {
    // The unprivileged user that Postgres runs as must be able to enter.
    chmodSync(this.#directory, 0o755);
    this.#environment = { ...process.env, STRATA_HOME: join(this.#directory, ".strata") };
  }

  /** Runs a line of the page; what it printed. */
  run(command: string): Promise<string> {
    const options = {
      cwd: ROOT,
      env: this.#environment,
      timeout: COMMAND_TIMEOUT_MS,
      shell: "/bin/bash",
    };
    return new Promise((resolve, reject) => {
      execFile(command, options, (error, stdout, stderr) => {
        if (error === null) {
          resolve(stdout);
        } else {
          reject(new Error(`${command}: ${error.message}\n${stdout}\n${stderr}`));
        }
      });
    });
  }

  /** Runs a line that stays, as in another terminal. */
  start(command: string): { child: ChildProcess; output(): string } {
    const child = spawn("/bin/bash", ["-c", `exec ${command}`], {
      cwd: ROOT,
      env: this.#environment,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    return { child, output: () => output };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run("npx strata stop --mode immediate").catch(() => undefined);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function blockWith(text: string, language: string): Block {
  const found = BLOCKS.filter(
    (block) => block.language === language && block.lines.some((line) => line.includes(text)),
  );
  assert.equal(found.length, 1, `README has ${found.length} ${language} blocks with "${text}"`);
  return found[0]!;
}

test("README: the blocks of Start run as they stand", async () => {
  const [clone, start, ...others] = shellCommands(blockWith("npm start", "sh"));
  assert.match(clone!, /^git clone \S+ strata && cd strata$/);
  assert.equal(start, "npm start");
  assert.deepEqual(others, []);

  await using reader = new Reader();
  const { child, output } = reader.start(start);
  try {
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (!URL_PRINTED.test(output())) {
      assert.ok(performance.now() < deadline && child.exitCode === null, `no URL:\n${output()}`);
      await sleep(100);
    }
    let printed = "";
    for (const command of shellCommands(blockWith("branch create", "sh"))) {
      printed += await reader.run(command);
    }
    const counts = [...printed.matchAll(/ count *\n-+\n +(\d+)\n/g)].map(([, count]) => count);
    assert.deepEqual(
      counts,
      ["10", "1000000"],
      "the branch has lost rows, main has all of its own",
    );
  } finally {
    child.kill("SIGTERM");
  }
  const [code] = child.exitCode === null ? await once(child, "exit") : [child.exitCode];
  assert.equal(code, 0, output());
  // The URL does not wait for what only the way through the proxy needs.
  const order = ["Postgres is ready", "Creating role", "Through the proxy"];
  const at = order.map((text) => output().indexOf(text));
  assert.ok(
    at[0]! >= 0 && at.every((place, i) => place > (at[i - 1] ?? -1)),
    `in this order: ${order.join(", ")}\n${output()}`,
  );
});

test("README: the transcript of Step by step is what the commands print", async () => {
  await using reader = new Reader();
  for (const { command, output } of transcript(blockWith("strata init", "console"))) {
    const printed = (await reader.run(command)).split("\n").filter((line) => line.trim() !== "");
    const unmatched = [...printed];
    for (const shown of output) {
      const at = unmatched.findIndex((line) => matchesShown(shown, line));
      assert.ok(at >= 0, `README shows "${shown}" for: ${command}\n${printed.join("\n")}`);
      unmatched.splice(at, 1);
    }
    assert.deepEqual(
      output.length === 0 ? [] : unmatched,
      [],
      `README does not show all of: ${command}`,
    );
  }
});

// The last start in an agent's log: behind much else, cut, or made up.

import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readLastStart } from "./last-start.ts";

const METRICS = {
  process_ms: 1,
  sync_safekeepers_ms: 2.5,
  basebackup_ms: 0,
  data_directory_ms: 3,
  start_postgres_ms: 40,
  total_startup_ms: 50,
};
const AT = "2026-11-29T14:30:29.409Z";
const line = (fields: object) =>
  `${JSON.stringify({ level: "info", time: AT, ...METRICS, msg: "compute is running", ...fields })}\n`;

class LogWorld implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "strata-log-"));
  readonly path = join(this.directory, "compute.log");

  write(...texts: string[]): void {
    appendFileSync(this.path, texts.join(""));
  }

  async total(): Promise<number | undefined> {
    return (await readLastStart(this.path))?.metrics.total_startup_ms;
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true });
  }
}

test("readLastStart: the newest, however much was written since; none where there is none", async () => {
  using world = new LogWorld();
  assert.equal(await readLastStart(world.path), undefined);
  world.write(line({ total_startup_ms: 1 }), "é".repeat(100_000), "\n", line({}));
  assert.deepEqual(await readLastStart(world.path), { at: AT, metrics: METRICS });
  // Ends of pieces lie within lines, and within letters.
  world.write(line({ total_startup_ms: 70 }), `{"msg":"é"}\n`.repeat(100_000));
  assert.equal(await world.total(), 70);
  world.write("x".repeat(1 << 20), "\n");
  assert.equal(await world.total(), 70);
  world.write(`${"y".repeat(1023)}\n`.repeat(16 * 1024));
  assert.equal(await world.total(), undefined);
});

test("readLastStart: what has no end yet, or is not as agents write it, is no start", async () => {
  using world = new LogWorld();
  for (const wrong of [
    line({ msg: "not: compute is running" }),
    line({ process_ms: "1" }),
    line({ start_postgres_ms: -1 }),
    line({ basebackup_ms: undefined }),
    line({ time: "yesterday" }),
    "compute is running\n",
    `[${line({}).trimEnd()}]\n`,
  ]) {
    writeFileSync(world.path, wrong);
    assert.equal(await world.total(), undefined, wrong);
  }
  const whole = line({});
  writeFileSync(world.path, `${line({ total_startup_ms: 7 })}${whole.trimEnd()}`);
  assert.equal(await world.total(), 7);
  world.write("\n");
  assert.equal(await world.total(), 50);
});

// kill -9 while a child process writes and flushes: what it reported as flushed must be there.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { FIXTURE_START_LSN, StorageFixture } from "../../../testing/storage-fixture.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { relSizePrefix } from "../layers/key.ts";
import { TenantManager } from "./tenant-manager.ts";

const SIZE = relSizePrefix(1663, 5, 16384, 0);
const KEYS = 50;

/** Record number n writes its number at key n % KEYS. */
function recordValue(record: number): Uint8Array {
  const value = Buffer.alloc(100 + (record % 900), record & 0xff);
  value.writeUInt32LE(record);
  return value;
}

async function child(workdir: string, tenant: string, timelineId: string): Promise<void> {
  const manager = await TenantManager.open({
    workdir,
    logger: createLogger("test", "silent"),
    config: { checkpointDistanceBytes: 100_000 },
  });
  const timeline = manager.timeline(parseTenantId(tenant), parseTimelineId(timelineId));
  for (let record = (timeline.lastRecordLsn - FIXTURE_START_LSN) / 8 + 1; ; record++) {
    const lsn = toLsn(FIXTURE_START_LSN + record * 8);
    timeline.putImage(SIZE, record % KEYS, lsn, recordValue(record));
    timeline.advance(lsn, toLsn(lsn - 8));
    if (record % 40 === 0) {
      process.stdout.write(`${timeline.diskConsistentLsn}\n`);
      await timeline.ingestReady();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

async function runAndKill(args: string[], afterMs: number): Promise<number> {
  const process_ = spawn(process.execPath, [import.meta.filename, "child", ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  process_.stdout.setEncoding("utf8").on("data", (text: string) => {
    if (output === "") {
      setTimeout(() => process_.kill("SIGKILL"), afterMs);
    }
    output += text;
  });
  await once(process_, "close");
  return Number(output.slice(0, output.lastIndexOf("\n")).split("\n").at(-1));
}

if (process.argv[2] === "child") {
  const [workdir, tenant, timeline] = process.argv.slice(3);
  await child(workdir!, tenant!, timeline!);
} else {
  test("a killed pageserver keeps every version at or below the flushed LSN", async () => {
    await using fixture = await StorageFixture.create();
    const { timelineId } = await fixture.createRoot();
    const random = new SeededRandom(1);
    for (let round = 0; round < 5; round++) {
      await fixture.close();
      const args = [fixture.directory, fixture.tenantId, timelineId];
      const reported = await runAndKill(args, random.int(60));
      await fixture.open();
      const timeline = fixture.manager.timeline(fixture.tenantId, timelineId);
      assert.ok(timeline.diskConsistentLsn >= reported);
      const records = (timeline.diskConsistentLsn - FIXTURE_START_LSN) / 8;
      if (records > 0) {
        assert.equal(timeline.prevRecordLsn, timeline.lastRecordLsn - 8);
      }
      for (let i = 0; i < 300 && records > 0; i++) {
        const record = 1 + random.int(records);
        const lsn = toLsn(FIXTURE_START_LSN + record * 8);
        const value = timeline.readValue(SIZE, record % KEYS, lsn);
        assert.deepEqual(Buffer.from(value!), recordValue(record));
      }
    }
  });
}

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { toLsn } from "../../base/lsn.ts";
import { type NewestLsn, StorageController } from "../../storage-controller/storage-controller.ts";
import type { StrataHome } from "../home.ts";
import { resolvePoint } from "./point-in-time.ts";

const BRANCH = {
  tenantId: parseTenantId("11".repeat(16)),
  timelineId: parseTimelineId("22".repeat(16)),
  name: "main",
};

/** What `--at WANTED` means where the controller tells this of the branch, one after the other, the last one again and again. */
async function resolved(t: TestContext, wanted: string, ...told: readonly number[][]) {
  const answers = told.map(([lsn, flushLsn, insideLsn]) => ({
    lsn: toLsn(lsn!),
    flushLsn: toLsn(flushLsn!),
    insideLsn: toLsn(insideLsn!),
  }));
  const asked = t.mock.method(
    StorageController.prototype,
    "newestLsn",
    async (): Promise<NewestLsn> => (answers.length > 1 ? answers.shift()! : answers[0]!),
  );
  try {
    return await resolvePoint({} as StrataHome, BRANCH, wanted, () => {});
  } finally {
    asked.mock.restore();
  }
}

test("resolvePoint: an LSN inside a record waits until all before it is committed", async (t) => {
  assert.equal(await resolved(t, "0/100", [0x100, 0x300, 0x2000]), 0x100);
  assert.equal(await resolved(t, "0/2000", [0x300, 0x300, 0x2000]), 0x300);
  assert.equal(await resolved(t, "0/2000", [0x100, 0x300, 0x2000], [0x300, 0x300, 0x2000]), 0x300);
  // The record became whole meanwhile.
  assert.equal(
    await resolved(t, "0/2000", [0x100, 0x300, 0x2000], [0x2100, 0x2100, 0x2100]),
    0x2000,
  );
});

test("resolvePoint: what is not there, or is not committed in time, is in the future", async (t) => {
  const refusal = { code: "lsn-in-future", message: /LSN 0\/2008 is in the future.* is 0\/100$/ };
  await assert.rejects(resolved(t, "0/2008", [0x100, 0x300, 0x2000]), refusal);
  await assert.rejects(resolved(t, "0/2008", [0x100, 0x300, 0x4000]), refusal);
});

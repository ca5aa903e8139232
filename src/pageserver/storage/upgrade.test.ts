// A home that a former version left, as it lies in testing/homes: read, written and read again.

import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { toLsn } from "../../base/lsn.ts";
import { encodeChecksummedJson } from "../../base/text/checksummed-json.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { INDEX_PART_NAME } from "./index-part.ts";
import type { Timeline } from "./timeline.ts";

const HOMES = join(import.meta.dirname, "../../../testing/homes");
const REL = relBlockPrefix(1663, 5, 16384, 0);
const TENANT = parseTenantId("27683c8590ab999f708ca0a7e6498b12");
const ROOT = parseTimelineId("5a8d5a5e125e1371d3792c70c5e846a6");
const BRANCH = parseTimelineId("b".repeat(32));
const PAGE = new Uint8Array(8192).fill(7);
const START = toLsn(0x1_0000_1000);

function fillOf(timeline: Timeline, index: number, lsn = timeline.lastRecordLsn): number {
  const page = timeline.readPage(REL, index, lsn)!;
  assert.ok(page.every((byte) => byte === page[0]));
  return page[0]!;
}

test("storage of version 1 (index without makers and caps, layers named -v1-): read and written", async () => {
  await using fixture = await StorageFixture.create();
  await fixture.close();
  cpSync(join(HOMES, "storage-1"), fixture.directory, { recursive: true });
  await fixture.open();
  for (let life = 0; life < 2; life++) {
    const root = fixture.manager.timeline(TENANT, ROOT);
    const branch = fixture.manager.timeline(TENANT, BRANCH);
    assert.equal(root.minReadableLsn, START);
    assert.equal(fillOf(root, 0, START), 1);
    assert.deepEqual([fillOf(root, 0), fillOf(root, 1)], [4, 2 + 10 * life]);
    assert.deepEqual([fillOf(branch, 0), fillOf(branch, 1)], [3, 2]);
    putRecord(root, REL, 1, new Uint8Array(8192).fill(2 + 10 * (life + 1)));
    await root.checkpoint();
    await fixture.reopen();
  }
  const names = readdirSync(join(fixture.directory, "tenants", TENANT, "timelines", ROOT));
  assert.equal(names.length, 1 + 3 + 2, names.join("\n"));
});

test("storage of a later version: its timeline is refused, named, and left as it is; others are served", async () => {
  await using fixture = await StorageFixture.create();
  const [root, other] = [await fixture.createRoot(), await fixture.createRoot()];
  await fixture.close();
  const path = join(fixture.timelinesDirectory, root.timelineId, INDEX_PART_NAME);
  const { checksum, ...index } = JSON.parse(readFileSync(path, "utf8"));
  assert.match(checksum, /^[0-9a-f]{8}$/);
  const later = encodeChecksummedJson({ ...index, format_version: 99 });
  writeFileSync(path, later);
  await fixture.open();
  assert.throws(() => fixture.manager.timeline(fixture.tenantId, root.timelineId), {
    kind: "corrupt",
    message: /index_part\.json: format_version: /,
  });
  putRecord(fixture.manager.timeline(fixture.tenantId, other.timelineId), REL, 0, PAGE);
  assert.equal(readFileSync(path, "utf8"), later);
});

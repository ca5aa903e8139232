// A pageserver's process is killed, or finds its disk full, at steps of what it does to its files; `npm run test:failpoints` goes to each.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { OPERATIONS } from "../../testing/failpoints/operations.ts";
import { PageHome } from "../../testing/failpoints/page-home.ts";
import { type Failure, sweep } from "../../testing/failpoints/sweep.ts";
import { WalSource } from "../../testing/failpoints/wal-source.ts";

const PICKED: readonly { name: string; failure: Failure; of: string; at: number }[] = [
  // The layer is there, and no index names it.
  {
    name: "WAL is taken in and flushed",
    failure: "kill",
    of: "create disk/.*/index_part",
    at: 1,
  },
  // A layer has its name, and that cannot be made durable.
  { name: "layers are compacted", failure: "full", of: "fsync disk/.*/timelines/\\w+$", at: 1 },
  // Its branches are detached, and its files half gone.
  {
    name: "a root is deleted, which detaches its branches",
    failure: "kill",
    of: "unlink disk/.*/timelines/",
    at: 1,
  },
];

let directory: string;
let source: WalSource;
let base: PageHome;
before(async () => {
  directory = mkdtempSync(join(tmpdir(), "strata-failpoints-"));
  source = await WalSource.start();
  base = await PageHome.build(join(directory, "base"), source);
});
after(async () => {
  await source?.close();
  rmSync(directory, { recursive: true, force: true });
});

for (const { name, failure, of, at } of PICKED) {
  test(`failpoints: ${name}, ${failure} at step ${at} of ${of}`, async () => {
    const operation = OPERATIONS.find((one) => one.name === name);
    assert.ok(operation !== undefined);
    const { tries } = await sweep(base, operation, failure, { first: at, most: 1, of });
    assert.equal(tries, 1, "it is over before that step");
  });
}

// A pageserver's process is killed, or finds its disk full, at steps of what it does to its files and to a store on S3; `npm run test:failpoints` goes to each.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Failure } from "../../testing/failpoints/hooked-process.ts";
import { OPERATIONS } from "../../testing/failpoints/operations.ts";
import { PageHome } from "../../testing/failpoints/page-home.ts";
import { StoreRequests } from "../../testing/failpoints/store-requests.ts";
import { sweep } from "../../testing/failpoints/sweep.ts";
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
  // No lease is promised before an index holds it: the next process is not asked for it again.
  {
    name: "an LSN is leased, and then below the cutoff",
    failure: "kill",
    of: "create disk/.*/timelines/b1.*index_part",
    at: 1,
  },
  // The layer is in the store, and no index of there names it; the index is there, and nobody knows.
  { name: "WAL is taken in and flushed", failure: "before", of: "PUT .*index_part", at: 1 },
  { name: "WAL is taken in and flushed", failure: "after", of: "PUT .*index_part", at: 1 },
  { name: "layers are compacted", failure: "refused", of: "PUT", at: 2 },
  { name: "history is collected, and its layers are deleted", failure: "after", of: "POST", at: 1 },
  { name: "a branch is made", failure: "refused", of: "PUT", at: 1 },
  { name: "a tenant is deleted", failure: "after", of: "PUT .*deleted-tenants", at: 1 },
  {
    name: "another machine takes over, and the former one goes on",
    failure: "before",
    of: "PUT .*index_part",
    at: 1,
  },
];

let directory: string;
let source: WalSource;
let requests: StoreRequests;
let onDisk: PageHome;
let onS3: PageHome;
before(async () => {
  directory = mkdtempSync(join(tmpdir(), "strata-failpoints-"));
  source = await WalSource.start();
  onDisk = await PageHome.build(join(directory, "directory", "base"), source);
  requests = await StoreRequests.start();
  onS3 = await PageHome.build(join(directory, "s3", "base"), source, requests);
});
after(async () => {
  await source?.close();
  await requests?.close();
  rmSync(directory, { recursive: true, force: true });
});

for (const { name, failure, of, at } of PICKED) {
  test(`failpoints: ${name}, ${failure} at step ${at} of ${of}`, async () => {
    const operation = OPERATIONS.find((one) => one.name === name);
    assert.ok(operation !== undefined);
    const base = failure === "kill" || failure === "full" ? onDisk : onS3;
    const { tries } = await sweep(base, operation, failure, { first: at, most: 1, of });
    assert.equal(tries, 1, "it is over before that step");
  });
}

// Running daemons bound their logs, and an agent its Postgres's: both go on writing, and what is read goes on from what was put away.

import assert from "node:assert/strict";
import { appendFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";

const MANY_BYTES = 33 * 1024 * 1024;
const AT = "2026-11-29 14:30:29.409 UTC [7]";

test("logs: what has grown too long is put away while its daemon runs, and is read on in", async () => {
  await using cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main");
  await cluster.ok("endpoint", "start", "main");
  const line = `${AT} LOG:  ${"x".repeat(1000)}\n`;
  const logs = ["endpoints/main/postgres.log", "endpoints/main/compute.log"].concat(
    "pageserver_1/pageserver.log",
  );
  for (const name of logs) {
    const path = join(cluster.home, name);
    appendFileSync(path, line.repeat(Math.ceil(MANY_BYTES / line.length)));
    appendFileSync(path, `${AT} LOG:  the last before\n`);
  }
  for (const name of logs) {
    const path = join(cluster.home, name);
    await eventually(`${name} begins anew`, () => statSync(path).size < 1024 * 1024);
    assert.ok(statSync(`${path}.1`).size > MANY_BYTES, name);
    assert.equal(statSync(`${path}.1`).mode & 0o077, 0, "others may read it");
  }
  // Its writer goes on where the file begins now.
  await cluster.query("main", "do $$ begin raise log 'the first behind'; end $$");
  const text = cluster.log("endpoints/main/postgres.log");
  assert.match(text, /^\d.*LOG: {2}the first behind$/m);
  assert.doesNotMatch(text, /\0/);
  const shown = await cluster.ok("endpoint", "logs", "main", "--postgres", "--lines", "1000");
  assert.match(shown, /the last before\n[\s\S]*the first behind/);
});

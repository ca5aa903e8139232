// A COPY of more than 1 GB: over the 1 GB segment boundary, through WAL, safekeeper and pageserver and back.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
});
after(() => cluster?.[Symbol.asyncDispose]());

const ROWS = 1_100_000;
const DIGEST = `select count(*)::int as n, sum(i)::text as s, sum(hashtext(p))::text as h,
  pg_relation_size('big')::text as bytes from big`;

test("a COPY of 1.2 GB is there, byte for byte, on a compute that starts afresh", {
  timeout: 900_000,
}, async () => {
  await cluster.query("main", "create table big(i int, p text)");
  // A thousand bytes a row that do not repeat from row to row; 'program' keeps the client out of it.
  await cluster.query(
    "main",
    "alter table big alter column p set storage plain",
    `copy big from program 'awk "BEGIN{p=sprintf(\\"%980s\\", \\"\\"); gsub(/ /, \\"q\\", p); for(i=1;i<=${ROWS};i++) printf \\"%d\\\\t%010d%s\\\\n\\", i, i*7, p}"'`,
  );
  const [before] = await cluster.query("main", DIGEST);
  assert.equal(before!["n"], ROWS);
  assert.ok(Number(before!["bytes"]) > 1.1 * 1024 ** 3, `only ${before!["bytes"]} bytes`);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  const [fresh] = await cluster.query("main", DIGEST);
  const content = ({ n, s, h }: Record<string, unknown>) => ({ n, s, h });
  assert.deepEqual(content(fresh!), content(before!));
  // Bulk extension leaves empty blocks at the end that no WAL speaks of: a few may be gone.
  assert.ok(Math.abs(Number(fresh!["bytes"]) - Number(before!["bytes"])) < 100 * 8192);
  // Rows on both sides of the segment boundary.
  const rows = await cluster.query(
    "main",
    "select count(*)::int as n from big where ctid >= '(131060,0)' and ctid < '(131090,0)'",
  );
  assert.ok((rows[0]!["n"] as number) > 100);
});

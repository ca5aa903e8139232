import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { EACH_MAJOR } from "../each-major.ts";
import { StockCluster } from "../stock-cluster.ts";

for (const pgMajor of [EACH_MAJOR[0]!, EACH_MAJOR.at(-1)!]) {
  test(`stock clusters of PostgreSQL ${pgMajor} with one initdb are systems of their own`, async () => {
    const before = process.env["STRATA_TEST_TEMPLATES"];
    const run = mkdtempSync(join(tmpdir(), "strata-stock-templates-"));
    process.env["STRATA_TEST_TEMPLATES"] = run;
    const clusters: StockCluster[] = [];
    try {
      const systems = new Set<string>();
      for (let n = 0; n < 2; n++) {
        const cluster = await StockCluster.create({ pgMajor });
        clusters.push(cluster);
        await cluster.start();
        const client = await cluster.connect();
        const { rows } = await client.query<{ id: string }>(
          "select system_identifier::text as id from pg_control_system()",
        );
        systems.add(rows[0]!.id);
      }
      assert.equal(systems.size, 2);
      assert.equal(readdirSync(run).length, 1);
    } finally {
      for (const cluster of clusters) {
        await cluster.destroy();
      }
      delete process.env["STRATA_TEST_TEMPLATES"];
      Object.assign(process.env, before === undefined ? {} : { STRATA_TEST_TEMPLATES: before });
      rmSync(run, { recursive: true });
    }
  });
}

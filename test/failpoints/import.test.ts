// A pageserver that is killed in the middle of an import: nothing is left of it, its tenant neither.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { startArmed, untilPageserverEnded } from "../../testing/failpoints/armed-cluster.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";

test("tenant import, and the pageserver is killed in it: the next start leaves nothing, and it can be imported again", async () => {
  const stock = await StockCluster.create();
  try {
    await using cluster = await TestCluster.create();
    const tenants = () => {
      const { listenHttpAddr } = cluster.config().pageservers[0]!;
      return new PageserverHttpClient(listenHttpAddr).listTenants();
    };
    const before = await tenants();
    await cluster.ok("pageserver", "stop");
    // The tenant is there, and the first of its layers is written.
    await startArmed(cluster, "kill 1 rename pageserver_1/tenants/.*___temp/");
    const { code, stderr } = await cluster.cli("tenant", "import", "--from", stock.dataDir);
    assert.equal(code, 1, stderr);
    await untilPageserverEnded(cluster);
    await cluster.ok("pageserver", "start");
    // As each command that makes or removes a branch, and each start of all, does.
    await cluster.ok("branch", "create", "dev");
    assert.deepEqual(
      (await tenants()).map(({ id }) => id),
      before.map(({ id }) => id),
    );
    const directory = join(cluster.home, "pageserver_1", "tenants");
    assert.deepEqual(
      readdirSync(directory),
      before.map(({ id }) => id),
    );
    await cluster.ok("tenant", "import", "--from", stock.dataDir);
    assert.equal((await tenants()).length, before.length + 1);
    await cluster.ok("branch", "create", "again");
    assert.equal((await tenants()).length, before.length + 1);
  } finally {
    await stock.destroy();
  }
});

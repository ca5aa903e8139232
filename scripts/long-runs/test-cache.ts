// `npm run test:cache`: hours of an endpoint whose data directory may hold a sixteenth of its data.
//
// `npm run test:cache -- [--hours H] [--seed N] [--cache 64MB] [--data 1GB]`. Each round prints one line; the last ones say what
// was checked. History is collected all the time, and the pageserver compacts.

import { parseArgs } from "node:util";
import { CacheSoak } from "../../testing/cache/cache-soak.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { initializeTpcb, withClient } from "../../testing/tpcb.ts";

/** Of pgbench's scale, with both indexes. */
const BRANCH_BYTES = 16e6;

function bytesOf(text: string): number {
  const [, count, unit] = /^(\d+)(MB|GB)$/.exec(text) ?? [];
  return Number(count) * (unit === "GB" ? 2 ** 30 : 2 ** 20);
}

const { values } = parseArgs({
  options: {
    hours: { type: "string", default: "1" },
    seed: { type: "string", default: "1" },
    cache: { type: "string", default: "64MB" },
    data: { type: "string", default: "1GB" },
  },
});
const [hours, seed] = [Number(values.hours), Number(values.seed)];
const [limitBytes, dataBytes] = [bytesOf(values.cache), bytesOf(values.data)];
if (!(hours > 0) || !Number.isSafeInteger(seed) || !(limitBytes > 0) || !(dataBytes > limitBytes)) {
  console.error("usage: npm run test:cache -- [--hours H] [--seed N] [--cache 64MB] [--data 1GB]");
  process.exit(1);
}

const cluster = await TestCluster.create({
  pageserverOptions: { "compaction-period-ms": "1000", "checkpoint-distance": `${32 << 20}` },
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => void cluster[Symbol.asyncDispose]().finally(() => process.exit(1)));
}
try {
  const history = ["--pitr-interval", "0s", "--gc-horizon", `${1 << 20}`, "--gc-period", "10s"];
  await cluster.ok("tenant", "config", ...history, "--compaction-period", "1s");
  const settings = ["shared_buffers=16MB", "autovacuum_naptime=5s"];
  const options = settings.flatMap((one) => ["-c", one]);
  await cluster.ok(
    ...["endpoint", "create", "main", "--branch-name", "main", "--local-cache", values.cache],
    ...options,
  );
  await cluster.ok("endpoint", "start", "main");
  const scale = Math.max(1, Math.round(dataBytes / BRANCH_BYTES));
  await initializeTpcb(cluster.url(), scale);
  await withClient(cluster.url(), async (client) => {
    await client.query("create index accounts_by_balance on pgbench_accounts (abalance)");
    const { rows } = await client.query(
      "select pg_size_pretty(pg_database_size('postgres')) as size",
    );
    console.log(`${scale} branches, ${rows[0].size}, with a cache of ${values.cache}`);
  });
  const soak = new CacheSoak({ cluster, seed, limitBytes, scale });
  await soak.begin();
  const end = performance.now() + hours * 3_600_000;
  while (performance.now() < end) {
    await soak.round();
  }
  await soak.end();
  console.log(`cache soak of ${hours} h, seed ${seed}: ${soak.rounds} rounds, ok`);
} finally {
  await cluster[Symbol.asyncDispose]();
}

// A compute agent for one test: starts Postgres under the shim, prints its pid, and waits to be killed.

import { sleep } from "../../src/base/clock.ts";
import { findInstallation } from "../../src/postgres/installation.ts";
import { StockPages } from "../redo/stock-pages.ts";
import { ShimmedPostgres } from "./shimmed-postgres.ts";

const [workdir, dataDirectory, stockDirectory] = process.argv.slice(2);
let holding = false;
const postgres = await ShimmedPostgres.start({
  installation: findInstallation(),
  workdir: workdir!,
  dataDirectory: dataDirectory!,
  pages: new StockPages(stockDirectory!),
  wal: {
    walWritten: () => undefined,
    flushWal: () => (holding ? new Promise(() => undefined) : Promise.resolve()),
  },
  detached: true,
});
const clients = await Promise.all(Array.from({ length: 3 }, () => postgres.connect()));
holding = true;
for (const [i, client] of clients.entries()) {
  // Never answered: these backends wait inside the shim when this process ends.
  client.query(`INSERT INTO history (account, delta) VALUES (${i + 1}, 1)`).catch(() => undefined);
}
await sleep(100);
process.stdout.write(`${postgres.process.pid}\n`);
await sleep(600_000);

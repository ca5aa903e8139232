// Draws docs/pictures/console-*.png: the console's main pages, in the light and in the dark, on a home of its own with branches and rows.
//
// `npm run console:screenshots`. Needs a browser (testing/console/browser.ts).

import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Browser, findChromium } from "../testing/console/browser.ts";
import { ConsoleWorld } from "../testing/console/console-world.ts";

const PICTURES = join(import.meta.dirname, "..", "docs", "pictures");
/** Between commits, so that lines have a length. */
const PAUSE_MS = 4000;
const QUERY = `select id, customer, total, placed_at, shipped
from orders
order by total desc
limit 1000;`;
const ORDERS = `create table orders (id int primary key, customer text, total numeric(9, 2), placed_at timestamptz, shipped bool);
insert into orders select n, 'customer ' || n % 97, (n * 7919 % 100000) / 100.0, now() - n * interval '3 min', n % 5 > 0 from generate_series(1, 20000) n;`;

const chromium = findChromium();
if (chromium === undefined) {
  throw new Error("no browser: apt-get install chromium, or $CHROMIUM names one");
}
await using world = await ConsoleWorld.create("shop");
await fill();
for (const colorScheme of ["light", "dark"] as const) {
  await using browser = await Browser.launch(chromium, { width: 1280, height: 720, colorScheme });
  await photograph(browser, colorScheme);
}

async function fill(): Promise<void> {
  await world.sql(ORDERS);
  for (const [name, parent] of [
    ["staging", "main"],
    ["migration_check", "staging"],
    ["dev_anna", "main"],
    ["before_release", "main"],
  ] as const) {
    await sleep(PAUSE_MS);
    const { branches } = await world.world.api("GET", `/projects/${world.projectId}/branches`);
    const of = branches.find((one: { name: string }) => one.name === parent);
    const { branch } = await world.world.api("POST", `/projects/${world.projectId}/branches`, {
      branch: { name, parent_id: of.id },
      ...(name === "staging" ? { endpoints: [{ type: "read_write" }] } : {}),
    });
    if (name === "staging") {
      await world.sql("update orders set shipped = true where id < 5000", { branch_id: branch.id });
    }
    await world.sql("delete from orders where id % 1000 = 1");
  }
}

async function photograph({ page }: Browser, scheme: "light" | "dark"): Promise<void> {
  await page.goto(await world.link());
  await page.getByRole("link", { name: /shop/ }).click();
  await page.locator(".tree-names li").nth(4).waitFor();
  if (scheme === "light") {
    await page.screenshot({ path: join(PICTURES, "console-branches-light.png") });
    return;
  }
  await page.getByRole("link", { name: "SQL", exact: true }).click();
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(QUERY);
  // Not before it knows roles and databases.
  await page.locator("button:enabled", { hasText: /^Run/ }).waitFor();
  await page.keyboard.press("Control+Enter");
  await page.getByText("SELECT 1000").waitFor();
  await page.screenshot({ path: join(PICTURES, "console-sql-dark.png") });
}

// Draws docs/pictures/console-*.png: the console's main pages, in the light or in the dark, on a home of its own with branches, rows and work.
//
// `npm run console:screenshots`, or `-- tables monitoring` for some; `-- --all DIRECTORY` photographs each page at both sizes, in the light and in the dark, to look through. Needs a browser (testing/console/browser.ts).

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { Page } from "playwright-core";
import { errorMessage } from "../src/base/errors.ts";
import { Browser, type BrowserOptions, findChromium } from "../testing/console/browser.ts";
import { ConsoleWorld } from "../testing/console/console-world.ts";
import { SIZES } from "../testing/console/visit.ts";

const PICTURES = join(import.meta.dirname, "..", "docs", "pictures");
/** Between commits, so that lines have a length. */
const PAUSE_MS = 4000;
/** Of work, before it is looked at: charts have something to show. */
const WORK_MS = 40_000;
const STEP_TIMEOUT_MS = 30_000;
const QUERY = `select id, customer, total, placed_at, shipped
from orders
order by total desc
limit 1000;`;
const JOIN = `select c.name, sum(o.total)
from orders o join customers c on c.name = o.customer
where not o.shipped
group by c.name
order by 2 desc
limit 20;`;
const ORDERS = `create table customers (name text primary key, city text not null default 'Lisbon');
insert into customers select 'customer ' || n from generate_series(0, 96) n;
create table orders (id int primary key, customer text not null references customers, total numeric(9, 2), placed_at timestamptz, shipped bool);
insert into orders select n, 'customer ' || n % 97, (n * 7919 % 100000) / 100.0, now() - n * interval '3 min', n % 5 > 0 from generate_series(1, 20000) n;
create index on orders (placed_at);
analyze orders, customers;`;
/** For the log. */
const MISTAKES = [
  "select shiped from orders",
  "insert into orders (id, customer) values (2, 'customer 1')",
  "insert into orders (id, customer) values (0, 'nobody')",
  "do $$ begin raise warning 'orders of yesterday are not there yet'; end $$",
];

/** A desk's screen, in the light or in the dark; a phone's. */
const VARIANTS = {
  light: { scheme: "light", isPhone: false },
  dark: { scheme: "dark", isPhone: false },
  phone: { scheme: "light", isPhone: true },
  "phone-dark": { scheme: "dark", isPhone: true },
} as const;
type Variant = keyof typeof VARIANTS;

interface Picture {
  readonly name: string;
  /** Those that are in the documentation. */
  readonly variants: readonly Variant[];
  /** In pixels; of a desk's screen. */
  readonly height?: number;
  /** From the project's first page until all is there that is to be seen. */
  readonly show: (page: Page) => Promise<unknown>;
}

const PICTURES_OF: readonly Picture[] = [
  {
    // While the work is not long ago.
    name: "monitoring",
    variants: ["dark"],
    show: async (page) => {
      await open(page, "Monitoring");
      await page
        .locator("figure", { hasText: "Transactions" })
        .getByText(/committed \d/)
        .waitFor();
    },
  },
  { name: "branches", variants: ["light", "dark", "phone"], height: 480, show: showBranches },
  {
    name: "projects",
    variants: ["light"],
    height: 480,
    show: async (page) => {
      await page.getByRole("link", { name: "Strata" }).click();
      await page.getByText(/recoverable until/).waitFor();
    },
  },
  {
    name: "new-branch",
    variants: ["light"],
    show: async (page) => {
      await showBranches(page);
      const box = (await page.locator(".tree rect.hit").first().boundingBox())!;
      await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
      await page.getByRole("dialog").getByLabel("Name").fill("before_the_import");
    },
  },
  {
    name: "sql",
    variants: ["dark", "phone"],
    show: (page) => runSql(page, QUERY, "SELECT 1000"),
  },
  {
    name: "plan",
    variants: ["light"],
    show: async (page) => {
      await typeSql(page, JOIN);
      await page.locator("button:enabled", { hasText: "Explain analyze" }).click();
      await page.locator(".plan-step").first().waitFor();
    },
  },
  {
    name: "tables",
    variants: ["light"],
    show: async (page) => {
      await open(page, "Tables");
      await page.getByRole("link", { name: "orders", exact: true }).click();
      await page.getByText("rows 1 to 100").waitFor();
      await page.locator("#cell-2-1").click();
    },
  },
  {
    name: "storage",
    variants: ["light", "phone-dark"],
    height: 1000,
    show: async (page) => {
      await open(page, "Storage");
      await page.locator("main svg").first().waitFor();
      await page.locator("main table tbody tr").first().waitFor();
      await page.getByText("Its deletion would free", { exact: true }).waitFor();
    },
  },
  {
    name: "endpoints",
    variants: ["light"],
    height: 480,
    show: async (page) => {
      await open(page, "Endpoints");
      await page.locator("main tbody tr").nth(1).waitFor();
    },
  },
  {
    name: "endpoint",
    variants: ["dark"],
    height: 800,
    show: async (page) => {
      await open(page, "Endpoints");
      await page.locator("main tbody a").first().click();
      await page.locator(".start-bar").waitFor();
      await page.locator(".logs label", { hasText: "Postgres" }).click();
      await page.getByLabel("Show").selectOption("warnings and errors");
      await page.locator(".log-view li").nth(2).waitFor();
    },
  },
  {
    name: "roles",
    variants: ["light"],
    height: 480,
    show: async (page) => {
      await open(page, "Roles and databases");
      await page.getByText("reporting", { exact: true }).waitFor();
    },
  },
  {
    name: "operations",
    variants: ["dark"],
    height: 560,
    show: async (page) => {
      await open(page, "Operations");
      await page.locator("main tbody tr").nth(4).waitFor();
    },
  },
  {
    name: "connect",
    variants: ["light"],
    show: async (page) => {
      await showBranches(page);
      await page.getByRole("button", { name: "Connect" }).click();
      await page.getByRole("tab", { name: "Node" }).click();
      await page.getByText(/postgresql:\/\/neondb_owner:/).waitFor();
    },
  },
  {
    name: "settings",
    variants: ["light"],
    show: async (page) => {
      await open(page, "Project settings");
      await page.getByLabel("Hours of history").waitFor();
    },
  },
];

const chromium = findChromium();
if (chromium === undefined) {
  throw new Error("no browser: apt-get install chromium, or $CHROMIUM names one");
}
const { positionals: wanted, values } = parseArgs({
  options: { all: { type: "string" } },
  allowPositionals: true,
});
const folder = values.all ?? PICTURES;
mkdirSync(folder, { recursive: true });
await using world = await ConsoleWorld.create("shop");
await fill();
await work();
for (const picture of PICTURES_OF) {
  const all = Object.keys(VARIANTS) as Variant[];
  for (const variant of values.all === undefined ? picture.variants : all) {
    if (wanted.length === 0 || wanted.some((word) => `${picture.name}-${variant}`.includes(word))) {
      await photograph(picture, variant).catch((error) => {
        process.stderr.write(`${picture.name}-${variant}: ${errorMessage(error)}\n`);
        process.exitCode = 1;
      });
    }
  }
}

async function fill(): Promise<void> {
  const { project } = await world.world.createProject("playground");
  await world.world.api("DELETE", `/projects/${project.id}`);
  await sqlOk(ORDERS);
  const base = `/projects/${world.projectId}/branches`;
  await world.make(`/branches/${world.branchId}/roles`, { role: { name: "reporting" } });
  for (const [name, parent] of [
    ["staging", "main"],
    ["migration_check", "staging"],
    ["dev_anna", "main"],
    ["before_release", "main"],
  ] as const) {
    await sleep(PAUSE_MS);
    const { branches } = await world.world.api("GET", base);
    const of = branches.find((one: { name: string }) => one.name === parent);
    const { branch } = await world.world.api("POST", base, {
      branch: { name, parent_id: of.id },
      ...(name === "staging" ? { endpoints: [{ type: "read_write" }] } : {}),
    });
    if (name === "staging") {
      await world.world.settled(world.projectId);
      await sqlOk("update orders set shipped = true where id < 5000", branch.id);
    }
    await sqlOk("delete from orders where id % 1000 = 1");
    await world.checkpoint();
  }
}

/** Sessions that come and go, while the branch is watched: what was seen is kept for who looks later. */
async function work(): Promise<void> {
  const watching = new AbortController();
  const { address, key } = world.world;
  const { body } = await fetch(
    `http://${address}/console/projects/${world.projectId}/branches/${world.branchId}/monitoring`,
    { headers: { authorization: `Bearer ${key}` }, signal: watching.signal },
  );
  // Whoever does not read is taken for gone.
  const read = body!.pipeTo(new WritableStream()).catch(() => {});
  for (const mistake of MISTAKES) {
    await world.sql(mistake);
  }
  const end = performance.now() + WORK_MS;
  const worker = async (n: number) => {
    for (let i = 0; performance.now() < end; i++) {
      const id = (i * 137 + n * 7000) % 20_000;
      await sqlOk(
        `update orders set total = total + 1 where id between ${id} and ${id + 400};
        select pg_sleep(0.2), count(*) from orders where shipped`,
      );
      await sleep(n * 300);
    }
  };
  await Promise.all([1, 2, 3].map(worker));
  watching.abort();
  await read;
}

async function sqlOk(query: string, branchId = world.branchId): Promise<void> {
  const lines = await world.sql(query, { branch_id: branchId });
  const error = lines.find(({ t }) => t === "error");
  if (error !== undefined) {
    throw new Error(`${query}: ${error.message}`);
  }
}

async function photograph({ name, height = 720, show }: Picture, variant: Variant): Promise<void> {
  const { scheme, isPhone } = VARIANTS[variant];
  const size = isPhone ? SIZES.phone : { ...SIZES.desk, height };
  const options: BrowserOptions = { ...size, colorScheme: scheme, goesFirst: true };
  await using browser = await Browser.launch(chromium!, options);
  const { page } = browser;
  page.setDefaultTimeout(STEP_TIMEOUT_MS);
  await browser.open(await world.link());
  await page.getByRole("link", { name: /shop/ }).click();
  await show(page);
  // What is drawn on a canvas comes a frame later.
  await sleep(500);
  const file = `console-${name}-${variant}.png`;
  await page.screenshot({ path: join(folder, file) });
  process.stdout.write(`${file}\n`);
}

async function open(page: Page, title: string): Promise<void> {
  await page.getByRole("link", { name: title, exact: true }).click();
}

async function showBranches(page: Page): Promise<void> {
  await page.locator(".tree-names li").nth(4).waitFor();
  // When each last committed is not known at once.
  await page.locator(".tree-facts time").nth(4).waitFor({ state: "attached" });
}

async function typeSql(page: Page, text: string): Promise<void> {
  await open(page, "SQL");
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await page.keyboard.insertText(text);
}

async function runSql(page: Page, text: string, tag: string): Promise<void> {
  await typeSql(page, text);
  // Not before it knows roles and databases.
  await page.locator("button:enabled", { hasText: /^Run/ }).waitFor();
  await page.keyboard.press("Control+Enter");
  await page.getByText(tag).waitFor();
}

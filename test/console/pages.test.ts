import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Locator, Page } from "playwright-core";
import type { ConsoleStart } from "../../src/control-plane/api.ts";
import { StrataHome } from "../../src/local/home.ts";
import { withHomeLocked } from "../../src/local/lock.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { ConsoleWorld, type SqlLine } from "../../testing/console/console-world.ts";
import {
  assertFits,
  forgive,
  goTo,
  inBothSizes,
  runSql,
  typeSql,
} from "../../testing/console/visit.ts";
import { eventually } from "../../testing/eventually.ts";

// What pages of a project offer beside the long way through them: a branch's menu, what the editor knows, an endpoint's start, roles, keys, connecting. And what goes on while nobody looks at it.

let world: ConsoleWorld;
let endpointId: string;

before(async () => {
  world = await ConsoleWorld.create();
  const { endpoints } = await world.world.api("GET", `/projects/${world.projectId}/endpoints`);
  endpointId = endpoints[0].id;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const rowsOf = (lines: SqlLine[]) =>
  lines.filter(({ t }) => t === "rows").flatMap(({ rows }) => rows);

async function lastStart(id = endpointId): Promise<{ status: number; body: ConsoleStart }> {
  const { address, key } = world.world;
  const url = `http://${address}/console/projects/${world.projectId}/endpoints/${id}/last_start`;
  const response = await fetch(url, { headers: { authorization: `Bearer ${key}` } });
  return { status: response.status, body: (await response.json()) as ConsoleStart };
}

test("last start: how long its parts took, of an endpoint that sleeps too, as long as its log tells", async () => {
  const { last } = (await lastStart()).body;
  const { metrics } = last!;
  assert.ok(metrics.start_postgres_ms > 0);
  assert.ok(metrics.total_startup_ms > metrics.start_postgres_ms);
  assert.ok(Math.abs(Date.now() - Date.parse(last!.at!)) < 600_000);
  const log = join(world.world.cluster.home, "endpoints", endpointId, "compute.log");
  truncateSync(log);
  // Its agent knows, but not when that was.
  assert.deepEqual((await lastStart()).body, { last: { at: null, metrics } });
  const act = (verb: string) =>
    world.world.api("POST", `/projects/${world.projectId}/endpoints/${endpointId}/${verb}`);
  await act("suspend");
  assert.deepEqual((await lastStart()).body, { last: null });
  await act("start");
  const second = (await lastStart()).body;
  assert.ok(Date.parse(second.last!.at!) > Date.parse(last!.at!));
  await act("suspend");
  assert.deepEqual((await lastStart()).body, second);
  await act("start");
  assert.equal((await lastStart("ep-no-such-one")).status, 404);
});

/** From the menu of a branch, in the tree. */
async function choose(page: Page, branch: string, title: string): Promise<void> {
  await menuOf(page, branch).click();
  await page.getByRole("menuitem", { name: title, exact: true }).click();
}

function menuOf(page: Page, branch: string): Locator {
  return page.getByRole("button", { name: `Actions of ${branch}`, exact: true });
}

inBothSizes(
  "a branch is made while nobody waits, renamed, protected, let expire, made the default, reset, deleted with what depends on it",
  () => world,
  async ({ browser, page, dialog, size }) => {
    const [first, name, child] = [`first_${size}`, `renamed_${size}`, `child_${size}`];
    const answer = (title: string) => dialog.getByRole("button", { name: title, exact: true });
    const done = () => dialog.waitFor({ state: "detached" });
    const link = (text: string) => page.getByRole("link", { name: text, exact: true });
    await page.getByRole("link", { name: /shop/ }).click();
    await page.getByRole("button", { name: "New branch" }).click();
    await dialog.getByLabel("Name").fill(first);
    const underWay = page.getByRole("list", { name: "Under way" }).getByRole("listitem");
    const operation = (status: string) =>
      page
        .getByRole("row")
        .filter({ hasText: first })
        .filter({ hasText: "create branch" })
        .filter({ hasText: status });
    // As long as somebody else has the home locked.
    await withHomeLocked(new StrataHome(world.world.cluster.home), async () => {
      await answer("Create branch").click();
      await answer("Leave it running").click();
      await done();
      // It is found again, on every page.
      await goTo(page, "Roles and databases");
      await underWay.getByText(first).first().waitFor();
      await assertFits(browser, "what is under way");
      await assertAccessible(browser, "what is under way");
      await underWay.getByRole("link").first().click();
      await operation("running").waitFor();
    });
    await operation("finished").waitFor();
    await underWay.first().waitFor({ state: "detached" });
    await goTo(page, "Branches");
    await link(first).waitFor();

    await choose(page, first, "Rename…");
    await dialog.getByLabel("Name").fill(name);
    await answer("Rename").click();
    await link(name).waitFor();
    await done();
    await choose(page, name, "Protect…");
    await answer("Do it").click();
    await done();
    await menuOf(page, name).click();
    const remove = page.getByRole("menuitem", { name: "Delete…" });
    await page.getByRole("menuitem", { name: "Unprotect", exact: true }).waitFor();
    assert.equal(await remove.getAttribute("aria-disabled"), "true");
    assert.equal(await remove.getAttribute("title"), "it is protected");
    await page.getByRole("menuitem", { name: "Unprotect", exact: true }).click();
    await answer("Do it").click();
    await done();

    await choose(page, name, "Let it expire…");
    await dialog.getByLabel(/It is deleted/).selectOption("a day");
    await answer("Save").click();
    await done();
    await choose(page, name, "Let it expire…");
    await dialog.getByText(/It ends at 20\d\d-/).waitFor();
    await dialog.getByLabel(/It is deleted/).selectOption("never");
    await answer("Save").click();
    await done();
    const { branches } = await world.world.api("GET", `/projects/${world.projectId}/branches`);
    const made = branches.find((one: SqlLine) => one.name === name);
    assert.deepEqual([made.protected, made.expires_at], [false, undefined]);

    const of = { branch_id: made.id };
    await world.sql("create table only_here (n int)", of);
    await choose(page, name, "Reset from parent…");
    await dialog.getByText(/It becomes what main is now/).waitFor();
    await answer("Reset").click();
    await done();
    const found = await world.sql("select count(*) from pg_class where relname = 'only_here'", of);
    assert.deepEqual(rowsOf(found), [["0"]]);

    await world.make("/branches", { branch: { name: child, parent_id: made.id } });
    await choose(page, child, "Make it the default…");
    await answer("Do it").click();
    await done();
    await menuOf(page, child).click();
    assert.equal(await remove.getAttribute("title"), "it is the default branch");
    await page.keyboard.press("Escape");
    await choose(page, "main", "Make it the default…");
    await answer("Do it").click();
    await done();

    await choose(page, name, "Delete…");
    await dialog.getByText(/^ep-/).waitFor();
    await dialog.getByRole("listitem").getByText(child, { exact: true }).waitFor();
    assert.ok(await answer("Delete for good").isDisabled(), "without its name");
    await assertAccessible(browser, "the dialog to delete");
    await dialog.getByLabel(/Its name, to confirm/).fill(name);
    await answer("Delete for good").click();
    await link(name).waitFor({ state: "detached" });
    await link(child).waitFor();
  },
);

inBothSizes(
  "completion, history; a query that is left, found again, cancelled; a result too",
  () => world,
  async ({ browser, page, size }) => {
    const table = `invoices_${size}`;
    await world.sql(`create table ${table} (invoice_number int, customer text)`);
    await page.getByRole("link", { name: /shop/ }).click();
    await goTo(page, "SQL");
    await runSql(browser, "select 'kept' as found");
    const kept = page.locator("#cell-0-0").getByText("kept", { exact: true });
    await kept.waitFor();
    await goTo(page, "Operations");
    await goTo(page, "SQL");
    await kept.waitFor();

    const editor = page.locator(".cm-content");
    const offered = page.locator(".cm-tooltip-autocomplete");
    const complete = async (typed: string, whole: string, patience: { timeout?: number } = {}) => {
      await page.keyboard.type(typed);
      await offered.getByText(whole, { exact: true }).first().waitFor(patience);
      // An Enter right after it has come is a new line: nobody can have seen it.
      await page.waitForTimeout(200);
      await page.keyboard.press("Enter");
      await editor.getByText(whole).first().waitFor();
    };
    // Names are read once something has been run, and nothing tells that they are there.
    await eventually("the table is offered", async () => {
      await typeSql(browser, "");
      await complete(`select * from ${table.slice(0, -2)}`, table, { timeout: 2000 });
      return true;
    });
    await complete(` where ${table}.inv`, "invoice_number");
    const written = `select * from ${table} where ${table}.invoice_number`;
    assert.equal(await editor.textContent(), written);

    await page.getByRole("combobox", { name: "History" }).selectOption("select 'kept' as found");
    await page.locator(".cm-content", { hasText: "select 'kept' as found" }).waitFor();

    const query = `select pg_sleep(600) as ${table}`;
    await runSql(browser, query);
    await goTo(page, "Endpoints");
    const underWay = page.getByRole("list", { name: "Under way" });
    await underWay.getByRole("link", { name: /SQL on main/ }).click();
    await page.getByText("Running…").first().waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("cancelled").waitFor();
    await underWay.getByRole("listitem").waitFor({ state: "detached" });
    await eventually("what was cancelled has ended", async () => {
      const running = await world.sql(
        `select 1 from pg_stat_activity where query like '%as ${table}' and state = 'active' and pid <> pg_backend_pid()`,
      );
      return rowsOf(running).length === 0;
    });
  },
);

inBothSizes(
  "an endpoint's last start, its settings, restart; roles and databases, also while the project is busy",
  () => world,
  async ({ browser, page, dialog, size }) => {
    const [role, database] = [`reporting_${size}`, `reports_${size}`];
    await page.getByRole("link", { name: /shop/ }).click();
    await goTo(page, "Endpoints");
    await goTo(page, endpointId);
    for (const part of ["Agent", "Election", "State", "Data directory", "Postgres", "All"]) {
      const header = page.getByRole("rowheader", { name: part, exact: true });
      const ofPart = page.getByRole("row").filter({ has: header });
      await ofPart.getByText(/^[\d.]+ m?s$/).waitFor();
    }
    await page.locator(".start-bar .start_postgres_ms").waitFor();
    await assertAccessible(browser, "an endpoint");
    await assertFits(browser, "an endpoint");
    await goTo(page, "Endpoints");
    const row = page.getByRole("row").filter({ hasText: endpointId });
    await row.getByRole("button", { name: /^Actions of/ }).click();
    await page.getByRole("menuitem", { name: "Settings…" }).click();
    await dialog.getByLabel("Falls asleep after").selectOption("1 hour");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "detached" });
    const path = `/projects/${world.projectId}/endpoints/${endpointId}`;
    const { endpoint } = await world.world.api("GET", path);
    assert.equal(endpoint.suspend_timeout_seconds, 3600);
    const begun = (await lastStart()).body.last!.at;
    // It is at work for as long as that takes to be seen.
    const seen = Promise.withResolvers<void>();
    await page.route("**/restart", async (route) => {
      await seen.promise;
      await route.fallback();
    });
    await row.getByRole("button", { name: /^Actions of/ }).click();
    await page.getByRole("menuitem", { name: "Restart" }).click();
    await row.getByText("working…").waitFor();
    seen.resolve();
    await row.getByText("awake").waitFor();
    assert.notEqual((await lastStart()).body.last!.at, begun);

    // Refused twice, as while the project does something else: nobody has to try again.
    await goTo(page, "Roles and databases");
    let asked = 0;
    await page.route("**/roles", async (route) => {
      if (route.request().method() === "POST" && asked++ < 2) {
        const busy = { code: "OPERATION_IN_PROGRESS", message: "another operation goes on" };
        await route.fulfill({ status: 423, json: busy });
      } else {
        await route.fallback();
      }
    });
    await page.getByRole("button", { name: "New role" }).click();
    await dialog.getByLabel("Name").fill(role);
    await dialog.getByRole("button", { name: "Create" }).click();
    await dialog.getByRole("heading", { name: `Password of ${role}`, exact: true }).waitFor();
    assert.equal(asked, 3);
    forgive(browser, /status of 423 /);
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.getByRole("button", { name: "New database" }).click();
    await dialog.getByLabel("Name").fill(database);
    await dialog.getByLabel("Owner").selectOption(role);
    await dialog.getByRole("button", { name: "Create" }).click();
    await page.getByText(database, { exact: true }).waitFor();
    const found = await world.sql("select session_user, current_database()", { role, database });
    assert.deepEqual(rowsOf(found), [[role, database]]);
    await page.getByRole("button", { name: `Actions of database ${database}` }).click();
    await page.getByRole("menuitem", { name: "Delete…" }).click();
    await dialog.getByRole("button", { name: "Delete" }).click();
    await page.getByText(database, { exact: true }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: `Actions of role ${role}` }).click();
    await page.getByRole("menuitem", { name: "New password…" }).click();
    await dialog.getByRole("button", { name: "Make a new one" }).click();
    await dialog.getByRole("heading", { name: `Password of ${role}`, exact: true }).waitFor();
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.getByRole("button", { name: `Actions of role ${role}` }).click();
    await page.getByRole("menuitem", { name: "Delete…" }).click();
    await dialog.getByRole("button", { name: "Delete" }).click();
    await page.getByText(role, { exact: true }).waitFor({ state: "detached" });
  },
);

inBothSizes(
  "how each program connects, pooled or not; API keys; colours",
  () => world,
  async ({ browser, page, dialog, size }) => {
    await page.getByRole("link", { name: /shop/ }).click();
    await page.getByRole("button", { name: "Connect" }).click();
    const text = dialog.locator("pre");
    const { listenHttpAddr } = world.world.cluster.config().proxy;
    const httpPort = new RegExp(`http://\\$\\{host\\}:${listenHttpAddr.split(":").at(-1)}/sql`);
    const host = new RegExp(`^postgresql://neondb_owner:[^@]+@${endpointId}\\.`);
    await text.filter({ hasText: host }).waitFor();
    for (const [title, shown] of [
      ["psql", /^psql 'postgresql:/],
      [".env", /^DATABASE_URL="postgresql:/],
      ["Node", /from "postgres"/],
      ["Drizzle", /drizzle-orm/],
      ["Prisma", /provider = "postgresql"/],
      ["Python", /import psycopg/],
      ["Java", /jdbc:postgresql:\/\//],
      ["Serverless", httpPort],
    ] as const) {
      await dialog.getByRole("tab", { name: title, exact: true }).click();
      await text.filter({ hasText: shown }).waitFor();
      await assertFits(browser, title);
    }
    await dialog.getByRole("tab", { name: "URI", exact: true }).click();
    await dialog.getByLabel("Through the pooler").check();
    await text.filter({ hasText: `@${endpointId}-pooler.` }).waitFor();
    await dialog.getByRole("button", { name: "Close" }).click();

    await page.getByRole("link", { name: "Settings", exact: true }).click();
    await page.getByRole("button", { name: "New key" }).click();
    await dialog.getByLabel("Name").fill(`ci ${size}`);
    await dialog.getByLabel(/^For/).selectOption("reading only");
    await dialog.getByRole("button", { name: "Create" }).click();
    await dialog.getByText("It is shown this once.").waitFor();
    const key = (await text.textContent())!;
    const asked = () => world.world.request("GET", "/api/v2/projects", { key });
    assert.equal((await asked()).status, 200);
    await dialog.getByRole("button", { name: "Close" }).click();
    const line = page.getByRole("listitem").filter({ hasText: `ci ${size}` });
    await line.getByText("reading only").waitFor();
    await assertAccessible(browser, "settings");
    await assertFits(browser, "settings");
    await line.getByRole("button", { name: "Revoke" }).click();
    await dialog.getByRole("button", { name: "Revoke" }).click();
    await line.waitFor({ state: "detached" });
    assert.equal((await asked()).status, 401);

    const ground = () =>
      page.evaluate("getComputedStyle(document.documentElement).backgroundColor");
    const grounds: unknown[] = [];
    for (const from of ["system", "light", "dark"]) {
      await page.getByRole("button", { name: `Colours: ${from}` }).click();
      grounds.push(await ground());
    }
    // Light, dark, and as the system has it.
    assert.notEqual(grounds[0], grounds[1]);
    assert.equal(grounds[2], size === "desk" ? grounds[0] : grounds[1]);
  },
);

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Page } from "playwright-core";
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

// The console's own routes, and the console in a real browser where one is installed.

const HOSTILE = {
  role: `<img src=x onerror="alert(1)">'`,
  table: `"><script>alert(1)</script>`,
  column: "ת\u202Eabc<b>",
};

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create();
  await world.make(`/branches/${world.branchId}/roles`, { role: { name: HOSTILE.role } });
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const kinds = (lines: SqlLine[]) => lines.map(({ t }) => t);
const rowsOf = (lines: SqlLine[]) =>
  lines.filter(({ t }) => t === "rows").flatMap((line) => line.rows);

test("sql: several statements, each with its columns, rows and tag; errors with their place", async () => {
  const lines = await world.sql(
    "create table a (n int); insert into a values (1), (null); select n, 'x' as t from a",
  );
  assert.deepEqual(kinds(lines), ["done", "done", "columns", "rows", "done", "end"]);
  assert.deepEqual(
    lines.filter(({ t }) => t === "done").map(({ tag }) => tag),
    ["CREATE TABLE", "INSERT 0 2", "SELECT 2"],
  );
  assert.deepEqual(lines[2].columns, [
    { name: "n", type: 23 },
    { name: "t", type: 25 },
  ]);
  assert.deepEqual(rowsOf(lines), [
    ["1", "x"],
    [null, "x"],
  ]);
  const [error] = await world.sql("select 1 + nosuch");
  assert.equal(error.t, "error");
  assert.equal(error.code, "42703");
  assert.equal(error.position, "12");
  const copied = await world.sql("copy a to stdout");
  assert.deepEqual(rowsOf(copied), [["1\n"], ["\\N\n"]]);
  const refused = await world.sql("copy a from stdin");
  assert.match(refused[0].message, /COPY FROM STDIN cannot be used here/);
});

test("sql: long values are cut, too many rows cancelled, and said so", async () => {
  const lines = await world.sql("select repeat('x', 10 * 1024 * 1024)");
  const [[cell]] = rowsOf(lines);
  assert.equal(cell.bytes, 10 * 1024 * 1024);
  assert.equal(cell.text.length, 64 * 1024);
  const many = await world.sql("select generate_series(1, 1000000000)", { max_rows: 10 });
  assert.equal(rowsOf(many).length, 10);
  assert.ok(many.some(({ t, why }) => t === "cut" && why === "rows"));
  assert.equal(many.find(({ t }) => t === "error").code, "57014");
});

test("sql: whoever goes away has cancelled what runs", async () => {
  const controller = new AbortController();
  const response = await world.runSql(
    "select 1; select pg_sleep(600) as a_long_one",
    {},
    controller.signal,
  );
  await response.body!.getReader().read();
  const running = async () =>
    rowsOf(
      await world.sql(
        "select 1 from pg_stat_activity where query like '%a_long_one%' and state = 'active' and pid <> pg_backend_pid()",
      ),
    ).length;
  await eventually("it runs", async () => (await running()) === 1);
  controller.abort();
  for (let i = 0; (await running()) > 0; i++) {
    // A client that only stops reading is noticed at the next sign of life, within 10 s.
    assert.ok(i < 400, "it still runs");
    await sleep(100);
  }
});

test("sql: only with a role that users made, with what that role may", async () => {
  for (const [options, status] of [
    [{ role: "cloud_admin" }, 404],
    [{ role: "pg_read_all_data" }, 404],
    [{ role: "nosuch" }, 404],
    [{ branch_id: "br-no-such-branch-1" }, 404],
    [{ query: "select '\0'" }, 400],
    [{ at: "yesterday" }, 400],
  ] as const) {
    const response = await world.runSql("select 1", options);
    assert.equal(response.status, status, `${JSON.stringify(options)} ${await response.text()}`);
  }
  const [denied] = await world.sql("copy a to program 'id'");
  assert.equal(denied.code, "42501");
  const [nowhere] = await world.sql("select 1", { database: "nosuch" });
  assert.equal(nowhere.severity, "FATAL");
});

test("tree and changes: what there is, and that something changed", async () => {
  const { address, key } = world.world;
  const headers = { authorization: `Bearer ${key}` };
  const controller = new AbortController();
  const stream = await fetch(`http://${address}/console/changes`, {
    headers,
    signal: controller.signal,
  });
  const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader();
  assert.match(`${(await reader.read()).value}`, /^: hello/);
  await world.world.api("POST", `/projects/${world.projectId}/branches`, {
    branch: { name: "seen" },
  });
  let told = "";
  while (!told.includes(world.projectId)) {
    const { value, done } = await reader.read();
    assert.ok(!done);
    told += value;
  }
  controller.abort();
  const path = `/console/projects/${world.projectId}/tree`;
  const tree = (await (await fetch(`http://${address}${path}`, { headers })).json()) as SqlLine;
  const seen = tree.branches.find((one: SqlLine) => one.branch.name === "seen");
  assert.equal(seen.branch.parent_id, world.branchId);
  assert.equal(seen.begin_lsn, seen.branch.parent_lsn);
  assert.ok(Date.parse(seen.begin_time) <= Date.parse(tree.now));
  const main = tree.branches.find((one: SqlLine) => one.branch.default);
  assert.equal(main.endpoints[0].current_state, "active");
  assert.ok(main.layers_bytes > 0);
});

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

inBothSizes(
  "log in, branch from a point, SQL, errors, cancel, as of, delete, log out",
  () => world,
  async ({ browser, page, dialog, size }) => {
    const name = `from_the_tree_${size}`;
    const table = quoted(`${HOSTILE.table} ${size}`);
    assert.ok(!page.url().includes("token"), page.url());
    await assertAccessible(browser, "projects");
    await page.getByRole("link", { name: /shop/ }).click();

    // A point of the line, in its first half: some time ago.
    const line = page.locator(`rect[data-branch="${world.branchId}"]`);
    const label = page.getByText(/^(branch )?(20\d\d-|as it is now)/);
    // The picture may be drawn anew under a mouse that stands still.
    await eventually("the moment under the mouse", async () => {
      const { x, y, height } = (await line.boundingBox())!;
      await page.mouse.move(0, 0);
      await page.mouse.move(x + 30, y + height / 2);
      return label.isVisible();
    });
    const box = (await line.boundingBox())!;
    await page.mouse.move(box.x + box.width - 4, box.y + box.height / 2);
    await page.mouse.down();
    await page.mouse.up();
    await dialog.getByLabel("Name").fill(name);
    await dialog.getByLabel(/With an endpoint/).uncheck();
    await assertAccessible(browser, "new branch");
    await dialog.getByRole("button", { name: "Create branch" }).click();
    await page.getByRole("link", { name, exact: true }).waitFor();
    await dialog.waitFor({ state: "detached" });
    await assertAccessible(browser, "branches");
    await assertFits(browser, "branches");

    await goTo(page, "SQL");
    await page.locator(".cm-content").waitFor();
    const before = Date.now();
    // What is asked for as of then must lie between two commits.
    await sleep(1500);
    await runSql(
      browser,
      `create table ${table} ("${HOSTILE.column}" text); insert into ${table} values ('<svg onload=alert(1)>'); table ${table}`,
    );
    await page.getByRole("tab", { name: /3 SELECT/ }).click();
    const cell = page.getByRole("gridcell");
    assert.equal(await cell.textContent(), "<svg onload=alert(1)>");
    assert.match((await page.getByRole("columnheader").textContent())!, /abc<b>/);
    await assertAccessible(browser, "sql");

    await runSql(browser, "select 1,\n  nosuch");
    await page.getByText('column "nosuch" does not exist').waitFor();
    assert.equal(await page.locator(".cm-error-place").textContent(), "nosuch");

    await runSql(browser, "select pg_sleep(600)");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("cancelled").waitFor();

    await runSql(browser, "select generate_series(1, 100000) as n");
    await page.getByText("SELECT 100000").waitFor();
    await page.getByRole("grid").focus();
    await page.keyboard.press("Control+End");
    await page.getByRole("gridcell", { name: "100000", exact: true }).waitFor();
    assert.ok((await page.getByRole("row").count()) < 100, "all rows are in the page");

    const tables = `select count(*) as tables from pg_class where relname like '%<script>%${size}'`;
    await typeSql(browser, tables);
    await page.getByRole("button", { name: "Explain", exact: true }).click();
    await page.locator(".plan-step").first().waitFor();
    await assertFits(browser, "a plan");

    await runSql(browser, tables);
    await page.locator("#cell-0-0", { hasText: /^1$/ }).waitFor();
    await page.getByRole("button", { name: "As of now" }).click();
    await slideTo(page, before + 500);
    await dialog.getByRole("button", { name: "Use it" }).click();
    await runSql(browser, tables);
    await page.locator("#cell-0-0", { hasText: /^0$/ }).waitFor();

    await goTo(page, "Branches");
    await page.getByRole("button", { name: `Actions of ${name}`, exact: true }).click();
    await page.getByRole("menuitem", { name: "Delete…" }).click();
    await dialog.getByLabel(/Its name, to confirm/).fill(name);
    await dialog.getByRole("button", { name: "Delete for good" }).click();
    await page.getByRole("link", { name, exact: true }).waitFor({ state: "detached" });
    // What the command line does is seen without asking.
    const tenant = await world.tenantOption();
    await world.world.cluster.ok("branch", "create", "by_hand", ...tenant);
    await page.getByRole("link", { name: "by_hand" }).waitFor();
    await world.world.cluster.ok("branch", "delete", "by_hand", ...tenant);
    await page.getByRole("link", { name: "by_hand" }).waitFor({ state: "detached" });

    const link = await world.link();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("heading", { name: "Log in to Strata" }).waitFor();
    await browser.open(link);
    await page.getByRole("heading", { name: "Projects" }).waitFor();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("heading", { name: "Log in to Strata" }).waitFor();
    // What the page had asked for again, as something had changed, when it was logged out.
    forgive(browser, /status of 401 /);
    assert.deepEqual(browser.complaints, []);
    await browser.open(link);
    await page.getByText(/this link was used already/).waitFor();
    forgive(browser, /status of 401 .*\/console\/session$/);
  },
);

/** The slider over the branch's history, to within what one step of it is. */
async function slideTo(page: Page, time: number): Promise<void> {
  const slider = page.getByRole("slider", { name: "How far back" });
  const field = page.getByRole("dialog").getByLabel("Time", { exact: true });
  const chosen = async () => Date.parse(`${await field.inputValue()}Z`);
  await slider.press("End");
  await field.waitFor({ state: "detached" });
  assert.equal(await slider.getAttribute("aria-valuetext"), "now");
  await slider.press("Home");
  const begin = await chosen();
  assert.ok(begin < time, "history begins later");
  // Its end is when it was drawn, however long ago; of the steps the last one stands for no time.
  const lastStep = Number(await slider.getAttribute("max")) - 1;
  await slider.fill(`${lastStep}`);
  const stepMs = ((await chosen()) - begin) / lastStep;
  await slider.fill(`${Math.round((time - begin) / stepMs)}`);
  const far = Math.abs((await chosen()) - time);
  assert.ok(far < 500, `${far} ms away from what was wanted`);
}

inBothSizes(
  "every page, with hostile names",
  () => world,
  async ({ browser, page }) => {
    await page.getByRole("link", { name: /shop/ }).click();
    for (const [link, content] of [
      ["Branches", ".tree"],
      ["SQL", ".cm-content"],
      ["Tables", ".table-list h2"],
      ["Monitoring", "figure canvas"],
      ["Storage", ".layers rect"],
      ["Project settings", "form"],
      ["Endpoints", "table"],
      ["Roles and databases", ".lines li"],
      ["Operations", "table"],
    ] as const) {
      await goTo(page, link);
      await page.locator(content).first().waitFor();
      await assertFits(browser, link);
      await assertAccessible(browser, link);
    }
    await goTo(page, "Roles and databases");
    await page.getByText(HOSTILE.role, { exact: true }).waitFor();
    await page.getByRole("button", { name: "Connect" }).click();
    await page.getByText(/^postgresql:\/\/neondb_owner:/).waitFor();
    await assertAccessible(browser, "connect");
    assert.deepEqual(browser.complaints, []);

    // A session that ends meanwhile.
    await browser.context.clearCookies();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    await page.getByRole("link", { name: "Strata" }).click();
    await page.reload();
    await page.getByRole("heading", { name: "Log in to Strata" }).waitFor();
    forgive(browser, /status of 401 /);
  },
);

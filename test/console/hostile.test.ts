import assert from "node:assert/strict";
import { after, before } from "node:test";
import { assertAccessible } from "../../testing/console/axe.ts";
import type { Browser } from "../../testing/console/browser.ts";
import { ConsoleWorld, type SqlLine } from "../../testing/console/console-world.ts";
import {
  assertFits,
  forgive,
  goTo,
  inBothSizes,
  runSql,
  type Visit,
} from "../../testing/console/visit.ts";

// What others have put into a project, in a real browser: names and values that would like to be markup or script, that run the other way, that are long. And what others take away meanwhile.

const SCRIPT = `<img src=x onerror="globalThis.hurt=1">'"\`$&`;
const RIGHT_TO_LEFT = "\u202Eשלום\u2066<u>x</u>";
/** As many bytes as Postgres takes; two of each letter but the last. */
const LONG = `${"é".repeat(31)}x`;
const NAMES = [SCRIPT, RIGHT_TO_LEFT, LONG];
/** Branches are named in addresses and on the command line: this is the worst that they may be called. */
const BRANCH = `b%3Cb%3E@#+./=,%-${"_".repeat(46)}`;
const BYTES = 10 * 1024 * 1024;
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create(SCRIPT);
  await world.make("/branches", { branch: { name: BRANCH, parent_id: world.branchId } });
  const main = `/branches/${world.branchId}`;
  for (const name of NAMES) {
    await world.make(`${main}/roles`, { role: { name } });
    await world.make(`${main}/databases`, { database: { name, owner_name: name } });
    const lines = await world.sql(
      `create schema ${quoted(name)}; create table ${quoted(name)}.${quoted(name)} (${quoted(name)} text primary key);
      insert into ${quoted(name)}.${quoted(name)} select $x$${name}$x$;
      comment on table ${quoted(name)}.${quoted(name)} is $x$${name}$x$`,
    );
    assert.deepEqual(
      lines.filter(({ t }: SqlLine) => t === "error"),
      [],
    );
  }
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

async function assertUnhurt(browser: Browser, where: string): Promise<void> {
  const { page } = browser;
  assert.equal(await page.evaluate("globalThis.hurt"), undefined, where);
  assert.equal(await page.locator("#root :is(img, script, u)").count(), 0, `markup of ${where}`);
  await assertFits(browser, where);
  await assertAccessible(browser, where);
}

inBothSizes(
  "hostile names of projects, branches, roles, databases, schemas, tables, columns",
  () => world,
  async ({ browser, page, dialog }) => {
    await page.getByText(SCRIPT, { exact: true }).waitFor();
    await assertUnhurt(browser, "projects");
    await page.getByText(SCRIPT, { exact: true }).click();
    await page.getByRole("link", { name: BRANCH, exact: true }).waitFor();
    await assertUnhurt(browser, "branches");
    await page.getByRole("button", { name: "New branch" }).click();
    await dialog.getByLabel("Name").fill(SCRIPT);
    await dialog.getByRole("button", { name: "Create branch" }).click();
    await dialog.getByRole("alert").filter({ hasText: SCRIPT }).waitFor();
    await assertUnhurt(browser, "a name that is refused");
    forgive(browser, /status of 400 /);
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: `Actions of ${BRANCH}`, exact: true }).click();
    await page.getByRole("menuitem", { name: "Delete…" }).click();
    await dialog.getByText(BRANCH, { exact: true }).waitFor();
    await assertUnhurt(browser, "the dialog to delete");
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await page.keyboard.press("Control+k");
    await dialog.getByRole("combobox").fill("%3cb%3e");
    await dialog.getByRole("option").getByText(BRANCH, { exact: true }).waitFor();
    await assertUnhurt(browser, "the palette");
    await dialog.getByRole("button", { name: "Close" }).click();

    await goTo(page, "Tables");
    for (const name of NAMES) {
      await page.getByRole("link", { name, exact: true }).click();
      await page.locator("#cell-0-0").getByText(name, { exact: true }).waitFor();
      await assertUnhurt(browser, `the table ${name}`);
    }
    for (const title of ["Monitoring", "Storage", "Endpoints", "Operations"]) {
      await goTo(page, title);
      await page.getByRole("main").getByText("main", { exact: true }).first().waitFor({
        state: "attached",
      });
      await assertUnhurt(browser, title);
    }
    await page.getByRole("link", { name: "Roles and databases" }).click();
    for (const name of NAMES) {
      // A role, a database, and whose that is.
      await page.getByRole("main").getByText(name, { exact: true }).nth(2).waitFor();
    }
    await assertUnhurt(browser, "roles and databases");
    await page.getByRole("button", { name: "Connect" }).click();
    await dialog.getByLabel("Database").selectOption(SCRIPT);
    await dialog
      .getByText(`/${encodeURIComponent(SCRIPT)}`)
      .first()
      .waitFor();
    await assertUnhurt(browser, "the dialog to connect");
  },
);

inBothSizes(
  "a value of 10 MB, hostile ones, a hostile error",
  () => world,
  async (visit) => {
    const { browser, page, dialog } = visit;
    await page.getByText(SCRIPT, { exact: true }).click();
    await goTo(page, "SQL");
    await runSql(
      browser,
      `select repeat('<u>é', ${BYTES / 5}) as big, $x$${SCRIPT}$x$ as script, E'\\x01\\u2028' || chr(1114111) as odd`,
    );
    await page.locator("#cell-0-1").getByText(SCRIPT, { exact: true }).waitFor();
    await assertUnhurt(browser, "the values");
    await page.locator("#cell-0-0").dblclick();
    await dialog.getByText("Only the beginning: the whole value has 10.0 MB.").waitFor();
    const length = await dialog.locator("pre").evaluate(({ textContent }) => textContent.length);
    assert.ok(length > 10_000 && length < 100_000, `${length} letters are shown`);
    await dialog.getByRole("button", { name: "Close" }).click();
    await runSql(
      browser,
      `do $x$ begin raise exception '${SCRIPT.replaceAll("'", "''")}'; end $x$`,
    );
    await page.getByRole("alert").getByText(SCRIPT, { exact: true }).waitFor();
    await assertUnhurt(browser, "the error");
  },
);

inBothSizes(
  "a branch that the command line deletes while it is worked on; a session that ends at work",
  () => world,
  (visit) => loseBranchAndSession(visit),
);

async function loseBranchAndSession({ browser, page }: Visit): Promise<void> {
  const { branch } = await world.world.createBranch(world.projectId, "doomed");
  await page.getByText(SCRIPT, { exact: true }).click();
  await page.getByRole("link", { name: "doomed", exact: true }).click();
  await runSql(browser, "select 'on it' as here");
  await page.locator("#cell-0-0").getByText("on it").waitFor();
  const tenant = await world.tenantOption();
  await world.world.cluster.ok("branch", "delete", "doomed", "--force", ...tenant);
  // The page goes on with the default branch, and says which one it is.
  const chosen = page.locator("label", { hasText: /^Branch/ }).locator("select");
  await chosen.locator("option", { hasText: "doomed" }).waitFor({ state: "detached" });
  assert.equal(await chosen.inputValue(), world.branchId);
  await runSql(browser, "select 'on main' as here");
  await page.locator("#cell-0-0").getByText("on main").waitFor();
  // Its roles and databases are read once more, before it is known that it has gone.
  forgive(browser, new RegExp(`status of 404 .*/branches/${branch.id}/`));
  assert.deepEqual(browser.complaints, []);

  await browser.context.clearCookies();
  await runSql(browser, "select 'too late' as here");
  await page.getByRole("heading", { name: "Log in to Strata" }).waitFor();
  await page.getByLabel("Or an API key").fill(world.world.key);
  await page.getByRole("button", { name: "Log in" }).click();
  // What was written is not lost.
  await page.locator(".cm-content", { hasText: "too late" }).waitFor();
  // What came of it is: whoever logs in may be another.
  assert.equal(await page.locator(".results").count(), 0);
  forgive(browser, /status of 401 /);
}

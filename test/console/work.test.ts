import assert from "node:assert/strict";
import { after, before } from "node:test";
import type { Page } from "playwright-core";
import { assertAccessible } from "../../testing/console/axe.ts";
import { ConsoleWorld, type SqlLine } from "../../testing/console/console-world.ts";
import { assertFits, forgive, goTo, inBothSizes, runSql } from "../../testing/console/visit.ts";

// Work that is done in the console, in a real browser where one is installed: projects, settings, sleep, restore, a control plane that goes and comes.

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

inBothSizes(
  "a branch is restored, suspended, woken, by keys alone where there are some; saved queries",
  () => world,
  async ({ browser, page, dialog, size }) => {
    const [before, saved] = [`before_${size}`, `<b>mine</b> ${size}`];
    await world.sql(`create table ${size} as select 1 as n`);
    const [row] = (
      await world.sql(
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')",
      )
    ).filter(({ t }) => t === "rows");
    const time = row.rows[0][0];
    await world.sql(`update ${size} set n = 2`);
    await page.getByRole("link", { name: /shop/ }).waitFor();

    // The palette: by letters and keys alone.
    await page.keyboard.press("Control+k");
    await dialog.getByRole("combobox").fill("sho");
    await assertAccessible(browser, "palette");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "main", exact: true }).waitFor();
    await page.getByRole("button", { name: "Actions of main", exact: true }).click();
    await page.getByRole("menuitem", { name: /^Restore/ }).click();
    await dialog.getByLabel("Time").fill(time);
    await dialog.getByLabel(/Keep what it is now/).fill(before);
    await assertFits(browser, "restore");
    await dialog.getByRole("button", { name: "Restore" }).click();
    await page.getByRole("link", { name: before }).waitFor();
    await dialog.waitFor({ state: "detached" });

    await page.keyboard.press("Control+k");
    await dialog.getByRole("combobox").fill("SQL main");
    await page.keyboard.press("Enter");
    await runSql(browser, `select n as restored from ${size}`);
    await page.locator("#cell-0-0", { hasText: /^1$/ }).waitFor();
    await page.getByRole("button", { name: "Saved…" }).click();
    await dialog.getByLabel(/Save what is in the editor/).fill(saved);
    await dialog.getByRole("button", { name: "Save", exact: true }).click();
    await dialog.getByRole("button", { name: saved, exact: true }).waitFor();
    await assertAccessible(browser, "saved queries");
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.press("Delete");
    await page.reload();
    await page.getByRole("button", { name: "Saved…" }).click();
    await dialog.getByRole("button", { name: saved, exact: true }).click();
    await page.locator(".cm-content", { hasText: `select n as restored from ${size}` }).waitFor();

    await goTo(page, "Endpoints");
    // Of the branch that keeps what was, there is none.
    const awake = page.getByRole("row").filter({ has: page.getByText("main", { exact: true }) });
    await awake.getByRole("button", { name: "Suspend" }).click();
    await awake.filter({ hasText: "asleep" }).waitFor();
    await awake.getByRole("button", { name: "Wake" }).click();
    await awake.filter({ hasText: /awake/ }).waitFor();
  },
);

inBothSizes(
  "a project is made, set and deleted; a control plane that goes and comes is noticed",
  () => world,
  async ({ browser, page, dialog, size }) => {
    const [name, later] = [`'<i>second</i> ${size}`, `later ${size}`];
    await makeProject(page, name);
    await page.getByRole("link", { name: "Project settings" }).click();
    await page.getByLabel("Hours of history").fill("0.5");
    await page.getByText("What is older is given up for good.").waitFor();
    await page.getByLabel("New endpoints fall asleep after").selectOption("1 hour");
    await page.getByLabel("Addresses that may connect").fill("10.0.0.1\n10.1.0.0/16");
    await assertAccessible(browser, "project settings");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Saved", { exact: true }).waitFor();
    const { projects } = await world.world.api("GET", "/projects");
    const made = projects.find((one: SqlLine) => one.name === name);
    assert.equal(made.history_retention_seconds, 1800);
    assert.deepEqual(made.settings.allowed_ips.ips, ["10.0.0.1", "10.1.0.0/16"]);
    assert.equal(made.default_endpoint_settings.suspend_timeout_seconds, 3600);
    assert.deepEqual(browser.complaints, []);

    await world.world.cluster.kill9("control_plane");
    await page.getByText("Strata does not answer", { exact: true }).waitFor();
    await assertFits(browser, "a page without a control plane");
    await page.getByLabel("Name", { exact: true }).fill(later);
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("alert").filter({ hasText: "Is it running?" }).first().waitFor();
    await world.world.cluster.ok("start");
    await page.getByText("Strata does not answer", { exact: true }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("navigation", { name: "Project" }).getByText(later).waitFor();
    await deleteProject(page, later);
    await page.getByRole("link", { name: /shop/ }).waitFor();
    await page.getByRole("link", { name: later }).waitFor({ state: "detached" });

    // It is brought back, deleted again, and then for good.
    const deleted = page.getByRole("listitem").filter({ hasText: later });
    await deleted.getByText(/recoverable until 20\d\d-/).waitFor();
    await assertAccessible(browser, "a deleted project");
    await assertFits(browser, "a deleted project");
    await deleted.getByRole("button", { name: "Recover" }).click();
    await page.getByRole("link", { name: later }).click();
    await page.getByRole("link", { name: "main", exact: true }).waitFor();
    await page.getByRole("link", { name: "Project settings" }).click();
    await deleteProject(page, later);
    await deleted.getByRole("button", { name: "Delete for good…" }).click();
    const sure = dialog.getByRole("button", { name: "Delete for good", exact: true });
    assert.ok(await sure.isDisabled(), "without its name");
    await dialog.getByLabel(/Its name, to confirm/).fill(later);
    await sure.click();
    await deleted.waitFor({ state: "detached" });
    const kept = await world.world.api("GET", "/projects?recoverable=true");
    assert.deepEqual(kept.projects, []);
    // Of what was asked for while nobody answered, and of its pages while it was being deleted.
    forgive(browser, /net::ERR_(CONNECTION|EMPTY|INCOMPLETE|NETWORK)/);
    forgive(browser, new RegExp(`status of 404 .*/projects/${made.id}/`));
  },
);

async function makeProject(page: Page, name: string): Promise<void> {
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "New project" }).click();
  await dialog.getByLabel("Name").fill(name);
  await dialog.getByRole("button", { name: "Create" }).click();
  await page.getByRole("link", { name: "main", exact: true }).waitFor();
}

/** From the page of its settings. */
async function deleteProject(page: Page, name: string): Promise<void> {
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Delete the project…" }).click();
  await dialog.getByLabel(/Its name, to confirm/).fill(name);
  await dialog.getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByRole("heading", { name: "Projects" }).waitFor();
}

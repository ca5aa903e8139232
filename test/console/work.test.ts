import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible } from "../../testing/console/axe.ts";
import { Browser, findChromium, NO_BROWSER } from "../../testing/console/browser.ts";
import { ConsoleWorld, type SqlLine } from "../../testing/console/console-world.ts";

// Work that is done in the console, in a real browser where one is installed: projects, settings, sleep, restore, a control plane that goes and comes.

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

test("browser: a branch is restored, suspended, woken, by keys alone where there are some; saved queries", {
  skip: NO_BROWSER,
}, async () => {
  await world.sql("create table t as select 1 as n");
  const [row] = (
    await world.sql(
      "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')",
    )
  ).filter(({ t }) => t === "rows");
  const time = row.rows[0][0];
  await world.sql("update t set n = 2");
  await using browser = await Browser.launch(findChromium()!, { width: 1280, height: 800 });
  const { page } = browser;
  const dialog = page.getByRole("dialog");
  await browser.open(await world.link());
  await page.getByRole("link", { name: /shop/ }).waitFor();

  // The palette: by letters and keys alone.
  await page.keyboard.press("Control+k");
  await dialog.getByRole("combobox").fill("sho");
  await assertAccessible(browser, "palette");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "main", exact: true }).waitFor();
  await page.getByRole("button", { name: "Actions of main" }).click();
  await page.getByRole("menuitem", { name: /^Restore/ }).click();
  await dialog.getByLabel("Time").fill(time);
  await dialog.getByLabel(/Keep what it is now/).fill("before_it");
  await dialog.getByRole("button", { name: "Restore" }).click();
  await page.getByRole("link", { name: "before_it" }).waitFor();
  await dialog.waitFor({ state: "detached" });

  await page.keyboard.press("Control+k");
  await dialog.getByRole("combobox").fill("SQL main");
  await page.keyboard.press("Enter");
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  // Chromium styles what takes the place of something, which the page's policy forbids.
  await page.keyboard.press("Delete");
  await page.keyboard.insertText("select n as restored from t");
  await page.locator("button:enabled", { hasText: /^Run/ }).waitFor();
  await page.keyboard.press("Control+Enter");
  await page.locator("#cell-0-0", { hasText: /^1$/ }).waitFor();
  await page.getByRole("button", { name: "Saved…" }).click();
  await dialog.getByLabel(/Save what is in the editor/).fill("<b>mine</b>");
  await dialog.getByRole("button", { name: "Save", exact: true }).click();
  await dialog.getByRole("button", { name: "<b>mine</b>", exact: true }).waitFor();
  await assertAccessible(browser, "saved queries");
  await dialog.getByRole("button", { name: "Close" }).click();
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await page.reload();
  await page.getByRole("button", { name: "Saved…" }).click();
  await dialog.getByRole("button", { name: "<b>mine</b>", exact: true }).click();
  await page.locator(".cm-content", { hasText: "select n as restored from t" }).waitFor();

  await page.getByRole("link", { name: "Endpoints", exact: true }).click();
  const awake = page.getByRole("row").filter({ hasText: "main" });
  await awake.getByRole("button", { name: "Suspend" }).click();
  await awake.filter({ hasText: "asleep" }).waitFor();
  await awake.getByRole("button", { name: "Wake" }).click();
  await awake.filter({ hasText: /awake/ }).waitFor();
  assert.deepEqual(browser.complaints, []);
  assert.deepEqual(browser.foreign, []);
});

test("browser: a project is made, set and deleted; a control plane that goes and comes is noticed", {
  skip: NO_BROWSER,
}, async () => {
  await using browser = await Browser.launch(findChromium()!, { width: 1280, height: 800 });
  const { page } = browser;
  const dialog = page.getByRole("dialog");
  await browser.open(await world.link());
  await page.getByRole("button", { name: "New project" }).click();
  await dialog.getByLabel("Name").fill("'<i>second</i>");
  await dialog.getByRole("button", { name: "Create" }).click();
  await page.getByRole("link", { name: "main", exact: true }).waitFor();
  await page.getByRole("link", { name: "Project settings" }).click();
  await page.getByLabel("Hours of history").fill("0.5");
  await page.getByText("What is older is given up for good.").waitFor();
  await page.getByLabel("New endpoints fall asleep after").selectOption("1 hour");
  await page.getByLabel("Addresses that may connect").fill("10.0.0.1\n10.1.0.0/16");
  await assertAccessible(browser, "project settings");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved", { exact: true }).waitFor();
  const { projects } = await world.world.api("GET", "/projects");
  const made = projects.find(({ name }: SqlLine) => name === "'<i>second</i>");
  assert.equal(made.history_retention_seconds, 1800);
  assert.deepEqual(made.settings.allowed_ips.ips, ["10.0.0.1", "10.1.0.0/16"]);
  assert.equal(made.default_endpoint_settings.suspend_timeout_seconds, 3600);
  assert.deepEqual(browser.complaints, []);

  await world.world.cluster.kill9("control_plane");
  await page.getByText("Strata does not answer", { exact: true }).waitFor();
  await page.getByLabel("Name", { exact: true }).fill("later");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("alert").filter({ hasText: "Is it running?" }).first().waitFor();
  await world.world.cluster.ok("start");
  await page.getByText("Strata does not answer", { exact: true }).waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("navigation", { name: "Project" }).getByText("later").waitFor();
  await page.getByRole("button", { name: "Delete the project…" }).click();
  await dialog.getByLabel(/Its name, to confirm/).fill("later");
  await dialog.getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByRole("heading", { name: "Projects" }).waitFor();
  await page.getByRole("link", { name: /shop/ }).waitFor();
  assert.equal(await page.getByRole("link", { name: /later/ }).count(), 0);
  assert.deepEqual(browser.foreign, []);
});

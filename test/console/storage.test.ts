import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { ConsoleLayers } from "../../src/control-plane/api.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { Browser, findChromium, NO_BROWSER } from "../../testing/console/browser.ts";
import { ConsoleWorld } from "../../testing/console/console-world.ts";

// What the console shows of a branch's storage: its layers, in numbers and in a browser where one is installed.

let world: ConsoleWorld;
let childId: string;

before(async () => {
  world = await ConsoleWorld.create();
  await world.sql(
    "create table t as select n, repeat('x', 100) as x from generate_series(1, 50000) n",
  );
  await checkpoint();
  const { branch } = await world.world.createBranch(world.projectId, "child");
  childId = branch.id;
  await world.sql("insert into t select n, repeat('y', 100) from generate_series(1, 50000) n", {
    branch_id: childId,
  });
  await checkpoint();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

/** All that is in memory is in layer files then. */
async function checkpoint(): Promise<void> {
  const { cluster } = world.world;
  const [tenant] = (await cluster.json("tenant", "list")) as { tenant_id?: string; id: string }[];
  const tenantId = tenant!.tenant_id ?? tenant!.id;
  const client = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
  for (const { timeline_id } of await client.listTimelines(tenantId)) {
    await client.checkpoint(tenantId, timeline_id);
  }
}

async function ask(path: string, branchId = world.branchId): Promise<Response> {
  const { address, key } = world.world;
  const base = `http://${address}/console/projects/${world.projectId}/branches/${branchId}`;
  return fetch(`${base}/${path}`, { headers: { authorization: `Bearer ${key}` } });
}

test("storage: a branch's layers, its own and its parent's, with their sums", async () => {
  const of = async (branchId: string) =>
    (await (await ask("layers", branchId)).json()) as ConsoleLayers;
  const [main, child] = [await of(world.branchId), await of(childId)];
  assert.ok(main.layers.some(({ kind }) => kind === "delta"));
  assert.ok(main.layers.every(({ is_own, branch }) => is_own && branch === "main"));
  assert.deepEqual(main.branch_points, [{ name: "child", lsn: child.begin_lsn }]);
  assert.equal(main.inherited.layers, 0);
  assert.ok(child.own.layers > 0 && child.inherited.layers > 0);
  assert.ok(child.layers.some(({ is_own, branch }) => !is_own && branch === "main"));
  for (const map of [main, child]) {
    const bytes = map.layers.reduce((sum, one) => sum + one.bytes, 0);
    assert.equal(bytes, map.own.bytes + map.inherited.bytes);
    assert.ok(map.layers.every(({ key_from, key_to }) => key_from < key_to));
    assert.ok(map.layers.every(({ key_to }) => key_to < map.keys.length));
  }
  assert.equal((await ask("layers", "br-no-such-branch-1")).status, 404);
});

test("browser: the layer map, drawn and listed, in the light and in the dark", {
  skip: NO_BROWSER,
}, async () => {
  for (const [size, colorScheme] of [
    [{ width: 1280, height: 800 }, "light"],
    [{ width: 390, height: 844 }, "dark"],
  ] as const) {
    await using browser = await Browser.launch(findChromium()!, { ...size, colorScheme });
    const { page } = browser;
    await browser.open(await world.link());
    await page.getByRole("link", { name: /shop/ }).click();
    await page.getByRole("link", { name: "Storage", exact: true }).click();
    await page.locator(".layers rect").first().waitFor();
    await page.getByRole("combobox", { name: "Branch" }).selectOption("child");
    await page.getByText(/of its own, .*; \d+ of its parents/).waitFor();
    assert.ok((await page.locator(".layers .inherited").count()) > 0);
    // By the keys: what is chosen in the table is marked in the picture.
    const kind = page.getByRole("table").getByRole("button").first();
    await kind.focus();
    await page.keyboard.press("Enter");
    assert.equal(await kind.getAttribute("aria-pressed"), "true");
    await page.locator(".layer-picture .chosen").first().waitFor();
    await page.getByLabel("Only since it left its parent").check();
    await page.locator(".layers .own").first().waitFor();
    await assertAccessible(browser, "storage");
    const width = await page.evaluate<number>("document.documentElement.scrollWidth");
    assert.ok(width <= size.width, `the page is ${width} pixels wide`);
    assert.deepEqual(browser.complaints, []);
    assert.deepEqual(browser.foreign, []);
    if (process.env["SHOTS"]) {
      await page.screenshot({ path: `/tmp/sp-${colorScheme}.png`, fullPage: true });
    }
  }
});

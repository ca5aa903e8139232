import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { formatLsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import type { ConsoleCosts, ConsoleLayers } from "../../src/control-plane/api.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { NO_BROWSER } from "../../testing/console/browser.ts";
import { ConsoleWorld } from "../../testing/console/console-world.ts";
import { goTo, inBothSizes, openBrowser, SIZES } from "../../testing/console/visit.ts";

// What the console shows of a branch's storage: its layers, in numbers and in a browser where one is installed.

let world: ConsoleWorld;
let childId: string;

before(async () => {
  world = await ConsoleWorld.create();
  await world.sql(
    "create table t as select n, repeat('x', 100) as x from generate_series(1, 50000) n",
  );
  await world.checkpoint();
  const { branch } = await world.world.createBranch(world.projectId, "child");
  childId = branch.id;
  await world.sql("insert into t select n, repeat('y', 100) from generate_series(1, 50000) n", {
    branch_id: childId,
  });
  await world.checkpoint();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

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

test("storage: what a branch costs, and what its deletion or a shorter history would free", async () => {
  const of = async (branchId: string, query = "") =>
    (await (await ask(`costs${query}`, branchId)).json()) as ConsoleCosts;
  const [main, child] = [await of(world.branchId), await of(childId)];
  assert.ok(main.logical_bytes! > 5_000_000 && child.logical_bytes! > main.logical_bytes!);
  const layers = async (branchId: string) =>
    (await (await ask("layers", branchId)).json()) as ConsoleLayers;
  // Nobody else reads what the child wrote; what the parent wrote before, the child does.
  assert.equal(child.delete_frees_bytes, (await layers(childId)).own.bytes);
  assert.ok(main.delete_frees_bytes! < (await layers(world.branchId)).own.bytes);
  assert.equal(main.own_wal_bytes, null);
  assert.ok(child.own_wal_bytes! > 5_000_000);
  assert.ok(child.history_wal_bytes >= child.own_wal_bytes!);
  assert.equal(child.kept_seconds, child.window.history_seconds);
  assert.equal(child.window.frees.bytes, 0);
  // Changes nothing, whatever is asked.
  await world.sql("update t set x = 'z' where n % 2 = 0", { branch_id: childId });
  await world.checkpoint();
  const before = await layers(childId);
  await sleep(1500);
  const second = await of(childId, "?history_seconds=1");
  assert.equal(second.kept_seconds, child.kept_seconds);
  const cutoff = parseLsn(second.window.cutoff_lsn)!;
  assert.ok(cutoff > parseLsn(child.head_lsn)! && cutoff <= parseLsn(second.head_lsn)!);
  assert.deepEqual((await layers(childId)).layers, before.layers);
  assert.equal((await of(childId)).readable_lsn, child.readable_lsn);
  for (const wrong of ["-1", "1.5", "x", "99999999999", ""]) {
    assert.equal((await ask(`costs?history_seconds=${wrong}`)).status, 400, wrong);
  }
});

test("browser: 1,000 layers, of which one is found; what is read again keeps choice and scroll", {
  skip: NO_BROWSER,
}, async () => {
  const answer = (await (await ask("layers")).json()) as ConsoleLayers;
  const [sample] = answer.layers;
  const head = parseLsn(answer.head_lsn)!;
  const height = Math.floor((head - parseLsn(answer.readable_lsn)!) / 10);
  const many = (first: number): ConsoleLayers => ({
    ...answer,
    keys: Array.from({ length: 101 }, (_, i) => `1663/5/${i} block 0`),
    layers: Array.from({ length: 1000 }, (_, i) => {
      const [key, step] = [i % 100, Math.floor(i / 100)];
      return {
        ...{ ...sample!, kind: "delta" as const, is_l0: false, bytes: first + i },
        ...{ key_from: key, key_to: key + 1, key_range: `1663/5/${key} block 0 to <b>${i}</b>` },
        lsn_start: formatLsn(toLsn(head - (step + 1) * height)),
        lsn_end: formatLsn(toLsn(head - step * height)),
      };
    }),
  });
  await using browser = await openBrowser(SIZES.desk);
  const { page } = browser;
  let reads = 0;
  await page.route("**/layers", (route) => {
    reads++;
    const map = many(1000 * reads);
    // New layers, before all others: they have other places then.
    const newest = { ...map.layers[0]!, key_range: `new ${reads}` };
    const layers = [...Array.from({ length: reads }, () => newest), ...map.layers];
    return route.fulfill({ json: { ...map, layers } });
  });
  await browser.open(await world.link());
  await page.getByRole("link", { name: /shop/ }).click();
  await page.getByRole("link", { name: "Storage", exact: true }).click();
  await page.locator(".layers rect").nth(999).waitFor();
  const rows = page.locator(".layer-table tbody tr");
  assert.equal(await rows.count(), 200);
  // The last one is in the picture; its row comes, and is in sight.
  const beganMs = Date.now();
  await page.locator(".layers rect").nth(999).click();
  const chosen = page.locator(".layer-table tr.chosen");
  await chosen.getByText("<b>999</b>").waitFor();
  assert.ok(Date.now() - beganMs < 10_000, `${Date.now() - beganMs} ms`);
  const box = (await chosen.boundingBox())!;
  assert.ok(box.y >= 0 && box.y < 800, `it is at ${box.y}`);
  const scrolls = "[scrollY, document.querySelector('.layer-table').parentElement.scrollTop]";
  const before = await page.evaluate(scrolls);
  const seen = reads;
  await rows
    .first()
    .getByText(`new ${seen + 1}`)
    .waitFor({ state: "attached" });
  assert.deepEqual(await page.evaluate(scrolls), before);
  assert.equal(await chosen.count(), 1);
  await chosen.getByText("<b>999</b>").waitFor();
  await page.getByRole("button", { name: /^200 more|^1 more/ }).waitFor({ state: "detached" });
  assert.deepEqual(browser.complaints, []);
});

inBothSizes(
  "the layer map, drawn and listed, in the light and in the dark",
  () => world,
  async ({ browser, page }) => {
    await page.getByRole("link", { name: /shop/ }).click();
    await goTo(page, "Storage");
    await page.locator(".layers rect").first().waitFor();
    await page.getByRole("combobox", { name: "Branch" }).selectOption("child");
    await page.getByText(/of its own, .*; \d+ of its parents/).waitFor();
    assert.ok((await page.locator(".layers .inherited").count()) > 0);
    await page.getByText("Its deletion would free", { exact: true }).waitFor();
    await page.getByLabel("If history went back").selectOption("1 minute only");
    await page.getByText(/The next collection would free at least/).waitFor();
    // By the keys: what is chosen in the table is marked in the picture.
    const kind = page.getByRole("table").getByRole("button").first();
    await kind.focus();
    await page.keyboard.press("Enter");
    assert.equal(await kind.getAttribute("aria-pressed"), "true");
    await page.locator(".layer-picture .chosen").first().waitFor();
    await page.getByLabel("Only since it left its parent").check();
    await page.locator(".layers .own").first().waitFor();
    await assertAccessible(browser, "storage");
  },
);

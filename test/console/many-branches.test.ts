import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { ConsoleTree } from "../../src/control-plane/api.ts";
import { Browser, findChromium, NO_BROWSER } from "../../testing/console/browser.ts";
import { ConsoleWorld } from "../../testing/console/console-world.ts";

// What is not in sight is not in the page. How quick the console is then is measured in test/large/console.test.ts.

const BRANCHES = 500;
const DESK = { width: 1280, height: 800, goesFirst: true } as const;

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create("large");
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

test("browser: of many branches only those in sight are in the page", {
  skip: NO_BROWSER,
}, async () => {
  await using browser = await Browser.launch(findChromium()!, DESK);
  const { page } = browser;
  await page.route("**/tree", async (route) => {
    const tree = (await (await route.fetch()).json()) as ConsoleTree;
    const root = tree.branches[0]!;
    const made = Array.from({ length: BRANCHES }, (_, i) => {
      const named = { ...root.branch, id: `br-made-up-${i}`, name: `made_up_${i}` };
      const below = i === 0 ? {} : { parent_id: "br-made-up-0", default: false, primary: false };
      return { ...root, branch: { ...named, ...below }, endpoints: [] };
    });
    await route.fulfill({ json: { ...tree, branches: made } });
  });
  await browser.open(await world.link());
  await page.getByRole("link", { name: /large/ }).click();
  await page.getByText(`${BRANCHES}`, { exact: true }).waitFor();
  const inPage = async (name: string) => {
    await page.getByRole("link", { name, exact: true }).waitFor();
    const drawn = await page.locator(".tree-names li").count();
    assert.ok(drawn < 100, `${drawn} branches are in the page`);
    const lines = await page.locator(".tree rect.hit").count();
    assert.ok(lines < 100, `${lines} lines are in the picture`);
  };
  await inPage("made_up_0");
  await page.evaluate("scrollTo(0, document.documentElement.scrollHeight)");
  // Those of one time go by their ids.
  await inPage("made_up_99");
  assert.deepEqual(browser.complaints, []);
});

// Somebody uses the console, at a desk and on a phone: the same work in both, each logged in anew and knowing nothing of the other.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Browser as BrowserProcess, Locator, Page } from "playwright-core";
import { errorMessage } from "../../src/base/errors.ts";
import { Browser, type BrowserOptions, findChromium, NO_BROWSER } from "./browser.ts";
import type { ConsoleWorld } from "./console-world.ts";

export const SIZES = {
  desk: { width: 1280, height: 800 },
  phone: { width: 390, height: 844 },
} as const;
export type Size = keyof typeof SIZES;
/** A desk's page is light, a phone's dark: both are seen. */
const SCHEMES = { desk: "light", phone: "dark" } as const;

/** Of all visits of a test file. */
let browserProcess: Promise<BrowserProcess> | undefined;

after(async () => (await browserProcess)?.close());

/** Where there is one (`NO_BROWSER`). */
export async function openBrowser(options: BrowserOptions): Promise<Browser> {
  browserProcess ??= Browser.launchProcess(findChromium()!);
  return await Browser.launchIn(await browserProcess, options);
}

export interface Visit {
  readonly browser: Browser;
  readonly page: Page;
  /** That is open. */
  readonly dialog: Locator;
  readonly size: Size;
}

/**
 * Two tests, left out where there is no browser; the second finds what the first has left in `world`. Both begin on the page
 * of projects. After `work` the page must fit, must have complained of nothing, and have asked nobody else.
 */
export function inBothSizes(
  title: string,
  world: () => ConsoleWorld,
  work: (visit: Visit) => Promise<void>,
): void {
  for (const size of Object.keys(SIZES) as Size[]) {
    test(`browser: ${title}; ${size}`, { skip: NO_BROWSER }, async () => {
      await using browser = await openBrowser({ ...SIZES[size], colorScheme: SCHEMES[size] });
      const { page } = browser;
      await browser.open(await world().link());
      await page.getByRole("heading", { name: "Projects" }).waitFor();
      try {
        await work({ browser, page, dialog: page.getByRole("dialog"), size });
      } catch (error) {
        const shown = await page.evaluate<string>("document.body.innerText").catch(() => "nothing");
        throw new Error(`${errorMessage(error)}\nthe page shows: ${shown}`, { cause: error });
      }
      await assertFits(browser, "the last page");
      assert.deepEqual(browser.complaints, []);
      assert.deepEqual(browser.foreign, []);
    });
  }
}

/** That nothing is wider than the screen. */
export async function assertFits({ page }: Browser, where: string): Promise<void> {
  const width = await page.evaluate<number>("document.documentElement.scrollWidth");
  const shown = page.viewportSize()!.width;
  assert.ok(width <= shown, `${where} is ${width} pixels wide, of ${shown}`);
}

/** Takes back complaints that `expected` matches: Chromium tells of each answer that is an error. */
export function forgive({ complaints }: Browser, expected: RegExp): void {
  const others = complaints.filter((text) => !expected.test(text));
  complaints.splice(0, complaints.length, ...others);
}

/** Of the project that is looked at. */
export async function goTo(page: Page, title: string): Promise<void> {
  await page.getByRole("link", { name: title, exact: true }).click();
}

/** Into the editor, as a person types: Chromium styles what is pasted from nowhere, or takes the place of something. */
export async function typeSql({ page }: Browser, text: string): Promise<void> {
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await page.keyboard.insertText(text);
}

export async function runSql(browser: Browser, text: string): Promise<void> {
  await typeSql(browser, text);
  // Not before it knows roles and databases, nor while something runs.
  await browser.page.locator("button:enabled", { hasText: /^Run/ }).waitFor();
  await browser.page.keyboard.press("Control+Enter");
}

// axe-core on a page of the console: what a person with a screen reader would stumble over.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Browser } from "./browser.ts";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Violation {
  readonly id: string;
  readonly impact: string;
  readonly nodes: readonly { readonly html: string }[];
}

/** That there is nothing serious or critical. */
export async function assertAccessible({ page }: Browser, where: string): Promise<void> {
  // Through the debugger: the page's policy lets no script in. Once a document: it is half a megabyte to compile.
  if (!(await page.evaluate<boolean>('typeof axe === "object"'))) {
    await page.evaluate(AXE);
  }
  const { violations } = await page.evaluate<{ violations: readonly Violation[] }>(
    'axe.run(document, { resultTypes: ["violations"] })',
  );
  const found = violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
  assert.deepEqual(found, [], where);
}

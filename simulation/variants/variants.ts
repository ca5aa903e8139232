// Broken variants: the code with one rule taken out, each of which the simulation must notice.
//
// A variant is a change of the source text, made while a copy of the modules is loaded for it. So the
// product has no switches for tests, and a variant that no longer fits the code fails loudly.

import { registerHooks } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { consensusVariants } from "./consensus.ts";
import { diskVariants } from "./disk.ts";
import { membershipVariants } from "./membership.ts";
import { pageVariants } from "./pages.ts";
import type { Change, Variant } from "./variant.ts";

export const VARIANTS: readonly Variant[] = [
  ...consensusVariants,
  ...membershipVariants,
  ...diskVariants,
];

const ROOT = `${pathToFileURL(join(import.meta.dirname, "..", "..")).href}/`;
/** The folders whose files a variant may change. */
const SOURCES = [`${ROOT}src/`, `${ROOT}simulation/`];
/** Power cuts in the life of one simulated safekeeper. */
export const CUTS_A_SEED = 10;
let hooked = false;

/** What `npm run sim:pages` must notice. */
export const PAGE_VARIANTS: readonly Variant[] = pageVariants;

export interface LoadedVariant {
  readonly run: typeof import("../simulation.ts").run;
  readonly runPowerCuts: typeof import("../power-cuts.ts").runPowerCuts;
}

/** The simulation as of the variant's code; a module graph of its own. */
export async function loadVariant(name: string): Promise<LoadedVariant> {
  const { run } = await importOf(VARIANTS, name, "simulation/simulation.ts");
  const { runPowerCuts } = await importOf(VARIANTS, name, "simulation/power-cuts.ts");
  return { run, runPowerCuts };
}

export interface LoadedPageVariant {
  readonly runPageservers: typeof import("../pages/run.ts").runPageservers;
}

/** The simulation of pageservers as of the variant's code. */
export function loadPageVariant(name: string): Promise<LoadedPageVariant> {
  return importOf(PAGE_VARIANTS, name, "simulation/pages/run.ts");
}

async function importOf(variants: readonly Variant[], name: string, file: string) {
  if (!variants.some((variant) => variant.name === name)) {
    throw new Error(`no variant ${name}; there are: ${variants.map((v) => v.name).join(", ")}`);
  }
  if (!hooked) {
    hooked = true;
    hookLoader();
  }
  return import(`${ROOT}${file}?variant=${name}`);
}

/** What the seed shows to be broken in the variant; undefined: nothing. */
export function violationOf(
  variant: Variant,
  code: LoadedVariant,
  seed: number,
): string | undefined {
  return variant.caughtBy === "power-cuts"
    ? code.runPowerCuts(seed, CUTS_A_SEED).violation
    : code.run(seed).violation?.message;
}

function variantOf(url: string | undefined): Variant | undefined {
  const name = url?.split("?variant=")[1];
  return [...VARIANTS, ...PAGE_VARIANTS].find((variant) => variant.name === name);
}

function hookLoader(): void {
  registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context);
      const variant = variantOf(context.parentURL);
      const isOurs =
        SOURCES.some((folder) => resolved.url.startsWith(folder)) && !resolved.url.includes("?");
      return variant !== undefined && isOurs
        ? { ...resolved, url: `${resolved.url}?variant=${variant.name}` }
        : resolved;
    },
    load(url, context, next) {
      const loaded = next(url, context);
      const variant = variantOf(url);
      if (variant === undefined) {
        return loaded;
      }
      const file = url.slice(ROOT.length).split("?")[0];
      let source = String(loaded.source);
      for (const change of variant.changes) {
        if (change.file === file) {
          source = changed(source, change, variant.name);
        }
      }
      return { ...loaded, source };
    },
  });
}

/** Error where the text is not there exactly once: the code has changed, so must the variant. */
export function changed(source: string, { file, find, replace }: Change, name: string): string {
  const parts = source.split(find);
  if (parts.length !== 2) {
    throw new Error(`variant ${name}: ${parts.length - 1} times in ${file}: ${find}`);
  }
  return parts.join(replace);
}

// Builds the bundles that are not of the sources as they are (src/base/program-files.mjs); `npm run build`, `npm test` and `npm pack` do.
//
// Several may run at once, and any may be killed: what is written has the hash of its content in its name, or
// takes its place at once, and names only what is whole.

import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  globSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { type Plugin, rolldown } from "rolldown";
import {
  BUNDLES_DIRECTORY,
  bundleName,
  bundleOf,
  ROOT,
  stampOf,
} from "../../src/base/program-files.mjs";

/** Looked for by pg, which does without. */
const NOT_INSTALLED = ["pg-native", "cloudflare:sockets"];
/** Packages change by npm, which removes this record first and writes it last. */
const PACKAGES_RECORD = join(ROOT, "node_modules", ".package-lock.json");
const START_FILE = join(import.meta.dirname, "bundle-start.mjs");
/** Somebody may be about to load what he has just been told of, or be writing. */
const KEPT_MS = 3_600_000;
const MOST_TRIES = 5;

/** Below src/: processes and threads. */
export const PROGRAMS: readonly string[] = globSync(["**/main.ts", "**/*-worker.ts"], {
  cwd: join(ROOT, "src"),
}).toSorted();

/** Those of earlier sources go, `keptMs` after they were made. */
export async function buildBundles({ keptMs = KEPT_MS } = {}): Promise<void> {
  mkdirSync(BUNDLES_DIRECTORY, { recursive: true });
  for (const source of PROGRAMS) {
    if (bundleOf(source) === undefined) {
      await buildCurrent(source);
    }
  }
  removeOld(keptMs);
}

/** Directories below the root, of all packages that have a part in a bundle. */
export function packagesInBundles(): string[] {
  return [...new Set(PROGRAMS.flatMap((source) => readRecord(source).packages))].toSorted();
}

/** `start` and `inputs` are for program-files.mjs. */
interface BundleRecord {
  readonly start: string;
  /** Paths below the root, and their stamps. */
  readonly inputs: readonly (readonly [string, string | undefined])[];
  readonly packages: readonly string[];
}

function readRecord(source: string): BundleRecord {
  return JSON.parse(readFileSync(join(BUNDLES_DIRECTORY, `${bundleName(source)}.json`), "utf8"));
}

/** Again where a file was changed meanwhile: nobody knows which of its contents was read. */
async function buildCurrent(source: string): Promise<void> {
  for (let tries = 1; tries <= MOST_TRIES; tries++) {
    const beganMs = fileSystemTime();
    const { code, map, modules } = await bundle(source);
    const ours = modules.filter((path) => packageOf(path) === undefined);
    const paths = [...ours, PACKAGES_RECORD, START_FILE, import.meta.filename];
    const inputs = paths.map((path) => [relative(ROOT, path), stampOf(path)] as const);
    if (paths.every((path) => statSync(path).ctimeMs < beganMs)) {
      const packages = new Set(modules.flatMap((path) => packageOf(path) ?? []));
      writeBundle(bundleName(source), code, map, { inputs, packages: [...packages] });
      return;
    }
  }
  throw new Error(`src/${source}: its files keep changing while it is built`);
}

/** Its directory below the root; undefined for a module of ours. */
function packageOf(path: string): string | undefined {
  return /^(.*\/)?node_modules\/(@[^/]+\/)?[^/]+/.exec(relative(ROOT, path))?.[0];
}

/** As the times of files are counted, which lag behind the clock. */
function fileSystemTime(): number {
  const path = join(BUNDLES_DIRECTORY, `.time-${process.pid}`);
  writeFileSync(path, "");
  const { ctimeMs } = statSync(path);
  rmSync(path);
  return ctimeMs;
}

async function bundle(source: string) {
  const build = await rolldown({
    cwd: ROOT,
    input: join(ROOT, "src", source),
    platform: "node",
    external: NOT_INSTALLED,
    plugins: [BUILTINS],
    tsconfig: false,
    logLevel: "warn",
  });
  try {
    const { output } = await build.generate({
      format: "esm",
      // What a running program loads later must not have gone, or be of other sources.
      codeSplitting: false,
      sourcemap: true,
      file: join(BUNDLES_DIRECTORY, "code.js"),
    });
    const { sources, names, mappings } = output[0].map!;
    return {
      code: asFunction(compiledWhenRun(ownBuiltins(output[0].code))),
      // The text of the sources lies beside.
      map: JSON.stringify({ version: 3, sources, names, mappings }),
      modules: (await build.watchFiles).filter((path) => path.startsWith("/")).toSorted(),
    };
  } finally {
    await build.close();
  }
}

/**
 * A module of Node's becomes one of the bundle's, which takes what is used of it when the first module runs that imports it. The bundler
 * would make one import at the top of all that any module imports, also where it is loaded later: an agent loaded node:tls and node:http
 * in its start. And to import one reads all that it exports, of which some are getters that load more: node:http all of undici.
 */
const BUILTINS: Plugin = {
  name: "builtins",
  resolveId: (id, importer) =>
    // What all modules need of the bundler's comes before any module.
    id.startsWith("node:") && importer?.startsWith(BUNDLERS_OWN) !== true
      ? { id: `builtin:${id}`, moduleSideEffects: false }
      : null,
  load: (id) => {
    if (!id.startsWith("builtin:")) {
      return null;
    }
    const name = id.slice("builtin:".length);
    const exported = Object.keys(process.getBuiltinModule(name)!).filter(
      (key) => /^[a-zA-Z_]\w*$/.test(key) && key !== "default",
    );
    return [
      `const $module = globalThis.process.getBuiltinModule("${name}");`,
      "const $member = (key) => $module[key];",
      "export default $module;",
      // A call that is marked so is left out where nothing uses its result.
      ...exported.map((key) => `export const ${key} = /* @__PURE__ */ $member("${key}");`),
    ].join("\n");
  },
};

const BUNDLERS_OWN = "\0";

/** What the bundler's own code imports. Lines stay where they are, so the source map stays true. */
function ownBuiltins(code: string): string {
  return code.replaceAll(
    /^import \{ (\w+) \} from "(node:\w+)";$/gm,
    'const { $1 } = globalThis.process.getBuiltinModule("$2");',
  );
}

/**
 * V8 compiles a function at once that stands right behind a parenthesis, as one that is about to be called. The bundler puts each
 * module into such a function, and most processes run few of them. Lines stay where they are.
 */
function compiledWhenRun(code: string): string {
  return code.replaceAll(MODULE_FUNCTION, "$10, ");
}

const MODULE_FUNCTION = /(\b__(?:esmMin|commonJSMin)\(\()(?=\(|async )/g;

/**
 * What bundle-start.mjs calls, as a script, of which V8 gives the compiled code away after it ran; in ASCII, which it keeps in half of the
 * memory. It has no import left and exports nothing. All on its lines.
 */
function asFunction(code: string): string {
  const body = code
    .replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n")
    .replace(/\nexport \{\};\s*$/, "\n")
    .replaceAll("import.meta", "$meta");
  if (/^(?:import|export)\b/m.test(body) || /\braw`[^`]*[\u0080-\uffff]/.test(body)) {
    throw new Error("a bundle has an import, an export or raw text that is not ASCII");
  }
  const escaped = (character: string) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return `"use strict";(async ($meta) => {${body.replaceAll(/[\u0080-\uffff]/g, escaped)}})\n`;
}

function writeBundle(
  name: string,
  code: string,
  map: string,
  made: Omit<BundleRecord, "start">,
): void {
  const start = readFileSync(START_FILE, "utf8");
  const hash = createHash("sha256")
    .update(code)
    .update(map)
    .update(start)
    .digest("hex")
    .slice(0, 16);
  const file = `${name}-${hash}`;
  writeWhole(`${file}.code.js.map`, map);
  writeWhole(`${file}.code.js`, code);
  writeWhole(`${file}.mjs`, start);
  syncDirectory();
  writeWhole(
    `${name}.json`,
    JSON.stringify({ start: `${file}.mjs`, ...made } satisfies BundleRecord),
  );
}

/** The record must not be all that a power cut leaves. */
function syncDirectory(): void {
  const fd = openSync(BUNDLES_DIRECTORY, "r");
  fsyncSync(fd);
  closeSync(fd);
}

/** After a crash, too, a name leads to all of its content. */
function writeWhole(name: string, text: string): void {
  const temporary = join(BUNDLES_DIRECTORY, `.${name}-${process.pid}`);
  const fd = openSync(temporary, "w");
  writeFileSync(fd, text);
  fsyncSync(fd);
  closeSync(fd);
  renameSync(temporary, join(BUNDLES_DIRECTORY, name));
}

function removeOld(keptMs: number): void {
  const kept = PROGRAMS.flatMap((source) => {
    const { start } = readRecord(source);
    const code = start.replace(/\.mjs$/, ".code.js");
    return [`${bundleName(source)}.json`, start, code, `${code}.map`];
  });
  for (const name of readdirSync(BUNDLES_DIRECTORY).filter((one) => !kept.includes(one))) {
    const path = join(BUNDLES_DIRECTORY, name);
    const madeMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    // Being written, perhaps.
    const leastMs = name.startsWith(".") ? KEPT_MS : keptMs;
    if (madeMs !== undefined && Date.now() - madeMs >= leastMs) {
      rmSync(path, { force: true });
    }
  }
}

if (import.meta.main) {
  await buildBundles();
}

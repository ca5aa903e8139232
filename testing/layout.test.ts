// Holds the rules of the source tree that no linter knows: who may import whom, names, seams.

import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";

const ROOT = join(import.meta.dirname, "..");

/** Folders whose every file may be imported by the component. Itself goes without saying. */
const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  base: [],
  postgres: ["base"],
  "wal-decoder": ["base", "postgres"],
  redo: ["base", "postgres", "wal-decoder"],
  pageserver: ["base", "postgres", "wal-decoder", "redo"],
  "object-store": ["base"],
  safekeeper: ["base", "postgres", "wal-decoder", "object-store"],
  "storage-broker": ["base", "postgres"],
  compute: ["base", "postgres", "wal-decoder"],
  "wal-dump": ["base", "postgres", "wal-decoder"],
  "wal-verify": ["base", "postgres", "wal-decoder", "redo"],
  local: ["base", "postgres"],
  cli: ["base", "postgres", "local", "wal-dump", "wal-verify"],
};

/** Components of which others may import `api.ts` and `client.ts` only. */
const COMPONENTS = new Set(["pageserver", "safekeeper", "storage-broker", "compute"]);

/** Single files that are open to a component: the proposer runs inside the compute's agent. */
const EXCEPTIONS: Readonly<Record<string, readonly string[]>> = {
  compute: ["safekeeper/proposer.ts", "safekeeper/messages.ts", "safekeeper/membership.ts"],
  // The command line drives changes of membership.
  cli: ["safekeeper/membership-change.ts", "safekeeper/membership.ts"],
};

const BANNED_NAMES = /^(utils?|helpers?|common|misc|core|lib|index)(\.|$)/;
const MAX_LINES = 800;
const MAX_FILES = 25;
/** Folders that hold more than they should, until they are divided. */
const FULL_FOLDERS = new Set(["src/safekeeper", "src/cli"]);

interface Source {
  readonly path: string;
  readonly text: string;
}

function sources(...patterns: string[]): Source[] {
  return globSync(patterns, { cwd: ROOT }).map((path) => ({
    path,
    text: readFileSync(join(ROOT, path), "utf8"),
  }));
}

const isTest = (path: string) => /\.test\.ts$/.test(path);
const isGenerated = (path: string) => path.endsWith("_pb.ts");
const SOURCES = sources("{src,testing,simulation}/**/*.ts").filter(
  ({ path }) => !isGenerated(path),
);
const PRODUCT = SOURCES.filter(({ path }) => path.startsWith("src/") && !isTest(path));

/** Paths below src/ of what a file imports from this repository. */
function importsOf({ path, text }: Source): string[] {
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map((match) =>
    relative(join(ROOT, "src"), resolve(ROOT, dirname(path), match[1]!)),
  );
}

function refuse(problems: readonly string[]): void {
  assert.deepEqual(problems, []);
}

test("layout: imports go one way, between components through api.ts and client.ts", () => {
  const problems: string[] = [];
  for (const source of PRODUCT) {
    const from = source.path.split("/")[1]!;
    for (const target of importsOf(source)) {
      const to = target.split("/")[0]!;
      const allowed =
        from === to ||
        LIBRARIES[from]?.includes(to) === true ||
        (COMPONENTS.has(to) && /^[^/]+\/(api|client)\.ts$/.test(target)) ||
        EXCEPTIONS[from]?.includes(target) === true;
      if (!allowed) {
        problems.push(`${source.path} imports ${target}`);
      }
    }
  }
  refuse(problems);
});

test("layout: kebab-case names that say what they hold, at most two levels below src", () => {
  const paths = globSync("{src,testing,simulation,scripts,test,bench}/**/*.{ts,mjs}", {
    cwd: ROOT,
  });
  refuse(
    paths.filter((path) => {
      const name = basename(path);
      const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(_pb)?(\.[a-z]+)+$/.test(name);
      const banned = path.split("/").some((part) => BANNED_NAMES.test(part));
      return !kebab || banned || path.split("/").length > 4;
    }),
  );
});

test("layout: the first line of a file says its job", () => {
  refuse(
    [...PRODUCT, ...sources("scripts/*.ts")]
      .filter(({ text }) => !/^\/\/ \S.*\S/.test(text))
      .map(({ path }) => path),
  );
});

test("layout: files stay readable", () => {
  refuse(
    SOURCES.filter(({ text }) => text.split("\n").length > MAX_LINES).map(
      ({ path, text }) => `${path}: ${text.split("\n").length} lines`,
    ),
  );
});

test("layout: folders stay readable", () => {
  const counts = new Map<string, number>();
  for (const { path } of [...SOURCES, ...sources("{scripts,test,bench}/**/*.{ts,mjs}")]) {
    counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  }
  refuse(
    [...counts]
      .filter(([folder, count]) => count > MAX_FILES && !FULL_FOLDERS.has(folder))
      .map(([folder, count]) => `${folder}: ${count} files`),
  );
});

test("layout: a file that a page or a comment names is there", () => {
  const named = /(?<![\w./-])(?:src|testing|simulation|test|bench|scripts|docs)\/[\w./-]+\.\w+/g;
  const texts = sources(
    "*.md",
    "docs/**/*.md",
    "{src,testing,simulation,test,bench,scripts}/**/*.ts",
  );
  refuse(
    texts
      .filter(({ path }) => path !== "CHANGELOG.md")
      .flatMap(({ path, text }) =>
        [...text.matchAll(named)]
          .map(([file]) => file)
          .filter((file) => /\.(ts|mjs|c|md|json)$/.test(file) && !existsSync(join(ROOT, file)))
          .map((file) => `${path} names ${file}`),
      ),
  );
});

test("layout: time and randomness only through src/base, erasable syntax only", () => {
  const rules: [RegExp, string][] = [
    [/\bDate\.now\(|\bperformance\.now\(|\bprocess\.hrtime\b|\bnew Date\(\)/, "clock"],
    [/\bMath\.random\(|\brandomUUID\(/, "randomness"],
    [/^\s*export default\b/m, "default export"],
    [/^\s*(export\s+)?(const\s+)?enum\s/m, "enum"],
    [/^\s*(export\s+)?namespace\s/m, "namespace"],
  ];
  refuse(
    PRODUCT.filter(({ path }) => !path.startsWith("src/base/")).flatMap(({ path, text }) => {
      const code = text.replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, "");
      return rules.filter(([rule]) => rule.test(code)).map(([, what]) => `${path}: ${what}`);
    }),
  );
});

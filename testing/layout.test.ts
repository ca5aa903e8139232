// Holds the rules of the source tree that no linter knows: who may import whom, names, seams.

import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { IMPORT_TABLE } from "./import-table.ts";

const ROOT = join(import.meta.dirname, "..");

const BANNED_NAMES = /^(utils?|helpers?|common|misc|core|lib|index)(\.|$)/;
const MAX_LINES = 800;
const MAX_FILES = 25;
/** Folders that hold more than they should, until they are divided. */
const FULL_FOLDERS = new Set(["src/cli"]);

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
        IMPORT_TABLE[from]?.libraries.includes(to) === true ||
        (IMPORT_TABLE[to]?.isService === true && /^[^/]+\/(api|client)\.ts$/.test(target));
      if (!allowed) {
        problems.push(`${source.path} imports ${target}`);
      }
    }
  }
  refuse(problems);
});

/** Circles of files that import each other, each once, from its first file in the alphabet on. */
function circles(files: readonly Source[]): string[] {
  const targets = new Map(
    files.map((source) => [
      source.path,
      importsOf(source).map((target) => relative(ROOT, join(ROOT, "src", target))),
    ]),
  );
  const found: string[] = [];
  const done = new Set<string>();
  const walk = (path: string, trail: readonly string[]): void => {
    const at = trail.indexOf(path);
    if (at >= 0) {
      found.push([...trail.slice(at), path].join(" -> "));
      return;
    }
    if (!done.has(path)) {
      for (const target of targets.get(path) ?? []) {
        walk(target, [...trail, path]);
      }
      done.add(path);
    }
  };
  for (const path of [...targets.keys()].toSorted()) {
    walk(path, []);
  }
  return found;
}

test("layout: no files import each other in a circle", () => {
  refuse(circles(SOURCES));
});

test("layout: a circle of imports is found", () => {
  const path = (name: string) => `src/base/${name}.ts`;
  const file = (name: string, imported: string) => ({
    path: path(name),
    text: `import { x } from "./${imported}.ts";`,
  });
  assert.deepEqual(circles([file("a", "b"), file("b", "c"), file("c", "b"), file("d", "a")]), [
    ["b", "c", "b"].map(path).join(" -> "),
  ]);
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

test("layout: what a page names as `file#name` is in that file", () => {
  refuse(
    sources("*.md", "docs/**/*.md").flatMap(({ path, text }) =>
      [...text.matchAll(/`((?:src|testing|simulation)\/[\w./-]+)#(\w+)`/g)]
        .filter(([, file, name]) => {
          const target = join(ROOT, file!);
          return (
            !existsSync(target) || !new RegExp(`\\b${name}\\b`).test(readFileSync(target, "utf8"))
          );
        })
        .map(([reference]) => `${path}: ${reference}`),
    ),
  );
});

test("layout: a page's links lead somewhere", () => {
  refuse(
    sources("*.md", "docs/**/*.md").flatMap(({ path, text }) =>
      [...text.matchAll(/\]\((?!https?:)([^)#]+)?(?:#([^)]+))?\)/g)]
        .filter(([, file, heading]) => {
          const target = join(ROOT, file === undefined ? path : join(dirname(path), file));
          return (
            !existsSync(target) ||
            (heading !== undefined && !anchors(readFileSync(target, "utf8")).has(heading))
          );
        })
        .map(([link]) => `${path}: ${link}`),
    ),
  );
});

/** What a browser can jump to in a page of Markdown. */
function anchors(markdown: string): ReadonlySet<string> {
  return new Set(
    [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title!
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

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

test("layout: every npm script gives its shell away, so that signals reach the program", () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  for (const [name, command] of Object.entries<string>(scripts)) {
    assert.match(command, /^exec /, `script ${name}`);
  }
});

test("layout: HTTP is served and called through src/http only", () => {
  const rules = [/^import (?!type )[^;]*from "node:https?"/m, /\bawait fetch\(/, /\bfetch\(`/];
  refuse(
    PRODUCT.filter(({ path }) => !path.startsWith("src/http/"))
      .filter(({ text }) => rules.some((rule) => rule.test(text)))
      .map(({ path }) => path),
  );
});

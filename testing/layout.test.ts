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

/** Who loads zod only when somebody asks for schemas. */
const SCHEMAS_ON_DEMAND = ["src/compute/http-schemas.ts", "src/http/openapi.ts"];

/** What a program loads, at once or later: a file of ours by its path, a package by its name; types are not loaded. */
function loadedBy(program: string, without: readonly string[]): Set<string> {
  const loaded = new Set([program]);
  for (const path of loaded) {
    const text = existsSync(join(ROOT, path)) ? readFileSync(join(ROOT, path), "utf8") : "";
    const imported = [
      ...text.matchAll(/^(?:import|export)\s(?!type\b)[^;"]*"([^"]+)";$/gm),
      ...text.matchAll(/\bimport\(\s*"([^"]+)"/g),
    ];
    for (const [, name] of imported) {
      const isOurs = name!.startsWith(".");
      const target = isOurs ? relative(ROOT, resolve(ROOT, dirname(path), name!)) : name!;
      if (!without.includes(target)) {
        loaded.add(target);
      }
    }
  }
  return loaded;
}

test("layout: an agent holds no schemas in memory, which take more than all else of it", () => {
  const loaded = loadedBy("src/compute/main.ts", SCHEMAS_ON_DEMAND);
  assert.ok(loaded.has("src/compute/pages/lease-keeper.ts"), "or this test proves nothing");
  refuse([...loaded].filter((path) => path === "zod"));
  for (const path of SCHEMAS_ON_DEMAND) {
    assert.ok(loadedBy(path, []).has("zod"), `${path} is no exception any more`);
  }
});

const CONSOLE = sources("console/src/**/*.{ts,tsx}", "console/vite.config.ts");

test("layout: the console takes types from src, through one file, and nothing else", () => {
  refuse(
    CONSOLE.filter(({ path }) => path !== "console/src/api/types.ts").flatMap((source) =>
      importsOf(source)
        .filter((target) => !target.startsWith("../console/"))
        .map((target) => `${source.path} imports ${target}`),
    ),
  );
  const { text } = CONSOLE.find(({ path }) => path === "console/src/api/types.ts")!;
  refuse([...text.matchAll(/^(?:import|export) (?!type ).*$/gm)].map(([line]) => line));
});

test("layout: kebab-case names that say what they hold, at most two levels below src", () => {
  const paths = [
    ...globSync("{src,testing,simulation,scripts,test,bench}/**/*.{ts,mjs}", { cwd: ROOT }),
    ...CONSOLE.map(({ path }) => path),
  ];
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
    [...PRODUCT, ...CONSOLE, ...sources("scripts/**/*.ts")]
      .filter(({ text }) => !/^\/\/ \S.*\S/.test(text))
      .map(({ path }) => path),
  );
});

test("layout: files stay readable", () => {
  refuse(
    [...SOURCES, ...CONSOLE]
      .filter(({ text }) => text.split("\n").length > MAX_LINES)
      .map(({ path, text }) => `${path}: ${text.split("\n").length} lines`),
  );
});

test("layout: folders stay readable", () => {
  const counts = new Map<string, number>();
  for (const { path } of [
    ...SOURCES,
    ...CONSOLE,
    ...sources("{scripts,test,bench}/**/*.{ts,mjs}"),
  ]) {
    counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  }
  refuse(
    [...counts]
      .filter(([, count]) => count > MAX_FILES)
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

/** A file's text without its comments. */
const codeOf = (text: string) => text.replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, "");

test("layout: time, timers and randomness only through src/base, erasable syntax only", () => {
  const rules: [RegExp, string][] = [
    [/\bDate\.now\b|\bperformance\.now\b|\bprocess\.hrtime\b|\bnew Date\(\)/, "clock"],
    [/(?<![\w.#])(?:set|clear)(?:Timeout|Interval|Immediate)\b/, "timer"],
    [/"(?:node:)?timers(?:\/promises)?"|\bAbortSignal\.timeout\b/, "timer"],
    [/\bMath\.random\b|\brandomUUID\b|\bgetRandomValues\b|\brandomFill/, "randomness"],
    [/\brandom(?:Bytes|Int)\b[^;]*from "(?:node:)?crypto"/, "randomness"],
    [/^\s*export default\b/m, "default export"],
    [/^\s*(export\s+)?(const\s+)?enum\s/m, "enum"],
    [/^\s*(export\s+)?namespace\s/m, "namespace"],
  ];
  refuse(
    PRODUCT.filter(({ path }) => !path.startsWith("src/base/")).flatMap(({ path, text }) =>
      rules.filter(([rule]) => rule.test(codeOf(text))).map(([, what]) => `${path}: ${what}`),
    ),
  );
});

/** Files and folders (with a slash) that may use node:fs, and why they need no Disk. */
const RAW_FILES: Readonly<Record<string, string>> = {
  "src/base/": "what Disk is made of; locks, pid files and logs are of processes, not of storage",
  "src/cli/": "files of the user's",
  "src/compute/": "the data directory is a cache, and Postgres shares it",
  "src/control-plane/console/console-build.ts": "reads the console's build, and sources",
  "src/data-directory/":
    "files of stock servers, only read, and the cache that a compute starts from",
  "src/http/openapi.ts": "reads package.json",
  "src/local/": "the home of a machine; what must last goes through writeFileDurably",
  "src/object-store/directory-object-store.ts": "what the interface ObjectStore is made of",
  "src/object-store/s3/credentials.ts": "AWS's files of the user's, only read",
  "src/pageserver/import/": "reads files of stock servers",
  "src/pageserver/ingest/initdb-import.ts": "runs initdb; its templates can be made again",
  "src/pageserver/layer-eviction.ts": "asks how full the disk is",
  "src/postgres/extension-directory.ts": "files of the user's, only looked at",
  "src/postgres/installation.ts": "Postgres's own files",
  "src/safekeeper/safekeeper.ts": "makes its directory before there is anything to lose",
  "src/safekeeper/transfer/debug-dump.ts": "tells about files, changes none",
  "src/safekeeper/wal-backup/store-cleaner.ts": "removes notes of what is done already",
  "src/wal-dump/": "files of the user's, only read",
  "src/wal-verify/": "backups and files of its own that nobody keeps",
};

test("layout: files only through base/disk, but where a reason is named", () => {
  const allowed = (path: string) =>
    Object.keys(RAW_FILES).find((one) => (one.endsWith("/") ? path.startsWith(one) : path === one));
  const raw = PRODUCT.filter(({ text }) => /"(?:node:)?fs(?:\/promises)?"/.test(codeOf(text)));
  refuse(raw.filter(({ path }) => allowed(path) === undefined).map(({ path }) => path));
  const used = new Set(raw.map(({ path }) => allowed(path)));
  refuse(Object.keys(RAW_FILES).filter((one) => !used.has(one)));
});

/** Files with variables that a whole process shares, and why that is right there. */
const GLOBAL_STATE: Readonly<Record<string, string>> = {
  "src/cli/up.ts": "one command a process",
  "src/http/client.ts": "one pool of connections a process, loaded when it is first needed",
  "src/local/strata-command.ts": "how this process was called",
  "src/pageserver/layers/entry-chunks.ts": "spare memory",
  "src/pageserver/layers/key.ts": "key prefixes are interned: a number means the same everywhere",
  "src/pageserver/flush/background-worker.ts": "a thread of its own, for nothing else",
  "src/pageserver/storage/layer-map.ts": "numbers that are given once in a process",
  "src/postgres/installation.ts": "what was found on this machine",
  "src/postgres/wire/wire-messages.ts": "spare memory",
  "src/wal-decoder/block-references.ts": "the last few results, which depend on nothing else",
  "src/wal-decoder/delta.ts": "working space of one synchronous call",
  "src/wal-decoder/xact-records.ts": "working space of one synchronous call",
};

test("layout: no state of the process outside src/base, but where a reason is named", () => {
  const variable = /^(?:export )?let\b/m;
  const empty =
    /^(?:export )?const \w+(?:: [^=]+)? = (?:\[\]|\{\}|new (?:Weak)?(?:Map|Set)(?:<[^\n]*>)?\(\)|new Array\b.*);/m;
  const holders = PRODUCT.filter(({ path, text }) => {
    const code = codeOf(text);
    return !path.startsWith("src/base/") && (variable.test(code) || empty.test(code));
  }).map(({ path }) => path);
  refuse(holders.filter((path) => GLOBAL_STATE[path] === undefined));
  refuse(Object.keys(GLOBAL_STATE).filter((path) => !holders.includes(path)));
});

/** Who speaks another protocol over HTTP than ours. */
const OTHER_HTTP: Readonly<Record<string, string>> = {
  "src/object-store/s3/exchange.ts": "S3's: signed, XML, streams with deadlines of their own",
  "src/proxy/client/token-keys.ts":
    "a JWKS URL's: of anybody, over https, its answer of a limited size",
};

test("layout: HTTP is served and called through src/http only", () => {
  const rules = [/^import (?!type )[^;]*from "node:https?"/m, /\bawait fetch\(/, /\bfetch\(`/];
  refuse(
    PRODUCT.filter(({ path }) => !path.startsWith("src/http/") && OTHER_HTTP[path] === undefined)
      .filter(({ text }) => rules.some((rule) => rule.test(text)))
      .map(({ path }) => path),
  );
});

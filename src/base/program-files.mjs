// Where the files of Strata lie, and which file a program of it is started from: its bundle where that is of the sources as they are, else its sources.
//
// Plain JavaScript that any Node from 18 on understands: scripts/run.mjs starts the command line with it.
//
// A bundle is a program with all its modules in one file, which loads in half of the time
// (docs/decisions/0040-bundles.md). For each program dist/bundles has:
//
//   NAME.json              the record: the file to start, and a stamp of each file that it was made of
//   NAME-HASH.mjs          to start: a copy of scripts/package/bundle-start.mjs, which compiles and runs
//   NAME-HASH.code.js      all its modules, one function; beside it a source map
//
// Only the record's name is used twice, and it comes last: whoever reads it finds what it names, whole. This file
// lies as deep in a checkout as in a bundle.

import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout, or the directory of the installed npm package. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** The npm package has no sources. */
export const IS_CHECKOUT = existsSync(join(ROOT, "src", "cli", "main.ts"));
export const BUNDLES_DIRECTORY = join(ROOT, "dist", "bundles");

/**
 * Absolute path of what Node is to be given. Looked up at each start, in a millisecond or two: a source may have
 * changed meanwhile. `$STRATA_FROM_SOURCES=1` asks for the sources.
 * @param {string} source below src/, for example `pageserver/main.ts`; an absolute path is what it is
 * @returns {string}
 */
export function programOf(source) {
  const asked = IS_CHECKOUT && process.env["STRATA_FROM_SOURCES"] === "1";
  return (asked ? undefined : bundleOf(source)) ?? resolve(ROOT, "src", source);
}

/**
 * Whether programOf() gave a bundle. Of another content it has another name.
 * @param {string} path
 * @returns {boolean}
 */
export function isBundle(path) {
  return dirname(path) === BUNDLES_DIRECTORY;
}

const SOURCE = /(?:^|\/)([a-z-]+)\/main\.[a-z]+$/;
const BUNDLE = /(?:^|\/)bundles\/([a-z-]+)-[0-9a-f]{16}\.mjs$/;

/**
 * The component whose process it starts, whatever checkout or package it lies in: `pageserver`; undefined where it is no such file.
 * @param {string} path a word of a command line
 * @returns {string | undefined}
 */
export function componentStartedBy(path) {
  return (SOURCE.exec(path) ?? BUNDLE.exec(path))?.[1];
}

/**
 * Absolute path of its bundle; undefined where there is none of the files as they are.
 * @param {string} source
 * @returns {string | undefined}
 */
export function bundleOf(source) {
  try {
    const text = readFileSync(join(BUNDLES_DIRECTORY, `${bundleName(source)}.json`), "utf8");
    const { start, inputs } = JSON.parse(text);
    const path = join(BUNDLES_DIRECTORY, start);
    // An installed package is as it was packed.
    const isCurrent =
      !IS_CHECKOUT || inputs.every(([input, stamp]) => stampOf(join(ROOT, input)) === stamp);
    return isCurrent && existsSync(path) ? path : undefined;
  } catch {
    // None, or one of another version of this file.
    return undefined;
  }
}

/**
 * `compute-export` of `compute/export/main.ts`.
 * @param {string} source
 * @returns {string}
 */
export function bundleName(source) {
  return source.replace(/(\/main)?\.ts$/, "").replaceAll("/", "-");
}

/**
 * What changes with the bytes of a file, and cannot be set back; undefined where there is none.
 * @param {string} path
 * @returns {string | undefined}
 */
export function stampOf(path) {
  const status = statSync(path, { throwIfNoEntry: false });
  return status && `${status.ino} ${status.size} ${status.ctimeMs}`;
}

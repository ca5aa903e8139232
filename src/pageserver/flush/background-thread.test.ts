// The flush thread: the same file as inline, pages asked for across threads, cancellation, failures.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { REAL_DISK } from "../../base/disk.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { encodeClogStatus } from "../../wal-decoder/implied-deltas.ts";
import type { FrozenLayer } from "../layers/frozen-layer.ts";
import { type KeyPrefix, relSizePrefix, slruBlockPrefix } from "../layers/key.ts";
import { FIRST_LAYER_NUMBER } from "../layers/layer-format.ts";
import { OpenLayer } from "../layers/open-layer.ts";
import { VALUE_DELTA, VALUE_IMAGE } from "../layers/version-chain.ts";
import { BackgroundThread } from "./background-thread.ts";
import { flushPages, type KeyReader } from "./flush-pages.ts";
import { writeFrozenLayer } from "./layer-flush.ts";

const START = toLsn(0x2000);
const SETTINGS = {
  number: FIRST_LAYER_NUMBER,
  imageAfterDeltas: 8,
  imageRotation: 2,
  turn: 0,
  walLogHints: false,
};
const BLOCKS = 200;
const backgroundThread = new BackgroundThread();
const NEVER = new AbortController().signal;

/** Pages with one delta to fifty each, and sizes, over several key prefixes. */
function someLayer(): FrozenLayer {
  const layer = new OpenLayer(START);
  let lsn: number = START;
  for (let round = 0; round < 50; round++) {
    for (let block = round * 4; block < BLOCKS; block++) {
      lsn += 8;
      const delta = encodeClogStatus([block * 32768 + round], 1);
      layer.put(slruBlockPrefix(0, block >> 5), block & 31, lsn as Lsn, VALUE_DELTA, delta);
    }
    const size = new Uint8Array(round % 5).fill(round);
    layer.put(relSizePrefix(1663, 5, 9000 - round, 0), 0, lsn as Lsn, VALUE_IMAGE, size);
  }
  layer.freeze(lsn as Lsn, lsn as Lsn, lsn as Lsn);
  return layer.frozen();
}

/** Below the layer every page is noise, which no compression makes smaller. */
const reader: KeyReader = {
  readPage: (_prefix: KeyPrefix, index: number) => {
    const random = new SeededRandom(index);
    return Uint8Array.from({ length: 8192 }, () => random.int(256));
  },
  countDeltas: (_prefix: KeyPrefix, index: number) => index,
};

class Directory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "strata-flush-"));
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

test("BackgroundThread: writes byte for byte what the same flush inline writes", async () => {
  using here = new Directory();
  using there = new Directory();
  const layer = someLayer();
  const pages = flushPages(layer, reader);
  const inline = await writeFrozenLayer(layer, {
    ...SETTINGS,
    directory: here.path,
    disk: REAL_DISK,
    pages,
    cancelled: () => false,
    sliceMs: 1,
  });
  const settings = { ...SETTINGS, directory: there.path };
  const threaded = await backgroundThread.flush(layer, settings, pages, NEVER);
  assert.deepEqual(threaded, inline);
  assert.equal(threaded.failedImages, 0);
  const bytes = readFileSync(join(there.path, threaded.layer.fileName));
  assert.ok(bytes.equals(readFileSync(join(here.path, inline.layer.fileName))));
  // Images, not only deltas: 50 rounds of 16 bytes a page would stay far below.
  assert.ok(bytes.length > 100 * 8192, `${bytes.length} bytes`);
});

test("BackgroundThread: a page that cannot be read costs its image and is reported", async () => {
  using directory = new Directory();
  const layer = someLayer();
  const failing: KeyReader = {
    readPage: (prefix, index, lsn) => {
      if (index === 7) {
        throw new Error("no such luck");
      }
      return reader.readPage(prefix, index, lsn);
    },
    countDeltas: reader.countDeltas,
  };
  const settings = { ...SETTINGS, directory: directory.path };
  const result = await backgroundThread.flush(layer, settings, flushPages(layer, failing), NEVER);
  assert.ok(result.failedImages > 0);
  assert.match(result.firstFailure!, /^key [0-9A-F]{36}: no such luck$/);
  assert.equal(readdirSync(directory.path).length, 1);
});

test("BackgroundThread: cancelled, it is unavailable and leaves nothing; the next one works", async () => {
  using directory = new Directory();
  const layer = someLayer();
  const settings = { ...SETTINGS, directory: directory.path };
  const cancel = new AbortController();
  // Cancelled when the thread is in the middle: it waits for pages.
  const pages = flushPages(layer, reader);
  const interrupting = (requests: Parameters<typeof pages>[0]) => {
    cancel.abort();
    return pages(requests);
  };
  await assert.rejects(backgroundThread.flush(layer, settings, interrupting, cancel.signal), {
    kind: "unavailable",
    code: "shutting-down",
  });
  assert.deepEqual(readdirSync(directory.path), []);
  await backgroundThread.flush(layer, settings, pages, NEVER);
  assert.equal(readdirSync(directory.path).length, 1);
});

test("BackgroundThread: a failure keeps its kind; several flushes at once all finish", async () => {
  using directory = new Directory();
  const layer = someLayer();
  const pages = flushPages(layer, reader);
  const missing = { ...SETTINGS, directory: join(directory.path, "missing") };
  const settings = { ...SETTINGS, directory: directory.path };
  const results = await Promise.allSettled([
    backgroundThread.flush(layer, settings, pages, NEVER),
    backgroundThread.flush(layer, missing, pages, NEVER),
    backgroundThread.flush(layer, settings, pages, NEVER),
  ]);
  assert.deepEqual(
    results.map((result) => result.status),
    ["fulfilled", "rejected", "fulfilled"],
  );
  const { reason } = results[1] as PromiseRejectedResult;
  assert.equal(reason.name, "StorageError");
  assert.match(reason.message, /create .*ENOENT/);
});

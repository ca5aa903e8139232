import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../base/lsn.ts";
import { encodeClogStatus } from "../../wal-decoder/implied-deltas.ts";
import { compactLayers } from "../compaction/compact-layers.ts";
import type { BasePageLookup, CompactionSettings } from "../compaction/compaction-settings.ts";
import type { CompactionInput } from "../compaction/layer-cursor.ts";
import { decodeKey, slruBlockPrefix } from "../layers/key.ts";
import {
  FIRST_KEY,
  FIRST_LAYER_NUMBER,
  LAST_KEY,
  LAYER_KIND_DELTA,
} from "../layers/layer-format.ts";
import { LayerWriter } from "../layers/layer-writer.ts";
import { OpenLayer } from "../layers/open-layer.ts";
import { VALUE_DELTA } from "../layers/version-chain.ts";
import { BackgroundThread } from "./background-thread.ts";
import type { PageLookup } from "./layer-flush.ts";

const FIRST_LSN = 0x10_0000;
const LAYERS = 4;
const NEVER = new AbortController().signal;
const backgroundThread = new BackgroundThread();

class Directory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "strata-compaction-"));
  readonly outputs = this.directory("out");

  directory(name: string): string {
    const path = join(this.path, name);
    mkdirSync(path);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }

  /** Layers with `versions` deltas of each of `pages` pages, none of which has a base here. */
  async layers(pages: number, versions: number): Promise<CompactionInput[]> {
    const inputs: CompactionInput[] = [];
    for (let number = 0; number < LAYERS; number++) {
      const lsnStart = FIRST_LSN + number * 0x1000;
      const writer = await LayerWriter.create(this.path, LAYER_KIND_DELTA);
      for (let page = 0; page < pages; page++) {
        for (let i = 0; i < versions; i++) {
          const xids = Array.from({ length: 30 }, (_, n) => page * 32768 + number * 100 + i + n);
          const delta = encodeClogStatus(xids, 1);
          const prefix = slruBlockPrefix(0, page >> 5);
          writer.add(prefix, page & 31, toLsn(lsnStart + i), VALUE_DELTA, delta);
        }
        await writer.drain();
      }
      const name = {
        kind: LAYER_KIND_DELTA,
        keyStart: FIRST_KEY,
        keyEnd: LAST_KEY,
        lsnStart: toLsn(lsnStart),
        lsnEnd: toLsn(lsnStart + 0x1000),
      } as const;
      const { fileName, sizeBytes } = await writer.finish(name);
      inputs.push({ path: join(this.path, fileName), name, sizeBytes, maxLsn: MAX_LSN });
    }
    return inputs;
  }
}

function settings(directory: string): CompactionSettings {
  return {
    directory,
    number: { generation: 3, sequence: 4 },
    range: { start: FIRST_KEY, end: LAST_KEY },
    retained: [],
    cutoff: 0 as Lsn,
    cutPoints: [toLsn(FIRST_LSN + 0x1800)],
    keyCuts: [LAST_KEY],
    targetBytes: 1 << 20,
    imageLayerLsn: undefined,
    moreBelow: true,
    walLogHints: false,
  };
}

const pages: BasePageLookup = async (requests) =>
  requests.map(({ key, lsn }) => {
    assert.equal(lsn, FIRST_LSN - 1);
    const page = new Uint8Array(8192).fill(decodeKey(key).index);
    return { state: "page", page };
  });

test("BackgroundThread: a compaction writes byte for byte what the same inline writes", async () => {
  using directory = new Directory();
  const inputs = await directory.layers(100, 20);
  const inline = await compactLayers(inputs, {
    ...settings(directory.outputs),
    disk: REAL_DISK,
    pages,
    cancelled: () => false,
    sliceMs: 1,
  });
  const there = directory.directory("there");
  const threaded = await backgroundThread.compact(inputs, settings(there), pages, NEVER);
  assert.deepEqual(threaded, inline);
  assert.ok(inline.layers.length > 1);
  for (const { fileName } of inline.layers) {
    const bytes = readFileSync(join(there, fileName));
    assert.ok(bytes.equals(readFileSync(join(directory.outputs, fileName))));
  }
});

test("BackgroundThread: a compaction is cancelled where it waits, and leaves nothing", async () => {
  using directory = new Directory();
  const inputs = await directory.layers(100, 20);
  const cancel = new AbortController();
  const interrupting: BasePageLookup = (requests) => {
    cancel.abort();
    return pages(requests);
  };
  await assert.rejects(
    backgroundThread.compact(inputs, settings(directory.outputs), interrupting, cancel.signal),
    { kind: "unavailable", code: "shutting-down" },
  );
  assert.deepEqual(readdirSync(directory.outputs), []);
});

/** A layer with one page, whose flush asks for what is below it. */
function flush(directory: string, pages: PageLookup): Promise<unknown> {
  const layer = new OpenLayer(toLsn(8));
  layer.put(slruBlockPrefix(0, 1), 0, toLsn(16), VALUE_DELTA, encodeClogStatus([1], 1));
  layer.freeze(toLsn(16), toLsn(16), toLsn(8));
  const settings = { imageAfterDeltas: 1, imageRotation: 2, turn: 0, walLogHints: false };
  const where = { directory, number: FIRST_LAYER_NUMBER };
  return backgroundThread.flush(layer.frozen(), { ...where, ...settings }, pages, NEVER);
}

test("BackgroundThread: a flush does not wait behind a compaction, but that waits for it", async () => {
  using directory = new Directory();
  const inputs = await directory.layers(300, 20);
  const ended: string[] = [];
  const compacted = Promise.withResolvers<void>();
  const nothing: PageLookup = async () => [{ state: "none" }];
  // As long as the compaction may take without it, and longer.
  const slow: PageLookup = async () => {
    await Promise.race([compacted.promise, sleep(1000)]);
    return [{ state: "none" }];
  };
  let flushed: Promise<unknown> | undefined;
  // The first flush comes while the compaction waits for pages, the second while it is at work.
  const flushing: BasePageLookup = async (requests) => {
    if (flushed === undefined) {
      await flush(directory.path, nothing);
      ended.push("first flush");
      flushed = flush(directory.path, slow).then(() => ended.push("second flush"));
    }
    return pages(requests);
  };
  await backgroundThread.compact(inputs, settings(directory.outputs), flushing, NEVER);
  ended.push("compaction");
  compacted.resolve();
  await flushed;
  assert.deepEqual(ended, ["first flush", "second flush", "compaction"]);
});

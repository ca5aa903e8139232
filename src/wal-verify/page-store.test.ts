// PageStore and BlockSlots against plain maps.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { BlockSlots } from "./block-slots.ts";
import { PageStore } from "./page-store.ts";

test("PageStore: keeps every page, with 16 frames for hundreds, and leaves no file", () => {
  const temporaryDirectory = mkdtempSync(join(tmpdir(), "strata-page-store-"));
  const store = new PageStore({ cacheBytes: 1, temporaryDirectory });
  const random = new SeededRandom(5);
  const model = new Map<number, { value: number; lsn: number }>();
  try {
    for (let step = 0; step < 20_000; step++) {
      const slots = [...model.keys()];
      const slot = slots.length > 0 ? random.pick(slots) : -1;
      if (slot < 0 || (slots.length < 300 && random.bool(0.1))) {
        const made = store.allocate();
        assert.ok(!model.has(made), "a slot in use was handed out");
        write(store, made, step);
        model.set(made, { value: step, lsn: step });
      } else if (random.bool(0.02)) {
        store.release(slot);
        model.delete(slot);
      } else if (random.bool(0.3)) {
        write(store, slot, step);
        model.set(slot, { value: step, lsn: step });
      } else {
        check(store, slot, model.get(slot)!);
      }
    }
    for (const [slot, entry] of model) {
      check(store, slot, entry);
    }
    assert.ok(model.size > 100 && store.spilledPages > 1000, `${store.spilledPages} spilled`);
    assert.deepEqual(readdirSync(temporaryDirectory), []);
  } finally {
    store.close();
    rmSync(temporaryDirectory, { recursive: true });
  }
});

function write(store: PageStore, slot: number, value: number): void {
  const page = store.page(slot, true);
  new DataView(page.buffer, page.byteOffset).setUint32(0, value, true);
  new DataView(page.buffer, page.byteOffset).setUint32(8188, value, true);
  store.setOrigin(slot, value, value % 1000);
}

function check(store: PageStore, slot: number, entry: { value: number; lsn: number }): void {
  const page = store.page(slot, false);
  const view = new DataView(page.buffer, page.byteOffset);
  assert.equal(page.length, 8192);
  assert.equal(view.getUint32(0, true), entry.value);
  assert.equal(view.getUint32(8188, true), entry.value);
  assert.equal(store.originLsn(slot), entry.lsn);
  assert.equal(store.originTag(slot), entry.value % 1000);
}

test("PageStore: says where it could not write", () => {
  const store = new PageStore({ cacheBytes: 1, temporaryDirectory: "/nowhere/at/all" });
  const fill = () => {
    for (let i = 0; i <= 16; i++) {
      write(store, store.allocate(), i);
    }
  };
  assert.throws(fill, { kind: "unavailable", message: /changed pages to '\/nowhere.*ENOENT/ });
  store.close();
});

test("BlockSlots: truncation forgets and releases the blocks past the end, and no other", () => {
  const slots = new BlockSlots();
  const blocks = [0, 5, 1023, 1024, 3000, 4_294_967_294];
  for (const [slot, blkno] of blocks.entries()) {
    slots.set(blkno, slot);
  }
  assert.deepEqual(
    blocks.map((blkno) => slots.get(blkno)),
    [0, 1, 2, 3, 4, 5],
  );
  assert.equal(slots.get(1), -1);
  const released: number[] = [];
  slots.truncate(1023, (slot) => released.push(slot));
  assert.deepEqual(released.sort(), [2, 3, 4, 5]);
  assert.deepEqual(
    blocks.map((blkno) => slots.get(blkno)),
    [0, 1, -1, -1, -1, -1],
  );
  slots.truncate(0, (slot) => released.push(slot));
  assert.equal(released.length, 6);
});

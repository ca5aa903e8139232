// Fresh memory for pages that leave the storage: cut from slabs, as 8 kB allocations are slow.

import { PAGE_SIZE } from "../../postgres/page.ts";

// One page that somebody keeps keeps its slab, so slabs are small; allocation is still 1 in 32.
const SLAB_PAGES = 15;

/** A new Uint8Array of 8 kB costs 2 us and garbage-collector time; a cut of a slab 0.1 us. */
export class PageSlab {
  #slab: Buffer = Buffer.allocUnsafeSlow(SLAB_PAGES * PAGE_SIZE);
  #used = 0;

  /** A copy that the caller owns; its memory is never handed out again. */
  copy(bytes: Uint8Array): Uint8Array {
    if (bytes.length !== PAGE_SIZE) {
      return new Uint8Array(bytes);
    }
    if (this.#used === SLAB_PAGES * PAGE_SIZE) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_PAGES * PAGE_SIZE);
      this.#used = 0;
    }
    const page = new Uint8Array(this.#slab.buffer, this.#used, PAGE_SIZE);
    this.#used += PAGE_SIZE;
    page.set(bytes);
    return page;
  }
}

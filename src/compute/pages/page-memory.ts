// Memory for pages on their way to Postgres, used again: fresh memory costs a page fault for each 4 kB, and its collection.

import { PAGE_SIZE } from "../../postgres/page.ts";

/** As much as Postgres asks for at once at most. */
export const RUN_BLOCKS = 32;
const RUN_BYTES = RUN_BLOCKS * PAGE_SIZE;
/** Fewer pages, but for one alone, get memory of their own; more too, which only an export asks for. */
const LEAST_BLOCKS = RUN_BLOCKS / 4;
/** 8 MiB: what is under way in some scans. */
const MAX_SPARE_RUNS = 32;
/** 2 MiB. */
const MAX_SPARE_PAGES = 256;

export class PageMemory {
  readonly #spare: ArrayBuffer[] = [];
  readonly #sparePages: Uint8Array[] = [];

  /** For `count` pages; with anything in it. */
  take(count: number): Uint8Array {
    if (count === 1) {
      return this.#sparePages.pop() ?? new Uint8Array(PAGE_SIZE);
    }
    if (count < LEAST_BLOCKS || count > RUN_BLOCKS) {
      return new Uint8Array(count * PAGE_SIZE);
    }
    return new Uint8Array(this.#spare.pop() ?? new ArrayBuffer(RUN_BYTES), 0, count * PAGE_SIZE);
  }

  /** What `take` gave and nobody reads or writes any more; or it is just left to be collected. */
  give(pages: Uint8Array): void {
    const { buffer } = pages;
    if (buffer.byteLength === RUN_BYTES && this.#spare.length < MAX_SPARE_RUNS) {
      this.#spare.push(buffer as ArrayBuffer);
    } else if (buffer.byteLength === PAGE_SIZE && this.#sparePages.length < MAX_SPARE_PAGES) {
      this.#sparePages.push(pages);
    }
  }
}

// Places in the long chain of a hot key in memory: where reads of the past begin, and pages that redo built there.

/** What a step takes beside its page. */
const STEP_BYTES = 32;
/** A page and its header. */
const PAGE_OVERHEAD_BYTES = 128;

/** What the steps of one layer take. */
export interface StepMemory {
  bytes: number;
}

/**
 * Of one key of one open layer, ascending. Each step is the newest version of its LSN and has a newer
 * one above it: nothing is added at or below it any more, so its page stays right.
 */
export class VersionSteps {
  readonly #entries: number[] = [];
  readonly #lsns: number[] = [];
  readonly #pages: (Uint8Array | undefined)[] = [];
  readonly #memory: StepMemory;

  constructor(memory: StepMemory) {
    this.#memory = memory;
  }

  get count(): number {
    return this.#lsns.length;
  }

  /** The entry of step `at`; -1 for a step that is not there, as entries are numbered from 0. */
  entry(at: number): number {
    return this.#entries[at] ?? -1;
  }

  /** The key's page after every version up to the step, where it was kept. */
  page(at: number): Uint8Array | undefined {
    return this.#pages[at];
  }

  /** The first step above `lsn`; `count` where there is none. */
  firstAbove(lsn: number): number {
    const lsns = this.#lsns;
    let low = 0;
    let high = lsns.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (lsns[middle]! <= lsn) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  /** A step above all others. */
  push(entry: number, lsn: number): void {
    this.#entries.push(entry);
    this.#lsns.push(lsn);
    this.#pages.push(undefined);
    this.#memory.bytes += STEP_BYTES;
  }

  /** Copies the page in where there is a step at `lsn`, exactly; says whether it did. */
  keep(lsn: number, page: Uint8Array): boolean {
    const at = this.firstAbove(lsn) - 1;
    if (at < 0 || this.#lsns[at] !== lsn) {
      return false;
    }
    if (this.#pages[at] === undefined) {
      this.#pages[at] = page.slice();
      this.#memory.bytes += page.length + PAGE_OVERHEAD_BYTES;
    }
    return true;
  }
}

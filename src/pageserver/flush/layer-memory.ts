// What the layers in memory of all timelines hold together: above the budget the largest open one is flushed.

/** A timeline. */
export interface LayerHolder {
  /** Makes its open layer one that is flushed. */
  freeze(): void;
}

/** Its layers in memory. */
interface HeldLayers {
  readonly open: { readonly sizeBytes: number };
  readonly frozen: readonly { readonly sizeBytes: number }[];
}

interface Held {
  openBytes: number;
  frozenBytes: number;
}

export class LayerMemory {
  readonly #maxBytes: number;
  readonly #held = new Map<LayerHolder, Held>();
  #openBytes = 0;
  #frozenBytes = 0;

  /** `maxBytes` of open layers, and as much again of those that are being flushed. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Of all timelines, frozen layers too. */
  get heldBytes(): number {
    return this.#openBytes + this.#frozenBytes;
  }

  /** Flushes do not keep up: whoever has a frozen layer takes in no WAL until that is flushed. */
  get isCrowded(): boolean {
    return this.#frozenBytes > this.#maxBytes;
  }

  /** What the timeline holds now. Where that is too much, open layers are frozen, the largest first; of this timeline or others. */
  account(holder: LayerHolder, { open, frozen }: HeldLayers): void {
    const frozenBytes = frozen.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    this.#count(holder, open.sizeBytes, frozenBytes);
    while (this.#openBytes > this.#maxBytes) {
      const [largest, { openBytes: bytes }] = this.#largest();
      largest.freeze();
      // It accounts for what it has when its turn comes; a layer inside a record stays open.
      this.#count(largest, 0, this.#held.get(largest)!.frozenBytes + bytes);
    }
  }

  /** It is closed. */
  forget(holder: LayerHolder): void {
    this.#count(holder, 0, 0);
    this.#held.delete(holder);
  }

  #count(holder: LayerHolder, openBytes: number, frozenBytes: number): void {
    let held = this.#held.get(holder);
    if (held === undefined) {
      held = { openBytes: 0, frozenBytes: 0 };
      this.#held.set(holder, held);
    }
    this.#openBytes += openBytes - held.openBytes;
    this.#frozenBytes += frozenBytes - held.frozenBytes;
    held.openBytes = openBytes;
    held.frozenBytes = frozenBytes;
  }

  #largest(): [LayerHolder, Held] {
    return [...this.#held].reduce((a, b) => (b[1].openBytes > a[1].openBytes ? b : a));
  }
}

// A set of key hashes: open addressing in one typed array, a few nanoseconds a look.

const FIRST_SLOTS = 16;
/** 0 marks a free slot, so hash 0 is taken for this one: at worst a map is looked at in vain. */
const IN_PLACE_OF_ZERO = 1;

export class KeyHashes {
  #slots = new Int32Array(FIRST_SLOTS);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get heldBytes(): number {
    return this.#slots.byteLength;
  }

  /** `hash`: keyHash. */
  has(hash: number): boolean {
    const slots = this.#slots;
    const wanted = hash === 0 ? IN_PLACE_OF_ZERO : hash;
    const mask = slots.length - 1;
    for (let slot = wanted & mask; ; slot = (slot + 1) & mask) {
      const found = slots[slot]!;
      if (found === wanted) {
        return true;
      }
      if (found === 0) {
        return false;
      }
    }
  }

  add(hash: number): void {
    if (this.#count * 2 >= this.#slots.length) {
      const old = this.#slots;
      this.#slots = new Int32Array(old.length * 2);
      for (const held of old) {
        if (held !== 0) {
          this.#put(held);
        }
      }
    }
    this.#count += this.#put(hash === 0 ? IN_PLACE_OF_ZERO : hash);
  }

  addAll(other: KeyHashes): void {
    for (const hash of other.#slots) {
      if (hash !== 0) {
        this.add(hash);
      }
    }
  }

  /** How many it added: 0 or 1. */
  #put(hash: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = hash & mask;
    while (slots[slot] !== 0 && slots[slot] !== hash) {
      slot = (slot + 1) & mask;
    }
    const added = slots[slot] === 0 ? 1 : 0;
    slots[slot] = hash;
    return added;
  }
}

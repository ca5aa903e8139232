// Which blocks of one fork have a slot: a growing array of numbers, in pieces, because most forks are small.

const NONE = -1;
const PIECE = 1024;

export class BlockSlots {
  readonly #pieces = new Map<number, Int32Array>();

  /** -1 where the block has none. */
  get(blkno: number): number {
    return this.#pieces.get(Math.floor(blkno / PIECE))?.[blkno % PIECE] ?? NONE;
  }

  set(blkno: number, slot: number): void {
    const index = Math.floor(blkno / PIECE);
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = new Int32Array(PIECE).fill(NONE);
      this.#pieces.set(index, piece);
    }
    piece[blkno % PIECE] = slot;
  }

  /** Forgets the blocks from `blocks` on; `release` is called with each slot that they had. */
  truncate(blocks: number, release: (slot: number) => void): void {
    for (const [index, piece] of this.#pieces) {
      const first = Math.max(blocks - index * PIECE, 0);
      for (let i = first; i < PIECE; i++) {
        if (piece[i] !== NONE) {
          release(piece[i]!);
          piece[i] = NONE;
        }
      }
      if (first === 0) {
        this.#pieces.delete(index);
      }
    }
  }
}

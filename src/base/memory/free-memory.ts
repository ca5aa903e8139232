// Large memory given back at once, where its only owner knows that nobody needs it any more.

const LEAST_BYTES = 16 * 1024;

/** False where it is so small that `freeMemory` leaves it to the garbage collector. */
export function isWorthFreeing(buffer: ArrayBufferLike): boolean {
  return buffer.byteLength >= LEAST_BYTES;
}

/**
 * Frees the memory that `bytes` are the whole of; nothing is done where it has more, which may be another's (Buffer.poolSize).
 * Left to the garbage collector, what WAL passes through (64 KB for each read of a socket, 128 KB for each of a file) made it mark
 * the whole heap several times a second: 40 % of what safekeepers computed under a bulk load. Every view of the memory is empty
 * from now on, so it is for who has lent it to nobody for longer.
 */
export function freeMemory(bytes: Uint8Array): void {
  const { buffer } = bytes;
  const isWhole = bytes.length === buffer.byteLength;
  if (buffer instanceof ArrayBuffer && isWhole && isWorthFreeing(buffer)) {
    buffer.transfer(0);
  }
}

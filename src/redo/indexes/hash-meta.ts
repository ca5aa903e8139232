// The metapage of a hash index, and the arithmetic that makes its first version (access/hash.h, 14-18).
//
// HashMetaPageData, from byte 24 of block 0:
//   offset size field
//       24    4 hashm_magic
//       28    4 hashm_version     4
//       32    8 hashm_ntuples     a double
//       40    2 hashm_ffactor     tuples a bucket
//       42    2 hashm_bsize       8152
//       44    2 hashm_bmsize      4096, bytes of a bitmap page
//       46    2 hashm_bmshift     15, log2 of its bits
//       48    4 hashm_maxbucket
//       52    4 hashm_highmask
//       56    4 hashm_lowmask
//       60    4 hashm_ovflpoint   the splitpoint that overflow pages are added to
//       64    4 hashm_firstfree   lowest bit of a free overflow page
//       68    4 hashm_nmaps
//       72    4 hashm_procid
//       76  392 hashm_spares[98]  overflow pages before each splitpoint
//      468 4096 hashm_mapp[1024]  blocks of the bitmap pages
// and padding to byte 4568.

import { PD_LOWER } from "../../postgres/page.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";

const MAGIC = PAGE + 24;
const VERSION = PAGE + 28;
export const META_NTUPLES = PAGE + 32;
const FFACTOR = PAGE + 40;
const BSIZE = PAGE + 42;
const BMSIZE = PAGE + 44;
const BMSHIFT = PAGE + 46;
export const META_MAXBUCKET = PAGE + 48;
export const META_HIGHMASK = PAGE + 52;
export const META_LOWMASK = PAGE + 56;
export const META_OVFLPOINT = PAGE + 60;
export const META_FIRSTFREE = PAGE + 64;
const NMAPS = PAGE + 68;
const PROCID = PAGE + 72;
const SPARES = PAGE + 76;
const MAPP = PAGE + 468;
const META_END = 4568;

const HASH_MAGIC = 0x6440640;
const HASH_VERSION = 4;
const HASH_MAX_SPLITPOINTS = 98;
const HASH_MAX_BITMAPS = 1024;
const SINGLE_PHASE_GROUPS = 10;
const MAX_INITIAL_BUCKETS = 0x4000_0000;

/** Adds `by` to the number of tuples. */
export function addMetaTuples(c: RedoContext, by: number): void {
  c.view.setFloat64(META_NTUPLES, c.view.getFloat64(META_NTUPLES, true) + by, true);
}

/** Position of hashm_spares[splitpoint]. */
export function spares(c: RedoContext, splitpoint: number): number {
  if (splitpoint >= HASH_MAX_SPLITPOINTS) {
    c.fail(`splitpoint ${splitpoint} of ${HASH_MAX_SPLITPOINTS}`);
  }
  return SPARES + 4 * splitpoint;
}

/** One more overflow page at the current splitpoint. */
export function addSpare(c: RedoContext): void {
  const at = spares(c, c.view.getUint32(META_OVFLPOINT, true));
  c.view.setUint32(at, c.view.getUint32(at, true) + 1, true);
}

/** Block `blkno` is one more bitmap page. */
export function addBitmapPage(c: RedoContext, blkno: number): void {
  const maps = c.view.getUint32(NMAPS, true);
  if (maps >= HASH_MAX_BITMAPS) {
    c.fail(`the metapage has ${maps} bitmap pages, no room for another`);
  }
  c.view.setUint32(MAPP + 4 * maps, blkno, true);
  c.view.setUint32(NMAPS, maps + 1, true);
}

/** `pg_ceil_log2_32`, of 1 to 2^31. */
function ceilLog2(value: number): number {
  return value <= 1 ? 0 : 32 - Math.clz32(value - 1);
}

/** `_hash_spareindex`: the splitpoint phase that bucket count `buckets` (1 to 2^31) belongs to. */
export function spareIndex(buckets: number): number {
  const group = ceilLog2(buckets);
  if (group < SINGLE_PHASE_GROUPS) {
    return group;
  }
  const before = SINGLE_PHASE_GROUPS + (group - SINGLE_PHASE_GROUPS) * 4;
  return before + (((buckets - 1) >>> (group - 3)) & 3);
}

/** `_hash_get_totalbuckets`: buckets allocated up to and with a splitpoint phase. */
export function totalBuckets(phase: number): number {
  if (phase < SINGLE_PHASE_GROUPS) {
    return 2 ** phase;
  }
  const group = SINGLE_PHASE_GROUPS + ((phase - SINGLE_PHASE_GROUPS) >> 2);
  const half = 2 ** (group - 1);
  return half + (half / 4) * (((phase - SINGLE_PHASE_GROUPS) & 3) + 1);
}

/** Buckets of a new index: enough for the tuples expected, a whole phase, at least 2. */
function initialBuckets(c: RedoContext, tuples: number, fillFactor: number): number {
  const wanted = tuples / fillFactor;
  if (Number.isNaN(wanted)) {
    c.fail(`${tuples} tuples, ${fillFactor} a bucket`, c.main - c.delta);
  }
  if (wanted <= 2) {
    return 2;
  }
  return wanted >= MAX_INITIAL_BUCKETS
    ? MAX_INITIAL_BUCKETS
    : totalBuckets(spareIndex(Math.trunc(wanted)));
}

/** The rest of `_hash_init_metabuffer`, on a page that is zero but for its header and special space. */
export function initMetaContents(
  c: RedoContext,
  tuples: number,
  procId: number,
  fillFactor: number,
): void {
  const { view } = c;
  const buckets = initialBuckets(c, tuples, fillFactor);
  const splitpoint = spareIndex(buckets);
  // pg_nextpower2_32(buckets + 1) - 1.
  const highMask = 2 ** ceilLog2(buckets + 1) - 1;
  view.setUint32(MAGIC, HASH_MAGIC, true);
  view.setUint32(VERSION, HASH_VERSION, true);
  view.setUint16(FFACTOR, fillFactor, true);
  view.setUint16(BSIZE, 8152, true);
  view.setUint16(BMSIZE, 4096, true);
  view.setUint16(BMSHIFT, 15, true);
  view.setUint32(PROCID, procId, true);
  view.setUint32(META_MAXBUCKET, buckets - 1, true);
  view.setUint32(META_HIGHMASK, highMask, true);
  view.setUint32(META_LOWMASK, highMask >>> 1, true);
  view.setUint32(spares(c, splitpoint), 1, true);
  view.setUint32(META_OVFLPOINT, splitpoint, true);
  view.setUint16(PAGE + PD_LOWER, META_END, true);
}

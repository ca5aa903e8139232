// Fuzzes PageRedo with damaged deltas and damaged pages; `run(seed, steps)`.
//
// Invariants, whatever the bytes (`checkedApply`):
// - apply ends soon, and throws nothing but StorageError `corrupt` or `unsupported`;
// - the page and the delta it was given, and the bytes around the delta, stay as they are;
// - in redo's own memory nothing is written behind the delta;
// - a good page keeps a sound header and sound line pointers, when apply succeeds.
// And: after a failure, the same PageRedo replays a good page as if nothing had happened.
//
// A case that breaks one is thrown as a `Finding`, whose JSON goes into testdata/fuzz-findings.json, which
// page-redo.fuzz.test.ts replays.

import { deflateRawSync, inflateRawSync } from "node:zlib";
import { StorageError } from "../../src/base/errors.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { VM_FORK } from "../../src/postgres/relation-path.ts";
import { PageRedo } from "../../src/redo/page-redo.ts";
import { DELTA_RECORD } from "../../src/wal-decoder/delta.ts";
import { buildDelta, concat, pack } from "../redo/delta-builder.ts";
import { ginBrinChains } from "../redo/gin-brin-deltas.ts";
import { gistSpgistHashChains } from "../redo/gist-spgist-hash-deltas.ts";

/** A delta on the page that it belongs to. */
export interface FuzzCase {
  readonly page: Uint8Array;
  readonly delta: Uint8Array;
  readonly lsn: Lsn;
  readonly blkno: number;
  readonly fork: number;
}

/** One line of testdata/fuzz-findings.json. */
export interface StoredCase {
  readonly problem: string;
  /** Deflated, base64. */
  readonly page: string;
  /** Hex. */
  readonly delta: string;
  readonly lsn: number;
  readonly blkno: number;
  readonly fork: number;
}

export function restoreCase(stored: StoredCase): FuzzCase {
  return {
    page: new Uint8Array(inflateRawSync(Buffer.from(stored.page, "base64"))),
    delta: Uint8Array.from(Buffer.from(stored.delta, "hex")),
    lsn: toLsn(stored.lsn),
    blkno: stored.blkno,
    fork: stored.fork,
  };
}

/** A case that broke an invariant; the message has it as JSON. */
class Finding extends Error {
  constructor(problem: string, given: FuzzCase, cause: unknown) {
    const stored: StoredCase = {
      problem,
      page: deflateRawSync(given.page).toString("base64"),
      delta: Buffer.from(given.delta).toString("hex"),
      lsn: given.lsn,
      blkno: given.blkno,
      fork: given.fork,
    };
    super(`${problem}\nfinding: ${JSON.stringify(stored)}`, { cause });
  }
}

/** Of processor time for one case. */
export const SLOW_MS = 500;
/** Its deltas may write anything anywhere: only the header stays sound. */
const GENERIC = 20;
const GUARD = 64;
const GUARD_BYTE = 0xa5;
/** Where redo-context.ts keeps the delta; short ones are copied by words, up to 3 bytes too many. */
const DELTA_AREA = 32768;

/** Damages one case and applies it; false where redo refused it. */
export function fuzzCase(random: SeededRandom, redo: PageRedo, given: FuzzCase): boolean {
  const page = given.page.slice();
  const damagePage = random.bool(0.35);
  if (damagePage) {
    damage(random, page, random.bool(0.7) ? 12 + random.int(60) : page.length);
  }
  let delta: Uint8Array = given.delta.slice();
  if (!damagePage || random.bool(0.3)) {
    delta = damageDelta(random, delta);
  }
  return checkedApply(redo, { ...given, page, delta }, damagePage);
}

/** Applies a case and checks the invariants; false where redo refused it. */
export function checkedApply(redo: PageRedo, given: FuzzCase, pageIsDamaged: boolean): boolean {
  const { page, lsn, blkno, fork } = given;
  const length = given.delta.length;
  const guarded = new Uint8Array(GUARD + length + GUARD).fill(GUARD_BYTE);
  guarded.set(given.delta, GUARD);
  const pageBefore = page.slice();
  // Damage may make tuples overlap, which no check sees and which moves may push over the end.
  const hasItems = fork === 0 && given.delta[1] !== GENERIC;
  // The kinds for visibility maps and SLRUs know no other pages.
  const fitsPage = given.delta[0] === DELTA_RECORD || fork === VM_FORK;
  const soundBefore = fitsPage && !pageIsDamaged && isSound(page, hasItems);
  const behind = DELTA_AREA + Math.ceil(length / 4) * 4;
  const { buffer } = redo.page;
  const memory = new Uint8Array(buffer, 0, Math.min(behind + GUARD, buffer.byteLength));
  memory.fill(GUARD_BYTE, behind);
  const started = process.cpuUsage();
  let applied = false;
  try {
    redo.load(page);
    redo.apply(guarded.subarray(GUARD, GUARD + length), lsn, blkno, fork);
    applied = true;
  } catch (error) {
    if (
      !(error instanceof StorageError && (error.kind === "corrupt" || error.kind === "unsupported"))
    ) {
      throw new Finding(error instanceof Error ? `${error.stack}` : String(error), given, error);
    }
  }
  const found = (problem: string) => new Finding(problem, given, undefined);
  if (spentMs(started) > SLOW_MS) {
    throw found("apply took too long");
  }
  if (Buffer.compare(page, pageBefore) !== 0) {
    throw found("the page that was given changed");
  }
  if (Buffer.compare(guarded.subarray(GUARD, GUARD + length), given.delta) !== 0) {
    throw found("the delta that was given changed");
  }
  if (!isFilled(guarded, 0, GUARD) || !isFilled(guarded, GUARD + length, guarded.length)) {
    throw found("bytes around the delta changed");
  }
  // Where redo had to grow for this delta it has other memory now, without guard.
  if (buffer === redo.page.buffer && !isFilled(memory, behind, memory.length)) {
    throw found("redo wrote behind its copy of the delta");
  }
  if (applied && soundBefore && !isSound(redo.page, hasItems)) {
    throw found("a sound page became unsound");
  }
  return applied;
}

/** Processor time since then: how busy the machine is does not matter. */
export function spentMs(since: NodeJS.CpuUsage): number {
  return process.cpuUsage(since).user / 1000;
}

function isFilled(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    if (bytes[i] !== GUARD_BYTE) {
      return false;
    }
  }
  return true;
}

export function damage(random: SeededRandom, bytes: Uint8Array, within: number): void {
  for (let i = 1 + random.int(3); i > 0; i--) {
    const at = random.int(Math.min(within, bytes.length));
    bytes[at] = random.pick([
      0,
      1,
      0x7f,
      0x80,
      0xff,
      random.int(256),
      bytes[at]! ^ (1 << random.int(8)),
    ]);
  }
}

/** Changes bytes, or cuts and stretches the data and makes the lengths fit again. */
function damageDelta(random: SeededRandom, delta: Uint8Array): Uint8Array {
  if (random.bool(0.6) || delta[0] !== 1 || delta.length < 28) {
    // Mostly past the fixed header: damage there is refused at once.
    const bytes = random.bool(0.1) ? delta.slice(0, random.int(delta.length + 1)) : delta;
    const from = random.bool(0.8) ? Math.min(20, bytes.length) : 0;
    damage(random, bytes.subarray(from), bytes.length - from);
    return bytes;
  }
  const view = new DataView(delta.buffer, delta.byteOffset);
  const head = 20 + delta[8]! * 8;
  const main = view.getUint32(12, true);
  const target = Math.max(head, random.int(delta.length + 40));
  const changed = new Uint8Array(target);
  changed.set(delta.subarray(0, Math.min(delta.length, target)));
  const newMain = random.bool(0.7) ? Math.min(main, target - head) : random.int(target - head + 1);
  const newView = new DataView(changed.buffer);
  newView.setUint32(12, newMain, true);
  newView.setUint32(16, target - head - newMain, true);
  return changed;
}

/** Header and, if `hasItems`, line pointers as every reader of the page needs them. Pages of zeros count as sound. */
function isSound(page: Uint8Array, hasItems: boolean): boolean {
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  const [lower, upper, special] = [12, 14, 16].map((at) => view.getUint16(at, true)) as [
    number,
    number,
    number,
  ];
  if (upper === 0) {
    return true;
  }
  if (lower < 24 || lower > upper || upper > special || special > 8192) {
    return false;
  }
  // Metapages, hash bitmaps, deleted btree and gist pages keep other things where line pointers are,
  // and so do most pages with 8 bytes of special space: GIN's posting trees, BRIN's revmap, bloom's.
  const isItemless =
    (special === 8176 && (view.getUint16(8188, true) & 0x0c) !== 0) ||
    (view.getUint16(8190, true) === 0xff81 && (view.getUint16(8188, true) & 0x02) !== 0) ||
    (special === 8184 && (view.getUint16(8190, true) & 0x09) !== 0) ||
    (special === 8184 && view.getUint16(8190, true) === 0xf092);
  if (!hasItems || isItemless) {
    return true;
  }
  for (let at = 24; at + 4 <= lower; at += 4) {
    const id = view.getUint32(at, true);
    const length = id >>> 17;
    if (length > 0 && ((id & 0x7fff) < upper || (id & 0x7fff) + length > special)) {
      return false;
    }
  }
  return true;
}

/** Pages and deltas made by hand: inserts, updates, prunes, deletes, btree and other indexes. */
function* handMadeCases(random: SeededRandom): Generator<FuzzCase> {
  const redo = new PageRedo();
  let lsn = 8192;
  let page: Uint8Array = new Uint8Array(8192);
  const apply = function* (delta: Uint8Array): Generator<FuzzCase> {
    lsn += 8;
    yield { page, delta, lsn: toLsn(lsn), blkno: 3, fork: 0 };
    redo.load(page);
    redo.apply(delta, toLsn(lsn), 3, 0);
    page = redo.copyOut();
  };
  const references = [{ id: 0, blkno: 3 }];
  const header = pack(["u16", 2], ["u16", 0x0800], ["u8", 24]);
  const tuples = 12 + random.int(20);
  for (let offnum = 1; offnum <= tuples; offnum++) {
    const data = concat(header, new Uint8Array(8 + random.int(150)).fill(offnum));
    const main = pack(["u16", offnum], ["u8", 0]);
    yield* apply(buildDelta({ rmid: 10, info: offnum === 1 ? 0x80 : 0, references, main, data }));
  }
  for (let offnum = 1; offnum <= 3; offnum++) {
    const main = pack(
      ["u32", 9],
      ["u16", offnum],
      ["u8", 0],
      ["u8", 0],
      ["u32", 0],
      ["u16", tuples + offnum],
    );
    const data = concat(new Uint8Array([1, 0, 0, 0]), header, new Uint8Array(9));
    const flags = main.slice();
    flags[7] = 0x60;
    yield* apply(buildDelta({ rmid: 10, info: 0x40, references, main: flags, data }));
  }
  const prune = pack(
    ["u16", 1],
    ["u16", 4],
    ["u16", tuples],
    ["u16", 2],
    ["u16", 6],
    ["u16", 7],
    ["u16", 1],
    ["u16", 9],
  );
  yield* apply(
    buildDelta({
      rmid: 9,
      info: 0x10,
      references,
      main: pack(["u8", 0], ["u8", 0xe4]),
      data: prune,
    }),
  );
  page = new Uint8Array(8192);
  const root = pack(["u32", 3], ["u32", 0]);
  yield* apply(buildDelta({ rmid: 11, info: 0xa0, references, main: root }));
  for (let offnum = 1; offnum <= tuples; offnum++) {
    const size = 16 + 8 * random.int(8);
    const data = concat(
      pack(["u16", 0], ["u16", offnum], ["u16", 1], ["u16", size]),
      new Uint8Array(size - 8),
    );
    yield* apply(buildDelta({ rmid: 11, info: 0, references, main: pack(["u16", offnum]), data }));
  }
  const dedup = pack(["u16", 2], ["u16", 3], ["u16", 7], ["u16", 2]);
  yield* apply(
    buildDelta({ rmid: 11, info: 0x60, references, main: pack(["u16", 2]), data: dedup }),
  );
  const posting = concat(
    pack(["u16", 1]),
    pack(["u16", 0], ["u16", 2], ["u16", 9], ["u16", 16]),
    new Uint8Array(8),
  );
  yield* apply(
    buildDelta({ rmid: 11, info: 0x50, references, main: pack(["u16", 3]), data: posting }),
  );
  const vacuum = pack(["u16", 5], ["u16", 8], ["u16", 9], ["u16", 2], ["u16", 1], ["u16", 0]);
  const counts = pack(["u16", 3], ["u16", 1]);
  yield* apply(buildDelta({ rmid: 11, info: 0xc0, references, main: counts, data: vacuum }));
  for (const chain of [...ginBrinChains(random), ...gistSpgistHashChains(random)]) {
    page = new Uint8Array(8192);
    for (const delta of chain) {
      yield* apply(delta);
    }
  }
}

export function run(seed: number, steps: number): FuzzResult {
  const random = new SeededRandom(seed);
  const redo = new PageRedo();
  let applied = 0;
  let refused = 0;
  while (applied + refused < steps) {
    for (const given of handMadeCases(random)) {
      for (let i = 0; i < 20; i++) {
        if (fuzzCase(random, redo, given)) {
          applied++;
        } else {
          refused++;
        }
      }
      redo.load(given.page);
      redo.apply(given.delta, given.lsn, given.blkno, given.fork);
    }
  }
  return { cases: applied + refused, applied, refused };
}

export interface FuzzResult {
  readonly cases: number;
  readonly applied: number;
  readonly refused: number;
}

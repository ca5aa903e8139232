// Redo of one page: load its base, apply its deltas in LSN order, copy the result out.

import { StorageError } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import { XLOG_HEAP2_VISIBLE } from "../postgres/opcodes.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { VM_FORK } from "../postgres/relation-path.ts";
import {
  RM_BRIN_ID,
  RM_BTREE_ID,
  RM_GENERIC_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
  RM_SEQ_ID,
  RM_SPGIST_ID,
  RM_XLOG_ID,
} from "../postgres/rmgr.ts";
import {
  DELTA_CLOG_STATUS,
  DELTA_COMMIT_TS,
  DELTA_MULTIXACT_MEMBERS,
  DELTA_MULTIXACT_OFFSETS,
  DELTA_RECORD,
  DELTA_VM_CLEAR,
  DELTA_VM_TRUNCATE,
} from "../wal-decoder/delta.ts";
import { redoGeneric } from "./generic.ts";
import { heapInitsPage, redoHeap, redoHeap2 } from "./heap.ts";
import { brinInitsPage, redoBrin } from "./indexes/brin.ts";
import { btreeInitsPage, redoBtree } from "./indexes/btree.ts";
import { ginInitsPage, redoGin } from "./indexes/gin.ts";
import { gistInitsPage, redoGist } from "./indexes/gist.ts";
import { hashInitsPage, redoHash } from "./indexes/hash.ts";
import { redoSpgist, spgistInitsPage } from "./indexes/spgist.ts";
import { checkPageBounds, checkPagePointers, pageHasLsn, pageIsNew } from "./page-layout.ts";
import { PAGE, RedoContext } from "./redo-context.ts";
import { redoSequence } from "./seq.ts";
import { redoClogStatus } from "./slru/clog.ts";
import { redoCommitTimestamps } from "./slru/commit-ts.ts";
import { redoMultixactMembers, redoMultixactOffsets } from "./slru/multixact.ts";
import { redoVisibilityMapClear, redoVisibilityMapTruncate } from "./visibility-map.ts";
import { redoXlog } from "./xlog.ts";

/** The all-visible opcode of heap2. */

export interface PageRedoOptions {
  /** The cluster runs with wal_log_hints or data checksums: marking a page all-visible stamps it. */
  readonly walLogHints?: boolean;
}

/**
 * Applies deltas (wal-decoder/delta.ts) to one page in private memory: 8 kB and its working space,
 * about 100 kB, made once and used for any number of pages, one after the other and synchronously.
 *
 * After an error the page is half changed: load again before anything else.
 */
export class PageRedo {
  readonly #context: RedoContext;

  constructor(options: PageRedoOptions = {}) {
    this.#context = new RedoContext(options.walLogHints ?? false);
  }

  /** Starts from a page of 8192 bytes, which is copied. StorageError `corrupt` on another length. */
  load(base: Uint8Array): void {
    if (base.length !== PAGE_SIZE) {
      throw new StorageError(
        "corrupt",
        "page-size",
        `base page has ${base.length} bytes, not 8192`,
      );
    }
    this.#context.bytes.set(base, PAGE);
  }

  /** Starts from a page of zeros: one that is first written by a delta with `willInit`. */
  loadZero(): void {
    this.#context.bytes.fill(0, PAGE, PAGE + PAGE_SIZE);
  }

  /**
   * Changes the page as the record that ends at `lsn` did. `blkno` and `fork` say which page it is;
   * for an SLRU page `blkno` is its number in the segment (or in the whole SLRU) and `fork` 0. As in
   * Postgres, a record that the page's LSN already covers is skipped.
   *
   * StorageError `corrupt` where the delta does not fit the page or is malformed, naming resource
   * manager, info, LSN, block and offset; `unsupported` for a record kind this version cannot replay.
   */
  apply(delta: Uint8Array, lsn: Lsn, blkno: number, fork: number): void {
    this.applyAt(delta, 0, delta.length, lsn, blkno, fork);
  }

  /** The same of the delta in bytes [offset, offset + length) of a block or chunk. */
  applyAt(
    bytes: Uint8Array,
    offset: number,
    length: number,
    lsn: Lsn,
    blkno: number,
    fork: number,
  ): void {
    const context = this.#context;
    context.setDelta(bytes, offset, length, lsn, blkno, fork);
    switch (context.kind) {
      case DELTA_RECORD:
        redoRecord(context);
        return;
      case DELTA_VM_CLEAR:
        redoVisibilityMapClear(context);
        return;
      case DELTA_VM_TRUNCATE:
        redoVisibilityMapTruncate(context);
        return;
      case DELTA_CLOG_STATUS:
        redoClogStatus(context);
        return;
      case DELTA_MULTIXACT_OFFSETS:
        redoMultixactOffsets(context);
        return;
      case DELTA_MULTIXACT_MEMBERS:
        redoMultixactMembers(context);
        return;
      case DELTA_COMMIT_TS:
        redoCommitTimestamps(context);
        return;
      default:
        context.fail(`unknown delta kind ${context.kind}`, 0);
    }
  }

  /** The page, lent until the next call; cheaper than `copyOut` for who copies it anyway. */
  get page(): Uint8Array {
    return this.#context.page;
  }

  /** The page in fresh memory, the caller's to keep. */
  copyOut(): Uint8Array {
    return this.#context.bytes.slice(PAGE, PAGE + PAGE_SIZE);
  }
}

function redoRecord(context: RedoContext): void {
  if (!initsPage(context)) {
    if (pageIsNew(context, PAGE)) {
      if (context.referenceFork !== VM_FORK) {
        context.fail("the page was never initialised");
      }
      // Only setting bits makes a map page; clearing them on one that is not there means nothing.
      if (context.rmid !== RM_HEAP2_ID || (context.info & 0x70) !== XLOG_HEAP2_VISIBLE) {
        return;
      }
    } else {
      if (pageHasLsn(context, PAGE)) {
        return;
      }
      if (context.rmid <= RM_BTREE_ID) {
        checkPagePointers(context, PAGE);
      } else {
        // Other access methods have pages without line pointers, whose pd_lower is anything.
        checkPageBounds(context, PAGE);
      }
    }
  }
  switch (context.rmid) {
    case RM_HEAP_ID:
      redoHeap(context);
      return;
    case RM_BTREE_ID:
      redoBtree(context);
      return;
    case RM_HEAP2_ID:
      redoHeap2(context);
      return;
    case RM_SEQ_ID:
      redoSequence(context);
      return;
    case RM_GIN_ID:
      redoGin(context);
      return;
    case RM_BRIN_ID:
      redoBrin(context);
      return;
    case RM_GENERIC_ID:
      redoGeneric(context);
      return;
    case RM_HASH_ID:
      redoHash(context);
      return;
    case RM_GIST_ID:
      redoGist(context);
      return;
    case RM_SPGIST_ID:
      redoSpgist(context);
      return;
    case RM_XLOG_ID:
      redoXlog(context);
      return;
    default:
      context.unsupported();
  }
}

/** Whether the record makes this page from nothing, whatever was there. */
function initsPage(context: RedoContext): boolean {
  switch (context.rmid) {
    case RM_HEAP_ID:
    case RM_HEAP2_ID:
      return heapInitsPage(context);
    case RM_BTREE_ID:
      return btreeInitsPage(context);
    case RM_GIN_ID:
      return ginInitsPage(context);
    case RM_BRIN_ID:
      return brinInitsPage(context);
    case RM_HASH_ID:
      return hashInitsPage(context);
    case RM_GIST_ID:
      return gistInitsPage(context);
    case RM_SPGIST_ID:
      return spgistInitsPage(context);
    case RM_SEQ_ID:
      return true;
    default:
      return false;
  }
}

// What a compaction is told, as plain data, and what it asks for.

import type { Lsn } from "../../base/lsn.ts";
import type { PageReply } from "../flush/layer-flush.ts";
import type { LayerNumber } from "../layers/layer-format.ts";
import type { Key } from "./image-tiles.ts";
import type { KeyRange } from "./layer-cursor.ts";

export interface CompactionSettings {
  /** Where the outputs go. */
  readonly directory: string;
  /** Of all outputs, in their names, since no two of them cover the same. */
  readonly number: LayerNumber;
  /** What the outputs cover; versions of other keys are left out. */
  readonly range: KeyRange;
  /**
   * Ascending: LSNs up to the cutoff at which the keys are still read, the cutoff itself among them where
   * nothing else preserves its state. Versions above the cutoff all stay. Cutoff 0: all versions stay.
   */
  readonly retained: readonly Lsn[];
  readonly cutoff: Lsn;
  /** No delta layer has versions at or below one of these and others above it. */
  readonly cutPoints: readonly Lsn[];
  /** Ascending: a delta layer that has a sixteenth of `targetBytes` ends before the next of these keys. */
  readonly keyCuts: readonly Key[];
  /** A file ends with the key that makes it so large, or inside a key that is itself so large. */
  readonly targetBytes: number;
  /**
   * Image layers at this LSN, instead of images in delta layers beside versions above the cutoff. What the
   * LSN retains need not be retained otherwise.
   */
  readonly imageLayerLsn: Lsn | undefined;
  /**
   * Whether a read that finds nothing in the outputs goes on in other layers, and may find the key there.
   * Not with image layers, neither written (they say that what they lack is not there) nor read.
   */
  readonly moreBelow: boolean;
  /** As PageRedo's. */
  readonly walLogHints: boolean;
}

/** A page as it is at an LSN, below all that the inputs have of it; or the size of a relation fork. */
export interface BasePageRequest {
  /** 18 bytes, as decodeKey takes them. */
  readonly key: Uint8Array;
  readonly lsn: Lsn;
}

/** Answers requests, in their order, at most 64 at once. */
export type BasePageLookup = (
  requests: readonly BasePageRequest[],
) => Promise<readonly PageReply[]>;

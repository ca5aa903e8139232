// Answers a flush's requests for pages that lie in other layers, a few milliseconds at a time.

import { monotonicMs, turn } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { FrozenLayer } from "../layers/frozen-layer.ts";
import { type KeyPrefix, keyPrefix } from "../layers/key.ts";
import { LayerNotResident } from "../layers/layer-file.ts";
import type { PageLookup, PageReply, PageRequest } from "./layer-flush.ts";

/** The event loop is given back after this long: page service goes on during a flush. */
export const SLICE_MS = 2;

/** What a timeline can say about a key. */
export interface KeyReader {
  /** The page at an LSN, in memory of its own; undefined where there is none. */
  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined;
  /** Deltas that a read at the LSN applies, caches left out of account. */
  countDeltas(prefix: KeyPrefix, index: number, lsn: Lsn): number;
}

/** Never rejects: a page that cannot be read is an answer. */
export function flushPages(layer: FrozenLayer, reader: KeyReader): PageLookup {
  const prefixes = layer.prefixFields.map((fields) => keyPrefix(...fields));
  const answer = ({ key, lsn, minDeltas }: PageRequest): PageReply => {
    const prefix = prefixes[layer.keyPrefixes[key]!]!;
    const index = layer.keyIndexes[key]!;
    try {
      if (minDeltas > 0 && reader.countDeltas(prefix, index, lsn) < minDeltas) {
        return { state: "unwanted" };
      }
      const page = reader.readPage(prefix, index, lsn);
      // A buffer of its own, as it may move to another thread.
      return page === undefined ? { state: "none" } : { state: "page", page: page.slice() };
    } catch (error) {
      if (error instanceof LayerNotResident) {
        // Not worth a download: who reads the page fetches the layer, and a later flush or compaction makes the image.
        return { state: "unwanted" };
      }
      return { state: "failed", reason: errorMessage(error) };
    }
  };
  return async (requests) => {
    const replies: PageReply[] = [];
    let sliceStart = monotonicMs();
    for (const request of requests) {
      replies.push(answer(request));
      if (monotonicMs() - sliceStart > SLICE_MS) {
        await turn();
        sliceStart = monotonicMs();
      }
    }
    return replies;
  };
}

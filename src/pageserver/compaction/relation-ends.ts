// Which blocks of relations are there at an LSN: those below their fork's size. Others have versions that nobody reads.
//
// A fork that shrinks or goes leaves its blocks as they are; when it grows again, each block begins anew
// (ingest/relation-heads.ts). So an image of a block past the end would only take space, for ever.

import type { Lsn } from "../../base/lsn.ts";
import { encodeKey, type KeyPrefix, samePrefix, sizePrefixOfBlocks } from "../layers/key.ts";
import type { BasePageLookup } from "./compaction-settings.ts";
import type { VersionBatch } from "./version-batch.ts";

/** Sizes asked for at once. */
const SIZE_BATCH = 64;

export class RelationEnds {
  readonly #pages: BasePageLookup;
  readonly #lsn: Lsn;
  /** Forks of the batch, ascending, and how many blocks they have. */
  #prefixes: KeyPrefix[] = [];
  #sizes: number[] = [];
  /** Where the last question was answered. */
  #at = 0;

  constructor(pages: BasePageLookup, lsn: Lsn) {
    this.#pages = pages;
    this.#lsn = lsn;
  }

  /** Of all keys of the batch; the last fork of the batch before is known. */
  async learn({ prefixes, keyCount }: VersionBatch): Promise<void> {
    const [last, size] = [this.#prefixes.at(-1), this.#sizes.at(-1)];
    this.#prefixes = last === undefined ? [] : [last];
    this.#sizes = size === undefined ? [] : [size];
    this.#at = 0;
    const asked: KeyPrefix[] = [];
    for (let key = 0; key < keyCount; key++) {
      const prefix = prefixes[key]!;
      const before = asked.at(-1) ?? last;
      if (before === undefined || !samePrefix(prefix, before)) {
        asked.push(prefix);
      }
    }
    for (let start = 0; start < asked.length; start += SIZE_BATCH) {
      await this.#ask(asked.slice(start, start + SIZE_BATCH));
    }
  }

  async #ask(prefixes: readonly KeyPrefix[]): Promise<void> {
    const sized = prefixes.map((prefix) => sizePrefixOfBlocks(prefix));
    const requests = sized.flatMap((prefix) =>
      prefix === undefined ? [] : { key: encodeKey(prefix, 0), lsn: this.#lsn },
    );
    const replies = requests.length === 0 ? [] : await this.#pages(requests);
    let next = 0;
    for (const [i, prefix] of prefixes.entries()) {
      const reply = sized[i] === undefined ? undefined : replies[next++]!;
      this.#prefixes.push(prefix);
      // What is not known is taken to be there.
      this.#sizes.push(
        reply?.state === "none"
          ? 0
          : reply?.state === "page" && reply.page.length === 4
            ? new DataView(reply.page.buffer, reply.page.byteOffset, 4).getUint32(0, true)
            : Number.POSITIVE_INFINITY,
      );
    }
  }

  /** Of keys of the batch, in their order. */
  has(prefix: KeyPrefix, index: number): boolean {
    while (!samePrefix(this.#prefixes[this.#at]!, prefix)) {
      this.#at++;
    }
    return index < this.#sizes[this.#at]!;
  }
}

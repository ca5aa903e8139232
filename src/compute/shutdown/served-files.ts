// What Postgres was told and given of storage's relations: so that a stop knows what is new.

import { crc32c } from "../../base/crc32c.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  FSM_FORK,
  MAIN_FORK,
  type StorageFile,
  storagePath,
} from "../../postgres/relation-path.ts";
import type { FileContent } from "../pages/page-source.ts";

export class ServedFiles {
  /** Of free space maps: CRCs by file and block. */
  readonly #maps = new Map<string, Map<number, number>>();
  /** Of tables and indexes, in bytes, by file. */
  readonly #sizes = new Map<string, number>();

  readonly #withHoles = new Set<string>();

  static isMap(file: StorageFile): boolean {
    return file.kind === "relation" && file.fork === FSM_FORK;
  }

  /** Postgres hears that storage has `bytes` of a file. */
  told(file: StorageFile, bytes: number | undefined): void {
    if (bytes !== undefined && file.kind === "relation" && file.fork === MAIN_FORK) {
      this.#sizes.set(storagePath(file), bytes);
    }
  }

  /** Postgres gets these pages of a free space map, from block `blkno` on. */
  given(map: StorageFile, blkno: number, pieces: readonly { readonly bytes: Uint8Array }[]): void {
    const name = storagePath(map);
    const blocks = this.#maps.get(name) ?? new Map<number, number>();
    this.#maps.set(name, blocks);
    let block = blkno;
    for (const { bytes } of pieces) {
      for (let at = 0; at < bytes.length; at += PAGE_SIZE) {
        blocks.set(block++, crc32c(bytes, at, at + PAGE_SIZE));
      }
    }
  }

  /** What was put into a file before Postgres ran. */
  placed(file: StorageFile, { bytes, runs, pages }: FileContent): void {
    this.told(file, bytes);
    for (const [i, [first]] of ServedFiles.isMap(file) ? runs.entries() : []) {
      this.given(file, first, [{ bytes: pages[i]! }]);
    }
  }

  /** Whether storage has just this page of a free space map. */
  has(map: StorageFile, blkno: number, page: Uint8Array): boolean {
    return this.#maps.get(storagePath(map))?.get(blkno) === crc32c(page, 0, PAGE_SIZE);
  }

  /** Blocks of a file that Postgres had written were given back to the disk: it may have holes. */
  gaveBack(file: StorageFile): void {
    this.#withHoles.add(storagePath(file));
  }

  mayHaveHoles(file: StorageFile): boolean {
    return this.#withHoles.has(storagePath(file));
  }

  /** Undefined where Postgres was told of none: then it has made the file itself. */
  sizeOf(file: StorageFile): number | undefined {
    return this.#sizes.get(storagePath(file));
  }
}

// Versions of many keys in columns, as the merge of several layers gives them.

import type { KeyPrefix } from "../layers/key.ts";
import { type LayerBlock, valueEnd, valueStart } from "../layers/layer-block.ts";

const FIRST_KEYS = 256;
const FIRST_VERSIONS = 1024;

/**
 * Key k has versions [ends[k - 1], ends[k]), ascending by LSN and then by arrival. A value is
 * `blocks[blockOf[i]].bytes[offsets[i], offsets[i] + lengths[i])`. Filled again and again; blocks are lent
 * until then.
 */
export class VersionBatch {
  keyCount = 0;
  prefixes: KeyPrefix[] = [];
  indexes = new Uint32Array(FIRST_KEYS);
  ends = new Uint32Array(FIRST_KEYS);
  /** The first key goes on from the batch before, the last one into the next. */
  continued = false;
  continues = false;

  count = 0;
  kinds = new Uint8Array(FIRST_VERSIONS);
  lsns = new Float64Array(FIRST_VERSIONS);
  blockOf = new Uint32Array(FIRST_VERSIONS);
  offsets = new Uint32Array(FIRST_VERSIONS);
  lengths = new Uint32Array(FIRST_VERSIONS);

  readonly blocks: LayerBlock[] = [];
  readonly views: DataView[] = [];
  /** Held by the blocks and by the columns. */
  sizeBytes = 0;

  reset(): void {
    this.keyCount = 0;
    this.continued = this.continues;
    this.continues = false;
    this.count = 0;
    this.blocks.length = 0;
    this.views.length = 0;
    this.sizeBytes = 0;
  }

  addKey(prefix: KeyPrefix, index: number): void {
    const key = this.keyCount++;
    if (key === this.ends.length) {
      this.indexes = resized(new Uint32Array(key * 2), this.indexes);
      this.ends = resized(new Uint32Array(key * 2), this.ends);
    }
    this.prefixes[key] = prefix;
    this.indexes[key] = index;
    this.ends[key] = this.count;
  }

  /** Its number here. */
  addBlock(block: LayerBlock): number {
    const { bytes } = block;
    this.sizeBytes += bytes.length;
    this.views.push(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
    return this.blocks.push(block) - 1;
  }

  /** To the key added last. */
  addVersion(kind: number, lsn: number, blockNumber: number, entry: number): void {
    const at = this.#reserve();
    const block = this.blocks[blockNumber]!;
    const start = valueStart(block, entry);
    this.kinds[at] = kind;
    this.lsns[at] = lsn;
    this.blockOf[at] = blockNumber;
    this.offsets[at] = start;
    this.lengths[at] = valueEnd(block, entry) - start;
  }

  /** To the key added last: a version without a value. */
  addBare(kind: number, lsn: number): void {
    const at = this.#reserve();
    this.kinds[at] = kind;
    this.lsns[at] = lsn;
    // Some block, since there is always one: a key is there because a layer has it.
    this.blockOf[at] = 0;
    this.offsets[at] = 0;
    this.lengths[at] = 0;
  }

  #reserve(): number {
    const at = this.count++;
    if (at === this.lsns.length) {
      this.kinds = resized(new Uint8Array(at * 2), this.kinds);
      this.lsns = resized(new Float64Array(at * 2), this.lsns);
      this.blockOf = resized(new Uint32Array(at * 2), this.blockOf);
      this.offsets = resized(new Uint32Array(at * 2), this.offsets);
      this.lengths = resized(new Uint32Array(at * 2), this.lengths);
    }
    this.ends[this.keyCount - 1] = this.count;
    this.sizeBytes += VERSION_BYTES;
    return at;
  }
}

/** In the columns, and in what later steps note about a version. */
const VERSION_BYTES = 24;

function resized<T extends Uint8Array | Uint32Array | Float64Array>(larger: T, old: T): T {
  larger.set(old);
  return larger;
}

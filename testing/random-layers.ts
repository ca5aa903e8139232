// Layer files of random histories on a disk in memory, and what each key is at each LSN.

import { join } from "node:path";
import { SimulatedDisk } from "../simulation/simulated-disk.ts";
import { type Lsn, MAX_LSN, toLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import type { CompactionInput } from "../src/pageserver/compaction/layer-cursor.ts";
import { BlockCache, OpenFiles } from "../src/pageserver/layers/block-cache.ts";
import {
  comparePrefixes,
  type KeyPrefix,
  keyHash,
  relSizePrefix,
  slruBlockPrefix,
} from "../src/pageserver/layers/key.ts";
import { LayerFile, type LayerResources } from "../src/pageserver/layers/layer-file.ts";
import {
  FIRST_KEY,
  LAST_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  type LayerName,
} from "../src/pageserver/layers/layer-format.ts";
import { LayerWriter } from "../src/pageserver/layers/layer-writer.ts";
import { ReadWindow } from "../src/pageserver/layers/read-window.ts";
import { ScanBlocks } from "../src/pageserver/layers/resident-index.ts";
import {
  BASE_ABSENT,
  BASE_IMAGE,
  BASE_NONE,
  VALUE_DELTA,
  VALUE_DELTA_INIT,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
  VersionChain,
} from "../src/pageserver/layers/version-chain.ts";
import { PageRedo } from "../src/redo/page-redo.ts";
import { encodeClogStatus } from "../src/wal-decoder/implied-deltas.ts";

export const DIRECTORY = "/layers";

export interface Key {
  readonly prefix: KeyPrefix;
  readonly index: number;
}

export interface Version {
  readonly kind: number;
  readonly lsn: Lsn;
  readonly value: Uint8Array;
  /** The key's value from it on; undefined: it is not there. */
  readonly state: Uint8Array | undefined;
}

export interface KeyHistory extends Key {
  readonly isPage: boolean;
  /** Ascending by LSN, then by arrival. */
  readonly versions: readonly Version[];
}

const XIDS_A_PAGE = 32768;
const PAGES_A_SEGMENT = 32;
const EMPTY = new Uint8Array(0);

/** Histories of some keys, ascending; LSNs are in [first, first + span). */
export function randomHistories(
  random: SeededRandom,
  { keys, first, span }: { keys: number; first: number; span: number },
): KeyHistory[] {
  const prefixes = [
    slruBlockPrefix(0, 1),
    slruBlockPrefix(0, 7),
    relSizePrefix(1663, 5, 16384, 0),
    relSizePrefix(1663, 5, 16385, 0),
  ].sort(comparePrefixes);
  return prefixes.flatMap((prefix, number) => {
    const isPage = number < 2;
    const segment = number === 0 ? 1 : 7;
    const indexes = new Set(
      Array.from({ length: keys / 4 }, () => random.int(isPage ? PAGES_A_SEGMENT : 1000)),
    );
    return [...indexes]
      .sort((a, b) => a - b)
      .map((index) => {
        const lsns = randomLsns(random, first, span);
        const versions = isPage
          ? pageVersions(random, segment, index, lsns)
          : valueVersions(random, lsns);
        return { prefix, index, isPage, versions };
      });
  });
}

function randomLsns(random: SeededRandom, first: number, span: number): Lsn[] {
  const count = random.pick([1, 1, 2, 5, 40, 40, 100, 400]);
  return Array.from({ length: count }, () => toLsn(first + random.int(span))).sort((a, b) => a - b);
}

function pageVersions(
  random: SeededRandom,
  segment: number,
  index: number,
  lsns: readonly Lsn[],
): Version[] {
  const redo = new PageRedo();
  const versions: Version[] = [];
  let state: Uint8Array | undefined;
  const firstXid = (segment * PAGES_A_SEGMENT + index) * XIDS_A_PAGE;
  for (const lsn of lsns) {
    const roll = random.int(100);
    if (roll < 4) {
      state = new Uint8Array(8192).fill(random.int(256));
      versions.push({ kind: VALUE_IMAGE, lsn, value: state, state });
      continue;
    }
    if (roll < 6) {
      state = undefined;
      versions.push({ kind: VALUE_TOMBSTONE, lsn, value: EMPTY, state });
      continue;
    }
    const first = state === undefined ? roll < 95 : roll < 8;
    const count = random.pick([1, 1, 1, 10, 200]);
    const xids = Array.from({ length: count }, () => firstXid + random.int(XIDS_A_PAGE));
    const value = encodeClogStatus(xids, 1 + random.int(2)).slice();
    if (first || state === undefined) {
      redo.loadZero();
    } else {
      redo.load(state);
    }
    redo.apply(value, lsn, index, 0);
    state = redo.copyOut();
    versions.push({ kind: first ? VALUE_DELTA_INIT : VALUE_DELTA, lsn, value, state });
    if (roll > 96) {
      // As a flush adds it.
      versions.push({ kind: VALUE_IMAGE, lsn, value: state, state });
    }
  }
  return versions;
}

function valueVersions(random: SeededRandom, lsns: readonly Lsn[]): Version[] {
  return lsns.map((lsn) => {
    if (random.int(5) === 0) {
      return { kind: VALUE_TOMBSTONE, lsn, value: EMPTY, state: undefined };
    }
    const length = random.pick([0, 1, 4, 4, 4, 100, 30_000]);
    const value = new Uint8Array(length).fill(random.int(256));
    return { kind: VALUE_IMAGE, lsn, value, state: value };
  });
}

export function stateAt({ versions }: KeyHistory, lsn: number): Uint8Array | undefined {
  return versions.findLast((version) => version.lsn <= lsn)?.state;
}

/** Files, and reads over them. */
export class LayerDirectory {
  readonly disk: SimulatedDisk;
  readonly #resources: LayerResources;

  constructor(seed: number) {
    this.disk = new SimulatedDisk(new SeededRandom(seed));
    this.disk.makeDirectory(DIRECTORY);
    this.#resources = {
      useClock: { now: 0 },
      blockCache: new BlockCache(1 << 20),
      openFiles: new OpenFiles(4, this.disk),
      readWindow: new ReadWindow(),
      scanBlocks: new ScanBlocks(),
    };
  }

  /** What the keys have from lsnStart on and below lsnEnd. */
  async writeDeltaLayer(
    histories: readonly KeyHistory[],
    lsnStart: number,
    lsnEnd: number,
    { start, end } = { start: FIRST_KEY as Key, end: LAST_KEY as Key },
  ): Promise<CompactionInput> {
    const writer = await LayerWriter.create(DIRECTORY, LAYER_KIND_DELTA, this.disk);
    for (const { prefix, index, versions } of histories) {
      for (const { lsn, kind, value } of versions) {
        if (lsn >= lsnStart && lsn < lsnEnd) {
          writer.add(prefix, index, lsn, kind, value);
        }
      }
    }
    return await this.#finish(writer, {
      kind: LAYER_KIND_DELTA,
      keyStart: start,
      keyEnd: end,
      lsnStart: toLsn(lsnStart),
      lsnEnd: toLsn(lsnEnd),
    });
  }

  async writeImageLayer(histories: readonly KeyHistory[], lsn: number): Promise<CompactionInput> {
    const writer = await LayerWriter.create(DIRECTORY, LAYER_KIND_IMAGE, this.disk);
    for (const history of histories) {
      const state = stateAt(history, lsn);
      if (state !== undefined) {
        writer.add(history.prefix, history.index, toLsn(lsn), VALUE_IMAGE, state);
      }
    }
    return await this.#finish(writer, {
      kind: LAYER_KIND_IMAGE,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: toLsn(lsn),
      lsnEnd: toLsn(lsn + 1),
    });
  }

  async #finish(writer: LayerWriter, name: LayerName): Promise<CompactionInput> {
    const { fileName, sizeBytes } = await writer.finish(name);
    return { path: join(DIRECTORY, fileName), name, sizeBytes, maxLsn: MAX_LSN };
  }

  /** As a timeline orders them. */
  open(layers: readonly Omit<CompactionInput, "maxLsn">[]): LayerFile[] {
    return layers
      .map(({ path, name, sizeBytes }) => new LayerFile(path, name, sizeBytes, this.#resources))
      .sort((a, b) => b.lsnEnd - a.lsnEnd || b.lsnStart - a.lsnStart);
  }
}

/** A key's value at an LSN, as a timeline reads it. */
export class LayerReader {
  readonly #files: readonly LayerFile[];
  readonly #chain = new VersionChain();
  readonly #redo = new PageRedo();
  /** Of the last read. */
  deltaCount = 0;

  constructor(files: readonly LayerFile[]) {
    this.#files = files;
  }

  read({ prefix, index }: Key, lsn: number): Uint8Array | undefined {
    const chain = this.#chain;
    chain.reset();
    this.#files.some(
      (file) =>
        file.lsnStart <= lsn &&
        file.collect(prefix, index, keyHash(prefix, index), toLsn(lsn), chain),
    );
    this.deltaCount = chain.deltaCount;
    const base =
      chain.base === BASE_IMAGE
        ? chain.baseBuffer!.slice(chain.baseOffset, chain.baseOffset + chain.baseLength)
        : undefined;
    if (chain.deltaCount === 0) {
      return chain.base === BASE_ABSENT || chain.base === BASE_NONE ? undefined : base;
    }
    if (base === undefined) {
      this.#redo.loadZero();
    } else {
      this.#redo.load(base);
    }
    for (let i = chain.deltaCount - 1; i >= 0; i--) {
      const { buffers, offsets, lengths, lsns } = chain;
      this.#redo.applyAt(buffers[i]!, offsets[i]!, lengths[i]!, lsns[i]! as Lsn, index, 0);
    }
    return this.#redo.copyOut();
  }
}

export interface RandomLayers {
  readonly histories: readonly KeyHistory[];
  /** The oldest first. */
  readonly layers: readonly CompactionInput[];
  /** LSNs at which one layer ends and another begins. */
  readonly bounds: readonly number[];
}

/** Delta layers of random widths, some split by key, some with an image layer at their last LSN. */
export async function randomLayers(
  random: SeededRandom,
  directory: LayerDirectory,
  { keys = 24, first = 0x1_0000_0000, span = 4000, imageLayers = true } = {},
): Promise<RandomLayers> {
  const histories = randomHistories(random, { keys, first, span });
  const layers: CompactionInput[] = [];
  const cuts = Array.from({ length: random.int(6) }, () => first + 1 + random.int(span - 1));
  const bounds = [...new Set([first, ...cuts, first + span])].sort((a, b) => a - b);
  for (const [i, start] of bounds.slice(0, -1).entries()) {
    const end = bounds[i + 1]!;
    const at = 1 + random.int(histories.length - 1);
    if (random.int(2) === 0) {
      layers.push(await directory.writeDeltaLayer(histories, start, end));
    } else {
      for (const part of [histories.slice(0, at), histories.slice(at)]) {
        const range = { start: part[0]!, end: part.at(-1)! };
        layers.push(await directory.writeDeltaLayer(part, start, end, range));
      }
    }
    if (imageLayers && random.int(3) === 0) {
      layers.push(await directory.writeImageLayer(histories, end - 1));
    }
  }
  return { histories, layers, bounds };
}

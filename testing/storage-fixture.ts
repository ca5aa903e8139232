// Shared by the storage tests: a tenant in a temporary directory with one imported root timeline.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Disk, REAL_DISK } from "../src/base/disk.ts";
import { generateTenantId, generateTimelineId, type TenantId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import type { ObjectStore } from "../src/object-store/object-store.ts";
import { comparePrefixes, type KeyPrefix, relSizePrefix } from "../src/pageserver/layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../src/pageserver/layers/layer-format.ts";
import { type LayerDescription, LayerWriter } from "../src/pageserver/layers/layer-writer.ts";
import { VALUE_IMAGE } from "../src/pageserver/layers/version-chain.ts";
import type { StorageConfig } from "../src/pageserver/storage/storage-resources.ts";
import { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";

export const FIXTURE_START_LSN = toLsn(0x1_0000_1000);
export const FIXTURE_SYSTEM_ID = 0xfedc_ba98_7654_3210n;

/** Unless a test says otherwise, the relation that tests write to has all blocks: what lies past a relation's end is in no image layer. */
const RELATION_SIZE = {
  prefix: relSizePrefix(1663, 5, 16384, 0),
  index: 0,
  value: new Uint8Array(4).fill(0xff),
};

/** Writes an image layer of the values, which must ascend, into `directory`. */
export async function writeImageLayer(
  directory: string,
  lsn: Lsn,
  values: Iterable<{ prefix: KeyPrefix; index: number; value: Uint8Array }>,
): Promise<LayerDescription> {
  const writer = await LayerWriter.create(directory, LAYER_KIND_IMAGE);
  for (const { prefix, index, value } of values) {
    writer.add(prefix, index, lsn, VALUE_IMAGE, value);
  }
  return await writer.finish({
    kind: LAYER_KIND_IMAGE,
    keyStart: FIRST_KEY,
    keyEnd: LAST_KEY,
    lsnStart: lsn,
    lsnEnd: toLsn(lsn + 1),
  });
}

export interface FixtureOptions extends Partial<StorageConfig> {
  readonly store?: ObjectStore;
  readonly disk?: Disk;
}

/** A tenant directory that is removed at the end. */
export class StorageFixture implements AsyncDisposable {
  readonly directory: string;
  readonly tenantId: TenantId;
  readonly #config: Partial<StorageConfig>;
  readonly #disk: Disk;
  #store: ObjectStore | undefined;
  #manager: TenantManager | undefined;

  private constructor(directory: string, tenantId: TenantId, options: FixtureOptions) {
    const { store, disk = REAL_DISK, ...config } = options;
    this.directory = directory;
    this.tenantId = tenantId;
    this.#store = store;
    this.#disk = disk;
    this.#config = { flushRetryMs: 1, ...config };
  }

  static async create(options: FixtureOptions = {}): Promise<StorageFixture> {
    const fixture = await StorageFixture.attach(generateTenantId(), options);
    await fixture.manager.createTenant(fixture.tenantId);
    return fixture;
  }

  /** On an empty disk, for a tenant that the store may have. */
  static async attach(tenantId: TenantId, options: FixtureOptions): Promise<StorageFixture> {
    const directory = await mkdtemp(join(tmpdir(), "strata-storage-"));
    const fixture = new StorageFixture(directory, tenantId, options);
    await fixture.open();
    return fixture;
  }

  get manager(): TenantManager {
    if (this.#manager === undefined) {
      throw new Error("the fixture is closed");
    }
    return this.#manager;
  }

  get timelinesDirectory(): string {
    return join(this.directory, "tenants", this.tenantId, "timelines");
  }

  async open(): Promise<void> {
    this.#manager = await TenantManager.open({
      workdir: this.directory,
      logger: createLogger("test", "silent"),
      config: this.#config,
      store: this.#store,
      disk: this.#disk,
    });
  }

  /** Without a flush: what a crash leaves, but for writes that the system had not yet made. */
  async close(): Promise<void> {
    await this.#manager?.close({ flush: false });
    this.#manager = undefined;
  }

  /** `store`: from here on. */
  async reopen({ store }: { store?: ObjectStore } = {}): Promise<void> {
    await this.close();
    this.#store = store ?? this.#store;
    await this.open();
  }

  async createRoot(
    values: Iterable<{ prefix: KeyPrefix; index: number; value: Uint8Array }> = [],
    options: { dataChecksums?: boolean } = {},
  ): Promise<Timeline> {
    const given = [...values];
    const isSized = given.some(({ prefix }) => comparePrefixes(prefix, RELATION_SIZE.prefix) === 0);
    const all = (isSized ? given : [...given, RELATION_SIZE]).sort((a, b) =>
      comparePrefixes(a.prefix, b.prefix),
    );
    const layer = await writeImageLayer(this.directory, FIXTURE_START_LSN, all);
    const path = join(this.directory, layer.fileName);
    const timeline = await this.manager.tenant(this.tenantId).createRoot({
      timelineId: generateTimelineId(),
      pgVersion: 17,
      dataChecksums: options.dataChecksums ?? false,
      systemId: FIXTURE_SYSTEM_ID,
      walSegmentSize: 1 << 24,
      startLsn: FIXTURE_START_LSN,
      prevRecordLsn: toLsn(FIXTURE_START_LSN - 0x78),
      layerPaths: [{ path, sizeBytes: layer.sizeBytes }],
    });
    await rm(path);
    return timeline;
  }

  /** Of the ancestor's head, where no LSN is named. */
  createBranch({ timelineId }: Timeline, ancestorLsn?: Lsn): Promise<Timeline> {
    return this.manager.tenant(this.tenantId).createBranch({
      timelineId: generateTimelineId(),
      ancestorTimelineId: timelineId,
      ...(ancestorLsn !== undefined && { ancestorLsn }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** One record of one image. */
export function putRecord(
  timeline: Timeline,
  prefix: KeyPrefix,
  index: number,
  value: Uint8Array,
): Lsn {
  const lsn = toLsn(timeline.lastRecordLsn + 8);
  timeline.putImage(prefix, index, lsn, value);
  timeline.advance(lsn, timeline.lastRecordLsn);
  return lsn;
}

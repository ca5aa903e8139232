// tenant_config.json: what a tenant's operator has set; what is not set is the pageserver's default.
//
// Ours, format version 1. Checksummed JSON (base/text/checksummed-json.ts): `format_version`, `generation` of the process
// that wrote it, and the fields of the API's
// tenant config (api.ts) that are set. Replaced as a whole; the object store has the same text (remote/remote-paths.ts), and of the
// two the later generation's counts. Without the file nothing is set. One that is damaged is
// `corrupt`, for whoever asks: as nobody knows how long history is to be kept, none of the tenant's goes.

import { join } from "node:path";
import { z } from "zod";
import { type Disk, diskError, readFileIfExists, writeFileDurablyAsync } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { decodeChecksummedJson, encodeChecksummedJson } from "../../base/text/checksummed-json.ts";
import { parseDurationMs } from "../../base/text/duration.ts";
import { type TenantConfig, type TenantConfigPatch, tenantConfigSchema } from "../api.ts";
import { TENANT_CONFIG_FORMAT_VERSION } from "../layers/format-versions.ts";

export const TENANT_CONFIG_NAME = "tenant_config.json";

/** How a tenant's layers and history are looked after. */
export interface UpkeepSettings {
  /** 0: never. */
  readonly compactionPeriodMs: number;
  /** 0: only when it is asked for. */
  readonly gcPeriodMs: number;
  /** History of this age stays readable. 0: only `gcHorizonBytes` counts. */
  readonly pitrIntervalMs: number;
  /** Without a PITR interval, so many bytes of WAL stay readable. */
  readonly gcHorizonBytes: number;
}

/** Neon's; compaction looks every 20 s. */
export const DEFAULT_UPKEEP: UpkeepSettings = {
  compactionPeriodMs: 20_000,
  gcPeriodMs: 3_600_000,
  pitrIntervalMs: 7 * 86_400_000,
  gcHorizonBytes: 64 << 20,
};

const fileSchema = tenantConfigSchema.extend({
  format_version: z.literal(TENANT_CONFIG_FORMAT_VERSION),
  generation: z.int().min(0).max(0xffff_ffff).default(0),
});

export interface StoredTenantConfig {
  readonly generation: number;
  readonly config: TenantConfig;
}

export function encodeTenantConfig({ generation, config }: StoredTenantConfig): string {
  const format_version = TENANT_CONFIG_FORMAT_VERSION;
  return encodeChecksummedJson({ format_version, generation, ...config }, 1);
}

/** `corrupt` on anything that `encodeTenantConfig` does not write; `path` is for the message. */
export function decodeTenantConfig(text: string, path: string): StoredTenantConfig {
  const corrupt = (what: string, cause?: unknown) =>
    new StorageError("corrupt", "corrupt-tenant-config", `tenant config ${path}: ${what}`, {
      cause,
      fields: { path },
    });
  const { format_version, generation, ...config } = decodeChecksummedJson(
    text,
    fileSchema,
    corrupt,
  );
  return { generation, config };
}

/** What is set, and for the rest the defaults. */
export function upkeepOf(config: TenantConfig, defaults: UpkeepSettings): UpkeepSettings {
  const { compaction_period, gc_period, pitr_interval, gc_horizon } = config;
  const ms = (text: string | undefined, otherwise: number) =>
    (text === undefined ? undefined : parseDurationMs(text)) ?? otherwise;
  return {
    compactionPeriodMs: ms(compaction_period, defaults.compactionPeriodMs),
    gcPeriodMs: ms(gc_period, defaults.gcPeriodMs),
    pitrIntervalMs: ms(pitr_interval, defaults.pitrIntervalMs),
    gcHorizonBytes: gc_horizon ?? defaults.gcHorizonBytes,
  };
}

export interface TenantSettingsOptions {
  readonly tenantDirectory: string;
  readonly disk: Disk;
  /** Of this process. */
  readonly generation: number;
  /** Resolves when the object store has the text, and that counts. */
  readonly put: (text: string) => Promise<void>;
}

/** One tenant's, in memory and on the disk. */
export class TenantSettings {
  readonly #path: string;
  readonly #options: TenantSettingsOptions;
  #config: TenantConfig = {};
  #generation = 0;
  #damage: StorageError | undefined;
  #lastWrite: Promise<void> = Promise.resolve();

  /** Reads what is there; damage is kept for who asks. */
  constructor(options: TenantSettingsOptions) {
    this.#path = join(options.tenantDirectory, TENANT_CONFIG_NAME);
    this.#options = options;
    try {
      const text = readFileIfExists(this.#path, options.disk)?.toString("utf8");
      if (text !== undefined) {
        this.#take(decodeTenantConfig(text, this.#path));
      }
    } catch (error) {
      this.#damage = diskError(error, `read ${this.#path}`);
    }
  }

  #take({ generation, config }: StoredTenantConfig): void {
    this.#config = config;
    this.#generation = generation;
    this.#damage = undefined;
  }

  /** Of who set what is set; 0 where nothing is, or where the file is damaged. */
  get generation(): number {
    return this.#damage === undefined ? this.#generation : 0;
  }

  /** What the store has, of a later generation than the disk's; damage is kept for who asks. */
  async takeStored(text: string, key: string): Promise<void> {
    try {
      const stored = decodeTenantConfig(text, key);
      await this.#write(text);
      this.#take(stored);
    } catch (error) {
      this.#damage = diskError(error, `read ${key}`);
    }
  }

  get damage(): StorageError | undefined {
    return this.#damage;
  }

  /** What is set. `corrupt` where the file is damaged. */
  get config(): TenantConfig {
    if (this.#damage !== undefined) {
      throw this.#damage;
    }
    return this.#config;
  }

  /**
   * Nothing else is set then; also in place of a damaged file. Durable when it resolves, in the object store too. Where the store
   * does not take it (`unavailable`, `fenced`), it is in force here, and is put again with the next change.
   */
  replace(config: TenantConfig): Promise<void> {
    return this.#change(() => config);
  }

  /** Sets what is given; null: back to the default. `corrupt` where the file is damaged. */
  patch(patch: TenantConfigPatch): Promise<void> {
    return this.#change(() => {
      const merged = { ...this.config, ...patch };
      const set = Object.entries(merged).filter(([, value]) => value != null);
      return Object.fromEntries(set) as TenantConfig;
    });
  }

  /** One at a time: a patch begins with what the one before it made. */
  #change(make: () => TenantConfig): Promise<void> {
    const write = this.#lastWrite.then(async () => {
      const changed = { generation: this.#options.generation, config: make() };
      const text = encodeTenantConfig(changed);
      await this.#write(text);
      this.#take(changed);
      await this.#options.put(text);
    });
    this.#lastWrite = write.catch(() => undefined);
    return write;
  }

  #write(text: string): Promise<void> {
    const temporary = `${this.#path}.___temp`;
    return writeFileDurablyAsync(this.#path, text, this.#options.disk, temporary);
  }
}

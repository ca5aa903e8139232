// All tenants of a pageserver: loads them at start, creates them, flushes old layers in the background.

import { join } from "node:path";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { type Disk, diskError, REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, type TenantId, type TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { listTenants } from "../remote/load-tenant.ts";
import { RemoteStorage } from "../remote/remote-storage.ts";
import { Generation } from "./generation.ts";
import { type StorageConfig, StorageResources } from "./storage-resources.ts";
import { Tenant } from "./tenant.ts";
import type { Timeline } from "./timeline.ts";

export interface TenantManagerOptions {
  /** Tenants live in `<workdir>/tenants`. */
  readonly workdir: string;
  readonly logger: Logger;
  readonly config?: Partial<StorageConfig>;
  /** Absent: the real one. */
  readonly disk?: Disk;
  /** Where tenants live for good; absent: `workdir` is all there is. */
  readonly store?: ObjectStore | undefined;
  /** A whole number in [0, limit), for waits; absent: the real one. */
  readonly randomInt?: ((limit: number) => number) | undefined;
}

/** Tenants that are loaded at the same time. */
const LOADS_AT_ONCE = 16;
const MAX_HOUSEKEEPING_MS = 10_000;

export class TenantManager {
  readonly resources: StorageResources;
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #tenants = new Map<TenantId, Tenant>();
  readonly #creating = new Map<TenantId, Promise<Tenant>>();
  readonly #closing = new AbortController();
  #housekeeping: Promise<void> = Promise.resolve();

  private constructor(resources: StorageResources, directory: string) {
    this.resources = resources;
    this.#directory = directory;
    this.#logger = resources.logger;
  }

  /**
   * Loads every tenant, those too that only the object store has; a timeline that does not load is logged and leaves the
   * others alone. Also what RemoteStorage.open throws.
   */
  static async open(options: TenantManagerOptions): Promise<TenantManager> {
    const { workdir, logger, config, disk = REAL_DISK, store } = options;
    const directory = join(workdir, "tenants");
    try {
      await disk.background.makeDirectory(directory);
      await disk.background.fsyncDirectory(workdir);
      // The entries of tenants that a process before has made and nobody synced.
      await disk.background.fsyncDirectory(directory);
    } catch (error) {
      throw diskError(error, `create ${directory}`);
    }
    const { randomInt } = options;
    const remote = store && (await RemoteStorage.open({ store, workdir, disk, logger, randomInt }));
    const generation = remote?.generation ?? (await Generation.begin(workdir, disk));
    const resources = new StorageResources(logger, config, disk, generation, remote);
    const manager = new TenantManager(resources, directory);
    try {
      await manager.#loadAll();
    } catch (error) {
      await manager.close({ flush: false });
      throw error;
    }
    manager.#housekeeping = manager.#keepHouse();
    return manager;
  }

  async #loadAll(): Promise<void> {
    const { disk, remote } = this.resources;
    const stored = remote === undefined ? [] : await listTenants(remote.access);
    const tenantIds = new Set(stored);
    for (const name of disk.list(this.#directory)) {
      if (/^[0-9a-f]{32}$/.test(name) && disk.isDirectory(join(this.#directory, name))) {
        tenantIds.add(parseTenantId(name));
      } else {
        this.#logger.warn({ name }, "not a tenant directory, left alone");
      }
    }
    const left = [...tenantIds].reverse();
    const load = async () => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        await this.#load(next);
      }
    };
    await Promise.all(Array.from({ length: LOADS_AT_ONCE }, load));
  }

  async #load(tenantId: TenantId): Promise<Tenant> {
    const tenant = await Tenant.open(tenantId, join(this.#directory, tenantId), this.resources);
    this.#tenants.set(tenantId, tenant);
    return tenant;
  }

  get tenants(): readonly Tenant[] {
    return [...this.#tenants.values()];
  }

  /** `not-found`. */
  tenant(tenantId: TenantId): Tenant {
    const tenant = this.#tenants.get(tenantId);
    if (tenant === undefined) {
      throw new StorageError("not-found", "tenant-not-found", `tenant ${tenantId} not found`);
    }
    return tenant;
  }

  /** `not-found` for either; or why the timeline does not load. */
  timeline(tenantId: TenantId, timelineId: TimelineId): Timeline {
    return this.tenant(tenantId).timeline(timelineId);
  }

  /** Idempotent, also while another call creates the same one. Durable when it resolves. */
  async createTenant(tenantId: TenantId): Promise<Tenant> {
    const existing = this.#tenants.get(tenantId) ?? this.#creating.get(tenantId);
    if (existing !== undefined) {
      return existing;
    }
    const creation = this.#create(tenantId);
    this.#creating.set(tenantId, creation);
    try {
      return await creation;
    } finally {
      this.#creating.delete(tenantId);
    }
  }

  async #create(tenantId: TenantId): Promise<Tenant> {
    try {
      const { background } = this.resources.disk;
      await background.makeDirectory(join(this.#directory, tenantId));
      await background.fsyncDirectory(this.#directory);
    } catch (error) {
      throw diskError(error, `create tenant ${tenantId}`);
    }
    const tenant = await Tenant.open(tenantId, join(this.#directory, tenantId), this.resources);
    await tenant.makeDurable();
    this.#tenants.set(tenantId, tenant);
    this.#logger.info({ tenant: tenantId }, "tenant created");
    return tenant;
  }

  async #keepHouse(): Promise<void> {
    const { signal } = this.#closing;
    const period = Math.min(MAX_HOUSEKEEPING_MS, this.resources.config.checkpointTimeoutMs / 2);
    while (!signal.aborted) {
      await sleep(period, signal).catch(() => undefined);
      const now = monotonicMs();
      for (const tenant of signal.aborted ? [] : this.tenants) {
        for (const timeline of tenant.timelines) {
          timeline.freezeIfOld(now);
        }
      }
    }
  }

  /** Graceful end: with `flush`, memory goes to disk first, so that the next start has less to take in. */
  async close(options: { flush: boolean }): Promise<void> {
    this.#closing.abort();
    await this.#housekeeping;
    for (const tenant of this.#tenants.values()) {
      await tenant.close(options.flush);
    }
    await this.resources.remote?.close();
    await this.resources.backgroundThread.close();
    this.#tenants.clear();
  }
}

// All tenants of a pageserver: loads them at start, creates and deletes them, flushes old layers in the background.

import { join } from "node:path";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { type Disk, diskError, REAL_DISK } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { parseTenantId, type TenantId, type TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { DeletedTenants } from "../remote/deleted-tenants.ts";
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
  readonly #deleted: DeletedTenants;
  readonly #deleting = new Map<TenantId, Promise<void>>();
  /** Nobody gets these tenants any more, and it is not known whether they are deleted. */
  readonly #halfDeleted = new Set<TenantId>();
  readonly #closing = new AbortController();
  #housekeeping: Promise<void> = Promise.resolve();

  private constructor(resources: StorageResources, directory: string, deleted: DeletedTenants) {
    this.resources = resources;
    this.#directory = directory;
    this.#deleted = deleted;
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
    const stored = remote === undefined ? [] : await listTenants(remote.access);
    const deleted = await DeletedTenants.open({ workdir, disk, remote, stored });
    const manager = new TenantManager(resources, directory, deleted);
    try {
      await manager.#loadAll(stored);
    } catch (error) {
      await manager.close({ flush: false });
      throw error;
    }
    manager.#housekeeping = manager.#keepHouse();
    void manager.#removeDeleted(stored);
    return manager;
  }

  async #loadAll(stored: readonly TenantId[]): Promise<void> {
    const { disk } = this.resources;
    const tenantIds = new Set(stored);
    for (const name of disk.list(this.#directory)) {
      if (/^[0-9a-f]{32}$/.test(name) && disk.isDirectory(join(this.#directory, name))) {
        tenantIds.add(parseTenantId(name));
      } else {
        this.#logger.warn({ name }, "not a tenant directory, left alone");
      }
    }
    const left: TenantId[] = [];
    for (const tenantId of [...tenantIds].reverse()) {
      if (this.#deleted.has(tenantId)) {
        await this.#removeDirectory(tenantId);
      } else {
        left.push(tenantId);
      }
    }
    const load = async () => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        await this.#load(next);
      }
    };
    await Promise.all(Array.from({ length: LOADS_AT_ONCE }, load));
  }

  async #load(tenantId: TenantId): Promise<Tenant> {
    const tenant = await Tenant.open(tenantId, this.#directoryOf(tenantId), this.resources);
    this.#tenants.set(tenantId, tenant);
    return tenant;
  }

  get tenants(): readonly Tenant[] {
    return [...this.#tenants.values()];
  }

  /** `not-found`; `unavailable` where its deletion has begun and not ended. */
  tenant(tenantId: TenantId): Tenant {
    const tenant = this.#tenants.get(tenantId);
    if (tenant !== undefined) {
      return tenant;
    }
    if (this.#halfDeleted.has(tenantId)) {
      const message = `tenant ${tenantId} is being deleted`;
      throw new StorageError("unavailable", "tenant-deleting", message);
    }
    const what = this.#deleted.has(tenantId) ? "was deleted" : "not found";
    throw new StorageError("not-found", "tenant-not-found", `tenant ${tenantId} ${what}`);
  }

  /** `not-found` for either; or why the timeline does not load. */
  timeline(tenantId: TenantId, timelineId: TimelineId): Timeline {
    return this.tenant(tenantId).timeline(timelineId);
  }

  /**
   * Idempotent, also while another call creates the same one. Durable when it resolves. `conflict` where a tenant of this id was
   * deleted.
   */
  async createTenant(tenantId: TenantId): Promise<Tenant> {
    if (this.#deleted.has(tenantId) || this.#halfDeleted.has(tenantId)) {
      const message = `tenant ${tenantId} was deleted: its id is not given again`;
      throw new StorageError("conflict", "tenant-deleted", message);
    }
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
      await background.makeDirectory(this.#directoryOf(tenantId));
      await background.fsyncDirectory(this.#directory);
    } catch (error) {
      throw diskError(error, `create tenant ${tenantId}`);
    }
    const tenant = await Tenant.open(tenantId, this.#directoryOf(tenantId), this.resources);
    await tenant.makeDurable();
    this.#tenants.set(tenantId, tenant);
    this.#logger.info({ tenant: tenantId }, "tenant created");
    return tenant;
  }

  /**
   * For good: its timelines, their files here and its objects in the store. Idempotent: to ask again goes on with what failed, and
   * an unknown tenant is fine. `unavailable`; `fenced` where another pageserver has the store: where the tenant is not there
   * any more after that, the next start of a pageserver says whether it is deleted.
   */
  deleteTenant(tenantId: TenantId): Promise<void> {
    const before = this.#deleting.get(tenantId) ?? Promise.resolve();
    const deletion = before.catch(() => undefined).then(() => this.#delete(tenantId));
    this.#deleting.set(tenantId, deletion);
    const ended = () => {
      if (this.#deleting.get(tenantId) === deletion) {
        this.#deleting.delete(tenantId);
      }
    };
    deletion.then(ended, ended);
    return deletion;
  }

  async #delete(tenantId: TenantId): Promise<void> {
    await this.#creating.get(tenantId)?.catch(() => undefined);
    if (!this.#deleted.has(tenantId)) {
      const tenant = this.#tenants.get(tenantId);
      if (tenant === undefined && !this.#halfDeleted.has(tenantId)) {
        return;
      }
      // While the store does not answer, or is somebody else's, the tenant stays as it is.
      await this.resources.remote?.requireCurrent(`tenant ${tenantId} is not deleted`);
      this.#halfDeleted.add(tenantId);
      this.#tenants.delete(tenantId);
      await tenant?.close(false);
      await this.#deleted.add(tenantId);
      this.#halfDeleted.delete(tenantId);
    }
    // It is gone after any end of the process.
    await this.#removeDirectory(tenantId);
    await this.#deleted.removeObjects(tenantId);
    this.#logger.info({ tenant: tenantId }, "tenant deleted");
  }

  #directoryOf(tenantId: TenantId): string {
    return join(this.#directory, tenantId);
  }

  async #removeDirectory(tenantId: TenantId): Promise<void> {
    const { background } = this.resources.disk;
    try {
      await background.removeTree(this.#directoryOf(tenantId));
      await background.fsyncDirectory(this.#directory);
    } catch (error) {
      throw diskError(error, `remove tenant ${tenantId}`);
    }
  }

  /** Objects of deleted tenants: what a killed process left, and what a pageserver that was replaced has put since. Never rejects. */
  async #removeDeleted(stored: readonly TenantId[]): Promise<void> {
    for (const tenantId of stored.filter((id) => this.#deleted.has(id))) {
      try {
        await this.#deleted.removeObjects(tenantId);
      } catch (error) {
        if (this.resources.remote?.access.signal.aborted === false) {
          const reason = errorMessage(error);
          this.#logger.warn({ tenant: tenantId, reason }, "objects of a deleted tenant stay");
        }
      }
    }
  }

  /** The same for what has come since the start. */
  async removeStrayObjects(): Promise<void> {
    const { remote } = this.resources;
    if (remote !== undefined) {
      await this.#removeDeleted(await listTenants(remote.access));
    }
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

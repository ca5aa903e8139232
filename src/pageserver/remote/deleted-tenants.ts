// Which tenants were deleted, for good: their ids are not given again, and whatever comes to light of them goes.
//
//   deleted-tenants/<tenant>-<generation>      in the object store, beside the tenants
//   <workdir>/deleted_tenants/<tenant>         where there is none
//
// That it is there counts; its content, `{"tenant_id", "generation"}`, is for people. It stays for ever: a pageserver that was
// replaced may put objects of the tenant at any time, and a request may come late. It says nothing of a tenant
// that has an index, a manifest or settings of a higher generation: whoever wrote those had the tenant after a pageserver that was
// replaced had been told to delete it, and that one answered `fenced`.

import { join } from "node:path";
import { type Disk, diskError, writeFileDurablyAsync } from "../../base/disk.ts";
import { parseTenantId, type TenantId } from "../../base/ids.ts";
import { MAX_PAGE } from "../../object-store/object-store.ts";
import { ask, listObjects } from "../transfers/store-calls.ts";
import { listIndexes } from "./load-tenant.ts";
import {
  DELETED_TENANTS_PREFIX,
  deletedTenantKey,
  parseDeletedTenantKey,
  parseRemoteKey,
  tenantPrefix,
} from "./remote-paths.ts";
import type { RemoteStorage } from "./remote-storage.ts";

const DIRECTORY = "deleted_tenants";

export interface DeletedTenantsOptions {
  /** The pageserver's. */
  readonly workdir: string;
  readonly disk: Disk;
  readonly remote: RemoteStorage | undefined;
  /** Those of which the store has something. */
  readonly stored: readonly TenantId[];
}

export class DeletedTenants {
  readonly #directory: string;
  readonly #disk: Disk;
  readonly #remote: RemoteStorage | undefined;
  /** And the newest generation that says so; 0: the local disk does. */
  readonly #generations = new Map<TenantId, number>();

  private constructor({ workdir, disk, remote }: DeletedTenantsOptions) {
    this.#directory = join(workdir, DIRECTORY);
    this.#disk = disk;
    this.#remote = remote;
  }

  /** What the disk throws; `unavailable`. */
  static async open(options: DeletedTenantsOptions): Promise<DeletedTenants> {
    const deleted = new DeletedTenants(options);
    await deleted.#readDisk();
    await deleted.#readStore(options.stored);
    return deleted;
  }

  async #readDisk(): Promise<void> {
    if (this.#disk.isDirectory(this.#directory)) {
      // A killed process may have left one that nobody synced.
      await this.#disk.background.fsyncDirectory(this.#directory);
      for (const name of this.#disk.list(this.#directory)) {
        if (/^[0-9a-f]{32}$/.test(name)) {
          this.#generations.set(parseTenantId(name), 0);
        }
      }
    }
  }

  async #readStore(stored: readonly TenantId[]): Promise<void> {
    if (this.#remote === undefined) {
      return;
    }
    const { access } = this.#remote;
    for (const { key } of await listObjects(access, DELETED_TENANTS_PREFIX)) {
      const found = parseDeletedTenantKey(key);
      if (found !== undefined) {
        const newest = Math.max(found.generation, this.#generations.get(found.tenantId) ?? 0);
        this.#generations.set(found.tenantId, newest);
      }
    }
    for (const tenantId of stored) {
      const generation = this.#generations.get(tenantId);
      if (generation !== undefined && (await this.#newestOf(tenantId)) > generation) {
        this.#generations.delete(tenantId);
      }
    }
  }

  /** The generation of whoever had the tenant last. */
  async #newestOf(tenantId: TenantId): Promise<number> {
    const objects = await listIndexes(this.#remote!.access, tenantId);
    const generations = objects.map(({ key }) => parseRemoteKey(key)?.generation ?? 0);
    return generations.reduce((newest, generation) => Math.max(newest, generation), 0);
  }

  has(tenantId: TenantId): boolean {
    return this.#generations.has(tenantId);
  }

  /**
   * Resolves when the tenant is deleted whatever happens, and nothing that was put before counts. `unavailable` and `fenced`: then
   * the next start of a pageserver says whether it is.
   */
  async add(tenantId: TenantId): Promise<void> {
    if (this.#remote === undefined) {
      await this.#writeFile(tenantId);
      this.#generations.set(tenantId, 0);
    } else {
      await this.#put(tenantId, this.#remote);
    }
  }

  async #writeFile(tenantId: TenantId): Promise<void> {
    const { background } = this.#disk;
    const path = join(this.#directory, tenantId);
    try {
      await background.makeDirectory(this.#directory);
      await background.fsyncDirectory(join(this.#directory, ".."));
      const text = `${JSON.stringify({ tenant_id: tenantId })}\n`;
      await writeFileDurablyAsync(path, text, this.#disk, `${path}.___temp`);
    } catch (error) {
      throw diskError(error, `write ${path}`);
    }
  }

  async #put(tenantId: TenantId, remote: RemoteStorage): Promise<void> {
    const { access } = remote;
    const generation = remote.generation.number;
    const key = deletedTenantKey(tenantId, generation);
    const body = Buffer.from(`${JSON.stringify({ tenant_id: tenantId, generation })}\n`);
    await ask(access, `put ${key}`, (signal) => access.store.put(key, body, { signal }));
    await remote.requireCurrent(`whether tenant ${tenantId} is deleted is not known here`);
    this.#generations.set(tenantId, generation);
  }

  /**
   * Takes from the store what it has of a deleted tenant. Errors as `add`: a pageserver that was replaced may have the tenant,
   * in a generation above that in which it was deleted, so that is first brought up to one's own.
   */
  async removeObjects(tenantId: TenantId): Promise<void> {
    const remote = this.#remote;
    const before = this.#generations.get(tenantId);
    if (remote === undefined || before === undefined) {
      return;
    }
    if (before !== remote.generation.number) {
      await this.#put(tenantId, remote);
    }
    const { access } = remote;
    for (let after: string | undefined; ; ) {
      const start = after;
      const { objects } = await ask(access, `list tenant ${tenantId}`, (signal) =>
        access.store.list({
          prefix: tenantPrefix(tenantId),
          after: start,
          limit: MAX_PAGE,
          signal,
        }),
      );
      const keys = objects.map(({ key }) => key);
      if (keys.length === 0) {
        break;
      }
      await this.#delete(keys);
      after = keys.at(-1);
    }
    if (before !== 0 && before !== remote.generation.number) {
      await this.#delete([deletedTenantKey(tenantId, before)]);
    }
  }

  async #delete(keys: readonly string[]): Promise<void> {
    const { access } = this.#remote!;
    await ask(access, `delete ${keys.length} objects`, (signal) =>
      access.store.delete(keys, { signal }),
    );
  }
}

// Uploads of layers, of all timelines of the process: some at a time, each until the store has it.

import type { Disk } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { isSameContent, layerSource } from "./local-layer.ts";
import { layerCallMs, retrying, withDeadline } from "./store-calls.ts";
import type { TransferSlots } from "./transfer-slots.ts";

/*
 * A layer's key is never used again for other content, so an upload may happen twice, late or from a
 * process that was thought dead. It is still made on the condition that there is no such object: where
 * there is one, its bytes are compared, because to write over a layer that others read would hide a bug
 * that costs data.
 */

export interface UploadResources {
  readonly store: ObjectStore;
  readonly disk: Disk;
  readonly logger: Logger;
  /** Shared by all that uploads. */
  readonly slots: TransferSlots;
  /** A whole number in [0, limit). */
  readonly randomInt: (limit: number) => number;
}

export interface LayerUpload {
  readonly tenantId: TenantId;
  readonly key: string;
  readonly path: string;
  readonly sizeBytes: number;
  /** Ends it, once the signals of all who asked for it say so. */
  readonly signal: AbortSignal;
}

interface Running {
  readonly done: Promise<void>;
  readonly askers: Askers;
  failed: boolean;
}

/** A layer belongs to several timelines: its upload goes on while one of those who asked for it is there. */
class Askers {
  readonly #signals = new Set<AbortSignal>();
  readonly #stopping = new AbortController();
  readonly #done = new AbortController();

  get signal(): AbortSignal {
    return this.#stopping.signal;
  }

  add(signal: AbortSignal): void {
    if (this.#signals.has(signal)) {
      return;
    }
    this.#signals.add(signal);
    const leave = () => {
      this.#signals.delete(signal);
      if (this.#signals.size === 0) {
        this.#stopping.abort(signal.reason);
      }
    };
    signal.addEventListener("abort", leave, { once: true, signal: this.#done.signal });
  }

  close(): void {
    this.#done.abort();
  }
}

export class LayerUploads {
  readonly resources: UploadResources;
  /** Not yet in the store, by key; the failed ones too, for an index that names them must not go there. */
  readonly #running = new Map<string, Running>();

  constructor(resources: UploadResources) {
    this.resources = resources;
  }

  /**
   * Resolves when the object is durable; the upload that is under way is joined. `corrupt` where the local file is damaged,
   * `conflict` where the object has other content, the last signal's reason. One that failed is started again.
   */
  upload(layer: LayerUpload): Promise<void> {
    const before = this.#running.get(layer.key);
    if (before !== undefined && !before.failed && !before.askers.signal.aborted) {
      before.askers.add(layer.signal);
      return before.done;
    }
    const askers = new Askers();
    askers.add(layer.signal);
    const done = this.#upload({ ...layer, signal: askers.signal }, before?.done);
    const running = { done, askers, failed: false };
    this.#running.set(layer.key, running);
    done.then(
      () => {
        askers.close();
        this.#running.delete(layer.key);
      },
      () => {
        askers.close();
        running.failed = true;
      },
    );
    return done;
  }

  /** Undefined where nothing is known of such an upload: then it is taken for durable. */
  pending(key: string): Promise<void> | undefined {
    return this.#running.get(key)?.done;
  }

  /** Resolves when none of them is on its way any more, whatever became of it: then they may be deleted. */
  async settled(keys: Iterable<string>): Promise<void> {
    await Promise.allSettled([...keys].map((key) => this.pending(key)));
  }

  async #upload(layer: LayerUpload, before: Promise<void> | undefined): Promise<void> {
    const { tenantId, key, path, sizeBytes, signal } = layer;
    await before?.catch(() => undefined);
    const { store, disk, logger, slots, randomInt } = this.resources;
    const doing = `upload ${key}`;
    const source = layerSource(path, sizeBytes, disk);
    const slot = { tenantId, isUrgent: () => false, signal };
    const call = (work: (signal: AbortSignal) => Promise<void>) =>
      slots.run(slot, () => withDeadline(doing, layerCallMs(sizeBytes), signal, work));
    // A place is taken for one attempt, and free for others while this one waits for its next.
    await retrying({ doing, logger, signal, randomInt }, async () => {
      try {
        await call((callSignal) => store.put(key, source, { ifAbsent: true, signal: callSignal }));
      } catch (error) {
        if (!(error instanceof StorageError && error.code === "object-exists")) {
          throw error;
        }
        await call((callSignal) => this.#expectOwn(key, path, sizeBytes, callSignal));
      }
    });
  }

  async #expectOwn(
    key: string,
    path: string,
    sizeBytes: number,
    signal: AbortSignal,
  ): Promise<void> {
    const { store, disk } = this.resources;
    const source = layerSource(path, sizeBytes, disk);
    if (!(await isSameContent(store, key, source, signal))) {
      throw new StorageError(
        "conflict",
        "object-differs",
        `${key} in ${store.location} has other content than ${path}, which is to be uploaded there`,
        { fields: { key, path } },
      );
    }
  }
}

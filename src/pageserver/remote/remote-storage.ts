// The object store as one pageserver process has it: its generation, and what moves layers to and fro for all tenants.

import { join } from "node:path";
import type { Disk } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { randomInt } from "../../base/random.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { Generation } from "../storage/generation.ts";
import { LayerDownloads } from "../transfers/layer-download.ts";
import { LayerUploads } from "../transfers/layer-uploads.ts";
import type { StoreAccess } from "../transfers/store-calls.ts";
import { TransferSlots } from "../transfers/transfer-slots.ts";
import { Turns } from "../transfers/turns.ts";
import { claimGeneration, isCurrentGeneration } from "./claim-generation.ts";
import { DeletionQueue } from "./deletion-queue.ts";

/** At once. */
const COMPARISONS = 16;
/** Transfers at once, in each direction. */
const TRANSFERS = 16;
/** Of the lists of objects to delete. */
const DELETIONS_DIRECTORY = "deletions";

export interface RemoteStorageOptions {
  readonly store: ObjectStore;
  /** The pageserver's: the last generation and the deletion lists lie there. */
  readonly workdir: string;
  readonly disk: Disk;
  readonly logger: Logger;
  /** A whole number in [0, limit); absent: the real one. */
  readonly randomInt?: ((limit: number) => number) | undefined;
}

export class RemoteStorage {
  readonly access: StoreAccess;
  readonly generation: Generation;
  readonly uploads: LayerUploads;
  readonly downloads: LayerDownloads;
  readonly deletions: DeletionQueue;
  /** Of indexes with those of the disk: thousands, after a start. */
  readonly comparisons = new Turns(COMPARISONS);
  readonly #stopping: AbortController;
  readonly #validation: Validation;

  private constructor(
    access: StoreAccess,
    generation: Generation,
    transfers: { uploads: LayerUploads; downloads: LayerDownloads; deletions: DeletionQueue },
    stopping: AbortController,
    validation: Validation,
  ) {
    this.access = access;
    this.generation = generation;
    this.uploads = transfers.uploads;
    this.downloads = transfers.downloads;
    this.deletions = transfers.deletions;
    this.#stopping = stopping;
    this.#validation = validation;
  }

  /** Begins a generation. What claimGeneration, Generation.begin and DeletionQueue.open throw. */
  static async open(options: RemoteStorageOptions): Promise<RemoteStorage> {
    const { store, workdir, disk, logger } = options;
    const stopping = new AbortController();
    const access: StoreAccess = {
      store,
      logger,
      signal: stopping.signal,
      randomInt: options.randomInt ?? randomInt,
    };
    const generation = await Generation.begin(workdir, disk, (last) =>
      claimGeneration(access, last),
    );
    const validation = new Validation(access, generation.number);
    const resources = { store, disk, logger, randomInt: access.randomInt };
    const uploads = new LayerUploads({ ...resources, slots: new TransferSlots(TRANSFERS) });
    const downloads = new LayerDownloads({ ...resources, slots: new TransferSlots(TRANSFERS) });
    const deletions = await DeletionQueue.open({
      directory: join(workdir, DELETIONS_DIRECTORY),
      uploads,
      attached: { get: () => generation.number },
      validate: async (claims) => {
        const isCurrent = await validation.ask();
        return claims.map((claim) => isCurrent && claim.generation === generation.number);
      },
    });
    return new RemoteStorage(
      access,
      generation,
      { uploads, downloads, deletions },
      stopping,
      validation,
    );
  }

  /**
   * Whether no other pageserver has taken the store over, asked after this call: what was put before it
   * then counts. `unavailable` where the store does not answer.
   */
  isCurrent(): Promise<boolean> {
    return this.#validation.ask();
  }

  /** `fenced`, with what follows from it, where another has; else as `isCurrent`. */
  async requireCurrent(consequence: string): Promise<void> {
    if (!(await this.isCurrent())) {
      const message = `another pageserver has taken over: ${consequence}`;
      throw new StorageError("fenced", "stale-generation", message);
    }
  }

  /** A higher generation was seen: what this process still writes counts no more. */
  get wasReplaced(): boolean {
    return this.#validation.wasReplaced;
  }

  /** Ends all calls; what is not done is left to the next life. */
  async close(): Promise<void> {
    const deletions = this.deletions.stop();
    this.#stopping.abort(
      new StorageError("unavailable", "shutting-down", "the pageserver is stopping"),
    );
    await Promise.all([deletions, this.downloads.stop()]);
  }
}

/** Asks the store for a newer generation, once for all who want to know while a question waits for its turn. */
class Validation {
  readonly #access: StoreAccess;
  readonly #generation: number;
  #running: Promise<unknown> = Promise.resolve();
  #next: Promise<boolean> | undefined;
  wasReplaced = false;

  constructor(access: StoreAccess, generation: number) {
    this.#access = access;
    this.#generation = generation;
  }

  ask(): Promise<boolean> {
    this.#next ??= this.#askAfter(this.#running);
    return this.#next;
  }

  async #askAfter(running: Promise<unknown>): Promise<boolean> {
    await running.catch(() => undefined);
    const question = isCurrentGeneration(this.#access, this.#generation);
    this.#running = question;
    this.#next = undefined;
    const isCurrent = await question;
    if (!isCurrent && !this.wasReplaced) {
      this.wasReplaced = true;
      this.#access.logger.error(
        { generation: this.#generation, store: this.#access.store.location },
        "another pageserver has taken over this object store: nothing that this one writes counts any more",
      );
    }
    return isCurrent;
  }
}

// Lists of objects to delete, on the local disk: their format, writing, reading and removal.
//
// Ours, format version 1. Checksummed JSON (base/text/checksummed-json.ts): `format_version`, `tenants`: per tenant
// `tenant_id`, `generation` in which the objects were given up, `keys`. A file a list, named `<sequence, 16 hex>.deletions`;
// written whole and never changed. A list that is damaged is taken away: its objects stay for the scrubber.

import { join } from "node:path";
import { z } from "zod";
import { type Disk, diskError, readFileIfExists, writeFileDurablyAsync } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, type TenantId } from "../../base/ids.ts";
import { decodeChecksummedJson, encodeChecksummedJson } from "../../base/text/checksummed-json.ts";
import { DELETION_LIST_FORMAT_VERSION } from "../layers/format-versions.ts";
import { parseRemoteKey } from "./remote-paths.ts";

export interface TenantDeletions {
  readonly tenantId: TenantId;
  /** Whose index gave the objects up. */
  readonly generation: number;
  readonly keys: readonly string[];
}

const NAME = /^([0-9a-f]{16})\.deletions$/;
const TEMPORARY_SUFFIX = ".___temp";

const schema = z.object({
  format_version: z.literal(DELETION_LIST_FORMAT_VERSION),
  tenants: z.array(
    z.object({
      tenant_id: z.string().regex(/^[0-9a-f]{32}$/),
      generation: z.int().min(0).max(0xffff_ffff),
      keys: z.array(z.string()),
    }),
  ),
});

export function encodeDeletionList(tenants: readonly TenantDeletions[]): string {
  const body = {
    format_version: DELETION_LIST_FORMAT_VERSION,
    tenants: tenants.map(({ tenantId, generation, keys }) => ({
      tenant_id: tenantId,
      generation,
      keys,
    })),
  };
  return encodeChecksummedJson(body);
}

/** `corrupt` on anything that `encodeDeletionList` does not write; `path` is for the message. */
export function decodeDeletionList(text: string, path: string): readonly TenantDeletions[] {
  const corrupt = (what: string, cause?: unknown) =>
    new StorageError("corrupt", "corrupt-deletion-list", `deletion list ${path}: ${what}`, {
      cause,
      fields: { path },
    });
  const { tenants } = decodeChecksummedJson(text, schema, corrupt);
  return tenants.map((one) => {
    const tenantId = parseTenantId(one.tenant_id);
    const stray = one.keys.find((key) => parseRemoteKey(key)?.tenantId !== tenantId);
    if (stray !== undefined) {
      throw corrupt(`${stray} is no object of tenant ${tenantId}`);
    }
    return { tenantId, generation: one.generation, keys: one.keys };
  });
}

export interface StoredDeletionList {
  readonly sequence: number;
  readonly path: string;
  readonly tenants: readonly TenantDeletions[];
}

/** The lists of one directory. */
export class DeletionLists {
  readonly #directory: string;
  readonly #disk: Disk;
  #nextSequence = 1;

  constructor(directory: string, disk: Disk) {
    this.#directory = directory;
    this.#disk = disk;
  }

  /**
   * Makes the directory and reads what former lives left, oldest first. `damaged` gets what could not be
   * read; that is removed, as is what was not written to its end.
   */
  load(damaged: (error: StorageError) => void): StoredDeletionList[] {
    this.#disk.makeDirectory(this.#directory);
    const lists: StoredDeletionList[] = [];
    for (const name of this.#disk.list(this.#directory).toSorted()) {
      const path = join(this.#directory, name);
      const sequence = Number.parseInt(NAME.exec(name)?.[1] ?? "", 16);
      if (name.endsWith(TEMPORARY_SUFFIX)) {
        this.#disk.unlink(path);
      } else if (Number.isSafeInteger(sequence)) {
        this.#nextSequence = Math.max(this.#nextSequence, sequence + 1);
        this.#read(path, sequence, lists, damaged);
      }
    }
    return lists;
  }

  #read(
    path: string,
    sequence: number,
    lists: StoredDeletionList[],
    damaged: (error: StorageError) => void,
  ): void {
    const text = readFileIfExists(path, this.#disk)?.toString("utf8") ?? "";
    try {
      lists.push({ sequence, path, tenants: decodeDeletionList(text, path) });
    } catch (error) {
      if (!(error instanceof StorageError)) {
        throw error;
      }
      damaged(error);
      this.#disk.unlink(path);
    }
  }

  /** Durable when it resolves. `unavailable` where the disk is full. */
  async add(tenants: readonly TenantDeletions[]): Promise<StoredDeletionList> {
    const sequence = this.#nextSequence;
    const path = join(this.#directory, `${sequence.toString(16).padStart(16, "0")}.deletions`);
    await this.#write(path, tenants);
    // Not before: one that failed may be there all the same, and is written again.
    this.#nextSequence++;
    return { sequence, path, tenants };
  }

  /** Another content for the same list, durable when it resolves. */
  async replace(
    list: StoredDeletionList,
    tenants: readonly TenantDeletions[],
  ): Promise<StoredDeletionList> {
    await this.#write(list.path, tenants);
    return { ...list, tenants };
  }

  #write(path: string, tenants: readonly TenantDeletions[]): Promise<void> {
    const text = encodeDeletionList(tenants);
    return writeFileDurablyAsync(path, text, this.#disk, path + TEMPORARY_SUFFIX);
  }

  /** A power cut may bring it back: to delete the same again harms nobody. */
  async remove({ path }: StoredDeletionList): Promise<void> {
    try {
      await this.#disk.background.removeTree(path);
    } catch (error) {
      throw diskError(error, `remove ${path}`);
    }
  }
}

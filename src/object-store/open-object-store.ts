// From what a daemon's `--remote-storage` says to an object store.

import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { abortAfter } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { DirectoryObjectStore } from "./directory-object-store.ts";
import type { ObjectStore } from "./object-store.ts";
import type { Environment } from "./s3/credentials.ts";

/** Whoever starts a daemon waits for it; a store that is away needs no such wait. */
const PROBE_MS = 5000;

export interface OpenObjectStoreOptions {
  /** Whose credentials, region and endpoint count. */
  readonly env: Environment;
  /**
   * Told why a store could not be tried out because it is away. It is opened all the same, and tried
   * before the first put that needs it.
   */
  readonly onAway: (error: unknown) => void;
}

/**
 * `file:///DIRECTORY`, an absolute path, or `s3://BUCKET/PREFIX?endpoint=URL&region=REGION`, which is
 * tried out (`S3ObjectStore.probe`). StorageError `invalid` for anything else, `unsupported` for another
 * kind of store or one that cannot do what it must, `unavailable` where the directory cannot be made,
 * `forbidden` for wrong credentials.
 */
export async function openObjectStore(
  location: string,
  options: OpenObjectStoreOptions,
): Promise<ObjectStore> {
  if (isAbsolute(location)) {
    return new DirectoryObjectStore(location);
  }
  const url = URL.parse(location);
  if (url === null) {
    const message = `not an object store: '${location}'; expected an absolute path, file:///path or s3://bucket/prefix`;
    throw new StorageError("invalid", "bad-object-store", message);
  }
  if (url.protocol === "s3:") {
    return openS3(location, options);
  }
  if (url.protocol !== "file:" || url.host !== "") {
    const message = `object stores of ${url.protocol}//${url.host} are not supported`;
    throw new StorageError("unsupported", "bad-object-store", message);
  }
  return new DirectoryObjectStore(fileURLToPath(url));
}

/** Its code is loaded only where it is used. */
async function openS3(location: string, options: OpenObjectStoreOptions): Promise<ObjectStore> {
  const { s3Configuration } = await import("./s3/configuration.ts");
  const { S3ObjectStore } = await import("./s3-object-store.ts");
  const store = new S3ObjectStore(s3Configuration(location, options.env));
  const signal = abortAfter(PROBE_MS);
  try {
    await store.probe({ signal });
  } catch (error) {
    const isAway = error instanceof StorageError && error.kind === "unavailable";
    if (!signal.aborted && (!isAway || error.code === "clock-skew")) {
      store.close();
      throw error;
    }
    const message = `${location} does not answer within ${PROBE_MS / 1000} s`;
    options.onAway(
      signal.aborted
        ? new StorageError("unavailable", "object-store-away", message, { cause: error })
        : error,
    );
  }
  return store;
}

// From what a daemon's `--remote-storage` says to an object store.

import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { StorageError } from "../base/errors.ts";
import { DirectoryObjectStore } from "./directory-object-store.ts";
import type { ObjectStore } from "./object-store.ts";

/**
 * `file:///DIRECTORY` or an absolute path. StorageError `invalid` for anything else, `unsupported` for
 * another kind of store, `unavailable` where the directory cannot be made.
 */
export function openObjectStore(location: string): ObjectStore {
  if (isAbsolute(location)) {
    return new DirectoryObjectStore(location);
  }
  const url = URL.parse(location);
  if (url === null) {
    const message = `not an object store: '${location}'; expected an absolute path or file:///path`;
    throw new StorageError("invalid", "bad-object-store", message);
  }
  if (url.protocol !== "file:" || url.host !== "") {
    const message = `object stores of ${url.protocol}//${url.host} are not supported`;
    throw new StorageError("unsupported", "bad-object-store", message);
  }
  return new DirectoryObjectStore(fileURLToPath(url));
}

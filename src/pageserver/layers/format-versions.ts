// Versions of the files that the pageserver writes: what each added, and who can no longer read it.

/**
 * Layer files (layer-format.ts).
 * - 1: first; raw blocks, CRC-32, key filter in delta layers.
 * - 2: blocks may be LZ4. Version 1 is read as well, and stays so: homes are upgraded in place.
 */
export const LAYER_FORMAT_VERSION = 2;

/**
 * index_part.json (index-part.ts).
 * - 1: first.
 * - 2: layers of other timelines of the tenant, with an LSN cap; the LSN below which history is not whole.
 * - 3: the generation that wrote it; whether the timeline was deleted.
 * - 4: leases, at first only those below the cutoff, and only where there were any.
 */
export const INDEX_PART_FORMAT_VERSION = 4;

/**
 * Lists of objects to delete (remote/deletion-list.ts).
 * - 1: first.
 */
export const DELETION_LIST_FORMAT_VERSION = 1;

/**
 * tenant-manifest.json (remote/tenant-manifest.ts).
 * - 1: first.
 */
export const TENANT_MANIFEST_FORMAT_VERSION = 1;

/**
 * tenant_config.json (retention/tenant-config.ts).
 * - 1: first.
 */
export const TENANT_CONFIG_FORMAT_VERSION = 1;

/**
 * offloaded_timelines.json (archive/offloaded-list.ts).
 * - 1: first.
 */
export const OFFLOADED_LIST_FORMAT_VERSION = 1;

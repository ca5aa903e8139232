// The extension `strata`, in SQL only: what a compute's local cache has answered, and how long reads waited for storage.
//
// The shim counts in two files beside the data directory (library/read_counts.c, library/shim.h: cache_counters). A function that runs
// as the superuser reads them; what is shown are counts, so every role may look. The shim gives Postgres the extension's own
// files, as no installation has them: there is no object in any database before somebody says CREATE EXTENSION strata.

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readFileIfExists } from "../../base/disk.ts";
import { SpareFiles } from "../../data-directory/spare-files.ts";

/** Beside the data directory, as OWN_EXTENSION_NAME. */
export const READ_COUNTS_NAME = "read-counts";
/** Directory of the extension's files. */
export const OWN_EXTENSION_NAME = "extension";
export const OWN_EXTENSION = "strata";

/*
 * struct read_counts of library/shim.h:
 *   0 u64 reads | 8 u64 misses | 16 u64 fetched | 24 u64 waits | 32 u64 microseconds | 40 u64 waits_below[24]
 */
const WAIT_BUCKETS = 24;
const READ_COUNTS_BYTES = 40 + WAIT_BUCKETS * 8;

/** A new file of zeros: what an older Postgres still counts goes elsewhere. */
export function makeReadCounts(path: string, spares = SpareFiles.none()): void {
  rmSync(path, { force: true });
  spares.write(path, new Uint8Array(READ_COUNTS_BYTES));
}

/** Writes the extension's files where they are not there yet. */
export function placeOwnExtension(directory: string, spares = SpareFiles.none()): void {
  if (!existsSync(directory)) {
    spares.directory(directory);
  }
  for (const [name, text] of Object.entries(FILES)) {
    const path = join(directory, name);
    if (readFileIfExists(path)?.toString() !== text) {
      rmSync(path, { force: true });
      spares.write(path, text);
    }
  }
}

const CONTROL = `comment = 'what the local cache has answered, and how long reads waited for storage'
default_version = '1.0'
relocatable = false
schema = strata
superuser = true
trusted = true
`;

/** Neon's names of views and counters (its extension "neon"), where we have such a count. */
const SCRIPT = `\\echo Use "CREATE EXTENSION strata" to load this file. \\quit

-- The schema is whose who makes the extension, and may have been there before with functions of theirs in it.
set local search_path = pg_catalog, pg_temp;

grant usage on schema strata to public;

-- Little-endian; null where there is no such file, as in an exported cluster. What is called here and below is found now and not by
-- its name later: the schema's owner may give it another name, and make another one of this name.
create function strata.count_at(file bytea, at int) returns bigint
  language sql immutable strict parallel safe
  begin atomic
    select sum(get_byte(file, at + i)::bigint << (8 * i))::bigint from generate_series(0, 7) i;
  end;

create function strata.read_counts(out reads bigint, out misses bigint, out fetched bigint, out waits bigint,
    out wait_us bigint, out waits_below bigint[], out cached bigint, out evicted bigint, out fetched_again bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  begin atomic
    select strata.count_at(r, 0), strata.count_at(r, 8), strata.count_at(r, 16), strata.count_at(r, 24), strata.count_at(r, 32),
      (select array_agg(strata.count_at(r, 40 + 8 * i) order by i) from generate_series(0, ${WAIT_BUCKETS - 1}) i),
      greatest(0, strata.count_at(c, 0)) + greatest(0, strata.count_at(c, 8)), strata.count_at(c, 16), strata.count_at(c, 24)
    from pg_read_binary_file('../${READ_COUNTS_NAME}', 0, ${READ_COUNTS_BYTES}, true) r,
      pg_read_binary_file('../cache-counters', 0, 40, true) c;
  end;

create view strata.neon_lfc_stats as
  select lfc_key, lfc_value from strata.read_counts() c, lateral (values
    ('file_cache_hits', greatest(0, c.reads - c.misses)),
    ('file_cache_misses', c.misses),
    ('file_cache_used', c.cached),
    ('file_cache_fetched', c.fetched),
    ('file_cache_evicted', c.evicted),
    ('file_cache_fetched_again', c.fetched_again)
  ) s (lfc_key, lfc_value);

create view strata.neon_stat_file_cache as
  select c.misses as file_cache_misses, greatest(0, c.reads - c.misses) as file_cache_hits,
    c.cached as file_cache_used, c.evicted as file_cache_evicted,
    case when c.reads > 0 then round(100.0 * greatest(0, c.reads - c.misses) / c.reads, 2) end as file_cache_hit_ratio
  from strata.read_counts() c;

-- Buckets count all waits up to bucket_le seconds, as Prometheus's do.
create view strata.neon_perf_counters as
  select metric, bucket_le, value from strata.read_counts() c, lateral (
    values ('getpage_wait_seconds_count', null::float8, c.waits::float8),
      ('getpage_wait_seconds_sum', null, c.wait_us / 1e6),
      ('file_cache_hits_total', null, greatest(0, c.reads - c.misses)),
      ('file_cache_misses_total', null, c.misses),
      ('getpage_blocks_total', null, c.fetched)
    union all
    select 'getpage_wait_seconds_bucket', case when n < ${WAIT_BUCKETS} then (2 ^ (n - 1)) / 1e6 else 'infinity' end,
      sum(waits) over (order by n)
    from unnest(c.waits_below) with ordinality b (waits, n)
  ) s (metric, bucket_le, value);

grant select on strata.neon_lfc_stats, strata.neon_stat_file_cache, strata.neon_perf_counters to public;
`;

const FILES = { "strata.control": CONTROL, "strata--1.0.sql": SCRIPT };

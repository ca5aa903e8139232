// The list of hot blocks when somebody asks: written now, and read in now, in the background.
//
// Both by contrib/pg_prewarm's functions, whether or not it is preloaded, and without the extension in any database: its
// functions are made for one transaction, in the schema of temporary objects, and that is rolled back. Nothing stays, not
// even in WAL that anybody decodes; but what only reads can make no function.

import { monotonicMs } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import type { OffloadState, PrewarmState } from "../api.ts";
import { type BlockRun, blockRuns, keepHotBlocks, readList } from "../pages/hot-blocks.ts";
import {
  connectableDatabases,
  MAINTENANCE_DATABASES,
  maintenanceSession,
  type PostgresAddress,
  refuseReadOnly,
  sessionUnlessDropped,
} from "./maintenance-session.ts";
import { quoteText } from "./sql-text.ts";

/** Of one statement: less than users would notice to wait for, were it to hold something up. */
const BATCH_BLOCKS = 128;
const BATCH_RUNS = 64;
/** Whoever locks a relation is not waited for: its blocks are left out. */
const LOCK_TIMEOUT = "100ms";

const PREWARM_FUNCTION = `create function pg_temp.strata_prewarm(regclass, text, text, int8, int8) returns int8
  as '$libdir/pg_prewarm', 'pg_prewarm' language c`;
const DUMP_FUNCTION = `create function pg_temp.strata_dump() returns int8
  as '$libdir/pg_prewarm', 'autoprewarm_dump_now' language c`;

export class HotBlocksControl {
  readonly #workdir: string;
  readonly #dataDirectory: string;
  readonly #logger: Logger;
  #prewarm: PrewarmState = { status: "not_prewarmed" };
  #offload: OffloadState = { status: "not_offloaded" };
  #cancelled = false;

  constructor(options: { workdir: string; dataDirectory: string; logger: Logger }) {
    this.#workdir = options.workdir;
    this.#dataDirectory = options.dataDirectory;
    this.#logger = options.logger;
  }

  get prewarmState(): PrewarmState {
    return this.#prewarm;
  }

  get offloadState(): OffloadState {
    return this.#offload;
  }

  /** Begins to write the list. StorageError `conflict` where that goes on already, `unsupported` where Postgres only reads. */
  async offload(address: PostgresAddress): Promise<OffloadState> {
    await refuseReadOnly(
      address,
      "a read-only endpoint writes its list of hot blocks by --prewarm",
    );
    if (this.#offload.status === "offloading") {
      throw new StorageError("conflict", "offloading", "the list of hot blocks is being written");
    }
    this.#offload = { status: "offloading" };
    const started = monotonicMs();
    this.#writeList(address).then(
      (blocks) => {
        const state_query_time_ms = Math.round(monotonicMs() - started);
        this.#offload = { status: "completed", blocks, state_query_time_ms };
      },
      (error: unknown) => {
        this.#logger.warn({ error }, "cannot write the list of hot blocks");
        this.#offload = { status: "failed", error: errorMessage(error) };
      },
    );
    return this.#offload;
  }

  async #writeList(address: PostgresAddress): Promise<number> {
    const session = await maintenanceSession(address);
    try {
      const rows = await undone(session, DUMP_FUNCTION, "select pg_temp.strata_dump()");
      keepHotBlocks(this.#dataDirectory, this.#workdir);
      return Number(rows[0]?.[0] ?? 0);
    } finally {
      session.close();
    }
  }

  /** Begins to read in what the list names. StorageError as `offload`. */
  async prewarm(address: PostgresAddress): Promise<PrewarmState> {
    await refuseReadOnly(address, "a read-only endpoint reads its hot blocks by --prewarm");
    if (this.#prewarm.status === "prewarming") {
      throw new StorageError("conflict", "prewarming", "hot blocks are being read in");
    }
    const list = readList(this.#workdir);
    if (list === undefined) {
      this.#prewarm = { status: "skipped" };
      return this.#prewarm;
    }
    this.#cancelled = false;
    const runs = blockRuns(list);
    const total = runs.reduce((sum, run) => sum + run.count, 0);
    this.#prewarm = { status: "prewarming", total, prewarmed: 0, skipped: 0 };
    this.#readIn(address, runs, total).catch((error: unknown) => {
      this.#logger.warn({ error }, "cannot read in hot blocks");
      this.#prewarm = { status: "failed", error: errorMessage(error) };
    });
    return this.#prewarm;
  }

  /** Ends it behind the blocks that are being read; no error where nothing goes on. */
  cancelPrewarm(): PrewarmState {
    this.#cancelled = true;
    return this.#prewarm;
  }

  async #readIn(address: PostgresAddress, runs: readonly BlockRun[], total: number): Promise<void> {
    const started = monotonicMs();
    const names = await connectableDatabases(address);
    let prewarmed = 0;
    let done = 0;
    for (const [database, ofDatabase] of Map.groupBy(runs, (run) => run.database)) {
      const name = database === 0 ? MAINTENANCE_DATABASES[0]! : names.get(database);
      const session = name === undefined ? undefined : await sessionUnlessDropped(address, name);
      try {
        for (const batch of batches(ofDatabase)) {
          if (this.#cancelled) {
            this.#prewarm = { status: "cancelled", total, prewarmed, skipped: done - prewarmed };
            return;
          }
          prewarmed += session === undefined ? 0 : await readBatch(session, batch);
          done += batch.reduce((sum, run) => sum + run.count, 0);
          this.#prewarm = { status: "prewarming", total, prewarmed, skipped: done - prewarmed };
        }
      } finally {
        session?.close();
      }
    }
    const prewarm_time_ms = Math.round(monotonicMs() - started);
    const counts = { total, prewarmed, skipped: total - prewarmed };
    this.#prewarm = { status: "completed", ...counts, prewarm_time_ms };
  }
}

function* batches(runs: readonly BlockRun[]): Generator<BlockRun[]> {
  let batch: BlockRun[] = [];
  let blocks = 0;
  for (const run of runs) {
    for (let at = 0; at < run.count; ) {
      const count = Math.min(run.count - at, BATCH_BLOCKS - blocks);
      batch.push({ ...run, first: run.first + at, count });
      blocks += count;
      at += count;
      if (blocks === BATCH_BLOCKS || batch.length === BATCH_RUNS) {
        yield batch;
        batch = [];
        blocks = 0;
      }
    }
  }
  if (batch.length > 0) {
    yield batch;
  }
}

/** How many of the blocks were read: none where Postgres refuses the batch, as of a relation that is locked or just dropped. */
async function readBatch(session: WireConnection, batch: readonly BlockRun[]): Promise<number> {
  const wanted = batch.map(
    ({ tablespace, fileNumber, fork, first, count }) =>
      `(${tablespace}::oid, ${fileNumber}::oid, ${quoteText(fork)}, ${first}::int8, ${first + count - 1}::int8)`,
  );
  try {
    const rows = await undone(
      session,
      `set local lock_timeout = '${LOCK_TIMEOUT}'; ${PREWARM_FUNCTION}`,
      `select sum(pg_temp.strata_prewarm(rel, 'buffer', fork, first, least(last, blocks - 1))) from (
         select rel, fork, first, last, pg_relation_size(rel, fork) / 8192 as blocks from (
           select pg_filenode_relation(spc, file) as rel, fork, first, last
             from (values ${wanted.join(", ")}) as wanted (spc, file, fork, first, last)
         ) as named where rel is not null
       ) as there where first < blocks`,
    );
    return Number(rows[0]?.[0] ?? 0);
  } catch (error) {
    if (session.closed || isMissingLibrary(error)) {
      throw error;
    }
    return 0;
  }
}

/** What `question` answers in a transaction in which a function was made, and which is rolled back. */
async function undone(
  session: WireConnection,
  make: string,
  question: string,
): Promise<(string | null)[][]> {
  try {
    await session.query(`begin; ${make}`);
    return (await session.query(question)).rows;
  } catch (error) {
    throw isMissingLibrary(error)
      ? new StorageError("unsupported", "no-pg-prewarm", "this Postgres comes without pg_prewarm", {
          cause: error,
        })
      : error;
  } finally {
    if (!session.closed) {
      await session.query("rollback");
    }
  }
}

function isMissingLibrary(error: unknown): boolean {
  return (
    error instanceof StorageError &&
    (error.code === "no-pg-prewarm" ||
      /could not access file "\$libdir\/pg_prewarm"/.test(error.message))
  );
}

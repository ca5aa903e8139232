// One life of a compute's Postgres: from the election to the end of its process.

import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errorKind, StorageError, withContext } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import {
  addLsn,
  alignLsn,
  formatLsn,
  INVALID_LSN,
  type Lsn,
  maxLsn,
  pageStart,
  parseLsn,
  WAL_SEGMENT_SIZE,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import type { ComputeState, TenantTimeline } from "../pageserver/api.ts";
import { computeState } from "../pageserver/client.ts";
import { findInstallation, type Installation } from "../postgres/installation.ts";
import { pgVersion } from "../postgres/versions.ts";
import { type EndpointSpec, splitAddress } from "./api.ts";
import { writeDataDirectory } from "./data-directory.ts";
import { LazyFiles, prepareShim } from "./lazy-files.ts";
import { LocalWal } from "./local-wal.ts";
import { discardDataDirectory, type PostgresExit, PostgresProcess } from "./postgres-process.ts";
import { postgresSettings } from "./postgres-settings.ts";
import { ProposerDriver } from "./proposer-driver.ts";
import type { SynthesizedWal } from "./synthesized-wal.ts";
import { WalShipper } from "./wal-shipper.ts";
import { WalWalker } from "./wal-walker.ts";

/** How long one try to start Postgres over its data directory may take. */
const READY_TIMEOUT_MS = 60_000;
/** It says hello before Postgres's own main; by the time Postgres is ready it must have. */
const SHIM_TIMEOUT_MS = 1000;
const PAGESERVER_RETRY_MS = 200;
/** After Postgres has ended, for the last WAL to reach a quorum. */
const LAST_WAL_TIMEOUT_MS = 10_000;

export interface ComputeRunOptions {
  readonly spec: EndpointSpec;
  readonly workdir: string;
  /** Made anew by every run; on a path that Postgres's user may enter. */
  readonly dataDirectory: string;
  readonly logger: Logger;
}

export type RunEnd =
  | { readonly kind: "exit"; readonly exit: PostgresExit }
  /** Another compute won a higher term. */
  | { readonly kind: "fenced"; readonly term: number }
  /** What was found makes going on wrong. */
  | { readonly kind: "fatal"; readonly error: StorageError };

/** Milliseconds; of the parts of a start. */
export interface RunTimes {
  syncSafekeepersMs: number;
  basebackupMs: number;
  dataDirectoryMs: number;
  startPostgresMs: number;
}

export class ComputeRun {
  readonly times: RunTimes = {
    syncSafekeepersMs: 0,
    basebackupMs: 0,
    dataDirectoryMs: 0,
    startPostgresMs: 0,
  };
  readonly #options: ComputeRunOptions;
  readonly #timeline: TenantTimeline;
  readonly #ended = Promise.withResolvers<RunEnd>();
  readonly #closing = new AbortController();
  #driver: ProposerDriver | undefined;
  #shipper: WalShipper | undefined;
  #localWal: LocalWal | undefined;
  #files: LazyFiles | undefined;
  #postgres: PostgresProcess | undefined;
  #startLsn: Lsn | undefined;

  constructor(options: ComputeRunOptions) {
    this.#options = options;
    this.#timeline = { tenantId: options.spec.tenantId, timelineId: options.spec.timelineId };
  }

  /** Settles once: nothing of this run goes on without `close`. */
  get ended(): Promise<RunEnd> {
    return this.#ended.promise;
  }

  get term(): number | undefined {
    return this.#driver?.term;
  }

  get startLsn(): Lsn | undefined {
    return this.#startLsn;
  }

  get commitLsn(): Lsn | undefined {
    const lsn = this.#driver?.commitLsn ?? 0;
    return lsn === 0 ? undefined : (lsn as Lsn);
  }

  /** End of the last whole record that Postgres wrote. */
  get flushLsn(): Lsn | undefined {
    return this.#shipper?.endOfRecords;
  }

  get waitingFlushes(): number {
    return this.#shipper?.waiting ?? 0;
  }

  get safekeepers() {
    return this.#driver?.peers ?? [];
  }

  /** How far a pageserver has told to be; undefined where none has. */
  get pageserverLsn(): Lsn | undefined {
    const lsn = this.#driver?.pageserverLsn ?? 0;
    return lsn === 0 ? undefined : (lsn as Lsn);
  }

  get postgresPid(): number | undefined {
    return this.#postgres?.running === true ? this.#postgres.pid : undefined;
  }

  /**
   * Resolves when Postgres accepts connections. StorageError `fenced`, or why it did not start; then
   * `close` is still due.
   */
  async start(): Promise<void> {
    const { spec, dataDirectory } = this.#options;
    const started = monotonicMs();
    const choosing =
      spec.mode === "primary" ? this.#elect() : Promise.resolve(parseLsn(spec.mode.static)!);
    // Independent of storage, so it goes on while the safekeepers vote.
    const prepared = this.#prepare();
    prepared.catch(() => undefined);
    const lsn = await this.#orEnd(Promise.race([choosing, failureOf(prepared)]));
    this.#startLsn = lsn;
    const electedAt = monotonicMs();
    const recovered = this.#driver?.recovered.then(() => {
      this.times.syncSafekeepersMs = monotonicMs() - started;
    });
    const [state] = await this.#orEnd(Promise.all([this.#fetchState(lsn), recovered]));
    this.times.basebackupMs = monotonicMs() - electedAt;
    const { installation, shim } = await this.#orEnd(prepared);

    const writing = monotonicMs();
    const settings = postgresSettings({
      pgVersion: spec.pgVersion,
      host: spec.pgHost,
      port: spec.pgPort,
      settings: spec.settings,
      preparedTransactions: state.twoPhase.length,
    });
    const standby = spec.mode !== "primary";
    const wal = writeDataDirectory({ path: dataDirectory, state, settings, standby });
    this.times.dataDirectoryMs = monotonicMs() - writing;
    if (!standby) {
      this.#shipFrom(lsn, state, wal);
    }
    const shipper = this.#shipper;
    this.#files = await LazyFiles.start({
      shim,
      workdir: this.#options.workdir,
      dataDirectory,
      timeline: this.#timeline,
      pageserverAddress: spec.pageserver.pgAddr,
      state,
      wal:
        shipper === undefined
          ? undefined
          : {
              written: (segment, offset, length) => shipper.walWritten(segment, offset, length),
              flush: (segment, end) => shipper.flushWal(segment, end),
            },
      logger: this.#options.logger,
    });
    if (this.#closing.signal.aborted) {
      await this.#files.close();
      throw closedWhileStarting();
    }
    await this.#startPostgres(installation, settings.commandLine);
  }

  /**
   * Ends Postgres and everything else. `fast`: clients are cut off, a shutdown checkpoint is
   * written, and all WAL is on a quorum on return, unless none answers in time.
   */
  async stop(mode: "fast" | "immediate"): Promise<void> {
    await this.#postgres?.stop(mode);
    if (mode === "fast" && this.#shipper !== undefined) {
      await this.#waitForLastWal(this.#shipper);
    }
    await this.close();
  }

  /** At once: nothing is acknowledged any more. Resolves when Postgres is gone. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#shipper?.stop();
    this.#driver?.close();
    this.#files?.fence();
    await this.#postgres?.stop("immediate");
    await this.#files?.close();
    this.#localWal?.close();
  }

  /** What this machine must have; and the place must be free. */
  async #prepare(): Promise<{ installation: Installation; shim: string }> {
    const { spec, workdir, dataDirectory } = this.#options;
    // The safekeepers' questions go out first: what follows keeps this thread busy.
    await new Promise((resolve) => setImmediate(resolve));
    const installation = findInstallation(spec.pgVersion, { pgBin: spec.pgBin });
    const shim = prepareShim(installation, workdir);
    await discardDataDirectory(dataDirectory);
    return { installation, shim };
  }

  async #elect(): Promise<Lsn> {
    const { spec, logger } = this.#options;
    this.#driver = new ProposerDriver({
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      // Safekeepers care for the major only.
      pgVersion: spec.pgVersion * 10_000,
      walSegSize: WAL_SEGMENT_SIZE,
      safekeepers: spec.safekeepers.map(({ id, pgAddr }) => {
        const { host, port } = splitAddress(pgAddr);
        return { id, host, pgPort: port };
      }),
      logger,
      onCommitted: (lsn) => this.#shipper?.committed(lsn),
      onFenced: (term) => this.#end({ kind: "fenced", term }),
      onFatal: (error) => this.#end({ kind: "fatal", error }),
    });
    this.#driver.start();
    const { term, startLsn, donor } = await this.#driver.elected;
    logger.info({ term, startLsn: formatLsn(startLsn), donor }, "elected");
    return startLsn;
  }

  /** The state at `lsn`; waits for a pageserver that is away or behind. */
  async #fetchState(lsn: Lsn): Promise<ComputeState> {
    const { spec, logger } = this.#options;
    for (let warned = false; ; warned = true) {
      try {
        const state = await computeState(spec.pageserver.pgAddr, this.#timeline, lsn);
        if (state.pgVersion !== spec.pgVersion || state.walSegmentSize !== WAL_SEGMENT_SIZE) {
          throw new StorageError(
            "unsupported",
            "wrong-timeline",
            `the timeline is of Postgres ${state.pgVersion} with WAL segments of ${state.walSegmentSize} bytes`,
          );
        }
        // Where it rounded, we still start where we asked to; then the record before is not known.
        return state.lsn === lsn ? state : { ...state, lsn, prevRecordLsn: INVALID_LSN };
      } catch (error) {
        if (errorKind(error) !== "unavailable") {
          throw withContext(error, `get the state at ${formatLsn(lsn)}`);
        }
        if (!warned) {
          logger.warn({ lsn: formatLsn(lsn), error }, "waiting for the pageserver");
        }
        await sleep(PAGESERVER_RETRY_MS, this.#closing.signal);
      }
    }
  }

  #shipFrom(lsn: Lsn, state: ComputeState, wal: SynthesizedWal): void {
    const driver = this.#driver!;
    const segmentSize = state.walSegmentSize;
    this.#localWal = new LocalWal(join(this.#options.dataDirectory, "pg_wal"), segmentSize);
    // An LSN inside a page header, or not aligned, is where a branch may begin: its first bytes
    // are sent, but the first record begins behind them.
    const pageBoundary = lsn === pageStart(lsn);
    const readable = pageBoundary || alignLsn(lsn) === wal.recordStart;
    this.#shipper = new WalShipper({
      walker: new WalWalker({
        start: readable ? alignLsn(lsn) : wal.recordStart,
        prevLsn: state.prevRecordLsn,
        pageMagic: pgVersion(state.pgVersion).pageMagic,
        segmentSize,
        systemId: state.systemId,
      }),
      localWal: this.#localWal,
      segmentSize,
      onAvailable: (end) => driver.walAvailable(end),
      onFatal: (error) => this.#end({ kind: "fatal", error }),
    });
    const shipper = this.#shipper;
    driver.setLocalWal((begin, end) => shipper.read(begin, end));
    const lastByte = addLsn(wal.recordEnd, -1);
    shipper.noteWrittenUpTo(addLsn(pageStart(lastByte), XLOG_BLCKSZ));
    if (shipper.endOfRecords !== wal.recordEnd) {
      // A walker that does not move would let every flush pass as "nothing new".
      throw new StorageError("internal", "walk-failed", "the start record was not found again");
    }
    shipper.committed(maxLsn(driver.commitLsn, lsn));
  }

  async #startPostgres(installation: Installation, commandLine: readonly string[]): Promise<void> {
    const { dataDirectory, workdir, logger } = this.#options;
    const started = monotonicMs();
    const logPath = join(workdir, "postgres.log");
    const logFd = openSync(logPath, "a", 0o600);
    const logStart = fstatSync(logFd).size;
    try {
      this.#postgres = await PostgresProcess.start({
        installation,
        dataDirectory,
        args: commandLine,
        env: this.#files!.environment,
        logFd,
      });
    } finally {
      closeSync(logFd);
    }
    const postgres = this.#postgres;
    if (this.#closing.signal.aborted) {
      await postgres.stop("immediate");
      throw closedWhileStarting();
    }
    logger.info({ postgresPid: postgres.pid }, "started Postgres");
    // Its own failure to start is thrown by waitReady; later it ends the run.
    const ready = postgres.waitReady(READY_TIMEOUT_MS).catch((error: unknown): never => {
      throw withContext(error, lastWords(logPath, logStart));
    });
    await this.#orEnd(ready);
    await this.#orEnd(this.#files!.shimLoaded(SHIM_TIMEOUT_MS));
    void postgres.exited.then((exit) => this.#end({ kind: "exit", exit }));
    this.times.startPostgresMs = monotonicMs() - started;
  }

  async #waitForLastWal(shipper: WalShipper): Promise<void> {
    const deadline = monotonicMs() + LAST_WAL_TIMEOUT_MS;
    while (shipper.committedLsn < shipper.endOfRecords && monotonicMs() < deadline) {
      await sleep(5);
    }
  }

  #end(end: RunEnd): void {
    if (end.kind !== "exit") {
      // Before anything else: no flush is answered, and Postgres goes without a checkpoint.
      this.#shipper?.stop();
      this.#files?.fence();
      this.#postgres?.quit();
    }
    this.#ended.resolve(end);
  }

  /** `step`, unless the run ends first: then a rejection that says why. */
  async #orEnd<T>(step: Promise<T>): Promise<T> {
    const ended = this.#ended.promise.then((end): never => {
      if (end.kind === "fatal") {
        throw end.error;
      }
      throw new StorageError(
        end.kind === "fenced" ? "fenced" : "internal",
        `start-${end.kind}`,
        end.kind === "fenced"
          ? `another compute won term ${end.term}`
          : "Postgres ended while the compute was starting",
      );
    });
    return await Promise.race([step, ended]);
  }
}

function closedWhileStarting(): StorageError {
  return new StorageError("unavailable", "closed", "the compute was stopped while it started");
}

/** What Postgres itself says about why it did not start: the last things that are not routine. */
function lastWords(logPath: string, from: number): string {
  const lines = readFileSync(logPath).subarray(from).toString("utf8").split("\n");
  const words = lines.flatMap((line) => {
    const said = /(?:LOG|FATAL|PANIC|ERROR|HINT): {2}(.*)/.exec(line)?.[1];
    const routine =
      said === undefined || /^(starting|listening|database system|shutting)/.test(said);
    return routine ? (/strata shim: .*/.exec(line) ?? []) : [said];
  });
  return words.length === 0 ? "start Postgres" : words.slice(-3).join("; ");
}

/** Rejects as `step` does, and never resolves. */
function failureOf(step: Promise<unknown>): Promise<never> {
  return step.then(() => new Promise<never>(() => undefined));
}

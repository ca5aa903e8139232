// Everything of a run but the election: state, data directory, lazy files, Postgres itself.

import { closeSync, fstatSync, openSync, readFileSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep, turn } from "../base/clock.ts";
import { errorKind, StorageError, withContext } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn, minLsn, WAL_SEGMENT_SIZE } from "../base/lsn.ts";
import { type AuxFile, slotsOf } from "../data-directory/aux-files.ts";
import { SpareFiles } from "../data-directory/spare-files.ts";
import { replaceConfiguration, writeDataDirectory } from "../data-directory/start-directory.ts";
import type { SynthesizedWal } from "../data-directory/synthesized-wal.ts";
import type { ComputeState, TenantTimeline } from "../pageserver/api.ts";
import { computeState } from "../pageserver/client.ts";
import {
  findInstallation,
  type Installation,
  postgresSocketDirectory,
  runtimeDirectory,
} from "../postgres/installation.ts";
import {
  checkOwnSettings,
  type EndpointSpec,
  isPrewarmed,
  localCacheBytes,
  POSTGRES_LOG_NAME,
  preloadsLibraries,
} from "./api.ts";
import { keepHotBlocks, placeHotBlocks } from "./pages/hot-blocks.ts";
import { LazyFiles, prepareShim } from "./pages/lazy-files.ts";
import { connectPages, type PageClient } from "./pages/page-source.ts";
import type { Progress } from "./pages/written-blocks.ts";
import { discardDataDirectory, endProcessesIn, PostgresProcess } from "./postgres-process.ts";
import { MAINTENANCE_PORT, type PostgresSettings, postgresSettings } from "./postgres-settings.ts";
import type { Replica } from "./replica/replica.ts";
import type { CacheUsage } from "./shim/cache-counters.ts";
import { makeWithRoom, removeDiscarded } from "./start/discarded-directories.ts";
import type { OldWal } from "./wal/old-wal.ts";
import { invalidateSlots, openOldWal } from "./wal/open-old-wal.ts";
import { openShipper } from "./wal/open-shipper.ts";
import type { WalPath } from "./wal/wal-path.ts";

/** How long one try to start Postgres over its data directory may take. */
const READY_TIMEOUT_MS = 60_000;
/** It says hello before Postgres forks; by the time Postgres is ready it must have. */
const SHIM_TIMEOUT_MS = 1000;
const PAGESERVER_RETRY_MS = 200;
/** Files more than a start has needed, for the next one. */
const SPARE = 8;
/** First connections make catalog caches; until then there is better use for a CPU. */
const CLEAN_UP_DELAY_MS = 2000;

export interface PostgresSideOptions {
  readonly spec: EndpointSpec;
  readonly workdir: string;
  /** Undefined for a compute that only reads. */
  readonly wal: WalPath | undefined;
  /** Of one that follows the head. */
  readonly replica?: Replica | undefined;
  /** Inherited subscriptions could not be detached: no worker for any starts. */
  readonly leaveSubscriptions: boolean;
  readonly logger: Logger;
  readonly onPostgresSpawned?: (() => void) | undefined;
  /** Of who has none of its own yet: where others may be. */
  readonly sharedSpares?: string | undefined;
}

/** What this machine has for a Postgres of the endpoint's major. */
export interface Machine {
  readonly installation: Installation;
  /** Path of the library that it is started with. */
  readonly shim: string;
}

/** A Postgres that accepts connections. */
export interface RunningPostgres {
  readonly postgres: PostgresProcess;
  /** It is there for the agent alone, to detach inherited subscriptions. */
  readonly closedToUsers: boolean;
  /** Of its unix socket. */
  readonly address: { readonly host: string; readonly port: number };
}

/** Milliseconds; of the parts of a start. */
export interface PostgresTimes {
  basebackupMs: number;
  dataDirectoryMs: number;
  startPostgresMs: number;
}

/** Postgres at a state, and all that it needs. */
interface Draft {
  readonly state: ComputeState;
  readonly wal: SynthesizedWal;
  readonly files: LazyFiles;
  /** Undefined: no replication slot needs WAL from before the start. */
  readonly oldWal: OldWal | undefined;
  /** Held. */
  readonly postgres: PostgresProcess;
}

export class PostgresSide {
  readonly times: PostgresTimes = { basebackupMs: 0, dataDirectoryMs: 0, startPostgresMs: 0 };
  readonly #options: PostgresSideOptions;
  /** Made anew by every run; on a path that Postgres's user may enter. */
  readonly #dataDirectory: string;
  readonly #timeline: TenantTimeline;
  readonly #closing = new AbortController();
  /** Asked for before L is known, because nearly always it is the state at L. */
  readonly #newestState: Promise<ComputeState | undefined>;
  /** Made before there is something to ask; the first LazyFiles takes it. */
  #connection: Promise<PageClient> | undefined;
  #files: LazyFiles | undefined;
  /** Of the same state. */
  #oldWal: OldWal | undefined;
  #postgres: PostgresProcess | undefined;
  /** With the extensions of the endpoint's own. */
  #installation: Installation | undefined;
  #draft: Draft | undefined;
  /** Of the log, when `#postgres` was spawned. */
  #logStart = 0;
  /** What the data directory is put together from. */
  #spares = SpareFiles.none();
  #renewing: Promise<void> | undefined;

  constructor(options: PostgresSideOptions) {
    const { spec } = options;
    this.#options = options;
    this.#dataDirectory = dataDirectoryOf(options.workdir);
    this.#timeline = { tenantId: spec.tenantId, timelineId: spec.timelineId };
    this.#newestState =
      options.wal === undefined
        ? Promise.resolve(undefined)
        : computeState(spec.pageserver.pgAddr, this.#timeline).catch(() => undefined);
    this.#connection = connectPages(spec.pageserver.pgAddr, this.#timeline);
    this.#connection.catch(() => undefined);
    this.#newestState
      .then((state) => {
        if (state !== undefined && !this.#closing.signal.aborted) {
          this.#openFiles(state);
        }
      })
      // The data directory's maker tries again, and says why it cannot be.
      .catch(() => undefined);
  }

  get waitingReads(): number {
    return this.#files?.waitingReads ?? 0;
  }

  /** Of the Postgres that runs, or ran last; undefined before. */
  get cacheUsage(): CacheUsage | undefined {
    return this.#files?.cacheUsage;
  }

  /** Of the disk that the data directory is on. */
  get #diskBytes(): number {
    const { blocks, bsize } = statfsSync(this.#options.workdir);
    return blocks * bsize;
  }

  get postgres(): PostgresProcess | undefined {
    return this.#postgres;
  }

  /**
   * What this machine must have; and the place must be free. Then the data directory of the newest
   * state, and a Postgres on it, while the election may still go on: Postgres loads, makes its memory and is held
   * before it starts a process or reads WAL. Where L is another, it goes, and the directory too.
   */
  async prepare(): Promise<Machine> {
    const { spec, workdir } = this.#options;
    const found = findInstallation(spec.pgVersion, { pgBin: spec.pgBin });
    // Of one that was killed.
    this.#keepHotBlocks();
    // Of starts that did not last until it was time for that: else each of them would leave one more. That of one quick
    // restart waits until this one runs.
    await removeDiscarded(this.#dataDirectory, { atLeast: 2 });
    await discardDataDirectory(this.#dataDirectory, postgresSocketDirectory(workdir));
    await turn();
    // It writes, too: what takes all space is out of the way by now.
    const shim = await makeWithRoom(this.#dataDirectory, () => prepareShim(found, workdir));
    await turn();
    const installation = await makeWithRoom(this.#dataDirectory, () => this.#withExtensions(found));
    this.#installation = installation;
    await this.checkLibraries(spec.settings);
    this.#spares = SpareFiles.take(sparesOf(workdir), this.#options.sharedSpares);
    await this.#makeSkeleton();
    const newest = await this.#newestState;
    if (newest !== undefined) {
      // Here already, because safekeepers that refuse our major would let no election end.
      this.#requireOurs(newest);
      this.#draft = await this.#makeDraft(newest, { installation, shim });
    }
    return { installation, shim };
  }

  /** When nothing runs of what the last start has put there. */
  async #withExtensions(installation: Installation): Promise<Installation> {
    const { spec, workdir } = this.#options;
    if (spec.extensionDir === undefined) {
      return installation;
    }
    const { withExtensionDirectory } = await import("./extensions/extension-directory.ts");
    const target = join(runtimeDirectory(workdir), "postgres");
    return withExtensionDirectory(installation, spec.extensionDir, target);
  }

  /**
   * StorageError `unsupported` where a library that the settings `own` preload has a WAL resource manager of its own, `unavailable` before
   * Postgres was looked for.
   */
  async checkLibraries(own: EndpointSpec["settings"]): Promise<void> {
    if (!preloadsLibraries(own)) {
      return;
    }
    if (this.#installation === undefined) {
      throw new StorageError("unavailable", "not-running", "Postgres does not run");
    }
    const { libraryDirectory } = await import("./extensions/installation-layout.ts");
    const { refuseResourceManagers } = await import("./extensions/preloaded-libraries.ts");
    refuseResourceManagers(own, libraryDirectory(this.#installation));
  }

  #requireOurs(state: ComputeState): void {
    const { pgVersion: major } = this.#options.spec;
    if (state.pgVersion !== major) {
      throw new StorageError(
        "unsupported",
        "wrong-major",
        `the timeline is of PostgreSQL ${state.pgVersion}, the endpoint of ${major}`,
      );
    }
    if (state.walSegmentSize !== WAL_SEGMENT_SIZE) {
      throw new StorageError(
        "unsupported",
        "wrong-segment-size",
        `the timeline has WAL segments of ${state.walSegmentSize} bytes, not ${WAL_SEGMENT_SIZE}`,
      );
    }
  }

  /** After `prepare`: resolves when Postgres over the state at `lsn` accepts connections. */
  async start(lsn: Lsn, machine: Machine): Promise<RunningPostgres> {
    const { wal: path, workdir, spec } = this.#options;
    const dataDirectory = this.#dataDirectory;
    const asked = monotonicMs();
    const state = await this.#fetchState(lsn);
    this.times.basebackupMs = monotonicMs() - asked;
    const draft =
      this.#draft?.state === state ? this.#draft : await this.#draftAnew(state, machine);
    const { wal, files, postgres } = draft;
    await this.#fillOldWal(draft);
    await this.#options.replica?.open(state, dataDirectory, postgresSocketDirectory(workdir));
    path?.open(lsn, (hooks) => openShipper({ dataDirectory, lsn, state, wal }, hooks));
    await this.#letGo(draft);
    this.#options.replica?.watch(dataDirectory);
    sleep(CLEAN_UP_DELAY_MS, this.#closing.signal)
      .then(() => {
        files.endOfStart();
        return removeDiscarded(dataDirectory);
      })
      .then(() => this.#renewSpares())
      .catch(() => undefined);
    const closedToUsers = this.#isToDetach(state);
    const port = closedToUsers ? MAINTENANCE_PORT : spec.pgPort;
    return { postgres, closedToUsers, address: { host: postgresSocketDirectory(workdir), port } };
  }

  /** A primary's first start on a branch, where there is something to be done about subscriptions. */
  #isToDetach(state: ComputeState): boolean {
    const { wal, leaveSubscriptions } = this.#options;
    return state.hasInheritedSubscriptions && wal !== undefined && !leaveSubscriptions;
  }

  #makeSkeleton(): Promise<void> {
    const path = this.#dataDirectory;
    return makeWithRoom(path, () => this.#spares.skeleton(path));
  }

  async #writeDirectory(state: ComputeState, settings: PostgresSettings): Promise<SynthesizedWal> {
    const path = this.#dataDirectory;
    const standby = this.#options.wal === undefined;
    const auxFiles = this.#auxFiles(state);
    const replay = this.#options.replica?.start;
    return makeWithRoom(path, async (isAgain) => {
      if (isAgain) {
        await this.#spares.skeleton(path);
      }
      const wal = writeDataDirectory({
        ...{ path, state, settings, standby, replay, auxFiles },
        spares: this.#spares,
      });
      if (this.#isPrewarmed) {
        placeHotBlocks(this.#options.workdir, path, this.#options.logger);
      }
      return wal;
    });
  }

  async #makeDraft(state: ComputeState, machine: Machine): Promise<Draft> {
    if (this.#closing.signal.aborted) {
      // Whoever closed this run goes on with another, which may be making its own directory at the same path.
      throw closedWhileStarting();
    }
    const writing = monotonicMs();
    const settings = this.#settings(state, this.#options.spec.settings);
    const wal = await this.#writeDirectory(state, settings);
    this.times.dataDirectoryMs = monotonicMs() - writing;
    const files = this.#files?.state === state ? this.#files : this.#openFiles(state);
    const oldWal = this.#oldWal;
    await files.start(this.#spares);
    if (this.#closing.signal.aborted) {
      await files.close();
      throw closedWhileStarting();
    }
    const postgres = await this.#spawn(machine, files, settings.commandLine);
    files.place(this.#spares);
    return { state, wal, files, oldWal, postgres };
  }

  #settings(state: ComputeState, own: EndpointSpec["settings"]): PostgresSettings {
    const { spec, workdir, wal, replica } = this.#options;
    // Refused now, not by the next start.
    checkOwnSettings(own, this.#diskBytes);
    return postgresSettings({
      pgVersion: spec.pgVersion,
      host: spec.pgHost,
      port: spec.pgPort,
      socketDirectory: postgresSocketDirectory(workdir),
      // A standby that somebody promotes would start workers for its subscriptions, too.
      subscriptionsRest: wal === undefined || state.hasInheritedSubscriptions,
      closedToUsers: this.#isToDetach(state),
      settings: own,
      replica: replica?.settings(state, postgresSocketDirectory(workdir)),
      preparedTransactions: state.twoPhase.length,
      replicationOrigins: state.replicationOrigins.length,
      logicalSlots: slotsOf(this.#auxFiles(state)).length,
      allowInPlaceTablespaces:
        wal === undefined && state.tablespaces.some(({ location }) => location === ""),
    });
  }

  /**
   * Writes postgresql.conf with `own` as the endpoint's settings; Postgres reads it when it is told to.
   * StorageError `invalid` for what an endpoint may not set, `unavailable` where Postgres does not run.
   */
  writeSettings(own: EndpointSpec["settings"]): void {
    if (this.#draft === undefined || this.#postgres?.running !== true) {
      throw new StorageError("unavailable", "not-running", "Postgres does not run");
    }
    const { configuration } = this.#settings(this.#draft.state, own);
    replaceConfiguration(this.#dataDirectory, configuration);
  }

  /** From here on what the start will read is fetched. */
  #openFiles(state: ComputeState): LazyFiles {
    const { spec, wal, workdir, logger } = this.#options;
    const connection = this.#connection;
    this.#connection = undefined;
    const oldWal =
      wal === undefined
        ? undefined
        : openOldWal({
            ...{ dataDirectory: this.#dataDirectory, spec, state, logger },
            membership: () => wal.membership,
          });
    this.#oldWal = oldWal;
    const files = new LazyFiles({
      workdir,
      dataDirectory: this.#dataDirectory,
      timeline: this.#timeline,
      pageserverAddress: spec.pageserver.pgAddr,
      connection,
      state,
      wal,
      fetchOldWal: oldWal && ((segno) => oldWal.fetchSegment(segno)),
      localCacheBytes: localCacheBytes(spec.settings, this.#diskBytes),
      progress: wal && this.#progressOf(wal),
      logger,
    });
    this.#files = files;
    return files;
  }

  #progressOf(wal: WalPath): Progress {
    const { spec, workdir } = this.#options;
    const { pgPort: port, pgVersion } = spec;
    const address = { host: postgresSocketDirectory(workdir), port, pgVersion };
    return {
      // Of another compute's WAL, which has taken over, nothing is ours.
      ingestedLsn: () => minLsn(wal.pageserverLsn, wal.commitLsn),
      oldestRunningXid: async () => {
        const { oldestRunningXid } = await import("./sessions/running-transactions.ts");
        return oldestRunningXid(address);
      },
    };
  }

  /** What only reads makes no slot and has none: whoever moves one must have its WAL on a quorum. */
  #auxFiles(state: ComputeState): readonly AuxFile[] {
    return this.#options.wal === undefined ? [] : state.auxFiles;
  }

  /**
   * What slots need of the segment that Postgres goes on in; waits for safekeepers that are away. Where it is gone the slots
   * are there as Postgres would leave them: `lost`.
   */
  async #fillOldWal({ state, oldWal }: Draft): Promise<void> {
    const { logger } = this.#options;
    for (let warned = false; oldWal !== undefined; warned = true) {
      try {
        const lost = await oldWal.prepare();
        if (lost.length > 0) {
          invalidateSlots(this.#dataDirectory, state, lost);
          logger.error(
            { slots: lost },
            "the WAL that replication slots need is gone: they are lost",
          );
        }
        return;
      } catch (error) {
        if (errorKind(error) !== "unavailable") {
          throw withContext(error, "fetch the WAL that replication slots need");
        }
        if (!warned) {
          logger.warn({ error }, "waiting for the WAL that replication slots need");
        }
        await sleep(PAGESERVER_RETRY_MS, this.#closing.signal);
      }
    }
  }

  /** Also where the newest state was not the one at L. */
  async #draftAnew(state: ComputeState, machine: Machine): Promise<Draft> {
    if (this.#draft !== undefined) {
      this.#draft = undefined;
      await this.#postgres?.stop("immediate");
      this.#postgres = undefined;
      await this.#files?.close();
      await discardDataDirectory(
        this.#dataDirectory,
        postgresSocketDirectory(this.#options.workdir),
      );
      await this.#makeSkeleton();
    }
    this.#draft = await this.#makeDraft(state, machine);
    return this.#draft;
  }

  /** Nothing is read or synced any more, and Postgres goes without a checkpoint. */
  fence(): void {
    this.#files?.fence();
    this.#postgres?.quit();
  }

  /** As ComputeRun's; `close` is still due. */
  async stop(mode: "fast" | "immediate"): Promise<void> {
    this.#files?.endOfStart();
    // A pageserver that is away must not keep Postgres from its shutdown checkpoint.
    this.#options.wal?.endWriteLagLimit();
    const ended = await this.#postgres?.stop(mode);
    this.#keepHotBlocks();
    if (mode === "fast" && ended === "immediate") {
      // Of what is left nobody was told that it is committed: it finds no quorum, or a subscriber has not taken what there is.
      this.#options.logger.warn(
        {},
        "the shutdown checkpoint did not come to an end: ended without",
      );
    } else if (mode === "fast") {
      await this.#saveState();
      await this.#options.wal?.finish();
      await this.#renewSpares();
    }
  }

  /** For the next start. */
  #renewSpares(): Promise<void> {
    const { workdir, logger } = this.#options;
    const { files, directories } = this.#spares.needed;
    this.#renewing ??= this.#spares
      .remove()
      .then(async () => {
        const counts = { files: files + SPARE, directories };
        await SpareFiles.make(sparesOf(workdir), counts, this.#closing.signal);
      })
      .catch((error: unknown) => {
        logger.info({ error }, "the next start makes its files itself");
      });
    return this.#renewing;
  }

  get #isPrewarmed(): boolean {
    return isPrewarmed(this.#options.spec.settings);
  }

  #keepHotBlocks(): void {
    if (this.#isPrewarmed) {
      try {
        keepHotBlocks(this.#dataDirectory, this.#options.workdir);
      } catch (error) {
        this.#options.logger.warn({ error }, "the list of hot blocks is not kept");
      }
    }
  }

  /** Where Postgres has shut down; what fails is missed by the next start as after a crash. */
  async #saveState(): Promise<void> {
    const { wal, logger } = this.#options;
    const files = this.#files;
    if (wal === undefined || files === undefined || this.#postgres === undefined) {
      return;
    }
    const { hasShutDown, saveState } = await import("./shutdown/save-state.ts");
    const { pgVersion, systemId, walSegmentSize, lsn } = files.state;
    const { served, versionDirectory } = files;
    const dataDirectory = this.#dataDirectory;
    try {
      if (hasShutDown(dataDirectory, wal.endOfWal)) {
        const compute = {
          ...{ dataDirectory, pgVersion, systemId, walSegmentSize },
          ...{ startLsn: lsn, versionDirectory, served, logger },
        };
        wal.appended(saveState(compute, wal.endOfWal));
      }
    } catch (error) {
      logger.warn({ error }, "sequences, free space maps and statistics are not saved");
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#options.wal?.fence();
    this.#files?.fence();
    await this.#postgres?.stop("immediate");
    await this.#files?.close();
    this.#connection?.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  /** The state at `lsn`; waits for a pageserver that is away or behind. */
  async #fetchState(lsn: Lsn): Promise<ComputeState> {
    const { spec, logger } = this.#options;
    const newest = await this.#newestState;
    for (let warned = false; ; warned = true) {
      try {
        const state =
          newest?.lsn === lsn
            ? newest
            : await computeState(spec.pageserver.pgAddr, this.#timeline, lsn);
        this.#requireOurs(state);
        if (this.#options.replica !== undefined) {
          return { ...state, prevRecordLsn: this.#options.replica.start.prevRecordLsn };
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

  /** Postgres is on its way, and held. */
  async #spawn(
    { installation, shim }: Machine,
    files: LazyFiles,
    commandLine: readonly string[],
  ): Promise<PostgresProcess> {
    const logFd = openSync(this.#logPath, "a", 0o600);
    this.#logStart = fstatSync(logFd).size;
    let postgres: PostgresProcess;
    try {
      postgres = await PostgresProcess.start({
        installation,
        dataDirectory: this.#dataDirectory,
        args: commandLine,
        env: files.environment(shim),
        logFd,
        isHeld: true,
      });
    } finally {
      closeSync(logFd);
    }
    this.#postgres = postgres;
    if (this.#closing.signal.aborted) {
      await postgres.stop("immediate");
      throw closedWhileStarting();
    }
    this.#options.logger.info({ postgresPid: postgres.pid }, "started Postgres");
    return postgres;
  }

  get #logPath(): string {
    return join(this.#options.workdir, POSTGRES_LOG_NAME);
  }

  /** Resolves when it accepts connections. */
  async #letGo({ files, postgres }: Draft): Promise<void> {
    const began = monotonicMs();
    await files.release();
    postgres.letGo();
    this.#options.onPostgresSpawned?.();
    await postgres.waitReady(READY_TIMEOUT_MS).catch((error: unknown): never => {
      throw withContext(error, lastWords(this.#logPath, this.#logStart));
    });
    await files.shimLoaded(SHIM_TIMEOUT_MS);
    this.times.startPostgresMs = monotonicMs() - began;
  }
}

/** Where files wait for the next start. */
export function sparesOf(workdir: string): string {
  return join(runtimeDirectory(workdir), "spare");
}

export function dataDirectoryOf(workdir: string): string {
  return join(runtimeDirectory(workdir), "pgdata");
}

/** Ends what an agent that was killed may have left. StorageError `conflict` where it does not end. */
export function endLeftProcesses(workdir: string): Promise<void> {
  return endProcessesIn(dataDirectoryOf(workdir));
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

// Keeps one endpoint's Postgres alive: starts it, builds it anew after a crash, stops it for good.

import { monotonicMs, nowMs, sleep } from "../base/clock.ts";
import { errorMessage, StorageError, withContext } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { canListen, requireFree } from "../base/network/ports.ts";
import { CommitTimes } from "../walproposer/commit-times.ts";
import {
  type ComputeStatus,
  type ComputeStatusName,
  type ConfigureAnswer,
  changedOwnSettings,
  type EndpointSpec,
  type StartMetrics,
  type TerminateAnswer,
  type TerminateMode,
} from "./api.ts";
import type { ComputeControl } from "./compute-control.ts";
import { ComputeRun, type RunEnd } from "./compute-run.ts";
import type { Activity } from "./sessions/activity.ts";
import type { Configuration } from "./sessions/configuration.ts";
import type { HotBlocksControl } from "./sessions/hot-blocks-control.ts";
import type { PostgresAddress } from "./sessions/maintenance-session.ts";
import type { CacheUsage } from "./shim/cache-counters.ts";

const RESTART_FIRST_MS = 100;
const RESTART_MAX_MS = 10_000;
/** Postgres that ran so long was not crashing at its start. */
const STABLE_RUN_MS = 60_000;
/**
 * Whoever took the port while Postgres was built anew may let it go again. After that the compute ends, as only the next start can
 * choose another port; who connects through the proxy waits for longer than this.
 */
const PORT_PATIENCE_MS = 5000;
const PORT_POLL_MS = 200;

export class Supervisor implements ComputeControl {
  #spec: EndpointSpec;
  readonly #workdir: string;
  readonly #logger: Logger;
  readonly #onPostgresSpawned: (() => void) | undefined;
  readonly #sharedSpares: string | undefined;
  readonly #beganMs: number;
  readonly #startTime = nowMs();
  readonly #commitTimes = new CommitTimes();
  readonly #stopping = new AbortController();
  /** Rejects when it is to stop. */
  readonly #leaving = Promise.withResolvers<never>();
  #run: ComputeRun | undefined;
  #leaveSubscriptions = false;
  #status: ComputeStatusName = "init";
  #error: string | null = null;
  #restarts = 0;
  #metrics: StartMetrics | undefined;
  #terminated: Promise<TerminateAnswer> | undefined;
  #runningSinceMs = 0;
  /** Made when somebody asks. */
  #activity: Activity | undefined;
  #hotBlocks: HotBlocksControl | undefined;
  /** One after the other, as they came. */
  #configuring: Promise<unknown> = Promise.resolve();
  #statusHandler: ((status: ComputeStatusName) => void) | undefined;

  constructor(options: {
    spec: EndpointSpec;
    workdir: string;
    logger: Logger;
    /** As startAgent's. */
    beganMs?: number;
    onPostgresSpawned?: () => void;
    /** As startAgent's. */
    sharedSpares?: string | undefined;
  }) {
    this.#sharedSpares = options.sharedSpares;
    this.#beganMs = options.beganMs ?? 0;
    this.#onPostgresSpawned = options.onPostgresSpawned;
    this.#spec = options.spec;
    this.#workdir = options.workdir;
    this.#logger = options.logger;
  }

  /** Called with each new status. */
  onStatus(handler: (status: ComputeStatusName) => void): void {
    this.#statusHandler = handler;
  }

  #setStatus(status: ComputeStatusName): void {
    this.#status = status;
    this.#statusHandler?.(status);
  }

  /**
   * Runs until `terminate` has done its work: then resolves. Rejects with why it cannot go on: the
   * first start failed, another compute has taken over, or storage is corrupt.
   */
  async run(): Promise<void> {
    let delayMs = RESTART_FIRST_MS;
    while (!this.#stopping.signal.aborted) {
      await this.#checkPort();
      const startedMs = monotonicMs();
      const end = await this.#runOnce();
      if (this.#stopping.signal.aborted) {
        break;
      }
      if (end.kind === "prepared") {
        // Also where it was done: a mark that does not arrive must not make this a circle.
        this.#leaveSubscriptions = true;
        continue;
      }
      if (end.kind === "fenced" || end.kind === "fatal") {
        throw this.#fail(reasonToStop(end));
      }
      this.#setStatus("init");
      if (monotonicMs() - startedMs > STABLE_RUN_MS) {
        delayMs = RESTART_FIRST_MS;
      }
      await sleep(delayMs, this.#stopping.signal).catch(() => undefined);
      delayMs = Math.min(delayMs * 2, RESTART_MAX_MS);
    }
    await this.#terminated;
  }

  /**
   * The port must be free but for what a killed agent of this very endpoint left. Before an election,
   * because a Postgres that cannot listen would fence whoever runs now.
   */
  async #checkPort(): Promise<void> {
    const { pgHost, pgPort } = this.#spec;
    const { signal } = this.#stopping;
    const crash = this.#error;
    const deadline = monotonicMs() + (this.#metrics === undefined ? 0 : PORT_PATIENCE_MS);
    while (!signal.aborted && !(await canListen(pgHost, pgPort))) {
      const { endLeftProcesses } = await import("./postgres-side.ts");
      await endLeftProcesses(this.#workdir);
      try {
        await requireFree(pgHost, pgPort, "start Postgres");
      } catch (error) {
        if (monotonicMs() >= deadline) {
          throw this.#fail(withContext(error, "start the compute"));
        }
        this.#error = errorMessage(error);
        await sleep(PORT_POLL_MS, signal).catch(() => undefined);
      }
    }
    this.#error = crash;
  }

  /** One run to its end. A failed start ends the compute if it was the first, else it is retried. */
  async #runOnce(): Promise<RunEnd> {
    const started = monotonicMs();
    const run = new ComputeRun({
      spec: this.#spec,
      workdir: this.#workdir,
      logger: this.#logger,
      membership: this.#run?.membership,
      commitTimes: this.#commitTimes,
      leaveSubscriptions: this.#leaveSubscriptions,
      onPostgresSpawned: this.#onPostgresSpawned,
      sharedSpares: this.#sharedSpares,
    });
    this.#run = run;
    let open: boolean;
    try {
      // A stop waits for nothing that a start waits for, such as a pageserver that hangs.
      open = await Promise.race([run.start(), this.#leaving.promise]);
    } catch (error) {
      if (this.#stopping.signal.aborted) {
        return STOPPED;
      }
      await run.close();
      const settled = await Promise.race([run.ended, sleep(0)]);
      if (settled !== undefined && settled.kind !== "exit") {
        return settled;
      }
      if (this.#metrics === undefined) {
        throw this.#fail(withContext(error, "start the compute"));
      }
      this.#error = errorMessage(error);
      this.#logger.error({ error }, "cannot build Postgres anew yet");
      return STOPPED;
    }
    if (this.#stopping.signal.aborted) {
      return STOPPED;
    }
    if (open) {
      this.#started(run, started);
    }
    const end = await run.ended;
    if (!this.#stopping.signal.aborted) {
      await run.close();
      if (end.kind === "exit") {
        const { code, signal } = end.exit;
        const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
        this.#error = `Postgres ended unexpectedly: ${how}`;
        this.#restarts++;
        this.#logger.warn(end.exit, "Postgres ended unexpectedly, building it anew");
      } else if (end.kind === "stale") {
        this.#error = `built anew: ${end.why}`;
        this.#restarts++;
        this.#logger.info({ why: end.why }, "Postgres is built anew");
      }
    }
    return end;
  }

  #started(run: ComputeRun, startedMs: number): void {
    const { times } = run;
    const firstStart = this.#metrics === undefined;
    this.#metrics = {
      process_ms: round(firstStart ? startedMs - this.#beganMs : 0),
      sync_safekeepers_ms: round(times.syncSafekeepersMs),
      basebackup_ms: round(times.basebackupMs),
      data_directory_ms: round(times.dataDirectoryMs),
      start_postgres_ms: round(times.startPostgresMs),
      // The monotonic clock starts with the process.
      total_startup_ms: round(monotonicMs() - (firstStart ? this.#beganMs : startedMs)),
    };
    this.#runningSinceMs = nowMs();
    this.#activity = undefined;
    this.#setStatus("running");
    this.#logger.info({ startLsn: text(run.startLsn), ...this.#metrics }, "compute is running");
  }

  #fail(error: StorageError): StorageError {
    this.#error = errorMessage(error);
    this.#setStatus("failed");
    return error;
  }

  async status({ activity }: { readonly activity: boolean }): Promise<ComputeStatus> {
    const run = this.#run;
    // First, because it may take a moment.
    const lastActive = activity ? await this.#lastActive() : null;
    // Who is told a commit LSN may have a pageserver wait for it.
    run?.announceCommit();
    return {
      endpointId: this.#spec.endpointId,
      tenantId: this.#spec.tenantId,
      timelineId: this.#spec.timelineId,
      status: this.#status,
      mode: typeof this.#spec.mode === "string" ? this.#spec.mode : "static",
      startTime: new Date(this.#startTime).toISOString(),
      error: this.#error,
      postgresPid: run?.postgresPid ?? null,
      restarts: this.#restarts,
      term: run?.term ?? null,
      generation: run?.membership?.generation ?? null,
      startLsn: text(run?.startLsn),
      commitLsn: text(run?.commitLsn),
      flushLsn: text(run?.flushLsn),
      insideLsn: text(run?.insideLsn),
      replayLsn: text(run?.replayLsn),
      replayLagBytes: run?.replayLagBytes ?? null,
      last_active: lastActive,
    };
  }

  async #lastActive(): Promise<string | null> {
    const address = this.#run?.address;
    if (this.#status !== "running" || address === undefined) {
      return null;
    }
    if (this.#activity === undefined) {
      const { Activity } = await import("./sessions/activity.ts");
      this.#activity ??= new Activity(this.#logger, this.#runningSinceMs);
    }
    return this.#activity.lastActive(address);
  }

  postgresAddress(): PostgresAddress {
    const address = this.#run?.address;
    if (this.#status !== "running" || address === undefined) {
      const message = `the compute does not run: it is ${this.#status}`;
      throw new StorageError("unavailable", "not-running", message);
    }
    return address;
  }

  get pgBin(): string | undefined {
    return this.#spec.pgBin;
  }

  configure(configuration: Configuration): Promise<ConfigureAnswer> {
    const done = this.#configuring.then(() => this.#configure(configuration));
    this.#configuring = done.catch(() => undefined);
    return done;
  }

  async #configure(configuration: Configuration): Promise<ConfigureAnswer> {
    const address = this.postgresAddress();
    const run = this.#run!;
    const { settings } = configuration;
    let restart: string[] = [];
    if (settings !== undefined) {
      await run.checkLibraries(settings);
      const { applySettings } = await import("./sessions/settings.ts");
      const pending = await applySettings(address, {
        write: () => run.writeSettings(settings),
        restore: () => run.writeSettings(this.#spec.settings),
      });
      restart = [...pending, ...changedOwnSettings(run.startSettings, settings)].toSorted();
      // Postgres that is built anew has them too.
      this.#spec = { ...this.#spec, settings };
    }
    const { applyConfiguration } = await import("./sessions/apply-configuration.ts");
    await applyConfiguration(address, configuration);
    return { restart_required: restart };
  }

  async hotBlocks(): Promise<HotBlocksControl> {
    if (this.#hotBlocks === undefined) {
      const { HotBlocksControl } = await import("./sessions/hot-blocks-control.ts");
      const { dataDirectoryOf } = await import("./postgres-side.ts");
      const workdir = this.#workdir;
      const dataDirectory = dataDirectoryOf(workdir);
      this.#hotBlocks ??= new HotBlocksControl({ workdir, dataDirectory, logger: this.#logger });
    }
    return this.#hotBlocks;
  }

  startMetrics(): StartMetrics | undefined {
    return this.#metrics;
  }

  terminate(mode: TerminateMode): Promise<TerminateAnswer> {
    if (this.#terminated !== undefined && mode === "immediate") {
      // Someone has lost patience with a fast stop.
      void this.#run?.close();
    }
    this.#terminated ??= this.#terminate(mode);
    return this.#terminated;
  }

  async #terminate(mode: TerminateMode): Promise<TerminateAnswer> {
    const wasRunning = this.#status === "running";
    this.#setStatus("termination_pending");
    this.#stopping.abort();
    this.#leaving.reject(new StorageError("unavailable", "closed", "the compute was stopped"));
    const run = this.#run;
    this.#logger.info({ mode }, "stopping");
    // What has not started has nothing to write.
    await run?.stop(wasRunning ? mode : "immediate");
    this.#setStatus("terminated");
    return { lsn: text(run?.commitLsn) };
  }

  metricsText(): string {
    const run = this.#run;
    const lines: string[] = [];
    const gauge: Gauge = (name, help, values) => {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} gauge`);
      for (const [labels, value] of values) {
        lines.push(`${name}${labels} ${value}`);
      }
    };
    const one = (value: number | undefined) => (value === undefined ? [] : [["", value] as const]);
    gauge("strata_compute_running", "1 while Postgres accepts connections", [
      ["", this.#status === "running" ? 1 : 0],
    ]);
    gauge("strata_compute_restarts", "Postgres was built anew so often", [["", this.#restarts]]);
    gauge("strata_compute_term", "Term won from the safekeepers", one(run?.term));
    gauge("strata_compute_start_lsn", "Where this run began", one(run?.startLsn));
    gauge("strata_compute_commit_lsn", "Newest LSN on a quorum", one(run?.commitLsn));
    gauge("strata_compute_flush_lsn", "End of the last whole record written", one(run?.flushLsn));
    gauge("strata_compute_replay_lsn", "Replayed by a replica", one(run?.replayLsn));
    gauge(
      "strata_compute_replay_lag_bytes",
      "Committed WAL that a replica has not replayed",
      one(run?.replayLagBytes),
    );
    gauge("strata_compute_pageserver_lsn", "Ingested by a pageserver", one(run?.pageserverLsn));
    gauge("strata_compute_waiting_flushes", "fdatasync calls that wait for a quorum", [
      ["", run?.waitingFlushes ?? 0],
    ]);
    gauge("strata_compute_waiting_reads", "Questions that the pageserver has not answered", [
      ["", run?.waitingReads ?? 0],
    ]);
    gauge("strata_compute_waits_for_pageserver", "1 while commits wait for a pageserver alone", [
      ["", run?.waitsForPageserver === true ? 1 : 0],
    ]);
    cacheGauges(gauge, run?.cacheUsage);
    gauge(
      "strata_compute_safekeeper_flush_lsn",
      "Acknowledged in this term by each safekeeper",
      (run?.safekeepers ?? []).map((peer) => [`{safekeeper="${peer.id}"}`, peer.flushLsn] as const),
    );
    gauge(
      "strata_compute_start_milliseconds",
      "Parts of the last start",
      Object.entries(this.#metrics ?? {}).map(([part, ms]) => [`{part="${part}"}`, ms] as const),
    );
    gauge(
      "strata_compute_write_lag_bytes",
      "Committed WAL that no pageserver has taken in",
      one(
        run?.commitLsn === undefined || run.pageserverLsn === undefined
          ? undefined
          : Math.max(0, run.commitLsn - run.pageserverLsn),
      ),
    );
    gauge(
      "strata_compute_standby_xmin",
      "Least transaction id that a standby still sees",
      one(run?.standbyXmin === undefined ? undefined : Number(run.standbyXmin)),
    );
    gauge(
      "strata_compute_generation",
      "Of the safekeepers' membership",
      one(run?.membership?.generation),
    );
    return `${[...lines, ...this.#commitTimes.lines()].join("\n")}\n`;
  }
}

/** Values by their labels. */
type Gauge = (name: string, help: string, values: readonly (readonly [string, number])[]) => void;

function cacheGauges(gauge: Gauge, cache: CacheUsage | undefined): void {
  if (cache === undefined) {
    return;
  }
  gauge(
    "strata_compute_local_cache_bytes",
    "Blocks in the data directory that count for the limit: as storage has them, or written here and the like",
    [
      ['{state="clean"}', cache.cleanBytes],
      ['{state="kept"}', cache.keptBytes],
    ],
  );
  gauge("strata_compute_local_cache_evicted_bytes", "Given back since Postgres started", [
    ["", cache.evictedBytes],
  ]);
  gauge("strata_compute_local_cache_fetched_again_bytes", "Of those, fetched again", [
    ["", cache.fetchedAgainBytes],
  ]);
  gauge("strata_compute_local_cache_written_evicted_bytes", "Of those given back, written here", [
    ["", cache.writtenEvictedBytes],
  ]);
  gauge(
    "strata_compute_local_cache_unlike_comparisons",
    "How often a written block was not as storage had it, and stayed",
    [["", cache.unlikeComparisons]],
  );
}

const STOPPED: RunEnd = { kind: "exit", exit: { code: null, signal: null } };

function reasonToStop(end: Extract<RunEnd, { kind: "fenced" | "fatal" }>): StorageError {
  return end.kind === "fatal"
    ? end.error
    : new StorageError(
        "fenced",
        "fenced",
        `another compute has taken over this timeline (term ${end.term})`,
      );
}

function text(lsn: Lsn | undefined): string | null {
  return lsn === undefined ? null : formatLsn(lsn);
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

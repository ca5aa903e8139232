// One life of a compute's Postgres: from the election to the end of its process.

import { monotonicMs, turn } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn, parseLsn, WAL_SEGMENT_SIZE } from "../base/lsn.ts";
import { postgresSocketDirectory } from "../postgres/installation.ts";
import { allMembers, type MembershipConfiguration } from "../safekeeper/membership.ts";
import { type EndpointSpec, splitAddress } from "./api.ts";
import { detachInheritedSubscriptions } from "./inherited-subscriptions.ts";
import { SUPERUSER } from "./maintenance-session.ts";
import type { PostgresExit } from "./postgres-process.ts";
import type { PostgresSide, PostgresTimes } from "./postgres-side.ts";
import { StandbyFeedback } from "./standby-feedback.ts";
import { requirePassword } from "./superuser-password.ts";
import type { CommitTimes } from "./wal/commit-times.ts";
import { ProposerDriver } from "./wal/proposer-driver.ts";

export interface ComputeRunOptions {
  readonly spec: EndpointSpec;
  readonly workdir: string;
  readonly logger: Logger;
  /** That the run before this one ended in: newer than what the spec says, if it is set. */
  readonly membership?: MembershipConfiguration | undefined;
  readonly commitTimes?: CommitTimes | undefined;
  /** Of the run before this one: what it could not detach must not work. */
  readonly leaveSubscriptions: boolean;
  /** While Postgres loads, this process has time for other things. */
  readonly onPostgresSpawned?: (() => void) | undefined;
}

export type RunEnd =
  | { readonly kind: "exit"; readonly exit: PostgresExit }
  /** Another compute won a higher term. */
  | { readonly kind: "fenced"; readonly term: number }
  /** The start was one that only prepares the timeline: the next run is for users. */
  | { readonly kind: "prepared"; readonly leaveSubscriptions: boolean }
  /** What was found makes going on wrong. */
  | { readonly kind: "fatal"; readonly error: StorageError };

export class ComputeRun {
  readonly #options: ComputeRunOptions;
  readonly #ended = Promise.withResolvers<RunEnd>();
  #driver: ProposerDriver | undefined;
  readonly #standbyFeedback: StandbyFeedback;
  #side: PostgresSide | undefined;
  #closed = false;
  #startLsn: Lsn | undefined;
  #electionMs = 0;

  constructor(options: ComputeRunOptions) {
    this.#options = options;
    this.#standbyFeedback = new StandbyFeedback({
      host: postgresSocketDirectory(options.workdir),
      port: options.spec.pgPort,
      user: SUPERUSER,
      logger: options.logger,
    });
  }

  /** Settles once: nothing of this run goes on without `close`. */
  get ended(): Promise<RunEnd> {
    return this.#ended.promise;
  }

  get term(): number | undefined {
    return this.#driver?.term;
  }

  /** The safekeepers' membership; undefined where it is not known. */
  get membership(): MembershipConfiguration | undefined {
    const membership = this.#driver?.membership ?? this.#options.membership;
    return membership?.generation === 0 ? undefined : membership;
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
    return this.#side?.shipper?.endOfRecords;
  }

  get waitingFlushes(): number {
    return this.#side?.shipper?.waiting ?? 0;
  }

  get waitingReads(): number {
    return this.#side?.waitingReads ?? 0;
  }

  /** Whether commits wait for a pageserver alone. */
  get waitsForPageserver(): boolean {
    return this.#side?.shipper?.waitsForPageserver ?? false;
  }

  get safekeepers() {
    return this.#driver?.peers ?? [];
  }

  /** How far a pageserver has told to be; undefined where none has. */
  get pageserverLsn(): Lsn | undefined {
    const lsn = this.#driver?.pageserverLsn ?? 0;
    return lsn === 0 ? undefined : (lsn as Lsn);
  }

  /** Least transaction id that standbys still see, with its epoch; undefined where none told. */
  get standbyXmin(): bigint | undefined {
    const { xmin } = this.#standbyFeedback.least;
    return xmin === 0n ? undefined : xmin;
  }

  get postgresPid(): number | undefined {
    const postgres = this.#side?.postgres;
    return postgres?.running === true ? postgres.pid : undefined;
  }

  /** Milliseconds of the parts of the start, and of the election beside them. */
  get times(): PostgresTimes & { readonly syncSafekeepersMs: number } {
    const none = { basebackupMs: 0, dataDirectoryMs: 0, startPostgresMs: 0 };
    return { ...(this.#side?.times ?? none), syncSafekeepersMs: this.#electionMs };
  }

  /**
   * Resolves when Postgres accepts connections, with true; or, with false, when it never will, as
   * this run has prepared the timeline and `ended`. StorageError `fenced`, or why it did not start;
   * then `close` is still due.
   */
  async start(): Promise<boolean> {
    const { spec } = this.#options;
    const started = monotonicMs();
    const choosing =
      spec.mode === "primary" ? this.#elect() : Promise.resolve(parseLsn(spec.mode.static)!);
    // Independent of the election, so it goes on while the safekeepers vote.
    const prepared = this.#prepare();
    prepared.catch(() => undefined);
    const lsn = await this.#orEnd(Promise.race([choosing, failureOf(prepared)]));
    this.#startLsn = lsn;
    this.#electionMs = monotonicMs() - started;
    const side = await this.#orEnd(prepared);
    await this.#orEnd(side.start(lsn));
    void side.postgres!.exited.then((exit) => this.#end({ kind: "exit", exit }));
    // Storage is told of committed WAL only, so a quorum has L; now it has it in our term too.
    await this.#orEnd(this.#driver?.recovered ?? Promise.resolve());
    if (side.closedToUsers) {
      const detached = await this.#orEnd(this.#detachSubscriptions(side.address));
      this.#end({ kind: "prepared", leaveSubscriptions: !detached });
      return false;
    }
    if (spec.superuserSecret !== undefined) {
      const address = { ...side.address, pgVersion: spec.pgVersion };
      await this.#orEnd(requirePassword(address, spec.superuserSecret, this.#options.logger));
    }
    if (this.#driver !== undefined && !this.#closed) {
      this.#standbyFeedback.start();
    }
    return true;
  }

  /** False where it cannot be done, which must not keep users from their data. */
  async #detachSubscriptions(address: { host: string; port: number }): Promise<boolean> {
    const { spec, logger } = this.#options;
    const { pgVersion, timelineId } = spec;
    try {
      await detachInheritedSubscriptions({ ...address, pgVersion, timelineId, logger });
      return true;
    } catch (error) {
      if (!this.#closed) {
        logger.warn(
          { error },
          "subscriptions of the parent branch cannot be detached: none works until the next start tries again",
        );
      }
      return false;
    }
  }

  /**
   * Ends Postgres and everything else. `fast`: clients are cut off, a shutdown checkpoint is
   * written, and all WAL is on a quorum on return, unless none answers in time.
   */
  async stop(mode: "fast" | "immediate"): Promise<void> {
    this.#standbyFeedback.close();
    await this.#side?.stop(mode);
    await this.close();
  }

  /** At once: nothing is acknowledged any more. Resolves when Postgres is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#standbyFeedback.close();
    this.#driver?.close();
    await this.#side?.close();
  }

  async #prepare(): Promise<PostgresSide> {
    // The safekeepers' questions go out first: what follows keeps this thread busy.
    await turn();
    const { PostgresSide } = await import("./postgres-side.ts");
    await turn();
    const side = new PostgresSide({
      ...this.#options,
      driver: this.#driver,
      onFatal: (error) => this.#end({ kind: "fatal", error }),
    });
    if (this.#closed) {
      throw new StorageError("unavailable", "closed", "the compute was stopped while it started");
    }
    this.#side = side;
    await side.prepare();
    return side;
  }

  async #elect(): Promise<Lsn> {
    const { spec, logger, membership, commitTimes } = this.#options;
    this.#driver = new ProposerDriver({
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      // Safekeepers care for the major only.
      pgVersion: spec.pgVersion * 10_000,
      walSegSize: WAL_SEGMENT_SIZE,
      safekeepers:
        membership === undefined
          ? spec.safekeepers.map(({ id, pgAddr }) => {
              const { host, port } = splitAddress(pgAddr);
              return { id, host, pgPort: port };
            })
          : allMembers(membership),
      logger,
      times: commitTimes,
      onCommitted: (lsn) => this.#side?.shipper?.committed(lsn),
      onStandbyFeedback: (id, feedback) => this.#standbyFeedback.told(id, feedback),
      onIngested: (lsn) => this.#side?.shipper?.ingested(lsn),
      onFenced: (term) => this.#end({ kind: "fenced", term }),
      onFatal: (error) => this.#end({ kind: "fatal", error }),
    });
    this.#driver.start();
    const { term, startLsn, donor } = await this.#driver.elected;
    logger.info({ term, startLsn: formatLsn(startLsn), donor }, "elected");
    return startLsn;
  }

  #end(end: RunEnd): void {
    if (end.kind === "fenced" || end.kind === "fatal") {
      // Before anything else.
      this.#side?.fence();
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

/** Rejects as `step` does, and never resolves. */
function failureOf(step: Promise<unknown>): Promise<never> {
  return step.then(() => new Promise<never>(() => undefined));
}

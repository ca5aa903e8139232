// One life of a compute's Postgres: from the election to the end of its process.

import { monotonicMs, turn } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import type { MembershipConfiguration } from "../safekeeper-protocol/membership.ts";
import type { CommitTimes } from "../walproposer/commit-times.ts";
import type { EndpointSpec } from "./api.ts";
import type { LeaseKeeper } from "./pages/lease-keeper.ts";
import type { PostgresExit } from "./postgres-process.ts";
import type { Machine, PostgresSide, PostgresTimes } from "./postgres-side.ts";
import type { Replica } from "./replica/replica.ts";
import type { PostgresAddress } from "./sessions/maintenance-session.ts";
import type { CacheUsage } from "./shim/cache-counters.ts";
import { StandbyFeedback } from "./standby-feedback.ts";
import { WalPath } from "./wal/wal-path.ts";

export interface ComputeRunOptions {
  readonly spec: EndpointSpec;
  readonly workdir: string;
  readonly logger: Logger;
  /** That the run before this one ended in: newer than what the spec says, if it is set. */
  readonly membership?: MembershipConfiguration | undefined;
  readonly commitTimes?: CommitTimes | undefined;
  /** A run before this one has tried to detach subscriptions: what it could not must not work. */
  readonly leaveSubscriptions: boolean;
  /** While Postgres loads, this process has time for other things. */
  readonly onPostgresSpawned?: (() => void) | undefined;
  /** As PostgresSideOptions'. */
  readonly sharedSpares?: string | undefined;
}

export type RunEnd =
  | { readonly kind: "exit"; readonly exit: PostgresExit }
  /** Another compute won a higher term. */
  | { readonly kind: "fenced"; readonly term: number }
  /** The start was one that only prepares the timeline: the next run is for users. */
  | { readonly kind: "prepared" }
  /** One that cannot go on as it is: the next run begins anew. */
  | { readonly kind: "stale"; readonly why: string }
  /** What was found makes going on wrong. */
  | { readonly kind: "fatal"; readonly error: StorageError };

export class ComputeRun {
  readonly #options: ComputeRunOptions;
  readonly #ended = Promise.withResolvers<RunEnd>();
  readonly #standbyFeedback: StandbyFeedback;
  #lease: LeaseKeeper | undefined;
  /** Undefined for a compute that only reads. */
  readonly #wal: WalPath | undefined;
  #replica: Replica | undefined;
  #side: PostgresSide | undefined;
  #closed = false;
  #startLsn: Lsn | undefined;
  #electionMs = 0;
  #address: PostgresAddress | undefined;

  constructor(options: ComputeRunOptions) {
    this.#options = options;
    this.#standbyFeedback = new StandbyFeedback(options.logger);
    if (options.spec.mode === "primary") {
      this.#wal = new WalPath({
        ...options,
        onStandbyFeedback: (id, feedback) => this.#standbyFeedback.told(id, feedback),
        onFenced: (term) => this.#end({ kind: "fenced", term }),
        onFatal: (error) => this.#end({ kind: "fatal", error }),
      });
    }
  }

  /** Settles once: nothing of this run goes on without `close`. */
  get ended(): Promise<RunEnd> {
    return this.#ended.promise;
  }

  get term(): number | undefined {
    return this.#wal?.term;
  }

  /** The safekeepers' membership; undefined where it is not known. */
  get membership(): MembershipConfiguration | undefined {
    const known = this.#wal?.membership ?? this.#replica?.membership;
    const membership = known ?? this.#options.membership;
    return membership?.generation === 0 ? undefined : membership;
  }

  get startLsn(): Lsn | undefined {
    return this.#startLsn;
  }

  get commitLsn(): Lsn | undefined {
    const lsn = this.#wal?.commitLsn ?? 0;
    return lsn === 0 ? undefined : (lsn as Lsn);
  }

  /** As ProposerDriver's. */
  announceCommit(): void {
    this.#wal?.announceCommit();
  }

  /** End of the last whole record that Postgres wrote. */
  get flushLsn(): Lsn | undefined {
    return this.#wal?.flushLsn;
  }

  /** As WalWalker's. */
  get insideLsn(): Lsn | undefined {
    return this.#wal?.insideLsn;
  }

  /** Of a replica: end of what it has replayed; undefined before it told. */
  get replayLsn(): Lsn | undefined {
    return this.#replica?.replayLsn;
  }

  /** Of a replica: bytes of committed WAL that it has not replayed. */
  get replayLagBytes(): number | undefined {
    return this.#replica?.replayLagBytes;
  }

  get waitingFlushes(): number {
    return this.#wal?.waitingFlushes ?? 0;
  }

  get waitingReads(): number {
    return this.#side?.waitingReads ?? 0;
  }

  /** What the data directory holds of storage's files; undefined before Postgres runs. */
  get cacheUsage(): CacheUsage | undefined {
    return this.#side?.cacheUsage;
  }

  /** Whether commits wait for a pageserver alone. */
  get waitsForPageserver(): boolean {
    return this.#wal?.waitsForPageserver ?? false;
  }

  get safekeepers() {
    return this.#wal?.safekeepers ?? [];
  }

  /** How far a pageserver has told to be; undefined where none has. */
  get pageserverLsn(): Lsn | undefined {
    const lsn = this.#wal?.pageserverLsn ?? 0;
    return lsn === 0 ? undefined : (lsn as Lsn);
  }

  /** Least transaction id that standbys still see, with its epoch; undefined where none told. */
  get standbyXmin(): bigint | undefined {
    const { xmin } = this.#standbyFeedback.least;
    return xmin === 0n ? undefined : xmin;
  }

  /** Of the unix socket; undefined while Postgres does not accept users' connections. */
  get address(): PostgresAddress | undefined {
    return this.#closed ? undefined : this.#address;
  }

  /** That Postgres was started with. */
  get startSettings(): EndpointSpec["settings"] {
    return this.#options.spec.settings;
  }

  /** As PostgresSide's. */
  async checkLibraries(settings: EndpointSpec["settings"]): Promise<void> {
    await this.#side?.checkLibraries(settings);
  }

  /** As PostgresSide's. */
  writeSettings(settings: EndpointSpec["settings"]): void {
    this.#side?.writeSettings(settings);
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
    const replica = spec.mode === "replica" ? await this.#openReplica() : undefined;
    const choosing =
      replica?.choose() ??
      (this.#wal === undefined ? Promise.resolve(staticLsn(spec)) : this.#elect(this.#wal));
    // Independent of the election, so it goes on while the safekeepers vote.
    const prepared = this.#prepare();
    prepared.catch(() => undefined);
    const lsn = await this.#orEnd(Promise.race([choosing, failureOf(prepared)]));
    this.#startLsn = lsn;
    this.#electionMs = monotonicMs() - started;
    const { side, machine } = await this.#orEnd(prepared);
    const running = await this.#orEnd(side.start(lsn, machine));
    await this.#keepLease(lsn);
    void running.postgres.exited.then((exit) => this.#end({ kind: "exit", exit }));
    // Storage is told of committed WAL only, so a quorum has L; now it has it in our term too.
    await this.#orEnd(this.#wal?.recovered ?? Promise.resolve());
    await this.#orEnd(replica?.caughtUp() ?? Promise.resolve());
    if (running.closedToUsers) {
      await this.#orEnd(this.#detachSubscriptions(running.address, lsn));
      this.#end({ kind: "prepared" });
      return false;
    }
    if (spec.superuserSecret !== undefined) {
      const { superuserSecret } = spec;
      const { requirePassword } = await import("./sessions/superuser-password.ts");
      const address = { ...running.address, pgVersion: spec.pgVersion };
      await this.#orEnd(
        this.#asSuperuser(address, lsn, () =>
          requirePassword(address, superuserSecret, this.#options.logger),
        ),
      );
    }
    this.#address = { ...running.address, pgVersion: spec.pgVersion };
    if (this.#wal !== undefined && !this.#closed) {
      // Loaded with the Postgres side, after the safekeepers were asked: not before.
      const { SUPERUSER } = await import("../postgres/installation.ts");
      this.#standbyFeedback.start({ ...running.address, user: SUPERUSER });
    }
    return true;
  }

  async #openReplica(): Promise<Replica> {
    const { Replica } = await import("./replica/replica.ts");
    const { spec, membership, logger } = this.#options;
    const onStale = (why: string) => this.#end({ kind: "stale", why });
    this.#replica = new Replica({ spec, membership, logger, onStale });
    return this.#replica;
  }

  /** Loaded when Postgres runs: the start does not wait for it. */
  async #keepLease(lsn: Lsn): Promise<void> {
    const { keepStartLease } = await import("./pages/lease-keeper.ts");
    if (!this.#closed) {
      this.#lease = keepStartLease(lsn, {
        ...this.#options,
        onStale: (why) => this.#end({ kind: "stale", why }),
        onFatal: (error) => this.#end({ kind: "fatal", error }),
      });
    }
  }

  /** An imported cluster has another superuser, and gets ours at the first start that may write. */
  async #asSuperuser(
    address: { host: string; port: number; pgVersion: number },
    lsn: Lsn,
    body: () => Promise<void>,
  ): Promise<void> {
    try {
      return await body();
    } catch (error) {
      const { createSuperuser, isMissingSuperuser } = await import(
        "./sessions/missing-superuser.ts"
      );
      if (!isMissingSuperuser(error)) {
        throw error;
      }
      const { spec, logger } = this.#options;
      const { pageserver, tenantId, timelineId } = spec;
      if (this.#wal === undefined) {
        logger.warn(
          { socket: address.host },
          "an imported cluster, at an LSN before its first start here: connect as one of its own roles",
        );
        return;
      }
      const timeline = { tenantId, timelineId };
      await createSuperuser({ ...address, pgAddr: pageserver.pgAddr, timeline, lsn, logger });
    }
    await body();
  }

  /** Where it cannot be done the log says so: it must not keep users from their data. */
  async #detachSubscriptions(
    address: { host: string; port: number },
    startLsn: Lsn,
  ): Promise<void> {
    const { spec, logger } = this.#options;
    const { pgVersion, timelineId } = spec;
    const { detachInheritedSubscriptions } = await import("./sessions/inherited-subscriptions.ts");
    const options = { ...address, pgVersion, timelineId, logger };
    try {
      await this.#asSuperuser(options, startLsn, () => detachInheritedSubscriptions(options));
    } catch (error) {
      if (!this.#closed) {
        logger.warn(
          { error },
          "subscriptions of the parent branch cannot be detached: none works until the next start tries again",
        );
      }
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
    this.#lease?.close();
    this.#standbyFeedback.close();
    this.#wal?.disconnect();
    await this.#side?.close();
    await this.#replica?.close();
    this.#wal?.close();
  }

  async #prepare(): Promise<{ side: PostgresSide; machine: Machine }> {
    // The safekeepers' questions go out first: what follows keeps this thread busy.
    await turn();
    const { PostgresSide } = await import("./postgres-side.ts");
    await turn();
    if (this.#closed) {
      throw new StorageError("unavailable", "closed", "the compute was stopped while it started");
    }
    // It connects at once, so there is something to close from here on.
    const side = new PostgresSide({ ...this.#options, wal: this.#wal, replica: this.#replica });
    this.#side = side;
    return { side, machine: await side.prepare() };
  }

  async #elect(wal: WalPath): Promise<Lsn> {
    wal.start();
    const { term, startLsn, donor } = await wal.elected;
    this.#options.logger.info({ term, startLsn: formatLsn(startLsn), donor }, "elected");
    return startLsn;
  }

  #end(end: RunEnd): void {
    if (end.kind === "fenced" || end.kind === "fatal") {
      // Before anything else.
      this.#wal?.fence();
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
          : end.kind === "stale"
            ? end.why
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

/** Of a specification that was checked. */
function staticLsn({ mode }: EndpointSpec): Lsn {
  const lsn = typeof mode === "string" ? undefined : parseLsn(mode.static);
  if (lsn === undefined) {
    throw new Error("a static endpoint has an LSN");
  }
  return lsn;
}

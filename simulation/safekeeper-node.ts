// A simulated safekeeper: the real timeline, acceptor, WAL storage and control file on a simulated disk.

import { join } from "node:path";
import { type Disk, diskError } from "../src/base/disk.ts";
import { StorageError } from "../src/base/errors.ts";
import { formatLsn, type Lsn, minLsn, XLOG_BLCKSZ } from "../src/base/lsn.ts";
import type { SeededRandom } from "../src/base/random.ts";
import type { StoreCall, StoreSteps } from "../src/object-store/store-steps.ts";
import {
  pageHeaderSize,
  SHORT_PAGE_HEADER_SIZE,
  XLP_FIRST_IS_CONTRECORD,
} from "../src/postgres/wal-page.ts";
import {
  type AcceptorPersistentState,
  type AcceptorState,
  lastLogTerm,
  readableLsn,
} from "../src/safekeeper/consensus/acceptor.ts";
import { CONTROL_FILE_NAME } from "../src/safekeeper/control-file.ts";
import type { WalConsumer } from "../src/safekeeper/replication/wal-consumers.ts";
import type {
  PeerPositions,
  Settling,
  Timeline,
  TimelineContext,
} from "../src/safekeeper/timeline.ts";
import { type IncomingPlace, TimelineManager } from "../src/safekeeper/timeline-manager.ts";
import type { PullSource } from "../src/safekeeper/transfer/pull-decision.ts";
import { snapshotSteps } from "../src/safekeeper/transfer/snapshot.ts";
import { type EndOfWal, fetchEndOfWal } from "../src/safekeeper/wal-backup/eviction.ts";
import {
  TimelineBackup,
  type WalBackupSettings,
} from "../src/safekeeper/wal-backup/timeline-backup.ts";
import type { MembershipConfiguration } from "../src/safekeeper-protocol/membership.ts";
import type { MemberPosition } from "../src/safekeeper-protocol/membership-change.ts";
import type { AcceptorMessage, ProposerMessage } from "../src/safekeeper-protocol/messages.ts";
import {
  NO_PAGESERVER_FEEDBACK,
  type PageserverFeedback,
} from "../src/safekeeper-protocol/pageserver-feedback.ts";
import type { Term } from "../src/safekeeper-protocol/term-history.ts";
import type { Answer } from "./answer.ts";
import { Violation } from "./checker.ts";
import type { Connection } from "./connection.ts";
import { failureOf, SimulatedDisk } from "./simulated-disk.ts";
import { carryOutNow } from "./simulated-store.ts";
import { createTimeline, METRICS, silentContext } from "./simulated-timeline.ts";
import { type Fetched, fetchSnapshot, gathered, receiveSnapshot } from "./simulated-transfer.ts";
import {
  FIRST_LSN,
  SEGMENT_SIZE,
  TIMELINE_DIRECTORY,
  TIMELINE_IDS,
  WORKDIR,
  walOnDisk,
} from "./simulated-wal.ts";
import type { SafekeeperProcess, World } from "./world.ts";

const RESTART_AGAIN_MS = 500;
/** Share of its rounds in which a safekeeper looks for WAL to upload, or to evict. */
const BACKUPS = 0.9;
const BACKUP_SETTINGS: WalBackupSettings = { partialTimeoutMs: 400, evictAfterMs: 50 };
/** In runs that have some: share of its flushes that it does not wait for, and how long they take. */
const BACKGROUND_FLUSHES = 0.6;
const BACKGROUND_FLUSH_MS = 4;
/** A call of the object store takes so long at most. */
const STORE_CALL_MS = 8;

/** The pageserver's stream, as the timeline sees it. */
class PageserverStream implements WalConsumer {
  sentLsn: Lsn = FIRST_LSN;
  pageserverFeedback: PageserverFeedback = NO_PAGESERVER_FEEDBACK;
  readonly hotStandbyFeedback = undefined;

  wake(): void {
    // It polls.
  }
}

export class SafekeeperNode implements SafekeeperProcess {
  readonly id: number;
  readonly name: string;
  readonly disk: SimulatedDisk;
  readonly #world: World;
  readonly #context: TimelineContext & { readonly disk: Disk };
  readonly #connections = new Set<Connection>();
  readonly #random: SeededRandom;
  readonly #flushes: SeededRandom;
  /** Flush LSN and WAL as told with the vote for a term. */
  readonly votes = new Map<Term, { flushLsn: Lsn; wal: Uint8Array }>();
  #manager: TimelineManager | undefined;
  /** The manager's, while it is served. */
  #timeline: Timeline | undefined;
  #stream: PageserverStream | undefined;
  #backup: TimelineBackup | undefined;
  #backingUp = false;
  up = false;
  incarnation = 0;
  busyUntilMs = 0;
  /** Grows with every disk it gets; a part of its address. */
  diskNumber = 1;
  /** How the crash that `disk.operationsLeft` brings is to be, and for how long. */
  diesByPowerCut = false;
  downMs = 500;

  constructor(world: World, id: number) {
    this.#world = world;
    this.id = id;
    this.name = `s${id}`;
    this.disk = new SimulatedDisk(world.randomFor(`disk ${id}`));
    const store = world.shape.hasStore ? world.store : undefined;
    this.#context = silentContext(id, this.disk, store, (error) => this.#logged(error));
    this.#random = world.randomFor(`evictions of ${id}`);
    this.#flushes = world.randomFor(`flushes of ${id}`);
  }

  /** Undefined while it is down or has no timeline. */
  get state(): AcceptorState | undefined {
    return this.up ? this.#timeline?.state : undefined;
  }

  create(persistent: AcceptorPersistentState): void {
    createTimeline(this.#context, persistent);
    this.start();
  }

  get hasTimeline(): boolean {
    return this.disk.peek(join(TIMELINE_DIRECTORY, CONTROL_FILE_NAME)) !== undefined;
  }

  /** Its files are there, but could not be made durable: only a restart helps. */
  get refusesTimeline(): boolean {
    return this.up && this.#timeline === undefined && this.hasTimeline;
  }

  /** Starts with what is on its disk. */
  start(): void {
    if (this.up) {
      return;
    }
    this.disk.processEnded();
    const { tenantId, timelineId } = TIMELINE_IDS;
    const manager = new TimelineManager(WORKDIR, this.#context);
    try {
      manager.loadAll();
      if (manager.counts.broken > 0) {
        manager.get(tenantId, timelineId);
      }
    } catch (error) {
      this.#failedToStart(error);
      return;
    }
    this.#manager = manager;
    this.#timeline = manager.find(tenantId, timelineId);
    this.#started();
    if (this.#timeline !== undefined) {
      this.#world.trace?.(this.name, `started at ${this.#place()}`);
      this.#world.checker.restarted(this.id, this.#timeline.state, this.disk);
      this.#check();
    }
  }

  /** kill -9; with `powerCut` also what the disk had not synced is gone. */
  crash(powerCut: boolean): void {
    const { counts } = this.#world;
    if (powerCut) {
      counts.powerCuts += 1;
      this.disk.powerCut();
    } else {
      this.disk.processEnded();
    }
    counts.crashes += 1;
    this.#world.trace?.(this.name, powerCut ? "power cut" : "killed");
    this.up = false;
    this.incarnation += 1;
    this.#manager = undefined;
    this.busyUntilMs = 0;
    this.#backingUp = false;
    this.#letGo();
  }

  /** A new disk; the process comes up without a timeline. */
  loseDisk(): void {
    if (this.up) {
      this.crash(false);
    }
    this.disk.wipe();
    this.diskNumber += 1;
    this.#world.checker.forgot(this.id);
    this.#world.trace?.(this.name, "lost its disk");
  }

  accept(connection: Connection): void {
    this.#connections.add(connection);
  }

  receive(connection: Connection, message: ProposerMessage): void {
    const timeline = this.#timeline;
    if (timeline === undefined) {
      this.#refuse(connection, "no timeline");
      return;
    }
    if (message.type === "greeting" && !this.#wake(timeline)) {
      this.#refuse(connection, "evicted");
      return;
    }
    if (message.type === "elected" && message.term > timeline.lastLogTerm) {
      this.#world.checker.logReplaced(this.id);
    }
    const result = this.#perform(() => timeline.receive(message) ?? "nothing");
    if (result === undefined) {
      this.#refuse(connection, "refused");
      return;
    }
    if (result === "append-response") {
      if (!connection.answerDue) {
        connection.answerDue = true;
        const waitMs = this.#world.network.random.bool(0.8) ? 0 : 2;
        this.#later(waitMs, () => this.#settle(connection));
      }
    } else if (result !== "nothing") {
      if (result.type === "vote-response" && result.voteGiven) {
        const { keptWal } = this.#world;
        const wal = walOnDisk(this.disk, FIRST_LSN, result.flushLsn, keptWal) ?? new Uint8Array(0);
        this.#world.checker.wholeLog(this.id, timeline.state, this.disk);
        this.votes.set(result.term, { flushLsn: result.flushLsn, wal });
      }
      this.#answer(connection, result);
    }
  }

  /** START_REPLICATION: at most `maxBytes` of WAL, or none now; undefined where it is refused. */
  read(begin: Lsn, maxBytes: number, term: Term | undefined): Uint8Array | undefined {
    const timeline = this.#timeline;
    if (timeline === undefined) {
      return undefined;
    }
    return this.#perform(() => {
      const end = minLsn(readableLsn(timeline.state, term), (begin + maxBytes) as Lsn);
      if (end <= begin) {
        return new Uint8Array(0);
      }
      if (timeline.placement.evicted) {
        timeline.restore(this.#endOfWal(timeline));
      }
      const { localWalStartLsn } = timeline;
      if (begin < localWalStartLsn) {
        const { storedWal } = timeline;
        if (storedWal === undefined) {
          const message = `WAL at ${formatLsn(begin)} is not here any more`;
          throw new StorageError("not-found", "wal-removed", message);
        }
        const length = minLsn(end, localWalStartLsn) - begin;
        return carryOutNow(storedWal.readSteps(begin, length), this.#world.store);
      }
      const reader = timeline.openReader();
      try {
        return reader.read(begin, end - begin);
      } finally {
        reader.close();
      }
    });
  }

  /** Where the first whole record on this disk begins; the flush LSN where there is none. */
  get firstRecordLsn(): Lsn {
    const timeline = this.#timeline!;
    const { persistent, flushLsn } = timeline.state;
    let at = timeline.localWalStartLsn;
    if (at <= persistent.localStartLsn) {
      return at;
    }
    const reader = timeline.openReader();
    for (; at < flushLsn; at = (at + XLOG_BLCKSZ) as Lsn) {
      const { buffer, byteOffset } = reader.read(at, SHORT_PAGE_HEADER_SIZE);
      const header = new DataView(buffer, byteOffset);
      const isContinued = (header.getUint16(2, true) & XLP_FIRST_IS_CONTRECORD) !== 0;
      const end = pageHeaderSize(at, SEGMENT_SIZE) + (isContinued ? header.getUint32(16, true) : 0);
      if (end <= XLOG_BLCKSZ) {
        reader.close();
        return (at + end) as Lsn;
      }
    }
    reader.close();
    return flushLsn;
  }

  /** START_REPLICATION of the pageserver, which has WAL below `storedLsn` in files. */
  stream(begin: Lsn, maxBytes: number, storedLsn: Lsn): Uint8Array | undefined {
    const timeline = this.#timeline;
    if (timeline !== undefined) {
      if (this.#stream === undefined) {
        this.#stream = new PageserverStream();
        timeline.addConsumer(this.#stream);
      }
      this.#stream.sentLsn = begin;
      const feedback = { ...NO_PAGESERVER_FEEDBACK, remoteConsistentLsn: storedLsn };
      this.#stream.pageserverFeedback = feedback;
      this.#perform(() => timeline.feedbackChanged(feedback));
    }
    return this.read(begin, maxBytes, undefined);
  }

  streamEnded(): void {
    if (this.#stream !== undefined) {
      this.#timeline?.removeConsumer(this.#stream);
      this.#stream = undefined;
    }
  }

  status(): Answer<PullSource> {
    return this.#outcome(() => {
      const { state } = this.#served();
      return {
        nodeId: this.id,
        mconf: state.persistent.mconf,
        term: state.persistent.term,
        lastLogTerm: lastLogTerm(state),
        flushLsn: state.flushLsn,
      };
    });
  }

  switchMembership(mconf: MembershipConfiguration): Answer<MemberPosition> {
    const position = this.#outcome(() => this.#served().switchMembership(mconf));
    if (!(position instanceof StorageError)) {
      this.#tell();
    }
    return position;
  }

  raiseTerm(term: Term): Answer<true> {
    return this.#outcome(() => {
      const timeline = this.#served();
      if (timeline.state.persistent.term < term) {
        timeline.bumpTerm(term);
      }
      return true;
    });
  }

  exclude(mconf: MembershipConfiguration): Answer<true> {
    const { tenantId, timelineId } = TIMELINE_IDS;
    return this.#outcome(() => {
      const manager = this.#manager!;
      try {
        manager.exclude(tenantId, timelineId, mconf);
      } finally {
        if (this.#timeline?.closed === true) {
          this.#letGo();
          this.#world.checker.forgot(this.id);
          this.#world.trace?.(this.name, `lets go of its copy in generation ${mconf.generation}`);
        }
      }
      return true;
    });
  }

  /** The timeline that is served; StorageError where there is none, or what there is cannot be served. */
  #served(): Timeline {
    const { tenantId, timelineId } = TIMELINE_IDS;
    return this.#manager!.get(tenantId, timelineId);
  }

  #letGo(): void {
    this.#timeline = undefined;
    this.#stream = undefined;
    this.#backup = undefined;
    for (const connection of this.#connections) {
      connection.serverGone();
    }
    this.#connections.clear();
  }

  bumpTerm(): void {
    const timeline = this.#timeline;
    if (timeline !== undefined) {
      this.#perform(() => timeline.bumpTerm());
    }
  }

  hear(from: number, report: PeerPositions): void {
    const timeline = this.#timeline;
    if (timeline !== undefined) {
      this.#perform(() => timeline.peerReported(from, report));
    }
  }

  snapshot(reply: (answer: Answer<Uint8Array>) => void): void {
    const timeline = this.#outcome(() => this.#served());
    if (timeline instanceof StorageError) {
      reply(timeline);
    } else if (!this.#wake(timeline)) {
      reply(new StorageError("unavailable", "evicted", "its WAL is not here"));
    } else {
      const parts: Uint8Array[] = [];
      const steps = gathered(snapshotSteps(timeline), parts);
      this.#nextStep(
        steps,
        () => steps.next(),
        (error) => {
          if (error?.kind === "corrupt") {
            this.#expectRot(error);
          }
          reply(error ?? Buffer.concat(parts));
        },
      );
    }
  }

  pull(
    mconf: MembershipConfiguration,
    from: readonly number[],
    reply: (answer: Answer<true>) => void,
  ): void {
    if (this.#timeline !== undefined) {
      reply(true);
      return;
    }
    const { tenantId, timelineId } = TIMELINE_IDS;
    const place = this.#outcome(() => this.#manager!.reserve(tenantId, timelineId));
    if (place instanceof StorageError) {
      reply(place);
      return;
    }
    fetchSnapshot(this.#world, this, mconf, from, (fetched) => {
      const answer = fetched instanceof StorageError ? fetched : this.#install(fetched, place);
      this.#perform(() => place.release());
      reply(answer);
    });
  }

  #install({ archive, decision }: Fetched, place: IncomingPlace): Answer<true> {
    const installed = this.#outcome(() => receiveSnapshot(place, archive, decision));
    if (installed instanceof StorageError) {
      return installed;
    }
    this.#timeline = installed;
    this.#world.damaged.delete(this.id);
    this.#world.counts.refills += 1;
    this.#world.trace?.(this.name, `pulled a copy: ${this.#place()}`);
    this.#check();
    return true;
  }

  closed(connection: Connection): void {
    this.#connections.delete(connection);
  }

  #started(): void {
    this.up = true;
    this.busyUntilMs = this.#world.time.nowMs + this.disk.elapsedMs;
    this.disk.elapsedMs = 0;
    this.#later(this.#world.network.random.int(this.#world.shape.gossipMs), () => this.#maintain());
  }

  #failedToStart(error: unknown): void {
    if (this.disk.crashed) {
      this.#startAgain();
      return;
    }
    if (error instanceof Violation) {
      throw error;
    }
    const reason = diskError(error, "start");
    this.#world.trace?.(this.name, `does not start: ${reason.message}`);
    if (reason.kind === "corrupt") {
      this.#expectRot(reason);
      this.#world.damaged.add(this.id);
      return;
    }
    this.#startAgain();
  }

  #startAgain(): void {
    const { incarnation } = this;
    this.disk.processEnded();
    this.#world.time.after(RESTART_AGAIN_MS, () => {
      if (this.incarnation === incarnation) {
        this.start();
      }
    });
  }

  #expectRot(error: StorageError): void {
    if (!this.#world.rotted) {
      throw new Violation(`${this.name} reports corruption: ${error.message}`, { cause: error });
    }
  }

  #settle(connection: Connection): void {
    const timeline = this.#timeline;
    connection.answerDue = false;
    if (timeline === undefined || !connection.serverOpen) {
      return;
    }
    const mayGoOn = this.#world.shape.flushesInBackground;
    if (mayGoOn && this.#flushes.bool(BACKGROUND_FLUSHES)) {
      const flush = this.#perform(() => {
        const settling = timeline.beginSettle();
        return settling === undefined
          ? "none"
          : { settling, end: this.disk.beginSync(settling.fd) };
      });
      if (flush !== "none") {
        this.#settleLater(connection, timeline, flush);
        return;
      }
    }
    const answer = this.#perform(() => {
      timeline.settle();
      return timeline.appendResponse();
    });
    this.#settled(connection, answer);
  }

  /** The flush is under way; what is received meanwhile has its own. */
  #settleLater(
    connection: Connection,
    timeline: Timeline,
    flush: { readonly settling: Settling; readonly end: () => void } | undefined,
  ): void {
    if (flush === undefined) {
      this.#settled(connection, undefined);
      return;
    }
    this.#later(this.#flushes.int(BACKGROUND_FLUSH_MS), () => {
      const answer = this.#perform(() => {
        timeline.endSettle(flush.settling, failureOf(flush.end));
        return timeline.appendResponse();
      });
      if (connection.serverOpen) {
        this.#settled(connection, answer);
      }
    });
  }

  #settled(connection: Connection, answer: AcceptorMessage | undefined): void {
    if (answer === undefined) {
      this.#refuse(connection, "flush failed");
    } else {
      this.#answer(connection, answer);
    }
  }

  #answer(connection: Connection, message: AcceptorMessage): void {
    this.#tell();
    connection.toProposer.send(message, this.busyUntilMs);
  }

  /** What an answer says must be true from now on. */
  #tell(): void {
    const { state } = this;
    if (state !== undefined) {
      this.#world.checker.told(this.id, state.persistent.term, state.flushLsn, lastLogTerm(state));
    }
  }

  #refuse(connection: Connection, reason: string): void {
    this.#world.counts.refused += 1;
    this.#world.trace?.(
      this.name,
      `closes the connection of ${connection.compute.name}: ${reason}`,
    );
    this.#connections.delete(connection);
    connection.serverGone();
  }

  /** Undefined where it was refused or the process died of it. */
  #perform<T>(action: () => T): T | undefined {
    const outcome = this.#outcome(action);
    return outcome instanceof StorageError ? undefined : outcome;
  }

  #outcome<T>(action: () => T): Answer<T> {
    const { time } = this.#world;
    const crashed = new StorageError("unavailable", "crashed", "it crashed");
    let result: Answer<T> = crashed;
    try {
      result = action();
    } catch (error) {
      if (!this.disk.crashed) {
        if (!(error instanceof StorageError)) {
          throw error;
        }
        this.#world.trace?.(this.name, `refuses: ${error.message}`);
        result = error;
        if (error.kind === "corrupt") {
          this.#expectRot(error);
        }
      }
    }
    this.busyUntilMs = Math.max(this.busyUntilMs, time.nowMs) + this.disk.elapsedMs;
    this.disk.elapsedMs = 0;
    if (this.disk.crashed) {
      this.crash(this.diesByPowerCut);
      this.#world.time.after(this.downMs, () => this.start());
      return crashed;
    }
    this.#check();
    return result;
  }

  #check(): void {
    const { state } = this;
    if (state !== undefined) {
      this.#world.checker.safekeeper(this.id, state, this.disk);
    }
  }

  #maintain(): void {
    const timeline = this.#timeline;
    if (timeline !== undefined) {
      if (this.#random.bool(BACKUPS)) {
        this.#backUp(timeline);
      }
      this.#removeOldWal();
      this.#publish();
    }
    if (this.up) {
      this.#later(this.#world.shape.gossipMs, () => this.#maintain());
    }
  }

  #removeOldWal(): void {
    const timeline = this.#timeline;
    if (timeline === undefined) {
      return;
    }
    const before = timeline.localWalStartLsn;
    this.#perform(() => timeline.maintain());
    const removed = Math.max(0, timeline.localWalStartLsn - before);
    const segments = Math.ceil(removed / SEGMENT_SIZE);
    this.#world.counts.removals += segments;
    if (timeline.storedWal === undefined) {
      this.#world.counts.removalsWithoutStore += segments;
    }
  }

  #backUp(timeline: Timeline): void {
    if (this.#backingUp || timeline.storedWal === undefined) {
      return;
    }
    this.#backup ??= new TimelineBackup(timeline, {
      nodeId: this.id,
      metrics: METRICS,
      settings: BACKUP_SETTINGS,
      hasProposer: () => this.#connections.size > 0,
    });
    const backup = this.#backup;
    const wasEvicted = timeline.placement.evicted;
    const isDue = this.#perform(() => {
      const due = backup.isDue();
      if (!due) {
        backup.evictIfIdle();
      }
      return due;
    });
    if (isDue === true) {
      this.#backingUp = true;
      const pieces = backup.run();
      this.#nextPiece(pieces, () => pieces.next());
    } else if (this.up && !wasEvicted && timeline.placement.evicted) {
      this.#world.counts.evictions += 1;
      this.#world.trace?.(this.name, `evicted at ${this.#place()}`);
    }
  }

  #nextPiece(
    pieces: Generator<StoreSteps, void, void>,
    resume: () => IteratorResult<StoreSteps, void>,
  ): void {
    const piece = this.#perform(resume);
    if (piece === undefined || piece.done === true) {
      this.#backingUp = false;
      return;
    }
    const steps = piece.value;
    this.#nextStep(
      steps,
      () => steps.next(),
      (error) =>
        this.#nextPiece(pieces, () => (error === undefined ? pieces.next() : pieces.throw(error))),
    );
  }

  /** Each call of the store takes a while, in which anything may happen; a crash ends it all. */
  #nextStep(
    steps: StoreSteps,
    resume: () => IteratorResult<StoreCall, void>,
    done: (error?: StorageError) => void,
  ): void {
    let failure: StorageError | undefined;
    const step = this.#perform(() => {
      try {
        return resume();
      } catch (error) {
        if (this.disk.crashed || !(error instanceof StorageError)) {
          throw error;
        }
        failure = error;
        return undefined;
      }
    });
    if (!this.up) {
      return;
    }
    if (step === undefined || step.done === true) {
      done(failure);
      return;
    }
    const call = step.value;
    this.#later(this.#random.int(STORE_CALL_MS), () => {
      let next: () => IteratorResult<StoreCall, void>;
      try {
        const answer = this.#world.store.call(call);
        next = () => steps.next(answer);
      } catch (error) {
        next = () => steps.throw(error);
      }
      this.#nextStep(steps, next, done);
    });
  }

  #endOfWal(timeline: Timeline): EndOfWal {
    const { state, placement, storedWal } = timeline;
    return carryOutNow(fetchEndOfWal(storedWal!, state, placement), this.#world.store);
  }

  /** The shipped code calls it an error that a person should look at. */
  #logged(error: unknown): void {
    if (error instanceof StorageError && error.kind === "corrupt") {
      this.#expectRot(error);
    }
  }

  /** Whether the end of the log is on this disk now. */
  #wake(timeline: Timeline): boolean {
    if (timeline.placement.evicted) {
      this.#perform(() => timeline.restore(this.#endOfWal(timeline)));
    }
    return this.up && !timeline.placement.evicted;
  }

  /** As through the broker: everyone hears of it, sooner or later, or never. */
  #publish(): void {
    const { state } = this;
    if (state === undefined) {
      return;
    }
    const { network } = this.#world;
    const { persistent, flushLsn, commitLsn, remoteConsistentLsn } = state;
    const report: PeerPositions = {
      generation: persistent.mconf.generation,
      term: persistent.term,
      lastLogTerm: lastLogTerm(state),
      flushLsn,
      commitLsn,
      remoteConsistentLsn,
      backupLsn: persistent.backupLsn,
    };
    for (const other of this.#world.safekeepers.values()) {
      if (other !== this && !network.isCut(this, other)) {
        network.send(this, other, () => other.hear(this.id, report));
      }
    }
    const { pageserver } = this.#world;
    if (!network.isCut(this, pageserver)) {
      network.send(this, pageserver, () => pageserver.hear(this, report));
    }
  }

  #later(delayMs: number, run: () => void): void {
    const { incarnation } = this;
    const { time } = this.#world;
    const fire = () => {
      if (this.incarnation !== incarnation) {
        return;
      }
      if (this.busyUntilMs > time.nowMs) {
        time.at(this.busyUntilMs, fire);
      } else {
        run();
      }
    };
    time.after(delayMs, fire);
  }

  #place(): string {
    const state = this.#timeline?.state;
    return state === undefined
      ? "nowhere"
      : `term ${state.persistent.term}, flush ${formatLsn(state.flushLsn)}, ` +
          `commit ${formatLsn(state.commitLsn)}, generation ${state.persistent.mconf.generation}`;
  }
}

// The way of a compute's WAL, from Postgres's pg_wal to a quorum of safekeepers: from the election to the end.

import { monotonicMs, sleep } from "../../base/clock.ts";
import type { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { type Lsn, maxLsn, WAL_SEGMENT_SIZE } from "../../base/lsn.ts";
import { allMembers, type MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import type { HotStandbyFeedback } from "../../safekeeper-protocol/messages.ts";
import type { CommitTimes } from "../../walproposer/commit-times.ts";
import { type Election, ProposerDriver } from "../../walproposer/proposer-driver.ts";
import { type EndpointSpec, MAX_WRITE_LAG, maxWriteLagBytes, splitAddress } from "../api.ts";
import type { WalShipper } from "./wal-shipper.ts";

/** After Postgres has ended, for the last WAL to reach a quorum. */
const LAST_WAL_TIMEOUT_MS = 10_000;

export interface WalPathOptions {
  readonly spec: EndpointSpec;
  readonly logger: Logger;
  /** Of the safekeepers, where it is known and may be newer than the specification. */
  readonly membership?: MembershipConfiguration | undefined;
  readonly commitTimes?: CommitTimes | undefined;
  readonly onStandbyFeedback: (safekeeperId: number, feedback: HotStandbyFeedback) => void;
  /** After a won election somebody else won a higher one. */
  readonly onFenced: (term: number) => void;
  /** What was found makes going on wrong. */
  readonly onFatal: (error: StorageError) => void;
}

/** What a shipper tells whoever owns the way. */
export interface ShipperHooks {
  readonly onAvailable: (endLsn: Lsn) => void;
  readonly onStalled: (stalled: boolean, lagBytes: number) => void;
  readonly onHeld: () => void;
  readonly onFatal: (error: StorageError) => void;
  readonly times: CommitTimes | undefined;
  readonly maxWriteLagBytes: number | undefined;
}

/** A shipper over a pg_wal, and what is to be done when it has stopped. */
export interface OpenShipper {
  readonly shipper: WalShipper;
  /** Takes in the WAL that is there, when it can be sent: tells of it by the hooks. */
  readonly begin: () => void;
  readonly close: () => void;
}

/**
 * `start`, then `elected` says L; `open` when there is a pg_wal that begins there; from then on
 * Postgres may run. `fence` and `close` at any time.
 */
export class WalPath {
  readonly #options: WalPathOptions;
  readonly #driver: ProposerDriver;
  /** Undefined until `open`: before it no Postgres runs. */
  #open: OpenShipper | undefined;

  constructor(options: WalPathOptions) {
    const { spec, membership, logger } = options;
    this.#options = options;
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
      times: options.commitTimes,
      onCommitted: (lsn) => this.#open?.shipper.committed(lsn),
      onStandbyFeedback: options.onStandbyFeedback,
      onIngested: (lsn) => this.#open?.shipper.ingested(lsn),
      onFenced: options.onFenced,
      onFatal: options.onFatal,
    });
  }

  /** Asks for votes. */
  start(): void {
    this.#driver.start();
  }

  /** As ProposerDriver's. */
  get elected(): Promise<Election> {
    return this.#driver.elected;
  }

  /** Resolves when a majority has all WAL up to L, in our term. */
  get recovered(): Promise<void> {
    return this.#driver.recovered;
  }

  get term(): number {
    return this.#driver.term;
  }

  /** Generation 0 while it is not known. */
  get membership(): MembershipConfiguration {
    return this.#driver.membership;
  }

  get safekeepers() {
    return this.#driver.peers;
  }

  /** 0 before the first. */
  get commitLsn(): Lsn {
    return this.#driver.commitLsn;
  }

  /** As ProposerDriver's. */
  announceCommit(): void {
    this.#driver.announceCommit();
  }

  /** Newest position that a pageserver told; 0 where none has. */
  get pageserverLsn(): Lsn {
    return this.#driver.pageserverLsn;
  }

  /** End of the last whole record that Postgres wrote. */
  get flushLsn(): Lsn | undefined {
    return this.#open?.shipper.endOfRecords;
  }

  /** As WalWalker's. */
  get insideLsn(): Lsn | undefined {
    return this.#open?.shipper.insideLsn;
  }

  /** Flushes that wait for a quorum. */
  get waitingFlushes(): number {
    return this.#open?.shipper.waiting ?? 0;
  }

  /** As WalShipper's. */
  get extensionPaceMicros(): number {
    return this.#open?.shipper.extensionPaceMicros ?? 0;
  }

  /** Whether commits wait for a pageserver alone. */
  get waitsForPageserver(): boolean {
    return this.#open?.shipper.waitsForPageserver ?? false;
  }

  /** Ships what `make`'s shipper finds; a pageserver has everything up to `lsn`, its start. */
  open(lsn: Lsn, make: (hooks: ShipperHooks) => OpenShipper): void {
    const driver = this.#driver;
    const opened = make({
      onAvailable: (end) => driver.walAvailable(end),
      onStalled: (stalled, lagBytes) => this.#tellStall(stalled, lagBytes),
      onHeld: () => driver.askPositions(),
      onFatal: this.#options.onFatal,
      times: this.#options.commitTimes,
      maxWriteLagBytes: maxWriteLagBytes(this.#options.spec.settings),
    });
    this.#open = opened;
    const { shipper } = opened;
    driver.setLocalWal(shipper.read.bind(shipper), shipper.released.bind(shipper));
    opened.begin();
    // Pageservers are sent committed WAL only.
    opened.shipper.committed(maxLsn(driver.commitLsn, lsn));
  }

  /** As WalShipper's. */
  written(segment: number, offset: number, length: number): void {
    this.#opened().walWritten(segment, offset, length);
  }

  /** As WalShipper's. */
  flush(segment: number, endOffset: number): Promise<void> {
    return this.#opened().flushWal(segment, endOffset);
  }

  #opened(): WalShipper {
    if (this.#open === undefined) {
      throw new Error("Postgres writes WAL before its way is open");
    }
    return this.#open.shipper;
  }

  #tellStall(stalled: boolean, lagBytes: number): void {
    const { logger } = this.#options;
    if (stalled) {
      logger.warn({ lagBytes }, `commits wait for the pageserver: ${MAX_WRITE_LAG} is reached`);
    } else {
      logger.info({ lagBytes }, "the pageserver gets on again, and commits with it");
    }
  }

  /** From now on no flush waits for a pageserver: Postgres is to shut down, which writes WAL. */
  endWriteLagLimit(): void {
    this.#open?.shipper.endWriteLagLimit();
  }

  /** End and start of the last whole record. */
  get endOfWal(): { readonly lsn: Lsn; readonly lastRecordLsn: Lsn } {
    const shipper = this.#opened();
    return { lsn: shipper.endOfRecords, lastRecordLsn: shipper.lastRecordLsn };
  }

  /** After Postgres has ended: there is more WAL behind its last record, in pages up to `lsn`. */
  appended(lsn: Lsn): void {
    this.#opened().noteWrittenUpTo(lsn);
  }

  /** After Postgres has ended: until all that it wrote is on a quorum, or nobody answers in time, or is heard any more. */
  async finish(): Promise<void> {
    const deadline = monotonicMs() + LAST_WAL_TIMEOUT_MS;
    const shipper = this.#open?.shipper;
    while (
      shipper !== undefined &&
      shipper.committedLsn < shipper.endOfRecords &&
      !this.#driver.closed &&
      monotonicMs() < deadline
    ) {
      await sleep(5);
    }
  }

  /** No flush is answered any more. */
  fence(): void {
    this.#open?.shipper.stop();
  }

  /** No vote is asked for and nothing sent any more. */
  disconnect(): void {
    this.#driver.close();
  }

  /** When no Postgres runs any more. */
  close(): void {
    this.disconnect();
    this.fence();
    this.#open?.close();
  }
}

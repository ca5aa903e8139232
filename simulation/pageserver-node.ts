// A simulated pageserver: the real choice of safekeepers, and WAL taken in record by record.

import { StorageError } from "../src/base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn } from "../src/base/lsn.ts";
import { type SafekeeperCandidate, SafekeeperChoice } from "../src/pageserver/safekeeper-choice.ts";
import type { PeerPositions } from "../src/safekeeper/timeline.ts";
import { RecordWalker } from "../src/wal-decoder/record-walker.ts";
import { Violation } from "./checker.ts";
import { FIRST_LSN, SEGMENT_SIZE, SYSTEM_ID } from "./simulated-wal.ts";
import type { PageserverProcess, SafekeeperProcess, World } from "./world.ts";

const POLL_MS = 200;
const CHUNK_SIZES = [100, 1000, 20_000];
/** Share of batches after which what was ingested is on disk. */
const CHECKPOINTS = 0.2;

interface Ingested {
  readonly lsn: Lsn;
  /** Start of the last record. */
  readonly prevLsn: Lsn;
}

interface Stream {
  readonly from: SafekeeperCandidate;
  readonly node: SafekeeperProcess;
  readonly walker: RecordWalker;
}

export class PageserverNode implements PageserverProcess {
  readonly name = "p";
  readonly #world: World;
  #choice = new SafekeeperChoice();
  #connected: Stream | undefined;
  #ingested: Ingested = { lsn: FIRST_LSN, prevLsn: INVALID_LSN };
  #onDisk: Ingested = this.#ingested;
  /** Bytes behind the last whole record. */
  #partial: Uint8Array = new Uint8Array(0);
  #lastWalMs = 0;
  up = true;
  incarnation = 0;
  busyUntilMs = 0;

  constructor(world: World) {
    this.#world = world;
    this.#retry();
  }

  get lastRecordLsn(): Lsn {
    return this.#ingested.lsn;
  }

  /** Survives a restart. */
  get storedLsn(): Lsn {
    return this.#onDisk.lsn;
  }

  /** All that was taken in is on disk. */
  checkpoint(): void {
    this.#onDisk = this.#ingested;
  }

  /** Back to what was on disk. */
  restart(): void {
    this.incarnation += 1;
    this.#choice = new SafekeeperChoice();
    this.#connected = undefined;
    this.#ingested = this.#onDisk;
    this.#world.trace?.(this.name, `restarts at ${formatLsn(this.#ingested.lsn)}`);
    this.#retry();
  }

  hear(node: SafekeeperProcess, { commitLsn, remoteConsistentLsn }: PeerPositions): void {
    const candidate = {
      safekeeperId: node.id,
      pgAddr: `${node.name}/${node.diskNumber}`,
      commitLsn,
      remoteConsistentLsn,
    };
    this.#choice.update(candidate, this.#world.time.nowMs);
    const { nowMs } = this.#world.time;
    if (this.#connected === undefined) {
      this.#connect();
    } else if (
      this.#choice.shouldSwitch(
        this.#connected.from.safekeeperId,
        candidate,
        this.#ingested.lsn,
        this.#lastWalMs,
        nowMs,
      )
    ) {
      this.#ended(false);
    }
  }

  #retry(): void {
    this.#later(POLL_MS, () => {
      if (this.#connected === undefined) {
        this.#connect();
      }
      this.#retry();
    });
  }

  #connect(): void {
    const { time, safekeepers } = this.#world;
    const at = { lastRecordLsn: this.#ingested.lsn, remoteConsistentLsn: this.#onDisk.lsn };
    const from = this.#choice.choose(at, time.nowMs);
    const node = from === undefined ? undefined : safekeepers.get(from.safekeeperId);
    if (from === undefined || node === undefined) {
      return;
    }
    const walker = new RecordWalker({
      startLsn: this.#ingested.lsn,
      prevLsn: this.#ingested.prevLsn,
      segmentSize: SEGMENT_SIZE,
      systemId: SYSTEM_ID,
    });
    this.#connected = { from, node, walker };
    this.#partial = new Uint8Array(0);
    this.#lastWalMs = time.nowMs;
    this.#poll(this.#connected);
  }

  #poll(connected: Stream): void {
    if (this.#connected !== connected) {
      return;
    }
    const { network } = this.#world;
    const begin = connected.walker.position;
    const chunk = network.random.pick(CHUNK_SIZES);
    const storedLsn = this.#onDisk.lsn;
    const { incarnation } = this;
    network.call(
      this,
      connected.node,
      () => connected.node.stream(begin, chunk, storedLsn),
      (bytes) => {
        if (this.#connected !== connected || this.incarnation !== incarnation) {
          return;
        }
        if (bytes === undefined) {
          this.#ended(false);
        } else if (bytes.length === 0) {
          this.#later(POLL_MS, () => this.#poll(connected));
        } else {
          this.#ingest(connected.walker, bytes);
          this.#poll(connected);
        }
      },
    );
  }

  #ingest(walker: RecordWalker, bytes: Uint8Array): void {
    const from = this.#ingested.lsn;
    const pending = Buffer.concat([this.#partial, bytes]);
    try {
      walker.feed(bytes);
    } catch (error) {
      if (!(error instanceof StorageError) || !this.#world.rotted) {
        throw new Violation(`pageserver got no WAL: ${String(error)}`, { cause: error });
      }
      this.#choice.markDamaged(this.#connected!.from.safekeeperId);
      this.#ended(false);
      return;
    }
    const { recordEndLsn } = walker;
    this.#partial = pending.subarray(recordEndLsn - from);
    if (recordEndLsn > from) {
      this.#world.checker.pageserver(pending.subarray(0, recordEndLsn - from), from);
      this.#ingested = { lsn: recordEndLsn, prevLsn: walker.prevRecordLsn };
      this.#lastWalMs = this.#world.time.nowMs;
      this.#world.trace?.(this.name, `ingested up to ${formatLsn(recordEndLsn)}`);
      if (this.#world.network.random.bool(CHECKPOINTS)) {
        this.#onDisk = this.#ingested;
      }
    }
  }

  #ended(progressed: boolean): void {
    const connected = this.#connected;
    this.#connected = undefined;
    if (connected !== undefined) {
      const { node } = connected;
      this.#world.network.send(this, node, () => node.streamEnded());
      this.#choice.ended(connected.from.safekeeperId, progressed, this.#world.time.nowMs);
    }
  }

  #later(delayMs: number, run: () => void): void {
    const { incarnation } = this;
    this.#world.time.after(delayMs, () => {
      if (this.incarnation === incarnation) {
        run();
      }
    });
  }
}

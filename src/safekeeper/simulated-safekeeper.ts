// A safekeeper for the consensus simulation: the real acceptor on a disk that forgets what was not synced.

import { StorageError } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { SeededRandom } from "../base/random.ts";
import {
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
  appendResponse,
  bumpTerm,
  commitFromPeers,
  flushed,
  lastLogTerm,
  type PeerReport,
  persistentNow,
  receive,
  written,
} from "./acceptor.ts";
import type { AcceptorMessage, ProposerMessage } from "./messages.ts";

/** WAL of the simulation is a row of cells, 8 bytes each; a cell's LSN is its index times 8. */
export const CELL_BYTES = 8;
/** Every log begins here. */
export const FIRST_LSN = 64 as Lsn;
/** Bit in a cell's second word: it is the last cell of its record. */
export const RECORD_END = 0x80000000;

/** What a safekeeper gets wrong on purpose, to show that the checkers notice. */
export type SafekeeperFault =
  | "none"
  | "vote-not-persisted"
  | "ack-before-fsync"
  | "no-truncation"
  | "accepts-old-terms";

/** A growing row of cells from FIRST_LSN on. */
export class CellLog {
  #words = new Uint32Array(256);
  /** Cells present. */
  length = 0;

  get endLsn(): Lsn {
    return (FIRST_LSN + this.length * CELL_BYTES) as Lsn;
  }

  /** Overwrites or extends from `lsn` on. */
  write(lsn: Lsn, bytes: Uint8Array): void {
    const index = ((lsn - FIRST_LSN) / CELL_BYTES) * 2;
    const source = new Uint32Array(bytes.slice().buffer);
    this.#reserve(index + source.length);
    this.#words.set(source, index);
    this.length = Math.max(this.length, (index + source.length) / 2);
  }

  append(owner: number, sequence: number, isRecordEnd: boolean): void {
    this.#reserve(this.length * 2 + 2);
    this.#words[this.length * 2] = owner;
    this.#words[this.length * 2 + 1] = (sequence | (isRecordEnd ? RECORD_END : 0)) >>> 0;
    this.length += 1;
  }

  read(beginLsn: Lsn, endLsn: Lsn): Uint8Array {
    const from = ((beginLsn - FIRST_LSN) / CELL_BYTES) * 2;
    const to = ((endLsn - FIRST_LSN) / CELL_BYTES) * 2;
    return new Uint8Array(this.#words.slice(from, to).buffer);
  }

  cut(lsn: Lsn): void {
    this.length = Math.min(this.length, (lsn - FIRST_LSN) / CELL_BYTES);
  }

  /** End of the last whole record at or below `lsn`, at least `floor`. */
  recordEnd(lsn: Lsn, floor: Lsn): Lsn {
    for (let at = lsn; at > floor; at = (at - CELL_BYTES) as Lsn) {
      const cell = (at - FIRST_LSN) / CELL_BYTES - 1;
      if (this.#words[cell * 2 + 1]! >= RECORD_END) {
        return at;
      }
    }
    return floor;
  }

  /** First LSN in [from, to) where the two differ, if any. */
  firstDifference(other: CellLog, from: Lsn, to: Lsn): Lsn | undefined {
    for (let at = from; at < to; at = (at + CELL_BYTES) as Lsn) {
      const cell = (at - FIRST_LSN) / CELL_BYTES;
      const absent = cell >= this.length || cell >= other.length;
      if (
        absent ||
        this.#words[cell * 2] !== other.#words[cell * 2] ||
        this.#words[cell * 2 + 1] !== other.#words[cell * 2 + 1]
      ) {
        return at;
      }
    }
    return undefined;
  }

  copy(): CellLog {
    const log = new CellLog();
    log.#words = this.#words.slice();
    log.length = this.length;
    return log;
  }

  #reserve(words: number): void {
    if (words > this.#words.length) {
      const grown = new Uint32Array(Math.max(words, this.#words.length * 2));
      grown.set(this.#words);
      this.#words = grown;
    }
  }
}

export class SimulatedSafekeeper {
  readonly id: number;
  readonly log = new CellLog();
  readonly #fault: SafekeeperFault;
  readonly #random: SeededRandom;
  #durable: AcceptorPersistentState;
  readonly #peers = new Map<number, PeerReport>();
  /** WAL below is on disk for sure. */
  #syncedLsn = FIRST_LSN;
  state: AcceptorState;
  up = true;

  constructor(
    id: number,
    persistent: AcceptorPersistentState,
    fault: SafekeeperFault,
    random: SeededRandom,
  ) {
    this.id = id;
    this.#durable = persistent;
    this.#fault = fault;
    this.#random = random;
    this.state = acceptorAfterStart(id, persistent, FIRST_LSN);
  }

  /** As Timeline.receive. Throws StorageError where the message is refused. */
  receive(message: ProposerMessage): AcceptorMessage | "append-response" | undefined {
    let accepted = message;
    if (this.#fault === "accepts-old-terms" && message.type === "append-request") {
      const { term } = this.state.persistent;
      accepted = { ...message, term: Math.max(term, message.term) };
    }
    const step = receive(this.state, accepted);
    for (const action of step.actions) {
      switch (action.type) {
        case "flush":
          this.#sync();
          break;
        case "persist":
          this.#persist(action.state, message);
          break;
        case "truncate":
          if (this.#fault !== "no-truncation") {
            this.log.cut(action.lsn);
          }
          this.#syncedLsn = Math.min(this.#syncedLsn, this.log.endLsn) as Lsn;
          break;
        case "write":
          this.log.write(action.lsn, action.bytes);
          break;
      }
    }
    this.state = step.state;
    if (accepted.type === "append-request" && step.actions.length > 0) {
      const recordLsn = this.log.recordEnd(accepted.endLsn, this.state.writtenRecordLsn);
      this.state = written(this.state, accepted.endLsn, recordLsn);
    }
    return step.reply;
  }

  /** One flush for everything written; the answer to send. */
  settle(): AcceptorMessage {
    if (this.#fault !== "ack-before-fsync") {
      this.#sync();
    }
    this.state = flushed(this.state);
    return appendResponse(this.state);
  }

  get report(): PeerReport {
    const { persistent, flushLsn, commitLsn } = this.state;
    return { term: persistent.term, lastLogTerm: lastLogTerm(this.state), flushLsn, commitLsn };
  }

  /** As Timeline.peerReported. */
  hear(from: number, report: PeerReport): void {
    this.#peers.set(from, report);
    this.state = commitFromPeers(this.state, this.#peers);
  }

  bumpTerm(): void {
    const step = bumpTerm(this.state, this.state.persistent.term + 1);
    this.#durable = step.state.persistent;
    this.state = step.state;
  }

  /** The once-a-while renewal of the control file. */
  persistPositions(): void {
    this.#durable = persistentNow(this.state);
    this.state = { ...this.state, persistent: this.#durable };
  }

  /** Power cut: of what was not synced, any prefix of it may have reached the disk. */
  crash(): void {
    this.up = false;
    this.#peers.clear();
    if (this.#fault === "no-truncation") {
      return;
    }
    const unsynced = (this.log.endLsn - this.#syncedLsn) / CELL_BYTES;
    const kept = this.#random.bool(0.5) ? 0 : this.#random.int(Math.max(unsynced, 0) + 1);
    this.log.cut((this.#syncedLsn + kept * CELL_BYTES) as Lsn);
  }

  restart(): void {
    this.up = true;
    const floor = this.#durable.flushedLsn;
    if (this.log.endLsn < floor) {
      throw new StorageError("corrupt", "wal-lost", "WAL ends below what was known to be flushed");
    }
    const endLsn = this.log.recordEnd(this.log.endLsn, floor);
    this.state = acceptorAfterStart(this.id, this.#durable, endLsn);
    this.#syncedLsn = this.log.endLsn;
  }

  #sync(): void {
    this.#syncedLsn = this.log.endLsn;
  }

  #persist(state: AcceptorPersistentState, cause: ProposerMessage): void {
    if (this.#fault === "vote-not-persisted" && cause.type === "vote-request") {
      return;
    }
    this.#durable = state;
  }
}

// A simulated compute: the real proposer, WAL of its own, and what a driver does: connections, campaigns.

import { formatLsn, INVALID_LSN, type Lsn, maxLsn } from "../src/base/lsn.ts";
import type { SeededRandom } from "../src/base/random.ts";
import {
  allMembers,
  type MembershipConfiguration,
  type SafekeeperId,
} from "../src/safekeeper-protocol/membership.ts";
import type { AcceptorMessage } from "../src/safekeeper-protocol/messages.ts";
import { lastTermAt } from "../src/safekeeper-protocol/term-history.ts";
import {
  Proposer,
  type ProposerConfig,
  type ProposerEffect,
  type ProposerEvent,
} from "../src/walproposer/proposer.ts";
import { WalBuilder } from "../testing/wal-builder.ts";
import { Violation } from "./checker.ts";
import { Connection, type WalRange } from "./connection.ts";
import { type Leader, SEGMENT_SIZE, SYSTEM_ID } from "./simulated-wal.ts";
import type { ComputeProcess, World } from "./world.ts";

const TICK_MS = 500;
const CAMPAIGN_PAUSE_MS = 300;
const RECONNECT_MS = 400;
const RECORD_SIZES = [24, 40, 60, 60, 100, 100, 200, 500];
/** Share of own WAL that is read from a safekeeper, as where Postgres has removed it. */
const REMOVED_HERE = 0.02;
/** Above it clients wait for their commits. */
const MAX_UNCOMMITTED_BYTES = 40_000;
const LARGE_RECORD_SIZES = [3000, 9000, 20_000];

export class ComputeNode implements ComputeProcess {
  readonly name: string;
  readonly #world: World;
  #config: ProposerConfig;
  readonly #random: SeededRandom;
  readonly #connections = new Map<number, Connection>();
  readonly #id: number;
  #proposer: Proposer;
  /** Of its last won election. */
  #leader: Leader | undefined;
  #commitLsn: Lsn = INVALID_LSN;
  #sequence = 0;
  up = true;
  readonly incarnation = 0;
  busyUntilMs = 0;

  constructor(
    world: World,
    id: number,
    safekeepers: readonly SafekeeperId[],
    ids: Pick<ProposerConfig, "tenantId" | "timelineId" | "pgVersion">,
  ) {
    this.#world = world;
    this.#id = id;
    this.name = `c${id}`;
    this.#random = world.randomFor(this.name);
    this.#config = { ...ids, systemId: SYSTEM_ID, walSegSize: SEGMENT_SIZE, safekeepers };
    this.#proposer = new Proposer(this.#config);
    world.trace?.(this.name, `starts with safekeepers ${safekeepers.map((s) => s.id).join(", ")}`);
    for (const { id: safekeeper } of safekeepers) {
      this.#later(this.#random.int(20), () => this.#connect(safekeeper));
    }
    this.#tick();
  }

  /** It runs; it may be campaigning in a newer membership. */
  get elected(): boolean {
    return this.#leader !== undefined;
  }

  get generation(): number {
    return this.#proposer.membership.generation;
  }

  get connections(): Connection[] {
    return [...this.#connections.values()];
  }

  /** Gone for good; what it has sent may still arrive. */
  stop(): void {
    if (!this.up) {
      return;
    }
    this.up = false;
    for (const connection of this.#connections.values()) {
      connection.close();
    }
    this.#connections.clear();
    this.#world.computes.delete(this);
    this.#world.trace?.(this.name, "gone");
  }

  /** SIGSTOP until then. */
  pause(untilMs: number): void {
    this.busyUntilMs = Math.max(this.busyUntilMs, untilMs);
    this.#world.trace?.(this.name, `paused until ${untilMs.toFixed(0)}`);
  }

  receive(connection: Connection, message: AcceptorMessage): void {
    const safekeeper = connection.safekeeper.id;
    this.#step({ type: "message", safekeeper, message });
  }

  /** The other side is gone. */
  lost(connection: Connection): void {
    if (this.#connections.get(connection.safekeeper.id) === connection) {
      this.#disconnect(connection);
    }
  }

  breakConnection(safekeeper: number): void {
    const connection = this.#connections.get(safekeeper);
    if (connection !== undefined) {
      this.#disconnect(connection);
    }
  }

  #disconnect(connection: Connection): void {
    const { id } = connection.safekeeper;
    connection.close();
    this.#connections.delete(id);
    this.#later(this.#random.int(RECONNECT_MS), () => this.#connect(id));
    this.#step({ type: "disconnected", safekeeper: id });
  }

  #connect(id: number): void {
    const safekeeper = this.#world.safekeepers.get(id);
    const isMember = this.#config.safekeepers.some((member) => member.id === id);
    if (safekeeper === undefined || !isMember || this.#connections.has(id)) {
      return;
    }
    const { network } = this.#world;
    const proposer = this.#proposer;
    const open = () => (safekeeper.up ? safekeeper.incarnation : undefined);
    network.call(this, safekeeper, open, (incarnation) => {
      if (proposer !== this.#proposer) {
        return;
      }
      if (incarnation === undefined || incarnation !== safekeeper.incarnation) {
        this.#later(this.#random.int(RECONNECT_MS), () => this.#connect(id));
      } else if (!this.#connections.has(id)) {
        this.#connections.set(id, new Connection(network, this, safekeeper));
        this.#step({ type: "connected", safekeeper: id });
      }
    });
  }

  #tick(): void {
    this.#step({ type: "tick", nowMs: this.#world.time.nowMs });
    this.#later(TICK_MS, () => this.#tick());
  }

  #step(event: ProposerEvent): void {
    if (!this.up) {
      return;
    }
    for (const effect of this.#proposer.step(event)) {
      this.#carryOut(effect);
    }
  }

  #carryOut(effect: ProposerEffect): void {
    switch (effect.type) {
      case "send":
        this.#connections.get(effect.safekeeper)?.toAcceptor.send(effect.message);
        break;
      case "send-wal": {
        const connection = this.#connections.get(effect.safekeeper);
        if (connection !== undefined) {
          this.#enqueue(connection, effect);
        }
        break;
      }
      case "elected":
        this.#elected(effect);
        break;
      case "committed":
        this.#world.trace?.(this.name, `acknowledges up to ${formatLsn(effect.lsn)}`);
        this.#world.checker.acknowledged(this.#leader!, effect.lsn, this.name);
        this.#commitLsn = maxLsn(this.#commitLsn, effect.lsn);
        break;
      case "disconnect": {
        const connection = this.#connections.get(effect.safekeeper);
        this.#world.trace?.(this.name, `gives up s${effect.safekeeper}: ${effect.reason}`);
        if (connection !== undefined) {
          connection.close();
          this.#connections.delete(effect.safekeeper);
          this.#later(this.#random.int(RECONNECT_MS), () => this.#connect(effect.safekeeper));
        }
        break;
      }
      case "fenced":
        this.#fenced(effect);
        break;
    }
  }

  #fenced({ term, elected, newer }: Extract<ProposerEffect, { type: "fenced" }>): void {
    this.#world.trace?.(
      this.name,
      `fenced by term ${term}, generation ${newer?.generation ?? "-"}`,
    );
    if (newer !== undefined) {
      this.#campaignAgain(newer, 0);
    } else if (elected) {
      this.stop();
    } else {
      this.#campaignAgain(this.#proposer.membership, this.#random.int(CAMPAIGN_PAUSE_MS));
    }
  }

  #campaignAgain(mconf: MembershipConfiguration, pauseMs: number): void {
    for (const connection of this.#connections.values()) {
      connection.close();
    }
    this.#connections.clear();
    if (mconf.generation > 0) {
      this.#config = { ...this.#config, safekeepers: allMembers(mconf), mconf };
    }
    // At once: what the old one's attempts to connect still bring is not for the new one.
    this.#proposer = new Proposer({ ...this.#config, resumes: this.#proposer.resumable });
    this.#later(pauseMs, () => {
      this.#step({ type: "tick", nowMs: this.#world.time.nowMs });
      for (const { id } of this.#config.safekeepers) {
        this.#connect(id);
      }
    });
  }

  #elected(effect: Extract<ProposerEffect, { type: "elected" }>): void {
    const { term, startLsn, termHistory } = effect;
    const vote = this.#world.safekeepers.get(effect.donor)?.votes.get(term);
    if (vote === undefined || vote.flushLsn < startLsn) {
      throw new Violation(
        `${this.name} won term ${term} by a vote that s${effect.donor} did not give`,
      );
    }
    const before = this.#leader;
    const own =
      before?.own ??
      new WalBuilder({
        startLsn,
        prevLsn: this.#lastRecordBefore(startLsn, effect),
        systemId: SYSTEM_ID,
        segmentSize: SEGMENT_SIZE,
      });
    const leader: Leader = {
      term,
      compute: this.name,
      startLsn,
      termHistory,
      below: vote.wal.subarray(0, vote.wal.length - (vote.flushLsn - startLsn)),
      own,
    };
    this.#leader = leader;
    this.#world.counts.elections += 1;
    const donor = `s${effect.donor}`;
    this.#world.trace?.(this.name, `wins term ${term}, L ${formatLsn(startLsn)}, donor ${donor}`);
    this.#world.checker.elected(leader);
    if (before === undefined) {
      this.#later(this.#writeDelayMs(), () => this.#write());
    } else {
      this.#resumed(leader);
    }
  }

  /** Its Postgres went on meanwhile: what it has written above L is sent in the new term. */
  #resumed({ term, startLsn, own }: Leader): void {
    this.#world.counts.resumes += 1;
    if (startLsn < this.#commitLsn || startLsn > own.endLsn) {
      throw new Violation(
        `${this.name} resumes in term ${term} at ${formatLsn(startLsn)}, it has committed ` +
          `${formatLsn(this.#commitLsn)} and written ${formatLsn(own.endLsn)}`,
      );
    }
    // After the messages that make the term known.
    this.#later(0, () => this.#walAvailable());
  }

  #walAvailable(): void {
    // While it campaigns in a newer membership the WAL waits.
    if (this.#proposer.elected) {
      this.#step({ type: "wal-available", endLsn: this.#leader!.own.endLsn });
    }
  }

  /** What the first record of our own names as its predecessor. */
  #lastRecordBefore(
    lsn: Lsn,
    { term, termHistory }: Extract<ProposerEffect, { type: "elected" }>,
  ): Lsn {
    const before = termHistory.filter((entry) => entry.term < term);
    const writer = this.#world.checker.leaders.get(lastTermAt(before, (lsn - 1) as Lsn));
    const last = writer?.own.records.findLast((record) => record.endLsn === lsn);
    return last?.startLsn ?? INVALID_LSN;
  }

  #writeDelayMs(): number {
    return -Math.log(1 - this.#random.next()) * this.#world.shape.writeEveryMs;
  }

  #write(): void {
    const { own } = this.#leader!;
    this.#later(this.#writeDelayMs(), () => this.#write());
    if (own.endLsn - maxLsn(this.#commitLsn, own.startLsn) > MAX_UNCOMMITTED_BYTES) {
      return;
    }
    for (let count = 1 + this.#random.int(3); count > 0; count--) {
      this.#sequence += 1;
      const sizes = this.#random.bool(0.03) ? LARGE_RECORD_SIZES : RECORD_SIZES;
      own.appendFilled(this.#random.pick(sizes), this.#id * 100_000 + this.#sequence);
    }
    this.#walAvailable();
  }

  #enqueue(
    connection: Connection,
    { beginLsn, endLsn, source }: Extract<ProposerEffect, { type: "send-wal" }>,
  ): void {
    if (beginLsn < endLsn || connection.queue.length === 0) {
      connection.queue.push({ begin: beginLsn, end: endLsn, source });
      this.#pump(connection);
    }
  }

  #pump(connection: Connection): void {
    while (connection.open && !connection.fetching) {
      const range = connection.queue[0];
      if (range === undefined) {
        return;
      }
      const chunk = 1 + this.#random.int(this.#world.shape.chunkBytes);
      const length = Math.min(range.end - range.begin, chunk);
      // Postgres removes what a checkpoint has no use for: that is committed.
      const mayBeGone = length > 0 && range.begin + length <= this.#commitLsn;
      const isGone = mayBeGone && this.#random.bool(REMOVED_HERE);
      if (isGone || (length > 0 && range.source === "recovery")) {
        this.#fetch(connection, range, length);
        return;
      }
      this.#sendWal(connection, range, this.#readOwn(range.begin, length));
    }
  }

  #readOwn(begin: Lsn, length: number): Uint8Array {
    return length === 0 ? EMPTY : this.#leader!.own.read(begin, (begin + length) as Lsn);
  }

  #sendWal(connection: Connection, range: WalRange, walData: Uint8Array): void {
    const endLsn = (range.begin + walData.length) as Lsn;
    const header = this.#proposer.appendHeader(range.begin, endLsn);
    connection.toAcceptor.send({ type: "append-request", ...header, walData });
    range.begin = endLsn;
    if (range.begin >= range.end) {
      connection.queue.shift();
    }
  }

  /** From another safekeeper: what is below L, or what Postgres has removed here. */
  #fetch(connection: Connection, range: WalRange, length: number): void {
    const source = this.#proposer.recoverySource(connection.safekeeper.id);
    const donor = source === undefined ? undefined : this.#world.safekeepers.get(source);
    if (donor === undefined) {
      // The driver gives the connection up, and tries again.
      this.#later(0, () => this.lost(connection));
      connection.fetching = true;
      return;
    }
    connection.fetching = true;
    const { term } = this.#proposer;
    const { network } = this.#world;
    network.call(
      this,
      donor,
      () => donor.read(range.begin, length, term),
      (bytes) => {
        connection.fetching = false;
        if (!connection.open) {
          return;
        }
        if (bytes !== undefined && bytes.length > 0) {
          this.#sendWal(connection, range, bytes);
          this.#pump(connection);
        } else if (range.source === "compute") {
          this.#sendWal(connection, range, this.#readOwn(range.begin, length));
          this.#pump(connection);
        } else {
          this.lost(connection);
        }
      },
    );
  }

  #later(delayMs: number, run: () => void): void {
    const { time } = this.#world;
    const fire = () => {
      if (!this.up) {
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
}

const EMPTY = new Uint8Array(0);

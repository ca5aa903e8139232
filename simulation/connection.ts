// One START_WAL_PUSH connection between a simulated compute and a safekeeper.

import type { Lsn } from "../src/base/lsn.ts";
import type { AcceptorMessage, ProposerMessage } from "../src/safekeeper-protocol/messages.ts";
import { type Node, Pipe, type SimulatedNetwork } from "./simulated-network.ts";

/** The compute at its one end. */
export interface ProposerEnd extends Node {
  receive(connection: Connection, message: AcceptorMessage): void;
  /** The safekeeper has closed it. */
  lost(connection: Connection): void;
}

/** The safekeeper at its other end. */
export interface AcceptorEnd extends Node {
  readonly id: number;
  accept(connection: Connection): void;
  receive(connection: Connection, message: ProposerMessage): void;
  closed(connection: Connection): void;
}

export interface WalRange {
  begin: Lsn;
  readonly end: Lsn;
  readonly source: "recovery" | "compute";
}

export class Connection {
  readonly compute: ProposerEnd;
  readonly safekeeper: AcceptorEnd;
  readonly toAcceptor: Pipe<ProposerMessage>;
  readonly toProposer: Pipe<AcceptorMessage>;
  readonly #network: SimulatedNetwork;
  /** The compute's side. An old connection may still bring what was sent on it. */
  open = true;
  serverOpen = true;
  answerDue = false;
  /** What the proposer wants sent, in order. */
  queue: WalRange[] = [];
  /** WAL is being fetched for it. */
  fetching = false;

  constructor(network: SimulatedNetwork, compute: ProposerEnd, safekeeper: AcceptorEnd) {
    this.#network = network;
    this.compute = compute;
    this.safekeeper = safekeeper;
    this.toAcceptor = new Pipe(network, compute, safekeeper, (message) => {
      if (this.serverOpen) {
        safekeeper.receive(this, message);
      }
    });
    this.toProposer = new Pipe(network, safekeeper, compute, (message) => {
      if (this.open) {
        compute.receive(this, message);
      }
    });
    safekeeper.accept(this);
  }

  /** The compute closes it, or is gone. */
  close(): void {
    if (this.open) {
      this.open = false;
      this.queue = [];
      this.toAcceptor.breakOff(this.#network.random);
    }
  }

  /** The safekeeper closed it, or is gone; the compute hears of that later. */
  serverGone(): void {
    if (this.serverOpen) {
      this.serverOpen = false;
      this.toAcceptor.clear();
      this.toProposer.breakOff(this.#network.random);
      this.#network.send(this.safekeeper, this.compute, () => this.compute.lost(this));
    }
  }
}

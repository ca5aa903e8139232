// One START_WAL_PUSH connection between a simulated compute and a safekeeper.

import type { Lsn } from "../src/base/lsn.ts";
import type { AcceptorMessage, ProposerMessage } from "../src/safekeeper-protocol/messages.ts";
import type { ComputeNode } from "./compute-node.ts";
import type { SafekeeperNode } from "./safekeeper-node.ts";
import { Pipe, type SimulatedNetwork } from "./simulated-network.ts";

export interface WalRange {
  begin: Lsn;
  readonly end: Lsn;
  readonly source: "recovery" | "compute";
}

export class Connection {
  readonly compute: ComputeNode;
  readonly safekeeper: SafekeeperNode;
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

  constructor(network: SimulatedNetwork, compute: ComputeNode, safekeeper: SafekeeperNode) {
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

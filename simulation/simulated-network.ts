// A network with delays, one-way cuts and connections that break while old messages still arrive.

import type { SeededRandom } from "../src/base/random.ts";
import type { SimulatedTime } from "./simulated-time.ts";

/** A process on the network. */
export interface Node {
  readonly name: string;
  readonly up: boolean;
  /** Grows with every start: who was meant by an event of before is gone. */
  readonly incarnation: number;
  /** It handles nothing before (virtual ms): it waits for its disk, or is stopped. */
  busyUntilMs: number;
}

/** Share of messages that take much longer than the others. */
const STRAGGLERS = 0.02;
const RESET_AFTER_MS = 400;
const CALL_TIMEOUT_MS = 3000;

export class SimulatedNetwork {
  readonly time: SimulatedTime;
  readonly random: SeededRandom;
  readonly #cutUntil = new Map<string, number>();
  /** Mean delay of a message. */
  meanDelayMs = 1;
  /** Until then messages of a connection are doubled or swapped at times. */
  mangleUntilMs = 0;
  healed = false;

  constructor(time: SimulatedTime, random: SeededRandom) {
    this.time = time;
    this.random = random;
  }

  /** Nothing arrives from one at the other until then; what was sent arrives afterwards. */
  cut(from: Node, to: Node, untilMs: number): void {
    this.#cutUntil.set(`${from.name}>${to.name}`, untilMs);
  }

  heal(): void {
    this.#cutUntil.clear();
    this.mangleUntilMs = 0;
    this.healed = true;
  }

  isCut(from: Node, to: Node): boolean {
    return this.openAt(from, to) > this.time.nowMs;
  }

  /** When something can arrive. */
  openAt(from: Node, to: Node): number {
    return this.#cutUntil.get(`${from.name}>${to.name}`) ?? 0;
  }

  delayMs(): number {
    const mean = this.random.bool(STRAGGLERS) && !this.healed ? 100 : this.meanDelayMs;
    return 0.05 - Math.log(1 - this.random.next()) * mean;
  }

  /** Delivers once, maybe late and out of order, if `to` is still the same process then. */
  send(from: Node, to: Node, deliver: () => void): void {
    const { incarnation } = to;
    const arrive = () => {
      const readyMs = Math.max(this.openAt(from, to), to.busyUntilMs);
      if (readyMs > this.time.nowMs) {
        this.time.at(readyMs, arrive);
      } else if (to.up && to.incarnation === incarnation) {
        deliver();
      }
    };
    this.time.after(this.delayMs(), arrive);
  }

  /**
   * Asks `to`; `done` gets undefined where it is down, refuses (throws) or cannot be reached, and is not
   * called where `from` is gone by then. The answer leaves when `to` has finished with its disk.
   */
  call<T>(
    from: Node,
    to: Node,
    answer: () => T | undefined,
    done: (result: T | undefined) => void,
  ): void {
    this.ask(from, to, (reply: (result: T | undefined) => void) => reply(answer()), done);
  }

  /** As `call`, of a question that `to` needs some time for. */
  ask<T>(
    from: Node,
    to: Node,
    begin: (reply: (result: T | undefined) => void) => void,
    done: (result: T | undefined) => void,
  ): void {
    const { incarnation } = from;
    let open = true;
    const finish = (result: T | undefined) => {
      if (open && from.up && from.incarnation === incarnation) {
        open = false;
        done(result);
      }
    };
    const unreachable = !to.up || this.isCut(from, to);
    this.time.after(unreachable ? RESET_AFTER_MS : CALL_TIMEOUT_MS, () => finish(undefined));
    if (!unreachable) {
      this.send(from, to, () => {
        begin((result) =>
          this.time.at(to.busyUntilMs, () => this.send(to, from, () => finish(result))),
        );
      });
    }
  }
}

/** One direction of a connection: in order, without loss, until it breaks. */
export class Pipe<M> {
  readonly #network: SimulatedNetwork;
  readonly #from: Node;
  readonly #to: Node;
  readonly #incarnation: number;
  readonly #deliver: (message: M) => void;
  readonly #queue: { atMs: number; message: M }[] = [];
  #armed = false;

  constructor(network: SimulatedNetwork, from: Node, to: Node, deliver: (message: M) => void) {
    this.#network = network;
    this.#from = from;
    this.#to = to;
    this.#incarnation = to.incarnation;
    this.#deliver = deliver;
  }

  /** `notBeforeMs`: when the sender's disk lets it go. */
  send(message: M, notBeforeMs = 0): void {
    const network = this.#network;
    const sentMs = Math.max(network.time.nowMs, notBeforeMs);
    const atMs = Math.max(sentMs + network.delayMs(), this.#queue.at(-1)?.atMs ?? 0);
    this.#queue.push({ atMs, message });
    if (network.mangleUntilMs > network.time.nowMs && network.random.bool(0.2)) {
      this.#mangle();
    }
    this.#arm();
  }

  /** The sender is gone: some prefix of what is under way still arrives, perhaps much later. */
  breakOff(random: SeededRandom): void {
    this.#queue.length = random.int(this.#queue.length + 1);
    if (this.#queue.length > 0 && random.bool(0.3)) {
      const extraMs = random.int(1500);
      for (const entry of this.#queue) {
        entry.atMs += extraMs;
      }
    }
  }

  /** The receiver is gone. */
  clear(): void {
    this.#queue.length = 0;
  }

  /** TCP does not do this; safety must not depend on that. */
  #mangle(): void {
    const queue = this.#queue;
    const last = queue.at(-1)!;
    const before = queue.at(-2);
    if (before === undefined || this.#network.random.bool()) {
      queue.push({ ...last });
    } else {
      [before.message, last.message] = [last.message, before.message];
    }
  }

  #arm(): void {
    const head = this.#queue[0];
    if (this.#armed || head === undefined) {
      return;
    }
    this.#armed = true;
    this.#network.time.at(Math.max(head.atMs, this.#readyMs()), () => this.#arrive());
  }

  #readyMs(): number {
    return Math.max(this.#network.openAt(this.#from, this.#to), this.#to.busyUntilMs);
  }

  #arrive(): void {
    this.#armed = false;
    const head = this.#queue[0];
    if (head === undefined) {
      return;
    }
    if (!this.#to.up || this.#to.incarnation !== this.#incarnation) {
      this.clear();
      return;
    }
    const { nowMs } = this.#network.time;
    if (head.atMs <= nowMs && this.#readyMs() <= nowMs) {
      this.#queue.shift();
      this.#deliver(head.message);
    }
    this.#arm();
  }
}

// One browser's stream of server-sent events: what is sent waits until it is read, and signs of life go in between.

import { setRepeatingTimer, type Timer } from "../../base/clock.ts";

/** Less than what an HTTP answer may be silent. */
const ALIVE_INTERVAL_MS = 20_000;
/** Whoever reads so slowly is let go: browsers open again what has ended. */
const MAX_WAITING = 1000;

/** To be iterated once. */
export class EventStream implements AsyncIterable<Uint8Array>, AsyncIterator<Uint8Array> {
  readonly #onEnd: () => void;
  readonly #alive: Timer;
  /** The greeting makes the browser's `open` happen at once. */
  #waiting: string[] = [": hello\n\n"];
  #hasEnded = false;
  #wake: (() => void) | undefined;

  /** `onEnd`: whoever reads has gone, or `end` was called; once. */
  constructor(onEnd: () => void) {
    this.#onEnd = onEnd;
    this.#alive = setRepeatingTimer(() => this.#push(": alive\n\n"), ALIVE_INTERVAL_MS);
  }

  send(data: unknown): void {
    this.#push(`data: ${JSON.stringify(data)}\n\n`);
  }

  end(): void {
    if (!this.#hasEnded) {
      this.#hasEnded = true;
      this.#alive.cancel();
      this.#onEnd();
      this.#wake?.();
    }
  }

  #push(text: string): void {
    if (this.#waiting.length >= MAX_WAITING) {
      this.end();
      return;
    }
    this.#waiting.push(text);
    this.#wake?.();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array>> {
    while (this.#waiting.length === 0 && !this.#hasEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#hasEnded) {
      return { done: true, value: undefined };
    }
    const value = Buffer.from(this.#waiting.join(""));
    this.#waiting = [];
    return { done: false, value };
  }

  async return(): Promise<IteratorResult<Uint8Array>> {
    this.end();
    return { done: true, value: undefined };
  }
}

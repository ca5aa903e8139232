// One browser's stream of server-sent events: what is sent waits until it is read, and signs of life go in between. And those
// who listen to the same, for whom something is looked at over and over.

import { setRepeatingTimer, type Timer } from "../../base/clock.ts";
import {
  type HttpRequest,
  mediaRoute,
  type Route,
  type RouteDeclaration,
} from "../../http/route.ts";

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

  /** Whether something that was sent has not been taken yet. */
  get isBehind(): boolean {
    return this.#waiting.length > 0;
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

/** A route for those who listen to what a project's readers may hear of. */
export function eventRoute<P>(
  declaration: Pick<RouteDeclaration<P, unknown, unknown, unknown>, "path" | "summary" | "params">,
  listen: (request: HttpRequest<P, unknown, unknown>) => EventStream | Promise<EventStream>,
): Route {
  return mediaRoute(
    { ...declaration, method: "GET", scope: "tenant", mediaType: "text/event-stream" },
    listen,
  );
}

/** Those who listen to one thing, each with what only it needs to be told. While there is anybody, it is looked at. */
export class Listeners<T = undefined> {
  readonly #look: (listeners: ReadonlyMap<EventStream, T>) => Promise<void>;
  readonly #intervalMs: number;
  readonly #onSilence: () => void;
  readonly #streams = new Map<EventStream, T>();
  #timer: Timer | undefined;
  #isLooking = false;

  /** `look`: one at a time; never rejects. `onSilence`: the last one has gone. */
  constructor(
    look: (listeners: ReadonlyMap<EventStream, T>) => Promise<void>,
    intervalMs: number,
    onSilence: () => void = () => {},
  ) {
    this.#look = look;
    this.#intervalMs = intervalMs;
    this.#onSilence = onSilence;
  }

  get size(): number {
    return this.#streams.size;
  }

  add(of: T): EventStream {
    const stream = new EventStream(() => {
      this.#streams.delete(stream);
      if (this.#streams.size === 0) {
        this.#timer?.cancel();
        this.#timer = undefined;
        this.#onSilence();
      }
    });
    this.#streams.set(stream, of);
    if (this.#timer === undefined) {
      this.#timer = setRepeatingTimer(() => void this.#lookOnce(), this.#intervalMs);
      void this.#lookOnce();
    }
    return stream;
  }

  /** Ends the streams of those who have listened longest, until fewer than `count` are left. */
  endOldest(count: number): void {
    for (const oldest of [...this.#streams.keys()].slice(0, this.#streams.size - count + 1)) {
      oldest.end();
    }
  }

  /** Ends all streams: a stop does not wait for them, and browsers open again what has ended. */
  end(): void {
    for (const stream of this.#streams.keys()) {
      stream.end();
    }
  }

  async #lookOnce(): Promise<void> {
    if (!this.#isLooking) {
      this.#isLooking = true;
      try {
        await this.#look(this.#streams);
      } finally {
        this.#isLooking = false;
      }
    }
  }
}

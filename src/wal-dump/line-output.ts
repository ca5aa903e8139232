// Lines to a stream that may be slow, or whose reader may have gone.

import { once } from "node:events";
import type { Writable } from "node:stream";
import { turn } from "../base/clock.ts";
import { errnoCode } from "../base/errors.ts";

const FLUSH_BYTES = 64 * 1024;

export class LineOutput {
  readonly #stream: Writable;
  readonly #onError: (error: Error) => void;
  #text = "";
  #closed = false;
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    this.#onError = (error) => {
      this.#closed = true;
      if (errnoCode(error) !== "EPIPE") {
        this.#failure = error;
      }
    };
    stream.on("error", this.#onError);
  }

  /** The reader has gone: there is nothing left to do. */
  get closed(): boolean {
    return this.#closed;
  }

  write(line: string): void {
    this.#text += `${line}\n`;
  }

  get isFull(): boolean {
    return this.#text.length >= FLUSH_BYTES;
  }

  /** Waits until the stream takes more. Throws what went wrong with it, but that its reader left. */
  async flush(): Promise<void> {
    const text = this.#text;
    this.#text = "";
    if (text !== "" && !this.#closed && !this.#stream.write(text)) {
      // An error ends the wait too; it was noted by then.
      await once(this.#stream, "drain").catch(() => {});
    }
    // The error of a synchronous write comes in the next turn.
    await turn();
    if (this.#failure !== undefined) {
      throw this.#failure;
    }
  }

  /** Writes what is left and lets go of the stream, which is not ended. */
  async close(): Promise<void> {
    await this.flush();
    this.#stream.off("error", this.#onError);
  }
}

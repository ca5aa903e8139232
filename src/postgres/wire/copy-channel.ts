// The CopyBoth phase of a Postgres connection: a two-way stream of framed payloads, either side.

import type { Socket } from "node:net";
import type { StorageError } from "../../base/errors.ts";

const COPY_DATA = "d".charCodeAt(0);
/**
 * A message up to this size is copied into one buffer and given to the kernel at once: a commit goes
 * through four of them one after the other. A larger one is not copied; those of one turn leave in one
 * writev.
 */
const SMALL_MESSAGE_BYTES = 8192;

/** Made by WireSession.copyBoth (server) and WireConnection.copyBoth (client). */
export class CopyChannel {
  readonly #socket: Socket;
  #corked = false;
  #dataHandler: ((payload: Uint8Array) => void) | undefined;
  #idleHandler: (() => void) | undefined;
  #closeHandler: ((error?: Error) => void) | undefined;
  #early: Uint8Array[] = [];
  #closed = false;
  #closeError: Error | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Bytes accepted by `send` that the kernel has not taken yet. */
  get writableLength(): number {
    return this.#socket.writableLength;
  }

  /** Receives the payload of each CopyData, lent for the call only. */
  onData(handler: (payload: Uint8Array) => void): void {
    this.#dataHandler = handler;
    const early = this.#early;
    this.#early = [];
    for (const payload of early) {
      handler(payload);
    }
    if (early.length > 0) {
      this.#idleHandler?.();
    }
  }

  /** Called when everything that had arrived was handed out: the point to flush a batch. */
  onIdle(handler: () => void): void {
    this.#idleHandler = handler;
  }

  /** Called once, with the error if there was one, when the other side or the network ended it. */
  onClose(handler: (error?: Error) => void): void {
    if (this.#closed) {
      handler(this.#closeError);
      return;
    }
    this.#closeHandler = handler;
  }

  /**
   * Sends one CopyData made of `parts`. The parts are handed over: they must not change until
   * written.
   */
  send(...parts: Uint8Array[]): void {
    if (this.#closed) {
      return;
    }
    let length = 4;
    for (const part of parts) {
      length += part.length;
    }
    const isSmall = length <= SMALL_MESSAGE_BYTES;
    const header = Buffer.allocUnsafe(isSmall ? 1 + length : 5);
    header[0] = COPY_DATA;
    header[1] = length >>> 24;
    header[2] = length >>> 16;
    header[3] = length >>> 8;
    header[4] = length;
    if (isSmall) {
      let at = 5;
      for (const part of parts) {
        header.set(part, at);
        at += part.length;
      }
      this.#socket.write(header);
      return;
    }
    this.#cork();
    this.#socket.write(header);
    for (const part of parts) {
      this.#socket.write(part);
    }
  }

  #cork(): void {
    if (this.#corked) {
      return;
    }
    this.#corked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }

  /** Resolves when the queue of bytes to send has drained, or the channel closed. */
  drained(): Promise<void> {
    if (this.#closed || !this.#socket.writableNeedDrain) {
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const done = () => {
        this.#socket.off("drain", done);
        this.#socket.off("close", done);
        resolve();
      };
      this.#socket.on("drain", done);
      this.#socket.on("close", done);
    });
  }

  /** Stops and restarts the reading of the socket (back-pressure). */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Ends the connection after what was sent has left. */
  close(): void {
    if (!this.#closed) {
      this.#socket.end();
      this.deliverClose();
    }
  }

  /** Ends the connection at once. */
  destroy(): void {
    this.#socket.destroy();
    this.deliverClose();
  }

  /** For the connection that owns the socket. */
  deliver(payload: Uint8Array): void {
    if (this.#dataHandler === undefined) {
      this.#early.push(payload.slice());
    } else if (!this.#closed) {
      this.#dataHandler(payload);
    }
  }

  deliverIdle(): void {
    if (!this.#closed) {
      this.#idleHandler?.();
    }
  }

  deliverClose(error?: Error | StorageError): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#closeError = error;
    this.#closeHandler?.(error);
  }
}

// The CopyBoth phase of a Postgres connection: a two-way stream of framed payloads, either side.

import type { Socket } from "node:net";
import type { StorageError } from "../../base/errors.ts";
import { freeMemory } from "../../base/memory/free-memory.ts";

const COPY_DATA = "d".charCodeAt(0);
const HEADER_BYTES = 5;
const NOTHING = new Uint8Array(0);
/**
 * A message up to this size is copied into one buffer and given to the kernel at once: a commit goes
 * through four of them one after the other. A larger one is not copied; those of one turn leave in one
 * writev.
 */
const SMALL_MESSAGE_BYTES = 8192;
/** Pages of one turn leave in writes of up to so many bytes. */
const GATHER_BYTES = 16 * 8256;

/**
 * Where `sendCopy` puts messages together, for one channel at a time. What the kernel has taken whole is written over
 * by the next ones: the same memory each time, so it is in the processor's cache and nothing is left to collect.
 */
const gather = {
  bytes: Buffer.allocUnsafeSlow(GATHER_BYTES),
  used: 0,
  socket: undefined as Socket | undefined,
};

function sendGathered(): void {
  const { bytes, used, socket } = gather;
  if (socket === undefined) {
    return;
  }
  gather.used = 0;
  gather.socket = undefined;
  if (!socket.destroyed && "encrypted" in socket) {
    // TLS says only later that it has taken it, each time: a copy is less than new memory for all that could be gathered.
    socket.write(Buffer.from(bytes.subarray(0, used)));
  } else if (!socket.destroyed) {
    socket.write(bytes.subarray(0, used));
    if (socket.writableLength > 0) {
      // The kernel has not taken all of it: the socket keeps this memory.
      gather.bytes = Buffer.allocUnsafeSlow(GATHER_BYTES);
    }
  }
}

function putHeader(into: Uint8Array, at: number, length: number): void {
  into[at] = COPY_DATA;
  into[at + 1] = length >>> 24;
  into[at + 2] = length >>> 16;
  into[at + 3] = length >>> 8;
  into[at + 4] = length;
}

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
    this.#send(parts);
  }

  /** The same of `head` and `body`; the memory of `body` is the channel's from now on, which frees it once it is written. */
  sendOwned(head: Uint8Array, body: Uint8Array): void {
    this.sendLent(head, body, () => freeMemory(body));
  }

  /** The same, and `written` is called once nobody here needs `body` any more, whether it was sent or not. */
  sendLent(head: Uint8Array, body: Uint8Array, written: () => void): void {
    this.#send([head, body], written);
  }

  #send(parts: readonly Uint8Array[], written?: () => void): void {
    if (this.#closed) {
      written?.();
      return;
    }
    sendGathered();
    let length = 4;
    for (const part of parts) {
      length += part.length;
    }
    const isSmall = length <= SMALL_MESSAGE_BYTES;
    const header = Buffer.allocUnsafe(isSmall ? 1 + length : HEADER_BYTES);
    putHeader(header, 0, length);
    if (isSmall) {
      let at = HEADER_BYTES;
      for (const part of parts) {
        header.set(part, at);
        at += part.length;
      }
      this.#socket.write(header);
      written?.();
      return;
    }
    this.#cork();
    this.#socket.write(header);
    for (const [i, part] of parts.entries()) {
      if (written !== undefined && i === parts.length - 1) {
        this.#socket.write(part, written);
      } else {
        this.#socket.write(part);
      }
    }
  }

  /**
   * Sends one CopyData of the parts, together a page or little more. They are copied: the caller may change them at
   * once. Those of one turn leave in few writes.
   */
  sendCopy(head: Uint8Array, body: Uint8Array = NOTHING): void {
    if (this.#closed) {
      return;
    }
    const length = 4 + head.length + body.length;
    if (gather.socket !== this.#socket || gather.used + 1 + length > GATHER_BYTES) {
      sendGathered();
      gather.socket = this.#socket;
      process.nextTick(sendGathered);
    }
    const { bytes, used } = gather;
    putHeader(bytes, used, length);
    bytes.set(head, used + HEADER_BYTES);
    bytes.set(body, used + HEADER_BYTES + head.length);
    gather.used = used + 1 + length;
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
      sendGathered();
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
      this.#early.push(Uint8Array.from(payload));
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

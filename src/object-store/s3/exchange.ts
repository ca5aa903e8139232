// One HTTP request to an S3 service and its answer: deadline, inactivity, abort, and the body's digest.

import { createHash } from "node:crypto";
import {
  type ClientRequest,
  Agent as HttpAgent,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request as requestHttp,
} from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { monotonicMs, setIdleTimer, type Timer } from "../../base/clock.ts";
import { errnoCode, errorMessage, StorageError } from "../../base/errors.ts";
import { type ObjectSource, sourceChunks } from "../object-store.ts";
import { TransientFailure } from "./errors.ts";

export interface SignedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** For messages about a source. */
  readonly key: string;
  readonly body: Uint8Array | ObjectSource | undefined;
}

export interface ExchangeLimits {
  /** On the monotonic clock; until the answer's head, or its end where it is read whole. */
  readonly deadlineMs: number;
  /** Longest time in which nothing comes and nothing goes. */
  readonly inactivityMs: number;
  readonly signal: AbortSignal | undefined;
}

/** There was no connection on which it could have gone out. */
const NEVER_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH"]);

/** Keep-alive connections to one endpoint; idle ones do not keep the process alive. */
export class Transport {
  readonly #endpoint: URL;
  readonly #agent: HttpAgent | HttpsAgent;

  constructor(endpoint: URL) {
    this.#endpoint = endpoint;
    const options = { keepAlive: true, maxSockets: 100, maxFreeSockets: 32, noDelay: true };
    this.#agent = endpoint.protocol === "https:" ? new HttpsAgent(options) : new HttpAgent(options);
  }

  open({ method, path, headers }: SignedRequest, host: string): ClientRequest {
    const { protocol, port } = this.#endpoint;
    const options = {
      method,
      path,
      headers,
      hostname: host.replace(/^\[|\]$/g, ""),
      ...(port === "" ? {} : { port }),
      agent: this.#agent,
    };
    return protocol === "https:" ? requestHttps(options) : requestHttp(options);
  }

  close(): void {
    this.#agent.destroy();
  }
}

export class Exchange {
  readonly #request: ClientRequest;
  readonly #signal: AbortSignal | undefined;
  readonly #inactivity: Timer;
  readonly #deadline: Timer;
  readonly #answered: Promise<IncomingMessage>;
  #reject: (error: unknown) => void = () => {};
  #response: IncomingMessage | undefined;
  #failure: unknown;
  #isOver = false;
  /** Whoever reads the body has a chunk in his hands: nobody waits for the service. */
  #isReadersTurn = false;
  /** Hexadecimal, of all that was sent; undefined until a source was read to its end. */
  sentMd5: string | undefined;

  constructor(request: ClientRequest, limits: ExchangeLimits) {
    this.#request = request;
    this.#signal = limits.signal;
    this.#answered = new Promise((resolve, reject) => {
      this.#reject = reject;
      request.on("response", (response) => {
        this.#response = response;
        this.#inactivity.restart();
        resolve(response);
      });
    });
    // Whoever waits for it gets it; nobody may have begun to.
    this.#answered.catch(() => {});
    request.on("error", (error) => this.#fail(this.#lost(error)));
    this.#inactivity = setIdleTimer(() => {
      if (!this.#isReadersTurn) {
        this.#fail(timedOut(`nothing for ${limits.inactivityMs} ms`));
      }
    }, limits.inactivityMs);
    const leftMs = Math.max(1, limits.deadlineMs - monotonicMs());
    this.#deadline = setIdleTimer(() => this.#fail(timedOut("the call's time is over")), leftMs);
    this.#signal?.addEventListener("abort", this.#onAbort);
    if (this.#signal?.aborted === true) {
      this.#onAbort();
    }
  }

  readonly #onAbort = () => this.#fail(this.#signal?.reason);

  /** Sends the body and waits for the answer's head. */
  async answer(
    key: string,
    body: Uint8Array | ObjectSource | undefined,
  ): Promise<{ readonly status: number; readonly headers: IncomingHttpHeaders }> {
    if (body === undefined || body instanceof Uint8Array) {
      this.#request.end(body);
    } else {
      // An answer may come before all is sent: a refusal.
      this.#send(key, body).catch((error: unknown) => this.#fail(error));
    }
    const { statusCode = 0, headers } = await this.#answered;
    return { status: statusCode, headers };
  }

  /** The answer's body. StorageError `unavailable` where it is larger than that. */
  async read(maxBytes: number): Promise<string> {
    const parts: Uint8Array[] = [];
    let size = 0;
    try {
      for await (const chunk of this.#response as AsyncIterable<Uint8Array>) {
        this.#inactivity.restart();
        size += chunk.length;
        if (size > maxBytes) {
          const message = `the answer has over ${maxBytes} bytes`;
          throw new StorageError("unavailable", "bad-answer", message);
        }
        parts.push(chunk);
      }
    } catch (error) {
      throw error instanceof StorageError ? error : this.#reasonOf(error);
    } finally {
      this.close();
    }
    return Buffer.concat(parts).toString();
  }

  /**
   * The body as it comes, `lengthBytes` of it; errors are StorageError `unavailable` with `doing` in
   * front. The deadline is over when the head is here: how long a body takes is its reader's business,
   * but bytes that do not come while he waits, and a body that nobody begins to read, end it.
   */
  body(lengthBytes: number, doing: string): AsyncIterable<Uint8Array> {
    this.#deadline.cancel();
    this.#inactivity.restart();
    return this.#chunks(lengthBytes, doing);
  }

  async *#chunks(lengthBytes: number, doing: string): AsyncGenerator<Uint8Array> {
    let left = lengthBytes;
    try {
      this.#inactivity.restart();
      if (this.#failure !== undefined) {
        throw this.#failure;
      }
      for await (const chunk of this.#response as AsyncIterable<Uint8Array>) {
        left -= chunk.length;
        this.#isReadersTurn = true;
        yield chunk;
        this.#isReadersTurn = false;
        this.#inactivity.restart();
      }
      if (left !== 0) {
        throw new TransientFailure("the body has another length", { mayHaveHappened: false });
      }
    } catch (error) {
      if (this.#signal?.aborted === true) {
        throw this.#signal.reason;
      }
      const cause = this.#reasonOf(error);
      const message = `${doing}: ${errorMessage(cause)}`;
      throw new StorageError("unavailable", "object-store-error", message, { cause });
    } finally {
      this.close();
    }
  }

  /** Ends it; a connection whose answer was read to its end stays for the next one. */
  close(): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#inactivity.cancel();
    this.#deadline.cancel();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    if (this.#response?.complete !== true || !this.#request.writableFinished) {
      this.#request.destroy();
    }
  }

  #fail(error: unknown): void {
    if (!this.#isOver && this.#failure === undefined) {
      this.#failure = error;
      this.#reject(error);
      // Without a body that somebody reads there is nobody to close it.
      this.#request.destroy();
      this.#response?.destroy();
      this.close();
    }
  }

  #lost(error: Error): TransientFailure {
    return new TransientFailure(error.message || error.name, {
      cause: error,
      mayHaveHappened: !NEVER_SENT.has(errnoCode(error) ?? ""),
      isStale: this.#request.reusedSocket && this.#response === undefined,
    });
  }

  #reasonOf(error: unknown): unknown {
    return (
      this.#failure ?? (error instanceof TransientFailure ? error : this.#lost(error as Error))
    );
  }

  /** The last chunk waits until the source has ended, so that no wrong length makes an object. */
  async #send(key: string, source: ObjectSource): Promise<void> {
    const md5 = createHash("md5");
    let last: Uint8Array | undefined;
    let size = 0;
    for await (const chunk of sourceChunks(key, source, this.#signal)) {
      if (this.#isOver || this.#response !== undefined) {
        return;
      }
      size += chunk.length;
      if (size > source.sizeBytes) {
        const message = `upload of ${key} has more than ${source.sizeBytes} bytes`;
        throw new StorageError("invalid", "bad-object-source", message);
      }
      if (last !== undefined && !this.#request.write(last)) {
        await this.#drained();
      }
      this.#inactivity.restart();
      md5.update(chunk);
      // A copy: a source may use its buffer again for the next chunk.
      last = Uint8Array.prototype.slice.call(chunk);
    }
    if (!this.#isOver) {
      this.sentMd5 = md5.digest("hex");
      this.#request.end(last);
    }
  }

  #drained(): Promise<void> {
    const request = this.#request;
    return new Promise((resolve) => {
      const done = () => {
        request.off("drain", done).off("close", done).off("response", done);
        resolve();
      };
      request.on("drain", done).on("close", done).on("response", done);
    });
  }
}

function timedOut(message: string): TransientFailure {
  return new TransientFailure(message, { mayHaveHappened: true, code: "object-store-timeout" });
}

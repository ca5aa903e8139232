// Calls of S3's interface: signed, tried again with a growing random wait, refusals made StorageErrors.

import type { IncomingHttpHeaders } from "node:http";
import { monotonicMs, nowMs, sleep } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { randomInt } from "../../base/random.ts";
import type { ObjectSource } from "../object-store.ts";
import type { S3Configuration } from "./configuration.ts";
import {
  isTransient,
  type Refusal,
  refusalError,
  refusalOf,
  TransientFailure,
  transientOf,
} from "./errors.ts";
import { Exchange, Transport } from "./exchange.ts";
import { encodeUri, signRequest } from "./signing.ts";

export interface S3Call {
  /** For messages: `put a/b`. */
  readonly doing: string;
  readonly method: string;
  /** Below the prefix; empty for the bucket. */
  readonly key: string;
  readonly query?: readonly (readonly [string, string])[];
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | ObjectSource | undefined;
  readonly signal: AbortSignal | undefined;
  /** Bytes that travel or are copied; above `LARGE_BYTES` it may take longer. */
  readonly sizeBytes?: number;
  /** Refusals that `handle` wants to see, beside what is a success. */
  readonly expects?: (refusal: Refusal) => boolean;
}

export interface S3Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly exchange: Exchange;
  /** Set where `expects` said so; the body is read then. */
  readonly refusal: Refusal | undefined;
  /** Whether an attempt before this one may have had its effect. */
  readonly mayHaveHappened: boolean;
}

export interface RetrySettings {
  readonly attempts: number;
  readonly leastBackoffMs: number;
  readonly mostBackoffMs: number;
  readonly smallDeadlineMs: number;
  readonly largeDeadlineMs: number;
  readonly smallInactivityMs: number;
  readonly largeInactivityMs: number;
}

export const RETRY_DEFAULTS: RetrySettings = {
  attempts: 9,
  leastBackoffMs: 100,
  mostBackoffMs: 20_000,
  smallDeadlineMs: 30_000,
  largeDeadlineMs: 120_000,
  // Two or three attempts that hang still fit below the deadline.
  smallInactivityMs: 10_000,
  largeInactivityMs: 40_000,
};

const LARGE_BYTES = 1024 * 1024;
/** 5 GiB in 120 s is more than most networks carry; no upload that goes on this fast is given up. */
const LEAST_BYTES_PER_MS = 4096;
const MAX_ERROR_BYTES = 64 * 1024;

export class S3Client {
  /** For messages. */
  readonly location: string;
  readonly configuration: S3Configuration;
  readonly #transport: Transport;
  readonly #retry: RetrySettings;
  readonly #host: string;
  readonly #hostName: string;
  readonly #basePath: string;

  constructor(configuration: S3Configuration, retry: Partial<RetrySettings> = {}) {
    const { bucket, prefix, endpoint, pathStyle } = configuration;
    this.configuration = configuration;
    this.location = `s3://${bucket}/${prefix}`;
    this.#transport = new Transport(endpoint);
    this.#retry = { ...RETRY_DEFAULTS, ...retry };
    this.#host = pathStyle ? endpoint.host : `${bucket}.${endpoint.host}`;
    this.#hostName = pathStyle ? endpoint.hostname : `${bucket}.${endpoint.hostname}`;
    const path = endpoint.pathname.replace(/\/+$/, "");
    this.#basePath = pathStyle ? `${path}/${encodeUri(bucket)}` : path;
  }

  close(): void {
    this.#transport.close();
  }

  /**
   * What `handle` makes of a good answer, or of a refusal that the call expects. `handle` reads the body
   * or closes the exchange; a TransientFailure that it throws is one more reason to try again.
   * StorageErrors with what was being done in front, or the reason of the aborted signal.
   */
  async call<T>(call: S3Call, handle: (answer: S3Answer) => Promise<T>): Promise<T> {
    const { signal, sizeBytes = 0 } = call;
    const isLarge = sizeBytes > LARGE_BYTES;
    const retry = this.#retry;
    const longestMs = isLarge
      ? Math.max(retry.largeDeadlineMs, sizeBytes / LEAST_BYTES_PER_MS)
      : retry.smallDeadlineMs;
    const limits = {
      deadlineMs: monotonicMs() + longestMs,
      inactivityMs: isLarge ? retry.largeInactivityMs : retry.smallInactivityMs,
      signal,
    };
    let mayHaveHappened = false;
    for (let attempt = 1; ; attempt++) {
      signal?.throwIfAborted();
      try {
        return await this.#attempt(call, limits, mayHaveHappened, handle);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof TransientFailure)) {
          throw this.inContext(call.doing, error);
        }
        mayHaveHappened ||= error.mayHaveHappened;
        const waitMs = error.isStale && attempt === 1 ? 0 : this.#backoffMs(attempt);
        const isLate = monotonicMs() + waitMs >= limits.deadlineMs;
        if (attempt >= retry.attempts || isLate) {
          const tries = attempt === 1 ? "" : ` (${attempt} attempts)`;
          const message = `${call.doing} in ${this.location}: ${error.message}${tries}`;
          throw new StorageError("unavailable", error.code, message, { cause: error });
        }
        await sleep(waitMs, signal);
      }
    }
  }

  inContext(doing: string, error: unknown): StorageError {
    const message = `${doing} in ${this.location}: ${errorMessage(error)}`;
    return error instanceof StorageError
      ? new StorageError(error.kind, error.code, message, { cause: error })
      : new StorageError("internal", "object-store-error", message, { cause: error });
  }

  /** For what the service says: it has seen the session token, and may tell what it has seen. */
  readonly redact = (text: string): string => {
    const { secretAccessKey, sessionToken } = this.configuration.credentials;
    return [secretAccessKey, sessionToken].reduce<string>(
      (rest, secret) => (secret === undefined ? rest : rest.replaceAll(secret, "(secret)")),
      text,
    );
  };

  /** As a header has it: where a copy comes from. */
  copySource(key: string): string {
    const { bucket, prefix } = this.configuration;
    return encodePath(`/${bucket}/${prefix}${key}`);
  }

  refused(refusal: Refusal): StorageError {
    const { bucket, endpoint, region } = this.configuration;
    const time = new Date(nowMs()).toISOString();
    return refusalError(refusal, { bucket, region, time, endpoint: endpoint.origin });
  }

  /** Full jitter: anything from 0 to a limit that doubles, so that many callers spread out. */
  #backoffMs(attempt: number): number {
    const { leastBackoffMs, mostBackoffMs } = this.#retry;
    return randomInt(Math.min(mostBackoffMs, leastBackoffMs * 2 ** (attempt - 1)) + 1);
  }

  async #attempt<T>(
    call: S3Call,
    limits: { deadlineMs: number; inactivityMs: number; signal: AbortSignal | undefined },
    mayHaveHappened: boolean,
    handle: (answer: S3Answer) => Promise<T>,
  ): Promise<T> {
    const { region, credentials, prefix } = this.configuration;
    const isObject = call.key !== "";
    const query = (call.query ?? []).map(([name, value]) => `${name}=${encodeUri(value)}`);
    const path = isObject
      ? `${this.#basePath}/${encodePath(prefix + call.key)}`
      : `${this.#basePath}/`;
    const unsigned = {
      method: call.method,
      path: query.length === 0 ? path : `${path}?${query.join("&")}`,
      headers: { ...call.headers, host: this.#host },
    };
    const signed = { ...signRequest(unsigned, region, credentials, nowMs()), method: call.method };
    const request = this.#transport.open(
      { ...signed, key: call.key, body: call.body },
      this.#hostName,
    );
    const exchange = new Exchange(request, limits);
    const { status, headers } = await exchange.answer(call.key, call.body);
    if (status >= 200 && status < 300) {
      return handle({ status, headers, exchange, refusal: undefined, mayHaveHappened });
    }
    const body = await readRefusal(exchange);
    const refusal = refusalOf(status, headers, body, this.redact);
    if (call.expects?.(refusal) === true) {
      return handle({ status, headers, exchange, refusal, mayHaveHappened });
    }
    throw isTransient(refusal) ? transientOf(refusal) : this.refused(refusal);
  }
}

/** What explains a refusal; empty where it is longer than any explanation: the status says enough. */
async function readRefusal(exchange: Exchange): Promise<string> {
  try {
    return await exchange.read(MAX_ERROR_BYTES);
  } catch (error) {
    if (error instanceof StorageError) {
      return "";
    }
    throw error;
  }
}

function encodePath(path: string): string {
  return path.split("/").map(encodeUri).join("/");
}

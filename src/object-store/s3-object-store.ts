// An object store on Amazon S3 or any service that speaks its protocol.

import { createHash } from "node:crypto";
import { abortAfter } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { randomBytes } from "../base/random.ts";
import {
  checkDelete,
  checkObjectKey,
  clampRange,
  type GetOptions,
  type ListOptions,
  type ListPage,
  MAX_PAGE,
  type ObjectBody,
  type ObjectInfo,
  type ObjectSource,
  type ObjectStore,
  objectExists,
  objectNotFound,
  type PutOptions,
  type StoreCallOptions,
} from "./object-store.ts";
import { contentOf, infoOfHeaders, isMd5 } from "./s3/answers.ts";
import { type RetrySettings, type S3Answer, S3Client } from "./s3/client.ts";
import type { S3Configuration } from "./s3/configuration.ts";
import { deleteObjects } from "./s3/delete-objects.ts";
import {
  isTransient,
  type Refusal,
  refusalInside,
  TransientFailure,
  transientOf,
} from "./s3/errors.ts";
import { listObjects } from "./s3/list-objects.ts";
import { cannot, orAborted, type RunningProbe, type S3Probe } from "./s3/probe.ts";
import { EMPTY_SHA256, UNSIGNED_PAYLOAD } from "./s3/signing.ts";
import { parseXml } from "./s3/xml.ts";

/*
 * Every call is tried again where that may help (client.ts). A conditional put whose reply was lost then
 * finds an object: its own one, if that carries the number that the put has drawn (`PUT_ID`, metadata of
 * the object), or, in a store that keeps no metadata, the MD5 and size of what was sent.
 *
 * A store that ignores `If-None-Match: *` would replace what must stay, so no conditional put is sent
 * before one key was put twice to see (`probe`).
 */

/** Of the object whose put drew it. */
const PUT_ID = "x-amz-meta-strata-put";
const COPY_BYTES = 64 * 1024 * 1024;
const MAX_COPY_ANSWER = 64 * 1024;
/** Above this, one put is not enough (multipart uploads are not made). */
const MAX_PUT_BYTES = 5 * 1024 ** 3;

/** What is left of a probe is a few bytes; a store that is away has none. */
const REMOVAL_MS = 5000;

export class S3ObjectStore implements ObjectStore {
  readonly location: string;
  readonly #client: S3Client;
  /** The first answer lasts; a failure is tried again. */
  #probe: RunningProbe | undefined;
  /** There is no DeleteObjects here. */
  #deletesOneByOne = false;

  constructor(configuration: S3Configuration, retry: Partial<RetrySettings> = {}) {
    this.#client = new S3Client(configuration, retry);
    this.location = this.#client.location;
  }

  /** Ends idle connections. */
  close(): void {
    this.#client.close();
  }

  /**
   * Finds out what the store honours, by an object that is removed again; once, unless it fails.
   * StorageError `unsupported` (`no-conditional-put`) for a store that ignores `If-None-Match`, unless the
   * configuration takes that; what every call throws (bad credentials, no bucket, another region).
   */
  async probe(options: StoreCallOptions = {}): Promise<S3Probe> {
    options.signal?.throwIfAborted();
    const probe = this.#probe ?? this.#beginProbe();
    probe.waiting++;
    try {
      return await orAborted(probe.result, options.signal);
    } finally {
      probe.waiting--;
      if (probe.waiting === 0 && options.signal?.aborted === true) {
        probe.stop.abort(options.signal.reason);
      }
    }
  }

  async put(key: string, body: Uint8Array | ObjectSource, options: PutOptions = {}): Promise<void> {
    checkObjectKey(key);
    const sizeBytes = body instanceof Uint8Array ? body.length : body.sizeBytes;
    if (sizeBytes > MAX_PUT_BYTES) {
      const message = `put ${key}: ${sizeBytes} bytes are more than one upload may have`;
      throw new StorageError("invalid", "object-too-large", message);
    }
    if (options.ifAbsent === true) {
      const { conditionalPut } = await this.probe(options);
      if (conditionalPut === "ignored" && (await this.#exists(key, options))) {
        throw objectExists(key, this.location);
      }
    }
    await this.#put(key, body, options);
  }

  async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    checkObjectKey(key);
    const { range, signal } = options;
    // Refuses what is no range at all, whatever the object's size.
    clampRange(range, Number.MAX_SAFE_INTEGER, key);
    const doing = `get ${key}`;
    return this.#client.call(
      {
        doing,
        method: "GET",
        key,
        signal,
        headers: {
          "x-amz-content-sha256": EMPTY_SHA256,
          ...(range === undefined ? {} : { range: `bytes=${range.start}-${range.end - 1}` }),
        },
        sizeBytes: range === undefined ? COPY_BYTES : range.end - range.start,
        expects: ({ status, code }) => isMissingObject(status, code) || status === 416,
      },
      async ({ headers, status, exchange, refusal }) => {
        if (refusal?.status === 416) {
          const message = `range [${range?.start}, ${range?.end}) is beyond ${key} in ${this.location}`;
          throw new StorageError("invalid", "bad-range", message);
        }
        if (refusal !== undefined) {
          throw objectNotFound(key, this.location);
        }
        try {
          const { info, start, end } = contentOf(key, status, headers, range);
          const lengthBytes = end - start;
          const where = `${doing} in ${this.location}`;
          return { info, lengthBytes, chunks: exchange.body(lengthBytes, where) };
        } catch (error) {
          exchange.close();
          throw error;
        }
      },
    );
  }

  async head(key: string, options: StoreCallOptions = {}): Promise<ObjectInfo> {
    checkObjectKey(key);
    return (await this.#head(key, options)).info;
  }

  async list(options: ListOptions): Promise<ListPage> {
    const limit = Math.min(options.limit ?? MAX_PAGE, MAX_PAGE);
    return listObjects(this.#client, { ...options, limit });
  }

  async delete(keys: readonly string[], options: StoreCallOptions = {}): Promise<void> {
    checkDelete(keys);
    options.signal?.throwIfAborted();
    if (keys.length > 0) {
      this.#deletesOneByOne = await deleteObjects(
        this.#client,
        keys,
        this.#deletesOneByOne,
        options.signal,
      );
    }
  }

  async copy(from: string, to: string, options: StoreCallOptions = {}): Promise<void> {
    checkObjectKey(from);
    checkObjectKey(to);
    await this.#client.call(
      {
        doing: `copy ${from} to ${to}`,
        method: "PUT",
        key: to,
        signal: options.signal,
        headers: {
          "x-amz-content-sha256": EMPTY_SHA256,
          "x-amz-copy-source": this.#client.copySource(from),
          "content-length": "0",
        },
        // Its size is not known, and the store may take its time.
        sizeBytes: COPY_BYTES,
        expects: ({ status, code }) => isMissingObject(status, code),
      },
      async ({ exchange, refusal }) => {
        if (refusal !== undefined) {
          throw objectNotFound(from, this.location);
        }
        // The status came before the work was done.
        const root = parseXml(await exchange.read(MAX_COPY_ANSWER));
        if (root.name === "CopyObjectResult") {
          return;
        }
        const inside = refusalInside(root, this.#client.redact);
        if (isMissingObject(404, inside.code)) {
          throw objectNotFound(from, this.location);
        }
        throw isTransient(inside) ? transientOf(inside) : this.#client.refused(inside);
      },
    );
  }

  /** One put; whether and how a condition holds is the caller's business. */
  async #put(key: string, body: Uint8Array | ObjectSource, options: PutOptions): Promise<void> {
    const isInMemory = body instanceof Uint8Array;
    const sizeBytes = isInMemory ? body.length : body.sizeBytes;
    const md5 = isInMemory ? createHash("md5").update(body).digest() : undefined;
    const putId = options.ifAbsent === true ? randomBytes(16).toString("hex") : undefined;
    const isPlain = this.#client.configuration.endpoint.protocol === "http:";
    /** Of a source: what the last attempt that sent all of it has sent. */
    let sentMd5 = md5?.toString("hex");
    await this.#client.call(
      {
        doing: `put ${key}`,
        method: "PUT",
        key,
        body,
        sizeBytes,
        signal: options.signal,
        headers: {
          "content-length": String(sizeBytes),
          // TLS guards what is on its way; without it, the signature covers the body where that is at hand.
          "x-amz-content-sha256":
            isInMemory && isPlain
              ? createHash("sha256").update(body).digest("hex")
              : UNSIGNED_PAYLOAD,
          ...(md5 === undefined ? {} : { "content-md5": md5.toString("base64") }),
          ...(putId === undefined ? {} : { "if-none-match": "*", [PUT_ID]: putId }),
        },
        expects: ({ status }) => status === 412,
      },
      async (answer) => {
        sentMd5 = answer.exchange.sentMd5 ?? sentMd5;
        if (answer.refusal === undefined) {
          await answer.exchange.read(MAX_COPY_ANSWER);
          await this.#checkUpload(key, answer, sentMd5, options);
          return;
        }
        const sent = { putId, sentMd5, sizeBytes };
        if (answer.mayHaveHappened && (await this.#isOwn(key, sent, options))) {
          return;
        }
        throw objectExists(key, this.location);
      },
    );
  }

  /** An upload that no Content-MD5 went along with is compared afterwards, where the ETag is an MD5. */
  async #checkUpload(
    key: string,
    { headers }: S3Answer,
    sentMd5: string | undefined,
    options: PutOptions,
  ): Promise<void> {
    const { etag } = headers;
    if (sentMd5 === undefined || !isMd5(etag, headers) || etag?.includes(sentMd5) === true) {
      return;
    }
    if (options.ifAbsent === true) {
      // It is ours, and in the way of the next attempt.
      await this.delete([key], { signal: options.signal });
    }
    throw new TransientFailure("the store has other bytes than were sent", {
      mayHaveHappened: false,
      code: "upload-damaged",
    });
  }

  /** Whether the object that refused a repeated put came from that put's first attempt. */
  async #isOwn(
    key: string,
    sent: { putId: string | undefined; sentMd5: string | undefined; sizeBytes: number },
    options: StoreCallOptions,
  ): Promise<boolean> {
    const { info, headers } = await this.#head(key, options);
    const putId = headers[PUT_ID];
    if (putId !== undefined) {
      return putId === sent.putId;
    }
    return (
      info.sizeBytes === sent.sizeBytes && isMd5(info.etag, headers) && info.etag === sent.sentMd5
    );
  }

  async #exists(key: string, options: StoreCallOptions): Promise<boolean> {
    try {
      await this.#head(key, options);
      return true;
    } catch (error) {
      if (error instanceof StorageError && error.kind === "not-found") {
        return false;
      }
      throw error;
    }
  }

  /** A refused HEAD has no body that says why (no such object, or no such bucket): a GET has. */
  async #head(key: string, { signal }: StoreCallOptions) {
    const call = { key, signal, headers: { "x-amz-content-sha256": EMPTY_SHA256 } };
    const found = await this.#client.call(
      {
        ...call,
        doing: `head ${key}`,
        method: "HEAD",
        expects: (refusal) => !isTransient(refusal),
      },
      async ({ exchange, headers, refusal }) => {
        if (refusal !== undefined) {
          return undefined;
        }
        await exchange.read(0);
        return { info: infoOfHeaders(key, headers, headers["content-length"]), headers };
      },
    );
    if (found !== undefined) {
      return found;
    }
    return this.#client.call(
      {
        ...call,
        doing: `head ${key}`,
        method: "GET",
        expects: ({ status, code }) => isMissingObject(status, code),
      },
      async ({ exchange, headers, refusal }) => {
        exchange.close();
        if (refusal !== undefined) {
          throw objectNotFound(key, this.location);
        }
        return { info: infoOfHeaders(key, headers, headers["content-length"]), headers };
      },
    );
  }

  #beginProbe(): RunningProbe {
    const stop = new AbortController();
    const probe = { result: this.#tryConditions(stop.signal), stop, waiting: 0 };
    this.#probe = probe;
    probe.result.catch(() => {
      this.#probe = undefined;
    });
    // Whoever comes from now on shall not get the reason why another did not want to wait.
    stop.signal.addEventListener("abort", () => {
      this.#probe = undefined;
    });
    return probe;
  }

  async #tryConditions(signal: AbortSignal): Promise<S3Probe> {
    const key = `strata-probe-${randomBytes(8).toString("hex")}`;
    const { conditionalWrites } = this.#client.configuration;
    let conditionalPut: S3Probe["conditionalPut"] = "ignored";
    try {
      await this.#put(key, Buffer.from("first"), { ifAbsent: true, signal });
      await this.#put(key, Buffer.from("second"), { ifAbsent: true, signal });
    } catch (error) {
      if (error instanceof StorageError && error.code === "object-store-cannot") {
        throw new StorageError("unsupported", "no-conditional-put", cannot("refuses"), {
          cause: error,
        });
      }
      if (!(error instanceof StorageError && error.code === "object-exists")) {
        throw error;
      }
      conditionalPut = "honoured";
    } finally {
      // What it says of the probe counts, not whether this works.
      await this.delete([key], { signal: abortAfter(REMOVAL_MS) }).catch(() => {});
    }
    if (conditionalPut === "ignored" && conditionalWrites === "required") {
      throw new StorageError("unsupported", "no-conditional-put", cannot("ignores"));
    }
    return { conditionalPut };
  }
}

/** As a body-less 404 too: there are proxies. Not where the bucket is missing. */
function isMissingObject(status: Refusal["status"], code: string): boolean {
  return status === 404 && (code === "NoSuchKey" || code === "");
}

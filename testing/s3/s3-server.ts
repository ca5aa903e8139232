// A small S3 server for tests: one bucket in memory, strongly consistent, with faults on demand.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { childrenNamed, childText, escapeXml, parseXml } from "../../src/object-store/s3/xml.ts";
import { signatureProblem } from "./signature-check.ts";

/** What happens to the next request that fits, instead of or around what it asks for. */
export type FaultKind =
  /** Refused before anything happens. */
  | { readonly type: "refuse"; readonly status: number; readonly code: string }
  /** Whatever was asked for, this is said. */
  | {
      readonly type: "say";
      readonly status: number;
      readonly body: string;
      readonly headers?: Record<string, string>;
    }
  | { readonly type: "reset-before" }
  /** It happens, and `meanwhile`; the connection is cut instead of an answer. */
  | { readonly type: "lost-reply"; readonly meanwhile?: () => void }
  /** It happens; the answer is an error. */
  | { readonly type: "refuse-after"; readonly status: number; readonly code: string }
  /** Half of the body, then the connection is cut. */
  | { readonly type: "half-body" }
  /** Half of the body, then nothing. */
  | { readonly type: "stuck-body" }
  /** Never an answer; the request is not even read. */
  | { readonly type: "hang" }
  /** One byte of what was sent arrives as another. */
  | { readonly type: "damage" };

export type Fault = FaultKind & { readonly method?: string; readonly times?: number };

export interface S3ServerOptions {
  readonly region?: string;
  readonly ignoresConditions?: boolean;
  readonly refusesConditions?: boolean;
  readonly dropsMetadata?: boolean;
  readonly hasNoDeleteObjects?: boolean;
  /** Keys in one answer, whatever is asked for. */
  readonly pageLimit?: number;
  readonly clockOffsetMs?: number;
  readonly sessionToken?: string;
  /** Keys that may not be deleted, and S3's name of why. */
  readonly undeletable?: Readonly<Record<string, string>>;
}

interface StoredObject {
  readonly bytes: Buffer;
  readonly etag: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly modified: Date;
}

export const ACCESS_KEY_ID = "AKIDTEST";
export const SECRET_ACCESS_KEY = "secret/test+key";
export const BUCKET = "strata-test";

class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly extra: string;

  constructor(status: number, code: string, extra = "") {
    super(code);
    this.status = status;
    this.code = code;
    this.extra = extra;
  }
}

interface Reply {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body?: Buffer | string;
}

export class S3Server {
  readonly objects = new Map<string, StoredObject>();
  /** Of every request: `PUT a/b`, or `GET ?list-type=2...` of the bucket. */
  readonly requests: string[] = [];
  options: S3ServerOptions;
  /** Of each request, as `requests` has it: what happens to it. */
  onRequest: ((line: string) => FaultKind | undefined) | undefined;
  #faults: (FaultKind & { method?: string; left: number })[] = [];
  readonly #server: Server;

  constructor(options: S3ServerOptions = {}) {
    this.options = options;
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        response.destroy(error as Error);
      });
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  location(prefix = "", query = ""): string {
    const region = this.options.region ?? "us-east-1";
    return `s3://${BUCKET}/${prefix}?endpoint=${this.endpoint}&region=${region}${query}`;
  }

  get env(): Record<string, string> {
    const { sessionToken } = this.options;
    return {
      AWS_ACCESS_KEY_ID: ACCESS_KEY_ID,
      AWS_SECRET_ACCESS_KEY: SECRET_ACCESS_KEY,
      ...(sessionToken === undefined ? {} : { AWS_SESSION_TOKEN: sessionToken }),
    };
  }

  inject(...faults: Fault[]): void {
    this.#faults.push(...faults.map(({ times = 1, ...fault }) => ({ ...fault, left: times })));
  }

  /** That wait for a request. */
  get pendingFaults(): number {
    return this.#faults.reduce((sum, { left }) => sum + left, 0);
  }

  /** From here on nothing fails. */
  clearFaults(): void {
    this.#faults = [];
  }

  #faultFor(method: string): FaultKind | undefined {
    const fault = this.#faults.find(
      (one) => one.left > 0 && (one.method === undefined || one.method === method),
    );
    if (fault !== undefined) {
      fault.left--;
    }
    return fault;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const method = request.method!;
    const url = new URL(request.url!, "http://s3");
    const [bucket, ...rest] = url.pathname.slice(1).split("/").map(decodeURIComponent);
    const key = rest.join("/");
    const line = `${method} ${key}${url.search}`;
    this.requests.push(line);
    const fault = this.onRequest?.(line) ?? this.#faultFor(method);
    if (fault?.type === "hang") {
      return;
    }
    if (fault?.type === "reset-before") {
      request.socket.resetAndDestroy();
      return;
    }
    let body = await read(request);
    if (fault?.type === "damage" && body.length > 0) {
      body = Buffer.from(body);
      body[body.length >> 1]! ^= 1;
    }
    let reply: Reply;
    try {
      if (fault?.type === "refuse") {
        throw new Refused(fault.status, fault.code);
      }
      reply = fault?.type === "say" ? fault : this.#answer(request, url, bucket!, key, body);
      if (fault?.type === "refuse-after") {
        throw new Refused(fault.status, fault.code);
      }
    } catch (error) {
      reply = errorReply(error);
    }
    if (fault?.type === "lost-reply") {
      fault.meanwhile?.();
      request.socket.resetAndDestroy();
      return;
    }
    this.#send(method, response, reply, fault);
  }

  #send(
    method: string,
    response: ServerResponse,
    reply: Reply,
    fault: FaultKind | undefined,
  ): void {
    const body = Buffer.from(reply.body ?? "");
    response.writeHead(reply.status, {
      ...(reply.status === 204 ? {} : { "content-length": body.length }),
      ...reply.headers,
    });
    if (method === "HEAD") {
      response.end();
    } else if (fault?.type === "half-body" || fault?.type === "stuck-body") {
      response.write(body.subarray(0, body.length >> 1), () => {
        if (fault.type === "half-body") {
          response.destroy();
        }
      });
    } else {
      response.end(body);
    }
  }

  #answer(request: IncomingMessage, url: URL, bucket: string, key: string, body: Buffer): Reply {
    this.#check(request, body);
    if (bucket !== BUCKET) {
      throw new Refused(404, "NoSuchBucket");
    }
    const { headers, method } = request;
    if (key === "") {
      return method === "POST" && url.searchParams.has("delete")
        ? this.#deleteMany(request.headers["content-md5"]?.toString(), body)
        : this.#list(url.searchParams);
    }
    switch (method) {
      case "PUT":
        return headers["x-amz-copy-source"] === undefined
          ? this.#put(request, key, body)
          : this.#copy(String(headers["x-amz-copy-source"]), key);
      case "GET":
      case "HEAD":
        return this.#get(headers.range, this.#find(key));
      case "DELETE":
        this.objects.delete(key);
        return { status: 204 };
      default:
        throw new Refused(405, "MethodNotAllowed");
    }
  }

  #check({ method, url, headers }: IncomingMessage, body: Buffer): void {
    const { region = "us-east-1", clockOffsetMs = 0, sessionToken } = this.options;
    const problem = signatureProblem(
      { method: method!, url: url!, headers },
      {
        accessKeyId: ACCESS_KEY_ID,
        secretAccessKey: SECRET_ACCESS_KEY,
        sessionToken,
        region,
        nowMs: Date.now() + clockOffsetMs,
      },
    );
    if (problem !== undefined) {
      const status = problem.code === "AuthorizationHeaderMalformed" ? 400 : 403;
      throw new Refused(status, problem.code, problem.extra);
    }
    if (headers["transfer-encoding"] !== undefined) {
      throw new Refused(411, "MissingContentLength");
    }
    const sha256 = headers["x-amz-content-sha256"];
    if (sha256 !== "UNSIGNED-PAYLOAD" && sha256 !== digest("sha256", body).toString("hex")) {
      throw new Refused(400, "XAmzContentSHA256Mismatch");
    }
    const md5 = headers["content-md5"];
    if (md5 !== undefined && md5 !== digest("md5", body).toString("base64")) {
      throw new Refused(400, "BadDigest");
    }
  }

  #put({ headers }: IncomingMessage, key: string, body: Buffer): Reply {
    if (headers["if-none-match"] === "*") {
      if (this.options.refusesConditions === true) {
        throw new Refused(501, "NotImplemented");
      }
      if (this.options.ignoresConditions !== true && this.objects.has(key)) {
        throw new Refused(412, "PreconditionFailed");
      }
    }
    const metadata: Record<string, string> = {};
    for (const [name, value] of Object.entries(headers)) {
      if (name.startsWith("x-amz-meta-") && this.options.dropsMetadata !== true) {
        metadata[name] = String(value);
      }
    }
    const etag = `"${digest("md5", body).toString("hex")}"`;
    this.objects.set(key, { bytes: body, etag, metadata, modified: new Date() });
    return { status: 200, headers: { etag } };
  }

  #copy(source: string, key: string): Reply {
    const from = decodeURIComponent(source).replace(`/${BUCKET}/`, "");
    const object = this.#find(from);
    this.objects.set(key, object);
    const body = `\n <?xml version="1.0"?><CopyObjectResult><ETag>${object.etag}</ETag></CopyObjectResult>`;
    return { status: 200, body };
  }

  #get(range: string | undefined, { bytes, etag, metadata, modified }: StoredObject): Reply {
    const headers = { etag, "last-modified": modified.toUTCString(), ...metadata };
    if (range === undefined) {
      return {
        status: 200,
        headers: { ...headers, "content-length": String(bytes.length) },
        body: bytes,
      };
    }
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range)!;
    const start = Number(first);
    const end = Math.min(Number(last) + 1, bytes.length);
    if (start >= bytes.length) {
      throw new Refused(416, "InvalidRange");
    }
    return {
      status: 206,
      headers: { ...headers, "content-range": `bytes ${start}-${end - 1}/${bytes.length}` },
      body: bytes.subarray(start, end),
    };
  }

  #list(query: URLSearchParams): Reply {
    const prefix = query.get("prefix") ?? "";
    const asked = Number(query.get("max-keys") ?? 1000);
    const limit = Math.min(asked, this.options.pageLimit ?? 1000, 1000);
    const token = query.get("continuation-token");
    const after =
      token === null ? (query.get("start-after") ?? "") : Buffer.from(token, "base64").toString();
    const keys = [...this.objects.keys()]
      .sort()
      .filter((key) => key.startsWith(prefix) && key > after);
    const page = keys.slice(0, limit);
    const isTruncated = keys.length > limit;
    const next = isTruncated
      ? `<NextContinuationToken>${Buffer.from(page.at(-1)!).toString("base64")}</NextContinuationToken>`
      : "";
    const contents = page.map((key) => {
      const { bytes, etag, modified } = this.objects.get(key)!;
      return `<Contents><Key>${escapeXml(key)}</Key><LastModified>${modified.toISOString()}</LastModified><ETag>${etag.replaceAll('"', "&quot;")}</ETag><Size>${bytes.length}</Size></Contents>`;
    });
    const body = `<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>${isTruncated}</IsTruncated>${next}${contents.join("")}</ListBucketResult>`;
    return { status: 200, body };
  }

  #deleteMany(md5: string | undefined, body: Buffer): Reply {
    if (this.options.hasNoDeleteObjects === true) {
      throw new Refused(501, "NotImplemented");
    }
    if (md5 === undefined) {
      throw new Refused(400, "InvalidRequest");
    }
    const errors: string[] = [];
    for (const element of childrenNamed(parseXml(body.toString()), "Object")) {
      const key = childText(element, "Key")!;
      const code = this.options.undeletable?.[key];
      if (code === undefined) {
        this.objects.delete(key);
      } else {
        errors.push(
          `<Error><Key>${escapeXml(key)}</Key><Code>${code}</Code><Message>no</Message></Error>`,
        );
      }
    }
    return { status: 200, body: `<DeleteResult>${errors.join("")}</DeleteResult>` };
  }

  #find(key: string): StoredObject {
    const object = this.objects.get(key);
    if (object === undefined) {
      throw new Refused(404, "NoSuchKey");
    }
    return object;
  }
}

function errorReply(error: unknown): Reply {
  if (!(error instanceof Refused)) {
    throw error;
  }
  const { status, code, extra } = error;
  return {
    status,
    headers: { "content-type": "application/xml" },
    body: `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>said by the test's server</Message>${extra}</Error>`,
  };
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function digest(algorithm: string, bytes: Buffer): Buffer {
  return createHash(algorithm).update(bytes).digest();
}

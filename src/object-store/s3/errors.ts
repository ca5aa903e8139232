// What an S3 service's refusal means: try again, or one StorageError that says what to change.

import { StorageError } from "../../base/errors.ts";
import { childText, parseXml, type XmlElement } from "./xml.ts";

/** What is known about a refusal: its status, and what the body and headers say. */
export interface Refusal {
  readonly status: number;
  /** S3's name of it, or empty. */
  readonly code: string;
  readonly message: string;
  /** The region in which the bucket is, where the service says so. */
  readonly region: string | undefined;
  /** By its clock, as it writes it. */
  readonly serverTime: string | undefined;
}

/** Failed in a way that may be over in a moment. */
export class TransientFailure extends Error {
  /** Whether the request may have had its effect all the same. */
  readonly mayHaveHappened: boolean;
  /** The connection was an old one that the other side had closed: nothing is wrong, no need to wait. */
  readonly isStale: boolean;
  readonly code: string;

  constructor(
    message: string,
    options: { cause?: unknown; mayHaveHappened: boolean; isStale?: boolean; code?: string },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.mayHaveHappened = options.mayHaveHappened;
    this.isStale = options.isStale ?? false;
    this.code = options.code ?? "object-store-error";
  }
}

const TRANSIENT_STATUS = new Set([408, 429, 500, 502, 503, 504]);
/** Damaged on its way: the digests that were sent along did not fit. */
const DAMAGED = new Set(["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"]);
const TRANSIENT_CODE = new Set([
  "RequestTimeout",
  "ConditionalRequestConflict",
  "OperationAborted",
  "InternalError",
  "SlowDown",
  "ServiceUnavailable",
  "Throttling",
  ...DAMAGED,
]);
const BAD_CREDENTIALS = new Set([
  "InvalidAccessKeyId",
  "SignatureDoesNotMatch",
  "ExpiredToken",
  "InvalidToken",
  "TokenRefreshRequired",
]);
const MAX_TEXT = 300;

export const isTransient = ({ status, code }: Pick<Refusal, "status" | "code">): boolean =>
  TRANSIENT_STATUS.has(status) || TRANSIENT_CODE.has(code);

/** `redact` takes secrets out of what the service says. */
export function refusalOf(
  status: number,
  headers: Readonly<Record<string, string | string[] | undefined>>,
  body: string,
  redact: (text: string) => string,
): Refusal {
  let root: XmlElement | undefined;
  try {
    root = parseXml(body);
  } catch {
    // A proxy's page, or nothing: the status says enough.
  }
  const field = (name: string) => {
    const text = root?.name === "Error" ? childText(root, name) : undefined;
    return text === undefined ? undefined : printable(redact(text));
  };
  const header = (name: string) => {
    const value = headers[name];
    return typeof value === "string" ? printable(redact(value)) : undefined;
  };
  return {
    status,
    code: field("Code") ?? "",
    message: field("Message") ?? "",
    region: header("x-amz-bucket-region") ?? field("Region"),
    serverTime: field("ServerTime") ?? header("date"),
  };
}

/** An error inside of an answer that began well: a copy's, or one key's of many. */
export function refusalInside(element: XmlElement, redact: (text: string) => string): Refusal {
  const field = (name: string) => printable(redact(childText(element, name) ?? ""));
  return {
    status: 200,
    code: field("Code"),
    message: field("Message"),
    region: undefined,
    serverTime: undefined,
  };
}

export interface RefusedRequest {
  readonly bucket: string;
  readonly endpoint: string;
  readonly region: string;
  /** Our clock's, when the request was signed: ISO 8601. */
  readonly time: string;
}

/** For a refusal that is neither transient nor about an object. */
export function refusalError(refusal: Refusal, request: RefusedRequest): StorageError {
  const { status, code, region, serverTime } = refusal;
  const { bucket, endpoint } = request;
  const said = describe(refusal);
  if (code === "RequestTimeTooSkewed") {
    const message =
      `the clocks differ too much: it is ${request.time} here and ` +
      `${serverTime ?? "another time"} at ${endpoint}; set this machine's clock`;
    return new StorageError("unavailable", "clock-skew", message);
  }
  if (code === "NoSuchBucket") {
    const message = `there is no bucket ${bucket} at ${endpoint}: create it, or correct its name`;
    return new StorageError("invalid", "no-such-bucket", message);
  }
  const isElsewhere = region !== undefined && region !== request.region;
  const isRegion = ["AuthorizationHeaderMalformed", "IllegalLocationConstraintException"];
  if ((status >= 300 && status < 400) || isRegion.includes(code)) {
    const where = isElsewhere ? `is in region ${region}` : "is served elsewhere";
    const remedy = isElsewhere ? `set region=${region}` : "set its region and endpoint";
    const message = `bucket ${bucket} ${where}, not in ${request.region} at ${endpoint}: ${remedy} (${said})`;
    return new StorageError("invalid", "wrong-region", message);
  }
  if (BAD_CREDENTIALS.has(code)) {
    const message = `${endpoint} does not take these credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile (${said})`;
    return new StorageError("forbidden", "bad-credentials", message);
  }
  if (status === 401 || status === 403) {
    const message = `these credentials may not do that in bucket ${bucket} at ${endpoint}: allow it there (${said})`;
    return new StorageError("forbidden", "access-denied", message);
  }
  if (isNotImplemented(refusal)) {
    const message = `${endpoint} cannot do that (${said})`;
    return new StorageError("unsupported", "object-store-cannot", message);
  }
  const kind = status >= 500 ? "unavailable" : "invalid";
  return new StorageError(kind, "object-store-refused", `${endpoint} refuses: ${said}`);
}

export const isNotImplemented = ({ status, code }: Refusal): boolean =>
  status === 501 || status === 405 || code === "NotImplemented";

/** `503 SlowDown: reduce your rate` */
export function describe({ status, code, message }: Refusal): string {
  const words = [status === 200 ? "" : String(status), code].filter((word) => word !== "");
  return `${words.join(" ")}${message === "" ? "" : `: ${message}`}`;
}

export function transientOf(refusal: Refusal): TransientFailure {
  return new TransientFailure(describe(refusal), {
    // A gateway may have given up on a request that goes on; the others did nothing, but who knows.
    mayHaveHappened: refusal.status >= 500 || refusal.status === 408,
    code: DAMAGED.has(refusal.code) ? "upload-damaged" : "object-store-error",
  });
}

/** One line of what somebody else wrote, not too long for a message. */
function printable(text: string): string {
  return text
    .slice(0, MAX_TEXT)
    .replaceAll(/[^\x20-\x7e]+/g, " ")
    .trim();
}

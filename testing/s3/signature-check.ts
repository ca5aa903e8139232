// Checks AWS Signature Version 4 from its description, by code that shares nothing with the client's.

import { createHash, createHmac } from "node:crypto";
import type { IncomingMessage } from "node:http";

/** S3's name of what is wrong, and what to say beside it. */
export interface SignatureProblem {
  readonly code: string;
  readonly extra?: string;
}

export interface SignatureRules {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
  readonly region: string;
  readonly nowMs: number;
}

const MAX_SKEW_MS = 15 * 60_000;
const MUST_BE_SIGNED = ["host", "x-amz-content-sha256", "x-amz-date"];

/** Undefined where the signature is right. The body's hash is taken from its header. */
export function signatureProblem(
  request: Pick<IncomingMessage, "method" | "url" | "headers">,
  rules: SignatureRules,
): SignatureProblem | undefined {
  const { headers } = request;
  const header = (name: string) => String(headers[name] ?? "");
  const match =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
      header("authorization"),
    );
  if (match === null) {
    return { code: "AccessDenied" };
  }
  const [, accessKeyId, day, region, signedHeaders, signature] = match as unknown as string[];
  if (accessKeyId !== rules.accessKeyId) {
    return { code: "InvalidAccessKeyId" };
  }
  if (header("x-amz-security-token") !== (rules.sessionToken ?? "")) {
    return { code: "InvalidToken" };
  }
  if (region !== rules.region) {
    return { code: "AuthorizationHeaderMalformed", extra: `<Region>${rules.region}</Region>` };
  }
  const date = header("x-amz-date");
  const sentMs = Date.parse(
    date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z"),
  );
  if (!(Math.abs(sentMs - rules.nowMs) < MAX_SKEW_MS) || !date.startsWith(day!)) {
    const serverTime = new Date(rules.nowMs).toISOString();
    return { code: "RequestTimeTooSkewed", extra: `<ServerTime>${serverTime}</ServerTime>` };
  }
  const names = signedHeaders!.split(";");
  if (!MUST_BE_SIGNED.every((name) => names.includes(name))) {
    return { code: "AccessDenied" };
  }
  const [path = "", query = ""] = request.url!.split("?");
  const canonical = [
    request.method,
    path,
    query.split("&").sort().join("&"),
    ...names.map((name) => `${name}:${header(name).trim()}`),
    "",
    signedHeaders,
    header("x-amz-content-sha256"),
  ].join("\n");
  const scope = `${day}/${region}/s3/aws4_request`;
  const digest = createHash("sha256").update(canonical).digest("hex");
  const key = [day!, region!, "s3", "aws4_request"].reduce<Buffer>(
    (parent, part) => createHmac("sha256", parent).update(part).digest(),
    Buffer.from(`AWS4${rules.secretAccessKey}`),
  );
  const expected = createHmac("sha256", key)
    .update(`AWS4-HMAC-SHA256\n${date}\n${scope}\n${digest}`)
    .digest("hex");
  return expected === signature ? undefined : { code: "SignatureDoesNotMatch" };
}

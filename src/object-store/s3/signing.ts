// Signs requests with AWS Signature Version 4, by the library aws4, at src/base's time.

import aws4 from "aws4";

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface UnsignedRequest {
  readonly method: string;
  /** Encoded, with the query. */
  readonly path: string;
  /** Lower-case names; `host` and `x-amz-content-sha256` are among them. */
  readonly headers: Readonly<Record<string, string>>;
}

export const UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD";
export const EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/**
 * The request as it is to be sent: with the time, the session token and the signature. aws4
 * keeps the key of a day and region, which is the same for all requests of that day.
 */
export function signRequest(
  request: UnsignedRequest,
  region: string,
  credentials: S3Credentials,
  timeMs: number,
): { readonly path: string; readonly headers: Record<string, string> } {
  const { accessKeyId, secretAccessKey, sessionToken } = credentials;
  const unsigned = {
    service: "s3",
    region,
    method: request.method,
    path: request.path,
    headers: { ...request.headers, "x-amz-date": amzDate(timeMs) },
    // Left out otherwise, as by AWS's own tools; @types/aws4 does not know of it.
    extraHeadersToInclude: { range: true },
  };
  const signed = aws4.sign(unsigned, {
    accessKeyId,
    secretAccessKey,
    ...(sessionToken === undefined ? {} : { sessionToken }),
  });
  return { path: signed.path!, headers: signed.headers as Record<string, string> };
}

/** `20130524T000000Z` */
function amzDate(timeMs: number): string {
  return new Date(timeMs).toISOString().replaceAll(/[:-]|\.\d{3}/g, "");
}

/** As S3 wants a path or a query's value: all but letters, digits and `-._~` in percents. */
export function encodeUri(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

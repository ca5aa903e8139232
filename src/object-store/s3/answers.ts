// What the headers of S3's answers say of an object.

import type { IncomingHttpHeaders } from "node:http";
import { StorageError } from "../../base/errors.ts";
import { type ByteRange, clampRange, type ObjectInfo } from "../object-store.ts";

/** `size` is of the whole object, as text. StorageError `unavailable` where something is missing. */
export function infoOfHeaders(
  key: string,
  headers: IncomingHttpHeaders,
  size: string | undefined,
): ObjectInfo {
  const { etag } = headers;
  const lastModifiedMs = Date.parse(headers["last-modified"] ?? "");
  if (size === undefined || !/^\d{1,15}$/.test(size) || etag === undefined) {
    throw badAnswer(`size ${size} and ETag ${etag} of ${key}`);
  }
  return {
    key,
    sizeBytes: Number(size),
    lastModifiedMs: Number.isNaN(lastModifiedMs) ? 0 : lastModifiedMs,
    etag: unquoted(etag),
  };
}

/** Which part of the object a body is: the one that was asked for, or an error. */
export function contentOf(
  key: string,
  status: number,
  headers: IncomingHttpHeaders,
  range: ByteRange | undefined,
): { readonly info: ObjectInfo; readonly start: number; readonly end: number } {
  const length = headers["content-length"];
  if (headers["content-encoding"] !== undefined || length === undefined) {
    throw badAnswer(`${key} comes encoded or without its length`);
  }
  if (status !== 206) {
    const info = infoOfHeaders(key, headers, length);
    const whole = { start: 0, end: info.sizeBytes };
    const wanted = clampRange(range, info.sizeBytes, key);
    if (wanted.start !== 0 || wanted.end !== whole.end) {
      throw badAnswer(`all of ${key} instead of a range`);
    }
    return { info, ...whole };
  }
  const parts = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(headers["content-range"] ?? "");
  const info = infoOfHeaders(key, headers, parts?.[3]);
  const wanted = clampRange(range, info.sizeBytes, key);
  const [start, end] = [Number(parts?.[1]), Number(parts?.[2]) + 1];
  if (start !== wanted.start || end !== wanted.end || Number(length) !== end - start) {
    throw badAnswer(`${headers["content-range"]} of ${key} instead of what was asked for`);
  }
  return { info, start, end };
}

export function unquoted(etag: string): string {
  return etag.replaceAll(/^(?:W\/)?"|"$/g, "");
}

/** Whether an ETag is the content's MD5: not of uploads in parts, nor where the store has other keys. */
export function isMd5(etag: string | undefined, headers: IncomingHttpHeaders): boolean {
  const encryption = headers["x-amz-server-side-encryption"];
  return (
    /^"?[0-9a-f]{32}"?$/.test(etag ?? "") &&
    (encryption === undefined || encryption === "AES256") &&
    headers["x-amz-server-side-encryption-customer-algorithm"] === undefined
  );
}

function badAnswer(what: string): StorageError {
  return new StorageError("unavailable", "bad-answer", `the store answers with ${what}`);
}

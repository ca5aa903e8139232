// ListObjectsV2: one page of ours out of one or more answers of the store.

import { StorageError } from "../../base/errors.ts";
import {
  checkObjectKey,
  type ListOptions,
  type ListPage,
  type ObjectInfo,
} from "../object-store.ts";
import { unquoted } from "./answers.ts";
import type { S3Client } from "./client.ts";
import { EMPTY_SHA256 } from "./signing.ts";
import { childrenNamed, childText, parseXml, type XmlElement } from "./xml.ts";

/** 1000 keys of 1 kB, each character an entity, and what else is said of them. */
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;

interface Answer {
  readonly objects: readonly ObjectInfo[];
  /** Where the store goes on; undefined at the end. */
  readonly token: string | undefined;
}

/**
 * Keys that this interface could not have put (`folder/` of a console) are left out, and the listing
 * goes on until there is another one, so that no page is empty but the last.
 */
export async function listObjects(
  client: S3Client,
  options: ListOptions & { readonly limit: number },
): Promise<ListPage> {
  const objects: ObjectInfo[] = [];
  let after = options.after ?? "";
  let token: string | undefined;
  do {
    const limit = options.limit - objects.length;
    const answer = await listOnce(client, { ...options, after, limit }, token);
    for (const object of answer.objects) {
      if (!object.key.startsWith(options.prefix) || object.key <= after) {
        const message = `list ${options.prefix} in ${client.location}: keys without the prefix or out of order`;
        throw new StorageError("unavailable", "bad-answer", message);
      }
      after = object.key;
      if (isOurs(object.key)) {
        objects.push(object);
      }
    }
    if (answer.token !== undefined && (answer.objects.length === 0 || answer.token === token)) {
      const message = `list ${options.prefix} in ${client.location}: a page that leads nowhere`;
      throw new StorageError("unavailable", "bad-answer", message);
    }
    token = answer.token;
  } while (token !== undefined && objects.length < options.limit);
  return { objects, next: token === undefined ? undefined : after };
}

async function listOnce(
  client: S3Client,
  { prefix, after = "", limit = 0, signal }: ListOptions,
  token: string | undefined,
): Promise<Answer> {
  const root = client.configuration.prefix;
  const position =
    token !== undefined
      ? [["continuation-token", token] as const]
      : after === ""
        ? []
        : [["start-after", root + after] as const];
  return client.call(
    {
      doing: `list ${prefix}`,
      method: "GET",
      key: "",
      query: [
        ["list-type", "2"],
        ["max-keys", String(limit)],
        ["prefix", root + prefix],
        ...position,
      ],
      headers: { "x-amz-content-sha256": EMPTY_SHA256 },
      signal,
    },
    async ({ exchange }) => parseAnswer(await exchange.read(MAX_ANSWER_BYTES), root, limit),
  );
}

function parseAnswer(text: string, root: string, limit: number): Answer {
  const result = parseXml(text);
  const isTruncated = childText(result, "IsTruncated");
  const token = childText(result, "NextContinuationToken");
  const contents = childrenNamed(result, "Contents");
  if (
    result.name !== "ListBucketResult" ||
    contents.length > limit ||
    (isTruncated === "true" ? token === undefined : isTruncated !== "false")
  ) {
    throw new StorageError("unavailable", "bad-answer", "the answer is not a page of a listing");
  }
  return {
    objects: contents.map((element) => infoOf(element, root)),
    token: isTruncated === "true" ? token : undefined,
  };
}

function infoOf(element: XmlElement, root: string): ObjectInfo {
  const field = (name: string) => childText(element, name)?.trim() ?? "";
  const key = childText(element, "Key") ?? "";
  const size = field("Size");
  if (!key.startsWith(root) || !/^\d{1,15}$/.test(size)) {
    throw new StorageError("unavailable", "bad-answer", "the listing has keys that are none");
  }
  const lastModifiedMs = Date.parse(field("LastModified"));
  return {
    key: key.slice(root.length),
    sizeBytes: Number(size),
    lastModifiedMs: Number.isNaN(lastModifiedMs) ? 0 : lastModifiedMs,
    etag: unquoted(field("ETag")),
  };
}

function isOurs(key: string): boolean {
  try {
    checkObjectKey(key);
    return true;
  } catch {
    return false;
  }
}

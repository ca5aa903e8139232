// DeleteObjects, and single deletes where a store does not have it.

import { createHash } from "node:crypto";
import { StorageError } from "../../base/errors.ts";
import type { S3Client } from "./client.ts";
import { isNotImplemented, isTransient, refusalInside, transientOf } from "./errors.ts";
import { EMPTY_SHA256 } from "./signing.ts";
import { childrenNamed, childText, escapeXml, parseXml } from "./xml.ts";

const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
const SINGLE_AT_ONCE = 8;

/** Whether single deletes are what works here. At least one key. */
export async function deleteObjects(
  client: S3Client,
  keys: readonly string[],
  oneByOne: boolean,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (oneByOne || !(await deleteMany(client, keys, signal))) {
    await deleteOneByOne(client, keys, signal);
    return true;
  }
  return false;
}

/** False where the store has no such call. */
async function deleteMany(
  client: S3Client,
  keys: readonly string[],
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { prefix } = client.configuration;
  const objects = keys.map((key) => `<Object><Key>${escapeXml(prefix + key)}</Key></Object>`);
  const body = Buffer.from(
    `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${objects.join("")}</Delete>`,
  );
  return client.call(
    {
      doing: "delete objects",
      method: "POST",
      key: "",
      query: [["delete", ""]],
      body,
      signal,
      headers: {
        "content-length": String(body.length),
        "content-type": "application/xml",
        // Some stores take no such call without it.
        "content-md5": createHash("md5").update(body).digest("base64"),
        "x-amz-content-sha256": createHash("sha256").update(body).digest("hex"),
      },
      expects: isNotImplemented,
    },
    async ({ exchange, refusal }) => {
      if (refusal !== undefined) {
        return false;
      }
      const result = parseXml(await exchange.read(MAX_ANSWER_BYTES));
      if (result.name !== "DeleteResult") {
        const message = `the answer to a deletion is <${result.name}>`;
        throw new StorageError("unavailable", "bad-answer", message);
      }
      // The status is of the call; each key may have failed by itself.
      const failed = childrenNamed(result, "Error")
        .map((element) => ({
          key: childText(element, "Key") ?? "",
          refusal: refusalInside(element, client.redact),
        }))
        .filter(({ refusal: { code } }) => code !== "NoSuchKey");
      const lasting = failed.find((one) => !isTransient(one.refusal));
      if (lasting !== undefined) {
        throw client.inContext(
          `delete ${lasting.key.slice(prefix.length)}`,
          refusedKey(client, lasting.refusal),
        );
      }
      if (failed.length > 0) {
        throw transientOf(failed[0]!.refusal);
      }
      return true;
    },
  );
}

/** One key's refusal has no status of its own. */
function refusedKey(client: S3Client, refusal: ReturnType<typeof refusalInside>): StorageError {
  return client.refused({ ...refusal, status: refusal.code === "AccessDenied" ? 403 : 400 });
}

async function deleteOneByOne(
  client: S3Client,
  keys: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  for (let i = 0; i < keys.length; i += SINGLE_AT_ONCE) {
    await Promise.all(
      keys.slice(i, i + SINGLE_AT_ONCE).map((key) =>
        client.call(
          {
            doing: `delete ${key}`,
            method: "DELETE",
            key,
            headers: { "x-amz-content-sha256": EMPTY_SHA256 },
            signal,
            expects: ({ status, code }) => status === 404 && code !== "NoSuchBucket",
          },
          async ({ exchange, refusal }) => {
            if (refusal === undefined) {
              await exchange.read(MAX_ANSWER_BYTES);
            }
          },
        ),
      ),
    );
  }
}

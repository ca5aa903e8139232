// Reads from a stream as many bytes as a message has, before the stream is handed to whoever passes its bytes on.

import type { Readable } from "node:stream";
import { clientGone, protocolViolation } from "./postgres-errors.ts";

/**
 * The next `length` bytes. What more the other side sends stays in the stream, which stops reading when its
 * own buffer is full. StorageError `client-gone` where the stream ends before.
 */
export function readExactly(stream: Readable, length: number): Promise<Buffer> {
  if (length === 0) {
    return Promise.resolve(Buffer.alloc(0));
  }
  return new Promise((resolve, reject) => {
    const attempt = () => {
      // After the end, fewer bytes than asked for are given.
      const bytes: Buffer | null = stream.read(length);
      if (bytes !== null || stream.readableEnded || stream.destroyed) {
        settle(bytes);
      }
    };
    const gone = () => settle(null);
    const settle = (bytes: Buffer | null) => {
      stream.off("readable", attempt).off("end", gone).off("close", gone);
      if (bytes?.length === length) {
        resolve(bytes);
      } else {
        reject(clientGone());
      }
    };
    const bytes: Buffer | null = stream.destroyed ? null : stream.read(length);
    if (bytes !== null || stream.destroyed || stream.readableEnded) {
      settle(bytes);
      return;
    }
    stream.on("readable", attempt).on("end", gone).on("close", gone);
  });
}

/** A message with a type: StorageError `protocol-violation` where it is longer than `maxBytes`. */
export async function readMessage(
  stream: Readable,
  maxBytes: number,
): Promise<{ type: string; body: Buffer }> {
  const header = await readExactly(stream, 5);
  const length = header.readInt32BE(1) - 4;
  if (length < 0 || length > maxBytes) {
    throw protocolViolation(`message of ${length + 4} bytes during the login`);
  }
  const body = await readExactly(stream, length);
  return { type: String.fromCharCode(header[0]!), body };
}

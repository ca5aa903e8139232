// A client of a Postgres-protocol listener that sends any bytes and watches what becomes of it.

import { createConnection } from "node:net";
import { sleep } from "../src/base/clock.ts";
import { parseHostPort } from "../src/postgres/wire/wire-client.ts";
import {
  cstring,
  encodeMessage,
  int32,
  MessageReader,
} from "../src/postgres/wire/wire-messages.ts";

export interface WireAnswer {
  /** One letter, as in Postgres's documentation "Message Formats". */
  readonly type: string;
  readonly body: Buffer;
}

export interface Conversation {
  readonly answers: readonly WireAnswer[];
  /** By the other side. */
  readonly closed: boolean;
}

/** A start-up packet of protocol 3.0. */
export function startupPacket(parameters: Readonly<Record<string, string>>): Buffer {
  const words = Object.entries({ user: "strata", database: "strata", ...parameters });
  const body = Buffer.concat([
    int32(196608),
    ...words.flatMap(([name, value]) => [cstring(name), cstring(value)]),
    Buffer.from([0]),
  ]);
  return Buffer.concat([int32(body.length + 4), body]);
}

export const simpleQuery = (sql: string) => encodeMessage("Q", cstring(sql));

/**
 * Sends `opening`, then, where that began a CopyBoth, `copied`. Waits until the other side closes, has
 * been silent for `quietMs`, once it has given `least` answers, or `limitMs` are over; after an error that says FATAL only the close, or
 * the limit, ends it. With `hangUp` it says that no more will come, so that the other side closes once
 * it has looked at everything.
 */
export async function converse(
  address: string,
  opening: readonly Uint8Array[],
  copied: readonly Uint8Array[] = [],
  { quietMs = 20, limitMs = 10_000, least = 0, hangUp = false } = {},
): Promise<Conversation> {
  const { host, port } = parseHostPort(address);
  const socket = createConnection({ host, port, noDelay: true });
  const answers: WireAnswer[] = [];
  const reader = new MessageReader();
  let closed = false;
  let idleMs = 0;
  socket.on("error", () => {});
  socket.on("close", () => {
    closed = true;
  });
  socket.on("data", (chunk: Buffer) => {
    idleMs = 0;
    reader.push(chunk, (type, body) => {
      answers.push({ type: String.fromCharCode(type), body: Buffer.from(body) });
    });
  });
  for (const chunk of opening) {
    socket.write(chunk);
  }
  const stepMs = 2;
  let copying = false;
  for (let ms = 0; !closed && ms < limitMs; ms += stepMs) {
    await sleep(stepMs);
    idleMs += stepMs;
    if (!copying && answers.some(({ type }) => type === "W")) {
      copying = true;
      idleMs = 0;
      for (const chunk of copied) {
        socket.write(chunk);
      }
      if (hangUp) {
        socket.end();
      }
    } else if (
      answers.length >= least &&
      idleMs >= quietMs &&
      !socket.writableEnded &&
      !isFatal(answers)
    ) {
      break;
    }
  }
  const result = { answers, closed };
  socket.destroy();
  return result;
}

/** The last error, as its fields by their letter. */
export function lastError(answers: readonly WireAnswer[]): Map<string, string> | undefined {
  const error = answers.findLast(({ type }) => type === "E");
  const fields = error?.body
    .toString()
    .split("\0")
    .filter((field) => field !== "");
  return fields && new Map(fields.map((field) => [field[0]!, field.slice(1)]));
}

function isFatal(answers: readonly WireAnswer[]): boolean {
  return lastError(answers)?.get("S") === "FATAL";
}

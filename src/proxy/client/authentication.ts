// The messages of a login: SCRAM against a verifier, or a password in the clear.

import type { Duplex, Readable } from "node:stream";
import { StorageError } from "../../base/errors.ts";
import type { ScramKeys } from "../../postgres/scram.ts";
import {
  MAX_SASL_MESSAGE_BYTES,
  ScramServer,
  type ScramServerOptions,
} from "../../postgres/wire/scram-exchange.ts";
import { cstring, encodeMessage, int32 } from "../../postgres/wire/wire-messages.ts";
import { readMessage } from "./exact-read.ts";
import { protocolViolation, wrongPassword } from "./postgres-errors.ts";

const AUTH_CLEARTEXT = 3;
const AUTH_SASL = 10;
const AUTH_SASL_CONTINUE = 11;
const AUTH_SASL_FINAL = 12;
const MAX_PASSWORD_BYTES = 10_000;

/** The keys that open the role at the compute. StorageError 28P01 for a wrong password or an unknown role alike. */
export async function authenticateScram(
  stream: Duplex,
  role: string,
  options: ScramServerOptions,
): Promise<ScramKeys> {
  const server = new ScramServer(options);
  const offered = server.mechanisms.map(cstring);
  stream.write(encodeMessage("R", int32(AUTH_SASL), ...offered, Buffer.from([0])));
  const initial = await readPasswordMessage(stream, MAX_SASL_MESSAGE_BYTES);
  const nameEnd = initial.indexOf(0);
  if (nameEnd < 0 || nameEnd + 5 > initial.length) {
    throw protocolViolation("malformed SASLInitialResponse");
  }
  const dataLength = initial.readInt32BE(nameEnd + 1);
  const data = initial.subarray(nameEnd + 5);
  if (dataLength !== data.length) {
    throw protocolViolation("malformed SASLInitialResponse");
  }
  const serverFirst = server.begin(initial.toString("latin1", 0, nameEnd), data.toString("utf8"));
  stream.write(encodeMessage("R", int32(AUTH_SASL_CONTINUE), Buffer.from(serverFirst)));
  const final = await readPasswordMessage(stream, MAX_SASL_MESSAGE_BYTES);
  const done = server.finish(final.toString("utf8"));
  if (done === undefined) {
    throw wrongPassword(role);
  }
  stream.write(encodeMessage("R", int32(AUTH_SASL_FINAL), Buffer.from(done.serverFinal)));
  return done.keys;
}

/** Asks for the password in the clear. Only where there is TLS, or nothing between us. */
export async function askPassword(stream: Duplex): Promise<Buffer> {
  stream.write(encodeMessage("R", int32(AUTH_CLEARTEXT)));
  const body = await readPasswordMessage(stream, MAX_PASSWORD_BYTES);
  if (body.at(-1) !== 0) {
    throw protocolViolation("malformed PasswordMessage");
  }
  return body.subarray(0, -1);
}

/** Whether it counts as a guess. */
export function isWrongPassword(error: unknown): boolean {
  return error instanceof StorageError && error.code === "wrong-password";
}

async function readPasswordMessage(stream: Readable, maxBytes: number): Promise<Buffer> {
  const { type, body } = await readMessage(stream, maxBytes);
  if (type !== "p") {
    throw protocolViolation(`expected password response, got message type '${type}'`);
  }
  return body;
}

// The login of a client: SCRAM against the verifier that the control plane has, or a password in the clear where it names the endpoint.

import type { Readable, Writable } from "node:stream";
import { StorageError } from "../../base/errors.ts";
import type { ScramKeys } from "../../postgres/scram.ts";
import {
  keysOfPassword,
  MAX_SASL_MESSAGE_BYTES,
  mockSecret,
  ScramServer,
} from "../../postgres/wire/scram-exchange.ts";
import { cstring, encodeMessage, int32 } from "../../postgres/wire/wire-messages.ts";
import type { AccessControl } from "../compute/control-plane.ts";
import { readMessage } from "./exact-read.ts";
import { protocolViolation, wrongPassword } from "./postgres-errors.ts";

const AUTH_CLEARTEXT = 3;
const AUTH_SASL = 10;
const AUTH_SASL_CONTINUE = 11;
const AUTH_SASL_FINAL = 12;
const MAX_PASSWORD_BYTES = 10_000;

export interface AuthenticationOptions {
  readonly stream: Readable & Writable;
  readonly endpoint: string;
  readonly role: string;
  readonly access: AccessControl;
  readonly endPointHash: Buffer | undefined;
  /** Of this proxy: what it pretends about roles that are not there stays the same. */
  readonly mockSeed: Uint8Array;
}

/** The keys that open the role at the compute. StorageError 28P01 for a wrong password or an unknown role alike. */
export async function authenticateScram(options: AuthenticationOptions): Promise<ScramKeys> {
  const { stream, access, role } = options;
  const isMock = access.secret === undefined;
  const secret = access.secret ?? mockSecret(options.mockSeed, `${options.endpoint}/${role}`);
  const server = new ScramServer({ secret, isMock, endPointHash: options.endPointHash });
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
export async function askPassword(stream: Readable & Writable): Promise<Buffer> {
  stream.write(encodeMessage("R", int32(AUTH_CLEARTEXT)));
  const body = await readPasswordMessage(stream, MAX_PASSWORD_BYTES);
  if (body.at(-1) !== 0) {
    throw protocolViolation("malformed PasswordMessage");
  }
  return body.subarray(0, -1);
}

/** As `authenticateScram`; a role that is not there takes as long as one that is. */
export async function checkPassword(
  password: Uint8Array,
  { access, role, endpoint, mockSeed }: Omit<AuthenticationOptions, "stream" | "endPointHash">,
): Promise<ScramKeys> {
  const secret = access.secret ?? mockSecret(mockSeed, `${endpoint}/${role}`);
  const keys = await keysOfPassword(password, secret);
  if (keys === undefined) {
    throw wrongPassword(role);
  }
  return keys;
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

// The first packet of a client, and the one that we send in its place to the compute.
//
// Source: Postgres documentation "Message Formats"; tcop/backend_startup.c (ProcessStartupPacket), 14-18:
//   i32 length (counts itself), i32 code, then
//   196608 + minor    pairs of cstrings, ended by an empty one      protocol 3.x
//   80877102          i32 pid, the rest the key                     cancel
//   80877103, -04     nothing                                       asks for TLS, GSSAPI
// Values are bytes in whatever encoding; here they are strings of latin1, so that they pass unchanged.

import { int32, PROTOCOL_3 } from "../../postgres/wire/wire-messages.ts";
import { protocolViolation } from "./postgres-errors.ts";

export const SSL_REQUEST = 80877103;
export const GSSENC_REQUEST = 80877104;
export const CANCEL_REQUEST = 80877102;
/** Postgres's MAX_STARTUP_PACKET_LENGTH. */
export const MAX_STARTUP_BYTES = 10_000;
/** Of a key: 256 in protocol 3.2; ours have 4. */
const MAX_CANCEL_BYTES = 12 + 256;

export interface StartupPacket {
  readonly kind: "startup";
  /** Of protocol 3. */
  readonly minor: number;
  readonly parameters: ReadonlyMap<string, string>;
  /** `_pq_.` options, which ask for extensions of the protocol: we know none. */
  readonly protocolOptions: readonly string[];
}

export interface CancelPacket {
  readonly kind: "cancel";
  readonly pid: number;
  readonly key: Buffer;
}

/** Of what the length and code say. StorageError `protocol-violation` where there can be no such packet. */
export function checkStartupLength(length: number, code: number): void {
  const most = code === CANCEL_REQUEST ? MAX_CANCEL_BYTES : MAX_STARTUP_BYTES;
  const least = code === CANCEL_REQUEST ? 13 : 8;
  const exact = code === SSL_REQUEST || code === GSSENC_REQUEST ? 8 : undefined;
  if (length < least || length > most || (exact !== undefined && length !== exact)) {
    throw protocolViolation(`invalid length of startup packet: ${length}`);
  }
}

/** `body` is what follows the code. */
export function parseStartup(code: number, body: Buffer): StartupPacket | CancelPacket {
  if (code === CANCEL_REQUEST) {
    return { kind: "cancel", pid: body.readInt32BE(0), key: body.subarray(4) };
  }
  if (code >>> 16 !== 3) {
    const version = `${code >>> 16}.${code & 0xffff}`;
    throw protocolViolation(`unsupported frontend protocol ${version}: server supports 3.0`);
  }
  const parameters = new Map<string, string>();
  const protocolOptions: string[] = [];
  let at = 0;
  const text = () => {
    const end = body.indexOf(0, at);
    if (end < 0) {
      throw protocolViolation("invalid startup packet layout: expected terminator as last byte");
    }
    const value = body.toString("latin1", at, end);
    at = end + 1;
    return value;
  };
  for (let name = text(); name !== ""; name = text()) {
    const value = text();
    if (name.startsWith("_pq_.")) {
      protocolOptions.push(name);
    } else {
      parameters.set(name, value);
    }
  }
  if (at !== body.length) {
    throw protocolViolation("invalid startup packet layout: bytes after the terminator");
  }
  return { kind: "startup", minor: code & 0xffff, parameters, protocolOptions };
}

/** A packet of protocol 3.0. */
export function encodeStartup(parameters: ReadonlyMap<string, string>): Buffer {
  const words = [...parameters].flat().map((word) => `${word}\0`);
  const body = Buffer.from(`${words.join("")}\0`, "latin1");
  return Buffer.concat([int32(body.length + 8), int32(PROTOCOL_3), body]);
}

export function encodeCancel(pid: number, key: Uint8Array): Buffer {
  return Buffer.concat([int32(12 + key.length), int32(CANCEL_REQUEST), int32(pid), key]);
}

/** What a parameter says, for people and other services. */
export function readable(latin1: string): string {
  return Buffer.from(latin1, "latin1").toString("utf8");
}

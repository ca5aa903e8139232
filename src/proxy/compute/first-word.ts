// A client that has logged in and said nothing yet keeps its connection when its compute ends.
//
// Such a session is what its login made of it, and another login makes the same one: nothing of it can be lost. From the
// client's first byte on that is not so: it may have set, prepared, locked or listened to something.

import type { Duplex } from "node:stream";
import type { ComputeConnection } from "./compute-connection.ts";

const PARAMETER_STATUS = 0x53;
const NOTICE_RESPONSE = 0x4e;
const ERROR_RESPONSE = 0x45;
/** admin_shutdown, crash_shutdown, cannot_connect_now: it is the compute that ends, not this session. */
const COMPUTE_ENDS = new Set(["57P01", "57P02", "57P03"]);
/** What a session is told before it asks for anything is small. */
const MAX_PENDING_BYTES = 64 * 1024;

type Heard =
  /** The client has spoken, or is gone; or Postgres said what only who passes bytes on can deal with. */
  "over" | "compute gone";

/**
 * Resolves with the connection that the client's first byte goes to, which it has not left yet: `compute`, or one that
 * `login` makes where that has ended meanwhile. Rejects as `login` does.
 */
export async function untilFirstWord(
  client: Duplex,
  compute: ComputeConnection,
  login: () => Promise<ComputeConnection>,
): Promise<ComputeConnection> {
  if ((await hear(client, compute)) === "over" || client.destroyed) {
    if (client.readableEnded) {
      // Nobody will be told of that end once more.
      compute.close();
    }
    return compute;
  }
  compute.socket.destroy();
  await speaks(client);
  if (client.destroyed || client.readableEnded) {
    return compute;
  }
  const next = await login();
  // What it was told at its first login may be otherwise by now.
  client.write(next.greeting);
  return next;
}

/** Passes on what Postgres tells an idle session, but for that it ends. */
function hear(client: Duplex, compute: ComputeConnection): Promise<Heard> {
  const { socket } = compute;
  return new Promise((resolve) => {
    let pending: Buffer = Buffer.alloc(0);
    let isSettled = false;
    const settle = (heard: Heard) => {
      if (isSettled) {
        return;
      }
      isSettled = true;
      socket.off("close", gone);
      if (heard === "over" && pending.length > 0) {
        client.write(pending);
      }
      compute.onData = (chunk) => client.write(Buffer.from(chunk));
      resolve(heard);
    };
    const gone = () => settle("compute gone");
    socket.once("close", gone);
    compute.onData = (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      for (;;) {
        const message = wholeMessage(pending);
        if (message === undefined) {
          break;
        }
        if (message[0] === ERROR_RESPONSE && COMPUTE_ENDS.has(sqlstateOf(message))) {
          settle("compute gone");
          return true;
        }
        if (message[0] !== PARAMETER_STATUS && message[0] !== NOTICE_RESPONSE) {
          settle("over");
          return true;
        }
        client.write(message);
        pending = pending.subarray(message.length);
      }
      if (pending.length > MAX_PENDING_BYTES) {
        settle("over");
      }
      return true;
    };
    if (socket.destroyed) {
      gone();
    }
    void speaks(client).then(() => settle(socket.destroyed ? "compute gone" : "over"));
  });
}

/** Resolves when the client has sent something, which stays unread, or will not any more. */
function speaks(client: Duplex): Promise<void> {
  return new Promise((resolve) => {
    if (client.destroyed || client.readableEnded || client.readableLength > 0) {
      resolve();
      return;
    }
    const done = () => {
      if (client.readableLength === 0 && !client.destroyed && !client.readableEnded) {
        // At its end, which is told of when it has been read.
        client.read();
        return;
      }
      for (const event of ["readable", "end", "close"]) {
        client.off(event, done);
      }
      resolve();
    };
    for (const event of ["readable", "end", "close"]) {
      client.on(event, done);
    }
  });
}

/** A copy; undefined where its end has not come yet. */
function wholeMessage(bytes: Buffer): Buffer | undefined {
  const end = bytes.length < 5 ? Number.POSITIVE_INFINITY : 1 + bytes.readUInt32BE(1);
  return end > bytes.length ? undefined : Buffer.from(bytes.subarray(0, Math.max(end, 5)));
}

function sqlstateOf(errorMessage: Buffer): string {
  const fields = errorMessage.toString("latin1", 5).split("\0");
  return fields.find((field) => field.startsWith("C"))?.slice(1) ?? "";
}

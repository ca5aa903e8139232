// What a start does with Node, done once by an agent that waits: Node compiles its own functions when they are first called.
//
// Of our own functions the compiled form is kept from process to process (scripts/package/bundle-start.mjs), of Node's not: a start spent a
// quarter of its CPU time before Postgres on that. Nothing here touches what is not this process's own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { sleep } from "../../base/clock.ts";
import { requireFree } from "../../base/network/ports.ts";
import { FileChanges } from "../../base/processes/file-changes.ts";
import { connectWire } from "../../postgres/wire/wire-client.ts";

const HOST = "127.0.0.1";
/** Enough for a loop to be more than interpreted. */
const ROUNDS = 20;

/** Rejects where something could not be done: who has not rehearsed can start all the same. */
export async function rehearse(): Promise<void> {
  parseArgs({ args: ["--one", "two"], options: { one: { type: "string" } }, strict: true });
  inflateRawSync(deflateRawSync("rehearsal"));
  const stop = new AbortController();
  const sleeping = sleep(1000, stop.signal).catch(() => undefined);
  stop.abort();
  new FileChanges(process.cwd(), "rehearsal").close();
  await Promise.all([sleeping, talk(), spawnNothing()]);
}

/** Connections as to pageserver and safekeepers, and a server as for the shim. */
async function talk(): Promise<void> {
  const server = createServer((socket) => answer(socket));
  server.listen({ port: 0, host: HOST, backlog: 511 });
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  try {
    const parameters = { user: "rehearsal", database: "rehearsal" };
    const connection = await connectWire({ host: HOST, port, parameters });
    for (let i = 0; i < ROUNDS; i++) {
      await connection.query("select 1");
    }
    connection.close();
  } finally {
    server.close();
  }
  // Somebody else may have it by now.
  await requireFree(HOST, port, "rehearse").catch(() => undefined);
}

/** AuthenticationOk; ReadyForQuery; and of a query one column of one row (protocol.sgml, "Message Formats"). */
const READY = Buffer.from("5a0000000549", "hex");
const STARTED = Buffer.concat([Buffer.from("520000000800000000", "hex"), READY]);
const ONE_ROW = Buffer.concat([
  Buffer.from("540000001a00017800000000000000000000170004ffffffff0000", "hex"),
  Buffer.from("440000000b00010000000131", "hex"),
  Buffer.from("430000000d53454c454354203100", "hex"),
  READY,
]);

function answer(socket: Socket): void {
  let isStarted = false;
  socket.on("error", () => socket.destroy());
  socket.on("data", () => {
    socket.cork();
    socket.write(isStarted ? ONE_ROW : STARTED);
    socket.uncork();
    isStarted = true;
  });
}

/** A program that is not there. */
async function spawnNothing(): Promise<void> {
  const child = spawn("/strata-rehearsal-of-a-start", ["-D", "nothing"], {
    cwd: "/",
    env: {},
    stdio: ["ignore", 1, 2],
    detached: true,
  });
  await once(child, "error");
}

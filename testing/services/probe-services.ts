// A process that asks services over the network that it is in, as our own clients do: argv[2] is a ProbeOrder, its answer a line of JSON.

import { createConnection } from "node:net";
import { identifyBy } from "../../src/base/auth/service-token.ts";
import { trustServices } from "../../src/base/network/service-tls.ts";
import { HttpClient } from "../../src/http/client.ts";
import { connectWire, parseHostPort } from "../../src/postgres/wire/wire-client.ts";

export interface ProbeOrder {
  readonly caFile: string;
  readonly tokenFile: string;
  /** `host:port` of ports that speak Postgres's protocol; and of HTTP, to the path that anybody may ask for. */
  readonly wire: readonly string[];
  readonly http: Readonly<Record<string, string>>;
}

export interface ProbeAnswer {
  /** `ok`, or why not. */
  readonly encrypted: string;
  /** All that came back for a request in plain text. */
  readonly plain: string;
}

const order = JSON.parse(process.argv[2]!) as ProbeOrder;
identifyBy(order.tokenFile);
trustServices(() => ({ isPlaintext: false, caFiles: [order.caFile] }));

const why = (error: unknown) => (error instanceof Error ? error.message : String(error));

async function wire(address: string): Promise<string> {
  const connection = await connectWire(parseHostPort(address));
  connection.close();
  return "ok";
}

async function http(address: string, path: string): Promise<string> {
  const client = new HttpClient({ component: "service", address, timeoutMs: 10_000 });
  await client.call("GET", path);
  return "ok";
}

function plain(address: string, text: Buffer): Promise<string> {
  const { host, port } = parseHostPort(address);
  const socket = createConnection({ host, port });
  const parts: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => parts.push(chunk));
  socket.on("error", () => undefined);
  socket.write(text);
  return new Promise((resolve) => {
    socket.on("close", () => resolve(Buffer.concat(parts).toString("latin1")));
  });
}

/** A start-up packet of protocol 3.0 with `user=x`. */
const STARTUP = Buffer.from("\0\0\0\x10\0\x03\0\0user\0x\0\0", "latin1");
STARTUP.writeInt32BE(STARTUP.length);

const answers: Record<string, ProbeAnswer> = {};
for (const address of order.wire) {
  const encrypted = await wire(address).catch(why);
  answers[address] = { encrypted, plain: await plain(address, STARTUP) };
}
for (const [address, path] of Object.entries(order.http)) {
  const encrypted = await http(address, path).catch(why);
  const request = Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: ${address}\r\nConnection: close\r\n\r\n`,
  );
  answers[address] = { encrypted, plain: await plain(address, request) };
}
process.stdout.write(`${JSON.stringify(answers)}\n`);
process.exit();

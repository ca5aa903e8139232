import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection, createServer, type Socket } from "node:net";
import { after, test } from "node:test";
import { connect } from "node:tls";
import pg from "pg";
import { REACHED_HOST, ServiceAuthority } from "../../../testing/services/service-authority.ts";
import { createLogger } from "../../base/log.ts";
import { trustServices } from "../../base/network/service-tls.ts";
import type { TlsCertificates } from "../../base/network/tls-certificates.ts";
import type { CopyChannel } from "./copy-channel.ts";
import { connectWire } from "./wire-client.ts";
import { cstring, int32, PROTOCOL_3 } from "./wire-messages.ts";
import { WireServer } from "./wire-server.ts";

const authority = await ServiceAuthority.create();
const stranger = await ServiceAuthority.create();
trustServices(() => ({ isPlaintext: false, caFiles: [authority.caFile] }));
const PAGES = 1000;
const SSL_REQUEST = Buffer.concat([int32(8), int32(80877103)]);
const BODY = Buffer.concat([
  int32(PROTOCOL_3),
  ...["user", "x"].map((word) => cstring(word)),
  Buffer.from([0]),
]);
const STARTUP = Buffer.concat([int32(BODY.length + 4), BODY]);

async function serve(certificates: TlsCertificates | undefined, startupTimeoutMs = 5000) {
  const server = new WireServer(
    {
      logger: createLogger("wire-test", "silent"),
      async onQuery(session, sql) {
        if (sql === "echo") {
          const channel = session.copyBoth();
          channel.onData((payload) => channel.send(payload.slice()));
          await new Promise<void>((resolve) => channel.onClose(() => resolve()));
          return;
        }
        if (sql === "pages") {
          sendPages(session.copyBoth());
          return;
        }
        session.sendRows(["sql"], [[sql]], "SELECT 1");
      },
    },
    { certificates, startupTimeoutMs },
  );
  const { port } = await server.listen(REACHED_HOST, 0);
  after(() => server.close());
  after(() => certificates?.close());
  return port;
}

/** Many more than the kernel takes at once, from one page that is written over each time, and gathered in memory that is, too. */
function sendPages(channel: CopyChannel): void {
  const page = new Uint8Array(8192);
  for (let i = 0; i < PAGES; i++) {
    page.fill(i);
    channel.sendCopy(page.subarray(0, 1), page);
  }
}

const good = await authority.certificates("good");
const port = await serve(good);
after(() => {
  authority.remove();
  stranger.remove();
});

/** All that comes until the other side closes. */
async function answerTo(to: number, ...sent: Uint8Array[]): Promise<string> {
  const socket = createConnection(to, "127.0.0.1");
  const parts: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => parts.push(chunk));
  socket.on("error", () => undefined);
  socket.write(Buffer.concat(sent));
  await once(socket, "close");
  return Buffer.concat(parts).toString("latin1");
}

test("WireConnection: with TLS where others reach the server, also much at once and with a shared buffer", async () => {
  for (const sharesReceiveBuffer of [false, true]) {
    const connection = await connectWire({ host: REACHED_HOST, port, sharesReceiveBuffer });
    assert.deepEqual((await connection.query("hello")).rows, [["hello"]]);
    const channel = await connection.copyBoth("echo");
    const sizes = [0, 1, 5, 8192, 70_000, 1_000_000, 3];
    const received: number[] = [];
    const all = new Promise<void>((resolve) => {
      channel.onData((payload) => {
        assert.ok(payload.every((byte) => byte === received.length + 1));
        received.push(payload.length);
        if (received.length === sizes.length) {
          resolve();
        }
      });
    });
    sizes.forEach((size, i) => {
      channel.send(Buffer.alloc(size, i + 1));
    });
    await all;
    assert.deepEqual(received, sizes);
    const closed = new Promise<void>((resolve) => connection.onClose(() => resolve()));
    channel.close();
    await closed;
  }
});

test("CopyChannel: what is gathered and copied arrives as it was, also through TLS", async () => {
  const connection = await connectWire({ host: REACHED_HOST, port });
  const channel = await connection.copyBoth("pages");
  let received = 0;
  await new Promise<void>((resolve) => {
    channel.onData((payload) => {
      const byte = received++ & 255;
      assert.equal(payload.length, 8193);
      assert.ok(
        payload.every((one) => one === byte),
        `page ${received}`,
      );
      if (received === PAGES) {
        resolve();
      }
    });
  });
  channel.close();
});

test("WireServer: SSLRequest is answered with TLS, as libpq's sslmode=verify-full asks", async () => {
  const { readFileSync } = await import("node:fs");
  const ca = readFileSync(authority.caFile, "utf8");
  const ssl = { ca, rejectUnauthorized: true };
  const client = new pg.Client({ host: REACHED_HOST, port, user: "x", ssl });
  await client.connect();
  assert.deepEqual((await client.query("hello")).rows, [{ sql: "hello" }]);
  await client.end();
});

test("WireServer: plain text is refused with what to do, and nothing of it is served", async () => {
  const answer = await answerTo(port, STARTUP);
  assert.match(answer, /FATAL.*tls-needed.*sslmode=verify-full/s);
  const gssencRequest = Buffer.concat([int32(8), int32(80877104)]);
  assert.match(await answerTo(port, gssencRequest, STARTUP), /^N.*tls-needed/s);
});

test("WireServer: what came together with the request for TLS is refused (CVE-2021-23214)", async () => {
  const answer = await answerTo(port, SSL_REQUEST, STARTUP);
  assert.match(answer, /^E.*data came with the request for TLS/s);
});

test("WireServer: direct TLS needs ALPN 'postgresql'", async () => {
  const socket = connect({ port, rejectUnauthorized: false });
  socket.on("error", () => undefined);
  socket.on("secureConnect", () => socket.write(STARTUP));
  let answered = 0;
  socket.on("data", (chunk: Buffer) => {
    answered += chunk.length;
  });
  await once(socket, "close");
  assert.equal(answered, 0);
});

test("WireServer: half of a handshake, or silence after it, is not waited for", async () => {
  const impatient = await serve(good, 200);
  const hello = Buffer.from("\x16\x03\x01\x02\x00\x01", "latin1");
  assert.equal(await answerTo(impatient, hello), "");
  assert.equal(await answerTo(impatient, SSL_REQUEST), "S");
  const socket = connect({
    port: impatient,
    rejectUnauthorized: false,
    ALPNProtocols: ["postgresql"],
  });
  socket.on("error", () => undefined);
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  await once(socket, "close");
  assert.match(text, /no command within 200 ms/);
});

test("WireConnection: who is not who he should be hears nothing, and the error says what to do", async () => {
  const refuses = async (to: number, why: RegExp) =>
    assert.rejects(connectWire({ host: REACHED_HOST, port: to }), (error: Error) => {
      assert.match(error.message, why);
      assert.ok(error.message.includes(`${REACHED_HOST}:${to}`));
      return true;
    });
  await refuses(await serve(await stranger.certificates("good")), /is of no authority in/);
  await refuses(await serve(await authority.certificates("old", REACHED_HOST, -1)), /has expired/);
  await refuses(
    await serve(await authority.certificates("other", "10.0.0.1")),
    /is for 10\.0\.0\.1/,
  );
  await refuses(await serve(undefined), /answers in plain text/);
});

test("WireConnection: a server that says no to TLS, or nothing, is not asked in plain text", async () => {
  const heard: Buffer[] = [];
  const liar = createServer((socket: Socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      heard.push(chunk);
      socket.end("N");
    });
  });
  liar.listen(0, REACHED_HOST);
  await once(liar, "listening");
  const { port: to } = liar.address() as { port: number };
  await assert.rejects(connectWire({ host: REACHED_HOST, port: to }));
  liar.close();
  assert.equal(heard.length, 1);
  assert.equal(heard[0]![0], 0x16);
});

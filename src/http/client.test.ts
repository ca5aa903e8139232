import assert from "node:assert/strict";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, createServer, type Server } from "node:net";
import { type TestContext, test } from "node:test";
import { HttpClient } from "./client.ts";

async function clientOf(t: TestContext, server: Server, timeoutMs: number): Promise<HttpClient> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  return new HttpClient({ component: "thing", address: `127.0.0.1:${port}`, timeoutMs });
}

test("patienceMs: a server that says nothing is unavailable soon, and has not been sent what to do", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const received: Buffer[] = [];
  const hung = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      received.push(bytes);
      setImmediate(() => {
        t.mock.timers.tick(1000);
        t.mock.timers.tick(60_000);
      });
    });
  });
  const client = await clientOf(t, hung, 50_000);
  await assert.rejects(client.call("POST", "/do", { body: { secret: 1 }, patienceMs: 900 }), {
    kind: "unavailable",
    code: "thing-unreachable",
    message: /no word within 0\.9 s$/,
  });
  const text = Buffer.concat(received).toString();
  assert.match(text, /^POST \/do HTTP\/1\.1\r\n/);
  assert.doesNotMatch(text, /secret/);
});

test("patienceMs: who has said that it wants the request may take longer to answer it", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const slow = createHttpServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) {
      parts.push(part as Buffer);
    }
    t.mock.timers.tick(1000);
    response.end(Buffer.concat(parts));
  });
  const client = await clientOf(t, slow, 30_000);
  assert.deepEqual(await client.call("POST", "/do", { body: { a: 1 }, patienceMs: 100 }), { a: 1 });
});

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLogger } from "../base/log.ts";
import { BrokerServer } from "../storage-broker/server.ts";
import { StrataHome } from "./home.ts";
import { brokerDaemon } from "./services.ts";

test("brokerDaemon: it runs where it answers, not where only somebody listens", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-services-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const home = new StrataHome(join(directory, "home"));
  const probe = (port: number) =>
    brokerDaemon(home, {
      broker: { listenAddr: `127.0.0.1:${port}` },
      pageservers: [],
      safekeepers: [],
    }).probe();
  const server = new BrokerServer({ logger: createLogger("test", "silent") });
  t.after(() => server.close());
  assert.equal(await probe((await server.listen("127.0.0.1", 0)).port), true);
  const other = createServer((socket) => socket.on("data", () => socket.end("hello\r\n")));
  other.listen(0, "127.0.0.1");
  await once(other, "listening");
  t.after(() => other.close());
  assert.equal(await probe((other.address() as AddressInfo).port), false);
});

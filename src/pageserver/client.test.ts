import assert from "node:assert/strict";
import { after, test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { sleep, turn } from "../base/clock.ts";
import { createLogger } from "../base/log.ts";
import { toLsn } from "../base/lsn.ts";
import { WireServer } from "../postgres/wire/wire-server.ts";
import { LSN_LEASE_MS, leaseLsn, PagestreamClient } from "./client.ts";
import { encodeU32Response } from "./pagestream.ts";

const IDS = { tenantId: "1".repeat(32), timelineId: "2".repeat(32) };
const LSN = toLsn(0x1000);
const REL = { spcOid: 1663, dbOid: 5, relNumber: 7, fork: 0 };
const SILENCE_MS = 1000;

/** Answers sizes one by one, a third of the silence apart, until it falls silent. */
let isSilent = false;
const server = new WireServer({
  logger: createLogger("client-test", "silent"),
  async onQuery(session) {
    const channel = session.copyBoth();
    let answers = Promise.resolve();
    channel.onData((payload) => {
      const request = payload.slice();
      answers = answers.then(async () => {
        await sleep(SILENCE_MS / 3);
        if (!isSilent) {
          channel.send(encodeU32Response(request, 42));
        }
      });
    });
    await new Promise<void>((resolve) => channel.onClose(() => resolve()));
  },
});
const { port } = await server.listen("127.0.0.1", 0);
after(() => server.close());

test("PagestreamClient: a server that falls silent is unavailable, a slow one or no question is not", async (t) => {
  inSteadyTime(t);
  isSilent = false;
  const client = await PagestreamClient.connect(`127.0.0.1:${port}`, IDS, {
    silenceMs: SILENCE_MS,
  });
  const ask = () => client.relSize(REL, LSN);
  assert.deepEqual(await Promise.all(Array.from({ length: 6 }, ask)), new Array(6).fill(42));
  await sleep(SILENCE_MS * 1.5);
  assert.equal(client.closed, false);
  assert.equal(await ask(), 42);
  isSilent = true;
  const error = { kind: "unavailable", code: "no-answer" };
  await Promise.all([assert.rejects(ask(), error), assert.rejects(ask(), error)]);
  assert.equal(client.closed, true);
  await assert.rejects(ask(), error);
});

test("leaseLsn: a pageserver that hangs is given up long before the last lease ends", async (t) => {
  const asked = Promise.withResolvers<void>();
  const hanging = new WireServer({
    logger: createLogger("client-test", "silent"),
    onQuery: () => {
      asked.resolve();
      return new Promise<void>(() => undefined);
    },
  });
  const address = await hanging.listen("127.0.0.1", 0);
  t.after(() => hanging.close());
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const leased = leaseLsn(`127.0.0.1:${address.port}`, IDS, LSN);
  leased.catch(() => undefined);
  await asked.promise;
  // Two tries, each of which may hang as long when it connects, and what is between them.
  t.mock.timers.tick(LSN_LEASE_MS / 6);
  await assert.rejects(Promise.race([leased, turn()]), { kind: "unavailable" });
});

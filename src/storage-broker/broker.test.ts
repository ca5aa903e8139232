import assert from "node:assert/strict";
import { connect } from "node:http2";
import { type TestContext, test } from "node:test";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { eventually } from "../../testing/eventually.ts";
import { generateTenantId, generateTimelineId } from "../base/ids.ts";
import { createLogger } from "../base/log.ts";
import {
  BrokerService,
  SafekeeperTimelineInfoSchema,
  SubscribeSafekeeperInfoRequestSchema,
} from "./broker_pb.ts";
import { BrokerClient, infoFromMessage, type TimelineInfo } from "./client.ts";
import { BrokerServer } from "./server.ts";

type Info = MessageInitShape<typeof SafekeeperTimelineInfoSchema>;

const logger = createLogger("test", "silent");
const tenantId = Buffer.from(generateTenantId(), "hex");
const timelineId = Buffer.from(generateTimelineId(), "hex");
const GOOD = {
  safekeeperId: 1n,
  tenantTimelineId: { tenantId, timelineId },
  term: 3n,
  lastLogTerm: 2n,
  flushLsn: 300n,
  commitLsn: 200n,
  backupLsn: 100n,
  remoteConsistentLsn: 150n,
  peerHorizonLsn: 100n,
  localStartLsn: 50n,
  safekeeperConnstr: "127.0.0.1:5454",
  httpConnstr: "127.0.0.1:7676",
  generation: 1n,
} as const satisfies Info;

/** What no safekeeper says of itself. */
const NONSENSE: readonly Info[] = [
  { ...GOOD, tenantTimelineId: { tenantId, timelineId: new Uint8Array(15) } },
  { ...GOOD, tenantTimelineId: { tenantId: new Uint8Array(0), timelineId } },
  { ...GOOD, safekeeperId: 2n ** 64n - 1n },
  { ...GOOD, term: 2n ** 63n },
  { ...GOOD, lastLogTerm: 4n },
  { ...GOOD, flushLsn: 2n ** 53n, commitLsn: 2n ** 53n },
  { ...GOOD, flushLsn: 2n ** 64n - 1n },
  { ...GOOD, commitLsn: 301n },
  { ...GOOD, backupLsn: 201n },
  { ...GOOD, remoteConsistentLsn: 201n },
  { ...GOOD, remoteConsistentLsn: 2n ** 64n - 1n },
  { ...GOOD, peerHorizonLsn: 2n ** 60n },
  { ...GOOD, generation: 2n ** 64n - 1n },
  { ...GOOD, safekeeperConnstr: "" },
  { ...GOOD, safekeeperConnstr: "127.0.0.1" },
  { ...GOOD, safekeeperConnstr: "127.0.0.1:0" },
  { ...GOOD, safekeeperConnstr: "127.0.0.1:99999" },
  { ...GOOD, safekeeperConnstr: `${"a".repeat(400)}:5454` },
  { ...GOOD, httpConnstr: "\0" },
];

async function start(t: TestContext, serverLogger = logger) {
  const server = new BrokerServer({ logger: serverLogger });
  const { port } = await server.listen("127.0.0.1", 0);
  const url = `http://127.0.0.1:${port}`;
  const subscriber = new BrokerClient(url, logger);
  const forger = createClient(BrokerService, createGrpcTransport({ baseUrl: url }));
  t.after(async () => {
    subscriber.close();
    await server.close();
  });
  const publish = (infos: Iterable<Info>) =>
    forger.publishSafekeeperInfo(
      (async function* () {
        for (const info of infos) {
          yield create(SafekeeperTimelineInfoSchema, info);
        }
      })(),
    );
  return { server, subscriber, publish, port };
}

test("broker: what no safekeeper says of itself is not passed to a subscriber, and ends nothing", async (t) => {
  const { server, subscriber, publish } = await start(t);
  const heard: TimelineInfo[] = [];
  subscriber.subscribe({
    onInfo: (info) => {
      heard.push(info);
      if (heard.length === 1) {
        throw new Error("a subscriber that cannot take it");
      }
    },
  });
  await eventually("subscription", () => server.broker.counts.subscribers === 1);
  await publish([GOOD, ...NONSENSE, { ...GOOD, safekeeperId: 7n }]);
  await eventually("the last one", () => heard.at(-1)?.safekeeperId === 7);
  assert.equal(heard.length, 2);
  assert.equal(subscriber.refused, NONSENSE.length + 1);
  // The subscription is the first one still.
  assert.equal(server.broker.counts.subscribers, 1);
  assert.equal(heard[0]!.remoteConsistentLsn, 150);
});

test("broker: each nonsense is refused by itself", () => {
  assert.equal(infoFromMessage(create(SafekeeperTimelineInfoSchema, GOOD)).commitLsn, 200);
  for (const info of NONSENSE) {
    assert.throws(
      () => infoFromMessage(create(SafekeeperTimelineInfoSchema, info)),
      { kind: "invalid" },
      JSON.stringify(info, (_, value) => (typeof value === "bigint" ? String(value) : value)),
    );
  }
});

/** Sends a message as it is, framed as gRPC frames it; resolves with how the call ended. */
async function publishBytes(port: number, message: Uint8Array): Promise<string> {
  const session = connect(`http://127.0.0.1:${port}`);
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": "/storage_broker.BrokerService/PublishSafekeeperInfo",
      "content-type": "application/grpc",
    });
    const ended = Promise.withResolvers<string>();
    stream.on("trailers", (trailers) => ended.resolve(`status ${trailers["grpc-status"]}`));
    stream.on("response", (headers) => {
      if (headers["grpc-status"] !== undefined) {
        ended.resolve(`status ${headers["grpc-status"]}`);
      }
    });
    stream.on("error", () => ended.resolve("reset"));
    stream.resume();
    const frame = Buffer.alloc(5);
    frame.writeUInt32BE(message.length, 1);
    stream.write(frame);
    stream.end(message);
    return await ended.promise;
  } finally {
    session.destroy();
  }
}

test("broker: a huge or garbled message ends its publisher's stream only", async (t) => {
  const { server, subscriber, publish, port } = await start(t);
  const heard: TimelineInfo[] = [];
  subscriber.subscribe({ onInfo: (info) => heard.push(info) });
  await eventually("subscription", () => server.broker.counts.subscribers === 1);
  const bytes = (info: Info) =>
    toBinary(SafekeeperTimelineInfoSchema, create(SafekeeperTimelineInfoSchema, info));
  assert.equal(await publishBytes(port, bytes(GOOD)), "status 0");
  await eventually("a good one", () => heard.length === 1);
  const unknown = create(SafekeeperTimelineInfoSchema, GOOD);
  unknown.$unknown = [{ no: 1000, wireType: 2, data: new Uint8Array(100_000) }];
  for (const message of [
    bytes({ ...GOOD, safekeeperConnstr: "x".repeat(10_000_000) }),
    toBinary(SafekeeperTimelineInfoSchema, unknown),
    new Uint8Array(100).fill(0xff),
    Buffer.from("5203ff", "hex"),
  ]) {
    assert.match(await publishBytes(port, message), /status [1-9]|reset/);
  }
  await publish([GOOD]);
  await eventually("another good one", () => heard.length === 2);
  assert.equal(server.broker.counts.published, 2);
  assert.equal(server.broker.counts.subscribers, 1);
});

test("broker: a flood is dropped where a subscriber is slow, and nobody else is kept from it", async (t) => {
  const { server, subscriber, publish } = await start(t);
  const heard = new Set<number>();
  subscriber.subscribe({ onInfo: (info) => heard.add(info.safekeeperId) });
  await eventually("subscription", () => server.broker.counts.subscribers === 1);
  const COUNT = 3000;
  const flood = publish(
    Array.from({ length: COUNT }, (_, i) => ({ ...GOOD, safekeeperId: 100n + BigInt(i) })),
  );
  let told = 0;
  // As safekeepers do: again and again.
  while (!heard.has(7)) {
    await publish([{ ...GOOD, safekeeperId: 7n }]);
    assert.ok(told++ < 1000);
  }
  await flood;
  const { counts } = server.broker;
  assert.equal(counts.published, COUNT + told);
  await eventually("all delivered or dropped", () => {
    const { published, delivered, dropped } = server.broker.counts;
    return delivered + dropped === published;
  });
});

/** Subscribes to all, and reads nothing: what it is sent waits for it, soon in the middle of a write. */
async function deafSubscriber(port: number) {
  const session = connect(`http://127.0.0.1:${port}`);
  const stream = session.request({
    ":method": "POST",
    ":path": "/storage_broker.BrokerService/SubscribeSafekeeperInfo",
    "content-type": "application/grpc",
  });
  stream.on("error", () => undefined);
  session.on("error", () => undefined);
  const request = create(SubscribeSafekeeperInfoRequestSchema, {
    subscriptionKey: { case: "all", value: create(EmptySchema) },
  });
  const message = toBinary(SubscribeSafekeeperInfoRequestSchema, request);
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(message.length, 1);
  stream.end(Buffer.concat([frame, message]));
  return session;
}

test("broker: that a subscriber goes while it is being sent something is nobody's business", async (t) => {
  const printed: unknown[] = [];
  const note = (...words: unknown[]) => void printed.push(words);
  const noting = Object.assign(createLogger("test", "silent"), { warn: note, error: note });
  const { server, publish, port } = await start(t, noting);
  // Where the library prints by itself.
  t.mock.method(console, "error", note);
  for (let round = 1; round <= 3; round++) {
    const session = await deafSubscriber(port);
    await eventually("subscription", () => server.broker.counts.subscribers === 1);
    await publish(Array.from({ length: 3000 }, () => GOOD));
    // More than it takes is under way to it.
    await eventually("a full window", () => server.broker.counts.delivered > 0);
    session.destroy();
    await eventually("its end", () => server.broker.counts.subscribers === 0);
  }
  assert.deepEqual(printed, []);
});

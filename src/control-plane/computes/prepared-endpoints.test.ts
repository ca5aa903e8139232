import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { PreparedEndpoints } from "./prepared-endpoints.ts";
import type { LocalProcesses } from "./provider.ts";

const TIMELINE = parseTimelineId("1".repeat(32));
const COMPUTE = {
  id: "ep-one",
  tenantId: parseTenantId("a".repeat(32)),
  timelineId: TIMELINE,
  settings: {},
};

function scratch() {
  const log: string[] = [];
  const created = Promise.withResolvers<void>();
  created.promise.catch(() => undefined);
  const over = Promise.withResolvers<void>();
  const create = async (compute: typeof COMPUTE, pgVersion: number) => {
    log.push(`create ${compute.id} ${pgVersion}`);
    await created.promise;
    log.push("created");
  };
  const told = Promise.withResolvers<void>();
  const prepared = new PreparedEndpoints(
    { create } as unknown as LocalProcesses,
    async (id, { isNoted, underWay }) => {
      log.push(`wake ${id} ${isNoted}`);
      await told.promise;
      log.push("told");
      underWay();
      return new Promise(() => {});
    },
  );
  prepared.add(COMPUTE, 17, over.promise);
  return { prepared, log, created, over, told };
}

/** What is waited for takes no time, and what is not, for ever: none of the machine's. */
function testInSimulatedTime(name: string, work: () => Promise<void>): void {
  test(name, () => inSimulatedTime(work));
}

testInSimulatedTime(
  "PreparedEndpoints: made when the storage was asked, started when it is there, and the agent's being told is waited for",
  async () => {
    const { prepared, log, created, told } = scratch();
    assert.equal(log.length, 0);
    prepared.make(TIMELINE);
    prepared.make(TIMELINE);
    const started = prepared.start(TIMELINE).then(() => log.push("started"));
    created.resolve();
    told.resolve();
    await started;
    assert.deepEqual(log, ["create ep-one 17", "created", "wake ep-one true", "told", "started"]);
  },
);

testInSimulatedTime(
  "PreparedEndpoints.start: an agent that is not told soon is not waited for",
  async () => {
    const { prepared, log, created } = scratch();
    prepared.make(TIMELINE);
    created.resolve();
    await prepared.start(TIMELINE);
    assert.deepEqual(log.slice(1), ["created", "wake ep-one true"]);
  },
);

testInSimulatedTime(
  "PreparedEndpoints.start: one that could not be made, or was not begun, is left to the operation",
  async () => {
    const { prepared, log, created } = scratch();
    await prepared.start(TIMELINE);
    prepared.make(TIMELINE);
    created.reject(new Error("no port is free"));
    await prepared.start(TIMELINE);
    assert.deepEqual(log, ["create ep-one 17"]);
  },
);

testInSimulatedTime(
  "PreparedEndpoints.forget: what is being made is there then, and nothing starts",
  async () => {
    const { prepared, log, created } = scratch();
    prepared.make(TIMELINE);
    const forgotten = prepared.forget(TIMELINE).then(() => log.push("forgotten"));
    created.resolve();
    await forgotten;
    prepared.make(TIMELINE);
    await prepared.start(TIMELINE);
    assert.deepEqual(log, ["create ep-one 17", "created", "forgotten"]);
  },
);

testInSimulatedTime(
  "PreparedEndpoints: with the operations' end nothing is kept of it",
  async () => {
    const { prepared, log, over } = scratch();
    over.reject(new Error("it failed"));
    await over.promise.catch(() => undefined);
    prepared.make(TIMELINE);
    await prepared.start(TIMELINE);
    assert.deepEqual(log, []);
  },
);

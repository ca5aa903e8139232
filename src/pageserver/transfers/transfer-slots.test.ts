import assert from "node:assert/strict";
import { test } from "node:test";
import { turn } from "../../base/clock.ts";
import { parseTenantId } from "../../base/ids.ts";
import { TransferSlots } from "./transfer-slots.ts";

const BIG = parseTenantId("11".repeat(16));
const SMALL = parseTenantId("22".repeat(16));
const NEVER = new AbortController().signal;

/** Work that ends when it is told to. */
class Work {
  readonly slots: TransferSlots;
  readonly started: string[] = [];
  readonly #ends = new Map<string, () => void>();
  readonly done: Promise<unknown>[] = [];

  constructor(limit: number) {
    this.slots = new TransferSlots(limit);
  }

  add(name: string, tenantId = BIG, isUrgent = () => false, signal = NEVER): Promise<void> {
    const run = this.slots.run({ tenantId, isUrgent, signal }, () => {
      this.started.push(name);
      return new Promise<void>((resolve) => this.#ends.set(name, resolve));
    });
    this.done.push(run);
    return run;
  }

  async end(name: string): Promise<void> {
    this.#ends.get(name)!();
    await turn();
  }
}

test("TransferSlots: no more at once than the limit, in the order of their coming", async () => {
  const work = new Work(2);
  for (const name of ["a", "b", "c", "d"]) {
    void work.add(name);
  }
  await turn();
  assert.deepEqual(work.started, ["a", "b"]);
  await work.end("b");
  assert.deepEqual(work.started, ["a", "b", "c"]);
  await work.end("a");
  await work.end("c");
  await work.end("d");
  await Promise.all(work.done);
  assert.deepEqual([work.slots.running, work.slots.waiting], [0, 0]);
});

test("TransferSlots: a tenant with little does not wait for one with much", async () => {
  const work = new Work(2);
  for (let i = 0; i < 10; i++) {
    void work.add(`big ${i}`);
  }
  void work.add("small", SMALL);
  await turn();
  await work.end("big 0");
  assert.deepEqual(work.started, ["big 0", "big 1", "small"]);
});

test("TransferSlots: what became urgent goes first", async () => {
  const work = new Work(1);
  let urgent = false;
  void work.add("first");
  void work.add("other tenant", SMALL);
  void work.add("background");
  void work.add("awaited", BIG, () => urgent);
  await turn();
  urgent = true;
  await work.end("first");
  assert.deepEqual(work.started, ["first", "awaited"]);
});

test("TransferSlots: who gives up waiting takes no place, and a failure gives its place back", async () => {
  const work = new Work(1);
  const stop = new AbortController();
  void work.add("first");
  const given = work.add("given up", BIG, () => false, stop.signal);
  stop.abort(new Error("no more"));
  await assert.rejects(given, /no more/);
  await work.end("first");
  assert.deepEqual(work.started, ["first"]);
  const options = { tenantId: BIG, isUrgent: () => false, signal: NEVER };
  await assert.rejects(
    work.slots.run(options, () => Promise.reject(new Error("broken"))),
    /broken/,
  );
  assert.equal(work.slots.running, 0);
  await assert.rejects(work.slots.run({ ...options, signal: stop.signal }, turn), /no more/);
});

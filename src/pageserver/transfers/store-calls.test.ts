import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger, type Logger } from "../../base/log.ts";
import { retrying, withDeadline } from "./store-calls.ts";

const NEVER = new AbortController().signal;

/** A logger that keeps what it is told. */
function listener(): { logger: Logger; warnings: object[] } {
  const warnings: object[] = [];
  const logger = createLogger("test", "silent");
  logger.warn = (first: object | string) => void warnings.push(Object(first));
  return { logger, warnings };
}

const away = () => new StorageError("unavailable", "object-store-error", "away");

test("retrying: waits random times up to a limit that doubles to 20 s, and warns from the third failure on", async () => {
  await inSimulatedTime(async () => {
    const { logger, warnings } = listener();
    const limits: number[] = [];
    const randomInt = (limit: number) => {
      limits.push(limit);
      return limit - 1;
    };
    let attempts = 0;
    const options = { doing: "upload x", logger, signal: NEVER, randomInt };
    const result = await retrying(options, async () => {
      attempts++;
      assert.equal(warnings.length, attempts > 10 ? 2 : attempts > 3 ? 1 : 0);
      if (attempts <= 12) {
        throw away();
      }
      return "done";
    });
    assert.equal(result, "done");
    const waits = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 20_000, 20_000, 20_000, 20_000];
    assert.deepEqual(
      limits.map((limit) => limit - 1),
      waits,
    );
    assert.equal(
      monotonicMs(),
      waits.reduce((sum, ms) => sum + ms, 0),
    );
  });
});

test("retrying: gives up after so many attempts, at once where no retry helps, and when it is told to", async () => {
  await inSimulatedTime(async () => {
    const { logger } = listener();
    const stop = new AbortController();
    const options = { doing: "x", logger, signal: stop.signal, randomInt: () => 50 };
    let attempts = 0;
    const failing = (error: Error) => async () => {
      attempts++;
      throw error;
    };
    await assert.rejects(retrying({ ...options, attempts: 4 }, failing(away())), /away/);
    assert.equal(attempts, 4);
    for (const error of [
      new StorageError("conflict", "object-exists", "there"),
      new StorageError("corrupt", "corrupt-layer", "damaged"),
      new StorageError("not-found", "object-not-found", "missing"),
      new StorageError("unavailable", "disk-full", "full"),
      new TypeError("our own bug"),
    ]) {
      attempts = 0;
      const finalCodes = ["object-not-found", "disk-full"];
      await assert.rejects(retrying({ ...options, finalCodes }, failing(error)), error);
      assert.equal(attempts, 1);
    }
    const stopped = retrying(options, failing(away()));
    stop.abort(new Error("stopping"));
    await assert.rejects(stopped, /stopping/);
  });
});

test("withDeadline: ends the call when its time is over, or when it is told to", async () => {
  await inSimulatedTime(async () => {
    const hang = (signal: AbortSignal) => sleep(1e9, signal);
    await assert.rejects(withDeadline("get x", 30_000, NEVER, hang), (error) => {
      assert.ok(error instanceof StorageError);
      assert.equal(error.kind, "unavailable");
      assert.equal(error.message, "get x: no answer within 30 s");
      return true;
    });
    assert.equal(monotonicMs(), 30_000);
    const stop = new AbortController();
    const call = withDeadline("get x", 30_000, stop.signal, hang);
    stop.abort(new Error("stopping"));
    await assert.rejects(call, /stopping/);
    assert.equal(await withDeadline("get x", 10, NEVER, async () => 5), 5);
  });
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { nowMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { toLsn } from "../../base/lsn.ts";
import { LSN_LEASE_MS } from "../../pageserver/client.ts";
import type { EndpointSpec } from "../api.ts";
import { keepStartLease, LeaseKeeper } from "./lease-keeper.ts";

test("LeaseKeeper: no gap, also while the pageserver is away for some minutes", async () => {
  await inSimulatedTime(async () => {
    const begin = nowMs();
    let end = begin + LSN_LEASE_MS;
    let renewals = 0;
    const keeper = new LeaseKeeper({
      renew: async (lsn) => {
        assert.equal(lsn, 1000);
        const minutes = (nowMs() - begin) / 60_000;
        if (minutes > 20 && minutes < 26) {
          throw new StorageError("unavailable", "away", "the pageserver is away");
        }
        assert.ok(nowMs() < end, "the lease has lapsed");
        end = nowMs() + LSN_LEASE_MS;
        renewals++;
      },
      onLost: () => assert.fail("the lease is lost"),
      logger: createLogger("test", "silent"),
    });
    keeper.start(toLsn(1000));
    await sleep(60 * 60_000);
    assert.ok(nowMs() < end);
    assert.ok(renewals >= 20 && renewals <= 40, `${renewals} renewals in an hour`);
    keeper.close();
    const before = renewals;
    await sleep(60 * 60_000);
    assert.equal(renewals, before);
  });
});

test("LeaseKeeper: history that was collected meanwhile is told of, once, and nothing asks for it again", async () => {
  await inSimulatedTime(async () => {
    let asked = 0;
    const lost: unknown[] = [];
    const keeper = new LeaseKeeper({
      renew: async () => {
        asked++;
        throw new StorageError("invalid", "server-error", "0/3E8 is below 0/4000");
      },
      onLost: ({ message }) => lost.push(message),
      logger: createLogger("test", "silent"),
    });
    keeper.start(toLsn(1000));
    await sleep(LSN_LEASE_MS);
    assert.deepEqual([asked, lost], [1, ["read on at 0/3E8: 0/3E8 is below 0/4000"]]);
  });
});

test("LeaseKeeper: a run that was closed while the pageserver was asked hears nothing", async () => {
  await inSimulatedTime(async () => {
    let asked = 0;
    const keeper = new LeaseKeeper({
      renew: async () => {
        asked++;
        keeper.close();
        throw new StorageError("invalid", "server-error", "0/3E8 is below 0/4000");
      },
      onLost: () => assert.fail("the lease is lost"),
      logger: createLogger("test", "silent"),
    });
    keeper.start(toLsn(1000));
    await sleep(LSN_LEASE_MS);
    assert.equal(asked, 1);
  });
});

const COLLECTED = new StorageError("invalid", "server-error", "0/3E8 is below 0/4000");

/** What a run at 0/3E8 has asked of which pageserver by the end, and what it is told then. */
async function startLease(mode: EndpointSpec["mode"], renew: () => Promise<void>) {
  const spec = {
    mode,
    pageserver: { pgAddr: "pages:64000", httpAddr: "pages:9898" },
    tenantId: "1".repeat(32),
    timelineId: "2".repeat(32),
  };
  const asked: unknown[] = [];
  const told: unknown[] = [];
  await inSimulatedTime(async () => {
    const keeper = keepStartLease(toLsn(1000), {
      spec,
      renew: async (...of) => {
        asked.push(of);
        await renew();
      },
      onStale: (why) => told.push(["stale", why]),
      onFatal: (error) => told.push(["fatal", error.kind, error.message]),
      logger: createLogger("test", "silent"),
    });
    await sleep(LSN_LEASE_MS / 2);
    keeper.close();
  });
  const { tenantId, timelineId } = spec;
  return { asked, told, question: ["pages:64000", { tenantId, timelineId }, 1000] };
}

const KEPT: readonly EndpointSpec["mode"][] = ["primary", "replica", { static: "0/3E8" }];
for (const mode of KEPT) {
  const name = typeof mode === "string" ? mode : "static";
  test(`keepStartLease: a ${name} one holds where its run began, on its own timeline`, async () => {
    const { asked, told, question } = await startLease(mode, async () => {});
    assert.deepEqual(asked, [question, question]);
    assert.deepEqual(told, []);
  });

  test(`keepStartLease: a ${name} one that has lost it ${name === "static" ? "ends, as its LSN is gone" : "begins anew at the head"}`, async () => {
    const { asked, told, question } = await startLease(mode, () => Promise.reject(COLLECTED));
    const why = "read on at 0/3E8: 0/3E8 is below 0/4000";
    assert.deepEqual(asked, [question]);
    assert.deepEqual(told, [name === "static" ? ["fatal", "invalid", why] : ["stale", why]]);
  });
}

import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { nowMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { toLsn } from "../../base/lsn.ts";
import { LSN_LEASE_MS } from "../../pageserver/client.ts";
import { LeaseKeeper } from "./lease-keeper.ts";

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

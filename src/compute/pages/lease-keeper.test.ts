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
    const keeper = new LeaseKeeper(
      async (lsn) => {
        assert.equal(lsn, 1000);
        const minutes = (nowMs() - begin) / 60_000;
        if (minutes > 20 && minutes < 26) {
          throw new StorageError("unavailable", "away", "the pageserver is away");
        }
        assert.ok(nowMs() < end, "the lease has lapsed");
        end = nowMs() + LSN_LEASE_MS;
        renewals++;
      },
      createLogger("test", "silent"),
    );
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

import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { SafekeeperCluster, START } from "../../../testing/safekeeper-cluster.ts";
import { REAL_CLOCK, replaceClock } from "../../base/clock.ts";
import { openReplication } from "../client.ts";
import { WalSender } from "./wal-sender.ts";

test("WalSender: a standby that falls silent is asked, then cut off, and holds nothing back", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  let offsetMs = 0;
  replaceClock({ ...REAL_CLOCK, monotonicMs: () => REAL_CLOCK.monotonicMs() + offsetMs });
  t.after(() => replaceClock(REAL_CLOCK));
  const open = async () => {
    const seen = { asked: false, closed: false };
    const stream = await openReplication(
      { ...cluster.address(0), startLsn: START },
      {
        onWal() {},
        onKeepalive: (_end, replyRequested) => {
          seen.asked ||= replyRequested;
        },
        onClose: () => {
          seen.closed = true;
        },
      },
    );
    return { stream, seen };
  };
  const standby = await open();
  const other = await open();
  const xmin = () => cluster.timeline(0).appendResponse().hotStandbyFeedback.xmin;
  standby.stream.sendHotStandbyFeedback({
    timestamp: 0,
    xmin: (3n << 32n) | 700n,
    catalogXmin: 0n,
  });
  await eventually("feedback", () => xmin() === ((3n << 32n) | 700n));
  assert.deepEqual(standby.seen, { asked: false, closed: false });
  offsetMs = 31_000;
  await eventually("question", () => standby.seen.asked);
  const position = { writeLsn: START, flushLsn: START, applyLsn: START, timeMs: 0 };
  standby.stream.sendStandbyStatus(position);
  const consumers = () => cluster.timeline(0).consumers.size;
  await eventually("answer", () =>
    [...cluster.timeline(0).consumers].some(
      (consumer) => consumer instanceof WalSender && consumer.standbyStatus !== undefined,
    ),
  );
  offsetMs = 62_000;
  standby.seen.asked = false;
  await eventually("another question", () => standby.seen.asked);
  assert.deepEqual([consumers(), standby.seen.closed], [2, false]);
  offsetMs = 130_000;
  await eventually("end", () => standby.seen.closed && consumers() === 1);
  assert.equal(xmin(), 0n);
  assert.deepEqual(other.seen, { asked: false, closed: false });
  other.stream.close();
});

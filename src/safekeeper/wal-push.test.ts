import assert from "node:assert/strict";
import { test } from "node:test";
import { SimulatedDisk } from "../../simulation/simulated-disk.ts";
import {
  createTimeline,
  METRICS,
  newTimeline,
  silentContext,
} from "../../simulation/simulated-timeline.ts";
import { FIRST_LSN, SEGMENT_SIZE, SYSTEM_ID } from "../../simulation/simulated-wal.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { turn } from "../base/clock.ts";
import type { Lsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import type { WireSession } from "../postgres/wire/wire-server.ts";
import { NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerMessage,
} from "../safekeeper-protocol/messages.ts";
import { receiveWal } from "./wal-push.ts";

/** A proposer's connection to a timeline whose syncs in the background end when the test says so. */
class Push {
  readonly wal = new WalBuilder({
    startLsn: FIRST_LSN,
    systemId: SYSTEM_ID,
    segmentSize: SEGMENT_SIZE,
  });
  readonly disk = new SimulatedDisk(new SeededRandom(1));
  readonly timeline;
  /** Flush LSNs as told. */
  readonly told: Lsn[] = [];
  refused: unknown;
  endSync: ((error?: Error) => void) | undefined;
  #deliver: (payload: Uint8Array) => void = () => undefined;
  #idle: () => void = () => undefined;

  constructor() {
    const background = {
      ...this.disk.background,
      fdatasync: (fd: number) => {
        const end = this.disk.beginSync(fd);
        return new Promise<void>((resolve, reject) => {
          this.endSync = (error) => {
            this.endSync = undefined;
            if (error === undefined) {
              end();
              resolve();
            } else {
              reject(error);
            }
          };
        });
      },
    };
    Object.defineProperty(this.disk, "background", { value: background });
    this.timeline = createTimeline(silentContext(1, this.disk), newTimeline(NO_MEMBERSHIP));
    const channel = {
      closed: false,
      onClose: () => undefined,
      onIdle: (idle: () => void) => {
        this.#idle = idle;
      },
      onData: (deliver: (payload: Uint8Array) => void) => {
        this.#deliver = deliver;
      },
      send: (payload: Uint8Array) => {
        const message = decodeAcceptorMessage(payload);
        if (message.type === "append-response") {
          this.told.push(message.flushLsn);
        }
      },
    };
    const session = {
      remote: "test",
      copyBoth: () => channel,
      refuse: (error: unknown) => {
        this.refused = error;
      },
    };
    receiveWal(session as unknown as WireSession, this.timeline, new Set(), METRICS, 60_000);
    const { tenantId, timelineId, persistent } = {
      ...this.timeline.state.persistent,
      persistent: this.timeline.state.persistent,
    };
    this.send({
      type: "greeting",
      tenantId,
      timelineId,
      mconf: persistent.mconf,
      pgVersion: persistent.pgVersion,
      systemId: persistent.systemId,
      walSegSize: persistent.walSegSize,
    });
    this.send({ type: "vote-request", generation: 0, term: 1 });
    const termHistory = [{ term: 1, lsn: FIRST_LSN }];
    const startStreamingAt = FIRST_LSN;
    this.send({ type: "elected", generation: 0, term: 1, startStreamingAt, termHistory });
  }

  send(message: ProposerMessage): void {
    this.#deliver(encodeProposerMessage(message));
  }

  /** One record more, in one request, and nothing behind it. */
  append(bytes: number): Lsn {
    const beginLsn = this.wal.endLsn;
    this.wal.appendFilled(bytes);
    const { endLsn } = this.wal;
    const positions = { beginLsn, endLsn, commitLsn: FIRST_LSN, truncateLsn: FIRST_LSN };
    const walData = this.wal.read(beginLsn, endLsn);
    this.send({ type: "append-request", generation: 0, term: 1, ...positions, walData });
    this.#idle();
    return endLsn;
  }
}

const BULK = 100_000;

test("receiveWal: while bulk WAL is synced more is taken in, and answered after a sync of its own", async () => {
  const push = new Push();
  const bulk = push.append(BULK);
  assert.ok(push.endSync !== undefined);
  const commit = push.append(100);
  assert.equal(push.timeline.state.writeLsn, commit);
  assert.deepEqual(push.told, []);
  push.endSync();
  await turn();
  assert.deepEqual(push.told, [bulk, commit]);
  assert.equal(push.endSync, undefined, "a commit's WAL is synced at once");
});

test("receiveWal: of what was written while a sync went on nothing is told when that ends", async () => {
  const push = new Push();
  const first = push.append(BULK);
  const second = push.append(BULK);
  push.endSync!();
  await turn();
  assert.deepEqual(push.told, [first]);
  assert.equal(push.timeline.state.flushLsn, first);
  push.endSync!();
  await turn();
  assert.deepEqual(push.told, [first, second]);
});

test("receiveWal: a sync that fails beside what is received ends the connection, and is final", async () => {
  const push = new Push();
  push.append(BULK);
  push.append(100);
  push.endSync!(new Error("i/o error"));
  await turn();
  assert.deepEqual(push.told, []);
  assert.equal((push.refused as { code?: string }).code, "wal-flush-failed");
  assert.throws(() => push.timeline.settle(), { code: "wal-flush-failed" });
});

test("receiveWal: a timeline that is closed while a sync goes on answers nothing more", async () => {
  const push = new Push();
  const end = push.append(BULK);
  push.timeline.close();
  push.endSync!();
  await turn();
  assert.deepEqual(push.told, []);
  assert.equal((push.refused as { code?: string }).code, "timeline-closed");
  assert.equal(push.timeline.state.flushLsn, end, "who closes waits for what is under way");
});

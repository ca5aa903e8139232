// A storage broker and a safekeeper's stand-in in one: gives a pageserver the WAL of many timelines, and holds it to what it told.

import assert from "node:assert/strict";
import { setRepeatingTimer, sleep, type Timer } from "../../src/base/clock.ts";
import type { TenantId, TimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { formatLsn, type Lsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import { WireServer, type WireSession } from "../../src/postgres/wire/wire-server.ts";
import { BrokerClient } from "../../src/storage-broker/client.ts";
import { BrokerServer } from "../../src/storage-broker/server.ts";
import type { PageWal } from "./page-wal.ts";

const PUBLISH_MS = 100;
const MESSAGE_BYTES = 100_000;
const STANDBY_STATUS = "r".charCodeAt(0);
/** Of its message: after write and flush LSN. */
const APPLY_OFFSET = 17;

export interface SourceTimeline {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly wal: PageWal;
  /** The highest remote_consistent_lsn that was told: below it there is no WAL any more. */
  told: Lsn;
}

export class WalSource {
  readonly #timelines = new Map<string, SourceTimeline>();
  readonly #wire: WireServer;
  readonly #broker: BrokerServer;
  #publisher: BrokerClient | undefined;
  #timer: Timer | undefined;
  #pgAddr = "";
  brokerAddress = "";
  /** What a pageserver asked for although it had said that it needs it no more. */
  readonly broken: string[] = [];

  private constructor() {
    const logger = createLogger("test", "silent");
    this.#broker = new BrokerServer({ logger, allowedHosts: [] });
    this.#wire = new WireServer({
      logger,
      onQuery: async (session, sql) => this.#stream(session, sql),
    });
  }

  static async start(): Promise<WalSource> {
    const source = new WalSource();
    const { port: brokerPort } = await source.#broker.listen("127.0.0.1", 0);
    const { port } = await source.#wire.listen("127.0.0.1", 0);
    source.#pgAddr = `127.0.0.1:${port}`;
    source.brokerAddress = `http://127.0.0.1:${brokerPort}`;
    source.#publisher = new BrokerClient(source.brokerAddress, createLogger("test", "silent"));
    source.#timer = setRepeatingTimer(() => source.#publish(), PUBLISH_MS);
    return source;
  }

  /** In place of all that were served. */
  serve(timelines: Iterable<SourceTimeline>): void {
    this.#timelines.clear();
    this.broken.length = 0;
    for (const timeline of timelines) {
      this.#timelines.set(timeline.timelineId, timeline);
    }
  }

  #publish(): void {
    for (const { tenantId, timelineId, wal } of this.#timelines.values()) {
      const nothing = toLsn(0);
      this.#publisher?.publish({
        safekeeperId: 1,
        tenantId,
        timelineId,
        term: 1,
        lastLogTerm: 1,
        flushLsn: wal.endLsn,
        commitLsn: wal.endLsn,
        backupLsn: nothing,
        remoteConsistentLsn: nothing,
        peerHorizonLsn: nothing,
        localStartLsn: nothing,
        generation: 0,
        safekeeperConnstr: this.#pgAddr,
        httpConnstr: "",
      });
    }
  }

  #stream(session: WireSession, sql: string): void {
    const from = parseLsn(/^START_REPLICATION PHYSICAL (\S+)$/.exec(sql)?.[1] ?? "");
    const served = this.#timelines.get(session.options.get("timeline_id") ?? "");
    assert(from !== undefined && served !== undefined, sql);
    if (from < served.told) {
      const problem = `${served.timelineId}: WAL from ${formatLsn(from)} on, after ${formatLsn(served.told)} was told`;
      this.broken.push(problem);
      throw new Error(problem);
    }
    const channel = session.copyBoth();
    let isOpen = true;
    channel.onClose(() => {
      isOpen = false;
    });
    channel.onData((payload) => {
      if (payload[0] === STANDBY_STATUS) {
        const applied = Number(Buffer.from(payload).readBigUInt64BE(APPLY_OFFSET));
        served.told = toLsn(Math.max(served.told, applied));
      }
    });
    void (async () => {
      for (let next = from; isOpen; ) {
        const { endLsn, builder } = served.wal;
        const size = Math.min(endLsn - next, MESSAGE_BYTES);
        if (size > 0) {
          channel.send(walMessage(next, builder.read(next, toLsn(next + size)), endLsn));
          next = toLsn(next + size);
          await channel.drained();
        } else {
          await sleep(1);
        }
      }
    })();
  }

  async close(): Promise<void> {
    this.#timer?.cancel();
    this.#publisher?.close();
    await this.#wire.close();
    await this.#broker.close();
  }
}

function walMessage(lsn: Lsn, bytes: Uint8Array, endLsn: Lsn): Uint8Array {
  const message = Buffer.alloc(25 + bytes.length);
  message[0] = "w".charCodeAt(0);
  message.writeBigUInt64BE(BigInt(lsn), 1);
  message.writeBigUInt64BE(BigInt(endLsn), 9);
  message.set(bytes, 25);
  return message;
}

// Safekeepers in the test's own process, on free ports that they keep over restarts, and a compute for them.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { formatLsn, type Lsn, toLsn } from "../src/base/lsn.ts";
import { parseHostPort } from "../src/postgres/wire/wire-client.ts";
import { openReplication, SafekeeperHttpClient } from "../src/safekeeper/client.ts";
import {
  type Safekeeper,
  type SafekeeperOptions,
  startSafekeeper,
} from "../src/safekeeper/safekeeper.ts";
import { ProposerDriver } from "../src/walproposer/proposer-driver.ts";
import { eventually } from "./eventually.ts";
import { freePort } from "./free-port.ts";
import type { WalBuilder } from "./wal-builder.ts";

const logger = createLogger("test", "silent");
export const SEGMENT = 1024 * 1024;
/** Of whoever asks a safekeeper over HTTP: much may be copied meanwhile, on a machine that has other things to do. */
const PATIENCE_MS = 60_000;
/** In the middle of the timeline's first segment. */
export const START = toLsn(SEGMENT + 8192 + 40);

/** What differs from a plain safekeeper without broker and object store. */
export type NodeSettings = Partial<
  Pick<SafekeeperOptions, "broker" | "store" | "backup" | "startupTimeoutMs">
>;

export interface Leader {
  readonly driver: ProposerDriver;
  readonly events: { committed: Lsn; fencedBy: number };
  readonly startLsn: Lsn;
}

export class SafekeeperCluster {
  readonly directory = mkdtempSync(join(tmpdir(), "strata-sk-"));
  readonly tenantId = generateTenantId();
  readonly timelineId = generateTimelineId();
  readonly nodes: (Safekeeper | undefined)[] = [];
  readonly #settings: NodeSettings;
  readonly #addresses: { pg: string; http: string }[] = [];
  readonly #drivers: ProposerDriver[] = [];

  constructor(settings: NodeSettings = {}) {
    this.#settings = settings;
  }

  /** With one timeline, which begins at START; removed after the test. */
  static async start(
    context: TestContext,
    count: number,
    settings: NodeSettings = {},
  ): Promise<SafekeeperCluster> {
    const cluster = new SafekeeperCluster(settings);
    context.after(() => cluster.destroy());
    for (let i = 0; i < count; i++) {
      await cluster.startNode(i);
      await cluster.http(i).createTimeline(cluster.createRequest());
    }
    return cluster;
  }

  createRequest() {
    return {
      tenant_id: this.tenantId,
      timeline_id: this.timelineId,
      pg_version: 170010,
      system_id: "42",
      wal_seg_size: SEGMENT,
      start_lsn: formatLsn(START),
    };
  }

  async startNode(index: number, settings: NodeSettings = this.#settings): Promise<Safekeeper> {
    const known = this.#addresses[index];
    // Not one of the kernel's choice: somebody else would be given it while the node is down.
    const anew = async () => `127.0.0.1:${await freePort()}`;
    const node = await startSafekeeper({
      nodeId: index + 1,
      workdir: this.workdir(index),
      listenPg: known?.pg ?? (await anew()),
      listenHttp: known?.http ?? (await anew()),
      broker: undefined,
      logger,
      maintenanceIntervalMs: 100,
      ...settings,
    });
    this.nodes[index] = node;
    this.#addresses[index] = { pg: node.pgAddr, http: node.httpAddr };
    return node;
  }

  async stopNode(index: number): Promise<void> {
    const node = this.nodes[index];
    this.nodes[index] = undefined;
    await node?.stop();
  }

  workdir(index: number): string {
    return join(this.directory, `sk${index + 1}`);
  }

  timelineDirectory(index: number): string {
    return join(this.workdir(index), this.tenantId, this.timelineId);
  }

  httpAddr(index: number): string {
    return this.#addresses[index]!.http;
  }

  http(index: number): SafekeeperHttpClient {
    return new SafekeeperHttpClient(`http://${this.httpAddr(index)}`, PATIENCE_MS);
  }

  address(index: number) {
    const { tenantId, timelineId } = this;
    return { pgAddr: this.#addresses[index]!.pg, tenantId, timelineId };
  }

  timeline(index: number) {
    return this.nodes[index]!.timelines.get(this.tenantId, this.timelineId);
  }

  state(index: number) {
    return this.timeline(index).state;
  }

  /** A compute that won its election. `hosts`: other names of this machine, for the first safekeepers. */
  async lead(timelineId = this.timelineId, hosts: readonly string[] = []): Promise<Leader> {
    const events = { committed: START, fencedBy: 0 };
    const driver = new ProposerDriver({
      tenantId: this.tenantId,
      timelineId,
      pgVersion: 170010,
      walSegSize: SEGMENT,
      safekeepers: this.#addresses.map(({ pg }, index) => {
        const { host, port } = parseHostPort(pg);
        return { id: index + 1, host: hosts[index] ?? host, pgPort: port };
      }),
      logger,
      onCommitted: (lsn) => {
        events.committed = lsn;
      },
      onFenced: (term) => {
        events.fencedBy = term;
      },
      onFatal: (error) => {
        throw error;
      },
    });
    this.#drivers.push(driver);
    driver.start();
    const election = await driver.elected;
    await driver.recovered;
    return { driver, events, startLsn: election.startLsn };
  }

  async destroy(): Promise<void> {
    for (const driver of this.#drivers) {
      driver.close();
    }
    await Promise.all(this.nodes.map((node) => node?.stop()));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Appends records to `wal` and waits until they are committed. */
export async function commit(leader: Leader, wal: WalBuilder, lengths: number[]): Promise<void> {
  for (const length of lengths) {
    wal.appendFilled(length);
  }
  const endLsn = wal.endLsn;
  leader.driver.setLocalWal((begin, end) => wal.read(begin, end));
  leader.driver.walAvailable(endLsn);
  await eventually("commit", () => leader.events.committed >= endLsn);
}

/** Reads committed WAL [from, to) from a safekeeper. */
export async function readWal(
  cluster: SafekeeperCluster,
  index: number,
  from: Lsn,
  to: Lsn,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  let failure: Error | undefined;
  const stream = await openReplication(
    { ...cluster.address(index), startLsn: from },
    {
      onWal: (_lsn, bytes) => {
        chunks.push(Buffer.from(bytes));
        length += bytes.length;
      },
      onClose: (error) => {
        failure = error;
      },
    },
  );
  await eventually("WAL", () => failure !== undefined || length >= to - from);
  stream.close();
  return Buffer.concat(chunks).subarray(0, to - from);
}

export const wholeWal = (wal: WalBuilder) => Buffer.from(wal.read(wal.startLsn, wal.endLsn));

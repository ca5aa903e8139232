// For tests: storage daemons and compute agents as real processes on free ports, in one directory.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../../src/base/ids.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import { programOf } from "../../src/base/program-files.mjs";
import type { EndpointSpec } from "../../src/compute/api.ts";
import { ComputeClient } from "../../src/compute/client.ts";
import type { TimelineInfo } from "../../src/pageserver/api.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import {
  DEFAULT_MAJOR,
  postgresSocketDirectory,
  runtimeDirectory,
} from "../../src/postgres/installation.ts";
import { connectWire, type WireConnection } from "../../src/postgres/wire/wire-client.ts";
import { SafekeeperHttpClient } from "../../src/safekeeper/client.ts";
import { eventually } from "../eventually.ts";
import { freePort } from "../free-port.ts";

/** A daemon's process, and how to start it again in the same place. */
export class DaemonProcess {
  readonly name: string;
  readonly workdir: string;
  readonly #args: readonly string[];
  readonly #entry: string;
  #child: ChildProcess | undefined;
  exitCode: number | null = null;

  constructor(name: string, entry: string, workdir: string, args: readonly string[]) {
    this.name = name;
    this.workdir = workdir;
    this.#entry = `${entry}/main.ts`;
    this.#args = args;
    mkdirSync(workdir, { recursive: true });
  }

  start(): void {
    const log = openSync(this.logPath, "a");
    this.exitCode = null;
    const child = spawn(
      process.execPath,
      [
        "--disable-warning=ExperimentalWarning",
        programOf(this.#entry),
        "--workdir",
        this.workdir,
        ...this.#args,
      ],
      { stdio: ["ignore", log, log] },
    );
    child.once("exit", (code) => {
      this.exitCode = code ?? -1;
    });
    this.#child = child;
  }

  get logPath(): string {
    return join(this.workdir, "test.log");
  }

  get log(): string {
    return readFileSync(this.logPath, "utf8");
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  get running(): boolean {
    return this.#child !== undefined && this.exitCode === null;
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    if (this.running) {
      this.#child!.kill(signal);
      await this.exited();
    }
  }

  async exited(timeoutMs = 30_000): Promise<void> {
    await eventually(`${this.name} to end`, () => !this.running, { timeoutMs });
  }
}

interface Node {
  readonly id: number;
  readonly pgAddr: string;
  readonly httpAddr: string;
  readonly daemon: DaemonProcess;
}

export class ComputeEndpoint {
  readonly spec: EndpointSpec;
  readonly daemon: DaemonProcess;
  readonly client: ComputeClient;

  constructor(spec: EndpointSpec, daemon: DaemonProcess) {
    this.spec = spec;
    this.daemon = daemon;
    this.client = new ComputeClient(`127.0.0.1:${spec.internalHttpPort}`);
  }

  /** Starts the agent and waits until Postgres accepts connections. */
  async start(): Promise<void> {
    this.daemon.start();
    await this.running();
  }

  async running(restarts = 0): Promise<void> {
    await eventually(`${this.spec.endpointId} to run`, async () => {
      if (!this.daemon.running) {
        throw new Error(`the agent ended:\n${this.daemon.log.slice(-3000)}`);
      }
      const status = await this.client.status();
      return status.status === "running" && status.restarts >= restarts;
    });
  }

  connect(timeoutMs = 60_000): Promise<WireConnection> {
    return connectWire({
      host: postgresSocketDirectory(this.daemon.workdir),
      port: this.spec.pgPort,
      parameters: { user: "cloud_admin", database: "postgres" },
      timeoutMs,
    });
  }

  /** One query on its own connection; the rows. */
  async query(sql: string): Promise<(string | null)[][]> {
    const connection = await this.connect();
    try {
      return (await connection.query(sql)).rows;
    } finally {
      connection.close();
    }
  }
}

/** A broker, a pageserver, safekeepers, and one tenant. */
export class ComputeWorld {
  readonly directory: string;
  readonly tenantId = generateTenantId();
  readonly safekeepers: Node[] = [];
  readonly endpoints: ComputeEndpoint[] = [];
  pageserver!: Node;
  #broker!: DaemonProcess;

  static async start(safekeeperCount: number): Promise<ComputeWorld> {
    const world = new ComputeWorld();
    try {
      await world.#start(safekeeperCount);
    } catch (error) {
      await world.remove();
      throw error;
    }
    return world;
  }

  private constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "strata-compute-"));
  }

  async #start(safekeeperCount: number): Promise<void> {
    const brokerAddress = `127.0.0.1:${await freePort()}`;
    this.#broker = new DaemonProcess("broker", "storage-broker", join(this.directory, "broker"), [
      "--listen",
      brokerAddress,
    ]);
    this.#broker.start();
    const node = async (kind: string, id: number): Promise<Node> => {
      const pgAddr = `127.0.0.1:${await freePort()}`;
      const httpAddr = `127.0.0.1:${await freePort()}`;
      const daemon = new DaemonProcess(
        `${kind} ${id}`,
        kind,
        join(this.directory, `${kind}${id}`),
        [
          ...["--id", String(id), "--listen-pg", pgAddr, "--listen-http", httpAddr],
          ...["--broker", `http://${brokerAddress}`],
        ],
      );
      daemon.start();
      return { id, pgAddr, httpAddr, daemon };
    };
    this.pageserver = await node("pageserver", 1);
    for (let id = 1; id <= safekeeperCount; id++) {
      this.safekeepers.push(await node("safekeeper", id));
    }
    for (const started of [this.pageserver, ...this.safekeepers]) {
      await this.#answers(started);
    }
    await this.pages().createTenant(this.tenantId);
  }

  async #answers({ daemon, httpAddr }: Node): Promise<void> {
    await eventually(`${daemon.name} to answer`, async () => {
      return (await fetch(`http://${httpAddr}/v1/status`)).ok;
    });
  }

  /** Starts a daemon that was killed, and waits until it answers. */
  async restart(node: Node): Promise<void> {
    node.daemon.start();
    await this.#answers(node);
  }

  pages(): PageserverHttpClient {
    return new PageserverHttpClient(this.pageserver.httpAddr);
  }

  safekeeperClient(id: number): SafekeeperHttpClient {
    return new SafekeeperHttpClient(`http://${this.safekeepers[id - 1]!.httpAddr}`);
  }

  /** A root timeline, or a branch. */
  async createTimeline(ancestor?: { timelineId: string; lsn: string }): Promise<TimelineInfo> {
    const info = await this.pages().createTimeline(this.tenantId, {
      new_timeline_id: generateTimelineId(),
      pg_version: DEFAULT_MAJOR,
      ...(ancestor === undefined
        ? {}
        : { ancestor_timeline_id: ancestor.timelineId, ancestor_start_lsn: ancestor.lsn }),
    });
    const members = this.safekeepers.map(({ id, pgAddr }) => ({
      id,
      host: "127.0.0.1",
      pg_port: Number(pgAddr.split(":")[1]),
    }));
    for (const { id } of this.safekeepers) {
      await this.safekeeperClient(id).createTimeline({
        tenant_id: this.tenantId,
        timeline_id: info.timeline_id,
        pg_version: DEFAULT_MAJOR * 10_000,
        system_id: info.system_id,
        wal_seg_size: info.wal_seg_size,
        start_lsn: info.start_lsn,
        mconf: { generation: 1, members, new_members: null },
      });
    }
    return info;
  }

  async createEndpoint(
    timelineId: string,
    options: {
      mode?: EndpointSpec["mode"];
      settings?: Record<string, string>;
      extensionDir?: string;
    } = {},
  ): Promise<ComputeEndpoint> {
    const endpointId = `ep-${this.endpoints.length + 1}`;
    const workdir = join(this.directory, endpointId);
    const spec: EndpointSpec = {
      endpointId,
      tenantId: this.tenantId,
      timelineId,
      mode: options.mode ?? "primary",
      pgVersion: DEFAULT_MAJOR,
      pgHost: "127.0.0.1",
      pgPort: await freePort(),
      internalHttpPort: await freePort(),
      pageserver: { pgAddr: this.pageserver.pgAddr, httpAddr: this.pageserver.httpAddr },
      safekeepers: this.safekeepers.map(({ id, pgAddr, httpAddr }) => ({ id, pgAddr, httpAddr })),
      settings: { shared_buffers: "16MB", ...options.settings },
      extensionDir: options.extensionDir,
    };
    const daemon = new DaemonProcess(endpointId, "compute", workdir, []);
    writeFileSync(join(workdir, "endpoint.json"), JSON.stringify(spec));
    const endpoint = new ComputeEndpoint(spec, daemon);
    this.endpoints.push(endpoint);
    return endpoint;
  }

  /** Waits until the safekeeper has flushed `lsn`. */
  async flushed(safekeeperId: number, timelineId: string, lsn: Lsn, parse: (text: string) => Lsn) {
    await eventually(`safekeeper ${safekeeperId} to catch up`, async () => {
      const status = await this.safekeeperClient(safekeeperId).timelineStatus(
        this.tenantId,
        timelineId as never,
      );
      return parse(status.flush_lsn) >= lsn;
    });
  }

  async remove(): Promise<void> {
    const daemons = [
      ...this.endpoints.map((endpoint) => endpoint.daemon),
      this.pageserver?.daemon,
      ...this.safekeepers.map((node) => node.daemon),
      this.#broker,
    ];
    for (const daemon of daemons) {
      await daemon?.kill("SIGQUIT");
    }
    // A Postgres that was told to quit may still be writing.
    await sleep(200);
    for (const { daemon } of this.endpoints) {
      rmSync(runtimeDirectory(daemon.workdir), { recursive: true, force: true, maxRetries: 5 });
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

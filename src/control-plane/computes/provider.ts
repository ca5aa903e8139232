// Who runs computes: an interface, and the one that runs them as processes of this machine.

import { errorKind } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { StartMetrics } from "../../compute/api.ts";
import type { ClaimedAgent, WarmAgents } from "../../local/agents/warm-agents.ts";
import { majorOf } from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { type Spawn, spawnDaemon } from "../../local/daemon.ts";
import { stopAndKeep } from "../../local/endpoint-stop.ts";
import { startWithLocks } from "../../local/endpoints/start-endpoint.ts";
import {
  clientOf,
  createEndpoint,
  type DamagedEndpoint,
  destroyEndpoint,
  type Endpoint,
  endpointState,
  findEndpoint,
  findEvenDamaged,
  joinEndpoint,
  lastWordMs,
  logFileOf,
  setEndpointSettings,
  socketAddress,
} from "../../local/endpoints.ts";
import type { StrataHome } from "../../local/home.ts";
import { withEndpointMaking, withLock } from "../../local/lock.ts";
import { readLastStart } from "../../local/logs/last-start.ts";
import type { LogSource } from "../../local/logs/log-entries.ts";
import { renewAgentToken } from "../../local/service-keys.ts";
import type { TimelineInfo } from "../../pageserver/api.ts";

export interface NewCompute {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** Absent: at the head. */
  readonly staticLsn?: Lsn | undefined;
  /** At the head: a replica, which follows it; else the primary. */
  readonly replica?: boolean | undefined;
  readonly settings: Readonly<Record<string, string>>;
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Each call is idempotent. Ids are endpoints'. */
export interface ComputeProvider {
  /**
   * Nothing runs yet. `pgVersion`: of a timeline that is not there yet; absent: it is asked for. StorageError `conflict` where the
   * branch has a primary already.
   */
  create(compute: NewCompute, pgVersion?: number): Promise<void>;
  /**
   * Resolves when Postgres accepts connections; whether an agent took it over that had started before. `underWay`: called when
   * one is at work.
   */
  start(id: string, underWay?: () => void): Promise<{ readonly isFromPool: boolean }>;
  /** For who will soon start one: it loads meanwhile. Undefined where none can be started. */
  agentAhead(): ClaimedAgent | undefined;
  /** The endpoint will be started before `done` settles. */
  expectStart(id: string, done: Promise<void>): void;
  /** Everything that was committed is on a quorum then. One that is not there is stopped. */
  stop(id: string): Promise<void>;
  /** Stops it where it runs. */
  destroy(id: string): Promise<void>;
  isRunning(id: string): boolean;
  /**
   * As isRunning, once its Postgres accepts connections: a start may be under way that an earlier life of this process has begun, or
   * a stop, or Postgres is being built anew. StorageError `unavailable` where that takes longer than a start.
   */
  joins(id: string): Promise<boolean>;
  exists(id: string): boolean;
  /** When it last did something, running or not; milliseconds since 1970, undefined where it never ran. */
  lastRanMs(id: string): number | undefined;
  /** Where clients' Postgres connections go. */
  address(id: string): HostPort;
}

/** Replaces all that an endpoint has. StorageError `invalid`. */
export type SetSettings = (settings: Readonly<Record<string, string>>) => void;

export interface LastStart {
  /** When Postgres took connections, ISO; undefined where only the agent tells of it, which does not know. */
  readonly at: string | undefined;
  readonly metrics: StartMetrics;
}

const START_TIMEOUT_MS = 90_000;
/** Of timelines on which no endpoint is made soon nobody asks. */
const MAX_NOTED_MAJORS = 100;
const silent = () => {};

/** Who starts an endpoint, or changes it, holds it. */
const lockOf = (id: string) => `endpoint ${id}`;

export class LocalProcesses implements ComputeProvider {
  readonly #home: StrataHome;
  readonly #warmAgents: WarmAgents;
  readonly #logger: Logger;
  /** By endpoint. */
  readonly #ahead = new Map<string, ClaimedAgent>();
  /** By timeline that was just made. */
  readonly #majors = new Map<string, number>();

  constructor(home: StrataHome, warmAgents: WarmAgents, logger: Logger) {
    this.#home = home;
    this.#warmAgents = warmAgents;
    this.#logger = logger;
  }

  /** Of a timeline that was just made, for the endpoint that is made on it next. */
  noteMajor({ timeline_id, pg_version }: Pick<TimelineInfo, "timeline_id" | "pg_version">): void {
    if (this.#majors.size >= MAX_NOTED_MAJORS) {
      this.#majors.clear();
    }
    this.#majors.set(timeline_id, pg_version);
  }

  async create(compute: NewCompute, pgVersion?: number): Promise<void> {
    const { id, tenantId, timelineId, staticLsn } = compute;
    const home = this.#home;
    await withEndpointMaking(home, async () => {
      if (this.exists(id)) {
        return;
      }
      const controller = controllerOf(home);
      if (staticLsn !== undefined) {
        await controller.leaseLsn(tenantId, timelineId, staticLsn);
      }
      const noted = pgVersion ?? this.#majors.get(timelineId);
      const major = noted ?? (await majorOf(home, tenantId, timelineId));
      this.#majors.delete(timelineId);
      const wanted = { ...compute, pgVersion: major, settings: { ...compute.settings } };
      const placement = controller.placementOf(tenantId, timelineId);
      const { directory } = await createEndpoint(home, wanted, placement);
      // A start finds it, and its lock's file.
      await withLock(home.path, lockOf(id), async () => renewAgentToken(home, directory, tenantId));
    });
  }

  async start(
    id: string,
    underWay: () => void = () => {},
  ): Promise<{ readonly isFromPool: boolean }> {
    let isFromPool = false;
    const spawn: Spawn = async (daemon) => {
      const ahead = this.#ahead.get(id);
      const warm = await (ahead === undefined ? this.#warmAgents.take(daemon) : ahead.take(daemon));
      isFromPool = warm !== undefined;
      const child = warm ?? spawnDaemon(daemon);
      underWay();
      return child;
    };
    try {
      await startWithLocks(this.#home, findEndpoint(this.#home, id), {
        timeoutMs: START_TIMEOUT_MS,
        print: silent,
        onPortMoved: (what) => this.#logger.warn({ endpoint: id, what }, "a port was taken"),
        spawn,
      });
    } finally {
      this.#warmAgents.startEnded();
    }
    return { isFromPool };
  }

  agentAhead(): ClaimedAgent | undefined {
    return this.#warmAgents.claim();
  }

  /** An endpoint that is being made will be started before `done` settles. */
  expectStart(id: string, done: Promise<void>): void {
    const ahead = this.agentAhead();
    if (ahead === undefined) {
      return;
    }
    this.#ahead.set(id, ahead);
    const over = () => {
      this.#ahead.delete(id);
      void ahead.release();
    };
    done.then(over, over);
  }

  async stop(id: string): Promise<void> {
    const endpoint = this.#find(id);
    if (endpoint !== undefined) {
      await stopAndKeep(this.#home, endpoint, "fast", silent);
    }
  }

  async destroy(id: string): Promise<void> {
    const endpoint = this.#find(id);
    if (endpoint !== undefined) {
      await stopAndKeep(this.#home, endpoint, "immediate", silent, () => destroyEndpoint(endpoint));
    }
  }

  isRunning(id: string): boolean {
    const endpoint = this.#find(id);
    return endpoint !== undefined && endpointState(endpoint).state === "running";
  }

  async joins(id: string): Promise<boolean> {
    const endpoint = this.#find(id);
    return endpoint !== undefined && (await joinEndpoint(endpoint, START_TIMEOUT_MS));
  }

  exists(id: string): boolean {
    return this.#find(id) !== undefined;
  }

  lastRanMs(id: string): number | undefined {
    const endpoint = this.#find(id);
    return endpoint && lastWordMs(endpoint);
  }

  address(id: string): HostPort {
    const { pgHost, pgPort } = findEndpoint(this.#home, id).spec;
    return { host: pgHost, port: pgPort };
  }

  /** Of Postgres's unix socket, which lets in whoever may open it: services of this machine's owner. */
  socketPath(id: string): string {
    const { host, port } = socketAddress(findEndpoint(this.#home, id));
    return `${host}/.s.PGSQL.${port}`;
  }

  /** Undefined where it is not there any more. */
  logFile(id: string, source: LogSource): string | undefined {
    const endpoint = this.#find(id);
    return endpoint && logFileOf(endpoint, source);
  }

  /**
   * How long its parts took, whether it runs or not; undefined where it never started, or nothing is kept of it. From its
   * log, which a wake does not wait for; where that does not tell any more, a running agent does.
   */
  async lastStart(id: string): Promise<LastStart | undefined> {
    const path = this.logFile(id, "compute");
    const logged = path === undefined ? undefined : await readLastStart(path);
    if (logged !== undefined || !this.isRunning(id)) {
      return logged;
    }
    try {
      return { at: undefined, metrics: await this.agent(id).startMetrics() };
    } catch (error) {
      // It is just starting, or stopping.
      if (errorKind(error) === "unavailable" || errorKind(error) === "not-found") {
        return undefined;
      }
      throw error;
    }
  }

  /** Of its agent, which runs on this machine. */
  agent(id: string): ReturnType<typeof clientOf> {
    return clientOf(findEndpoint(this.#home, id));
  }

  /** Of Postgres, as they are from its next start on. */
  settings(id: string): Readonly<Record<string, string>> {
    return findEndpoint(this.#home, id).spec.settings;
  }

  /**
   * Of Postgres: at once where a running one can take them, else from its next start on. `change` is called while nobody else
   * changes or starts the endpoint.
   */
  async changeSettings(id: string, change: (set: SetSettings) => Promise<void>): Promise<void> {
    // A start that is under way has read the old ones: it is over when we have its lock, or else joined.
    await withLock(this.#home.path, lockOf(id), () =>
      change((settings) => setEndpointSettings(findEndpoint(this.#home, id), settings)),
    );
    if (await this.joins(id)) {
      // Whoever tells it last tells what there is by then.
      const list = Object.entries(this.settings(id)).map(([name, value]) => ({ name, value }));
      await this.agent(id).configure({ spec: { cluster: { settings: list } } });
    }
  }

  /** Also one whose endpoint.json cannot be read: it is there, it may run, and it can be stopped. */
  #find(id: string): Endpoint | DamagedEndpoint | undefined {
    try {
      return findEvenDamaged(this.#home, id);
    } catch (error) {
      if (errorKind(error) === "not-found") {
        return undefined;
      }
      throw error;
    }
  }
}

// How other components talk to a safekeeper: its HTTP API, pushing WAL in, streaming WAL out.

import { nowMs } from "../base/clock.ts";
import { StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, INVALID_LSN, type Lsn, parseLsn } from "../base/lsn.ts";
import { HttpClient } from "../http/client.ts";
import type { CopyChannel } from "../postgres/wire/copy-channel.ts";
import { connectWire, parseHostPort } from "../postgres/wire/wire-client.ts";
import { type MembershipConfiguration, NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import {
  decodeMembership,
  type HotStandbyFeedback,
  PROTOCOL_VERSION,
} from "../safekeeper-protocol/messages.ts";
import {
  encodePageserverFeedback,
  type PageserverFeedback,
} from "../safekeeper-protocol/pageserver-feedback.ts";
import {
  decodeReplicationMessage,
  encodeHotStandbyFeedback,
  encodeStandbyStatus,
  type StandbyStatus,
} from "../safekeeper-protocol/replication-messages.ts";
import type {
  DeleteResponse,
  MembershipJson,
  MembershipSwitchResponse,
  PullTimelineRequest,
  PullTimelineResponse,
  SafekeeperStatus,
  SafekeeperTimelineStatus,
  TenantTimelineJson,
  TermBumpResponse,
  TimelineCopyRequest,
  TimelineCreateRequest,
} from "./api.ts";

const DEFAULT_TIMEOUT_MS = 10_000;

/** `baseUrl`: `host:port`, or a URL. Errors keep the kind that the HTTP status names. */
export class SafekeeperHttpClient {
  readonly #http: HttpClient;

  constructor(baseUrl: string, timeoutMs = DEFAULT_TIMEOUT_MS) {
    this.#http = new HttpClient({ component: "safekeeper", address: baseUrl, timeoutMs });
  }

  status(): Promise<SafekeeperStatus> {
    return this.#http.call("GET", "/v1/status");
  }

  createTimeline(request: TimelineCreateRequest): Promise<SafekeeperTimelineStatus> {
    return this.#http.call("POST", "/v1/tenant/timeline", { body: request });
  }

  listTimelines(): Promise<TenantTimelineJson[]> {
    return this.#http.call("GET", "/v1/tenant/timeline");
  }

  timelineStatus(tenant: TenantId, timeline: TimelineId): Promise<SafekeeperTimelineStatus> {
    return this.#http.call("GET", `/v1/tenant/${tenant}/timeline/${timeline}`);
  }

  /** With `onlyLocal` what the object store has of it stays. */
  deleteTimeline(
    tenant: TenantId,
    timeline: TimelineId,
    onlyLocal = false,
  ): Promise<DeleteResponse> {
    const query = onlyLocal ? "?only_local=true" : "";
    return this.#http.call("DELETE", `/v1/tenant/${tenant}/timeline/${timeline}${query}`);
  }

  /** Copies the timeline to this safekeeper from one of those given; give it time. */
  pullTimeline(request: PullTimelineRequest): Promise<PullTimelineResponse> {
    return this.#http.call("POST", "/v1/pull_timeline", { body: request });
  }

  /** A tar stream; see transfer/snapshot.ts. Whoever takes it looks after its own time-out. */
  async snapshot(
    tenant: TenantId,
    timeline: TimelineId,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    return this.#http.stream("GET", `/v1/tenant/${tenant}/timeline/${timeline}/snapshot/0`, signal);
  }

  copyTimeline(
    tenant: TenantId,
    timeline: TimelineId,
    request: TimelineCopyRequest,
  ): Promise<unknown> {
    return this.#http.call("POST", `/v1/tenant/${tenant}/timeline/${timeline}/copy`, {
      body: request,
    });
  }

  /** SHA-256 of WAL [from, until). */
  async digest(tenant: TenantId, timeline: TimelineId, from: Lsn, until: Lsn): Promise<string> {
    const range = `from_lsn=${formatLsn(from)}&until_lsn=${formatLsn(until)}`;
    const path = `/v1/tenant/${tenant}/timeline/${timeline}/digest?${range}`;
    return (await this.#http.call<{ sha256: string }>("GET", path)).sha256;
  }

  deleteTenant(tenant: TenantId): Promise<Record<string, DeleteResponse>> {
    return this.#http.call("DELETE", `/v1/tenant/${tenant}`);
  }

  /** From now on it refuses proposers of an older generation. */
  switchMembership(
    tenant: TenantId,
    timeline: TimelineId,
    mconf: MembershipJson,
  ): Promise<MembershipSwitchResponse> {
    const path = `/v1/tenant/${tenant}/timeline/${timeline}/membership`;
    return this.#http.call("PUT", path, { body: { mconf } });
  }

  /** Makes a safekeeper that `mconf` does not have let go of its copy; objects in the store stay. */
  exclude(tenant: TenantId, timeline: TimelineId, mconf: MembershipJson): Promise<DeleteResponse> {
    return this.#http.call("PUT", `/v1/tenant/${tenant}/timeline/${timeline}/exclude`, {
      body: { mconf },
    });
  }

  termBump(tenant: TenantId, timeline: TimelineId, term?: number): Promise<TermBumpResponse> {
    const path = `/v1/tenant/${tenant}/timeline/${timeline}/term_bump`;
    return this.#http.call("POST", path, { body: { term } });
  }
}

/** Which timeline, on which safekeeper (`HOST:PORT` of its Postgres-protocol listener). */
export interface SafekeeperAddress {
  readonly pgAddr: string;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly applicationName?: string;
  readonly timeoutMs?: number;
}

async function connect(address: SafekeeperAddress, sharesReceiveBuffer = false) {
  const { host, port } = parseHostPort(address.pgAddr);
  return connectWire({
    host,
    port,
    parameters: {
      user: "strata",
      database: "strata",
      replication: "true",
      application_name: address.applicationName ?? "strata",
      options: `-c timeline_id=${address.timelineId} tenant_id=${address.tenantId}`,
    },
    sharesReceiveBuffer,
    ...(address.timeoutMs === undefined ? {} : { timeoutMs: address.timeoutMs }),
  });
}

/**
 * Opens a walproposer connection: payloads of the channel are `encodeProposerMessage` out,
 * `decodeAcceptorMessage` in. Closing the channel closes the connection.
 */
export async function openWalPush(address: SafekeeperAddress): Promise<CopyChannel> {
  // Answers are short, and one comes for each commit.
  const connection = await connect(address, true);
  const command = `START_WAL_PUSH (proto_version '${PROTOCOL_VERSION}', allow_timeline_creation 'false')`;
  try {
    return await connection.copyBoth(command);
  } catch (error) {
    connection.close();
    throw withContext(error, `start WAL push to ${address.pgAddr}`);
  }
}

export interface WalStatus {
  /** Up to where it would send. */
  readonly commitLsn: Lsn;
  /** Generation 0: it was told of none. */
  readonly membership: MembershipConfiguration;
}

/** What a safekeeper knows of a timeline, by TIMELINE_STATUS. StorageError where it refuses, or makes no sense. */
export async function walStatus(address: SafekeeperAddress): Promise<WalStatus> {
  const connection = await connect(address);
  try {
    const { rows } = await connection.query("TIMELINE_STATUS");
    const [, commit, membership] = rows[0] ?? [];
    return {
      commitLsn: parseLsn(commit ?? "") ?? INVALID_LSN,
      // One of an earlier version does not tell.
      membership:
        membership == null ? NO_MEMBERSHIP : decodeMembership(Buffer.from(membership, "hex")),
    };
  } catch (error) {
    throw withContext(error, `ask ${address.pgAddr} for the state of its WAL`);
  } finally {
    connection.close();
  }
}

export interface ReplicationOptions extends SafekeeperAddress {
  readonly startLsn: Lsn;
  /**
   * Absent: committed WAL only. Set: also WAL that is not committed yet, up to the flush LSN, but
   * only while the safekeeper's term is this one; for the recovery of other safekeepers by a
   * proposer.
   */
  readonly term?: number;
}

export interface ReplicationHandlers {
  /**
   * WAL bytes that begin at `lsn`, lent for the call; contiguous from `startLsn` on. `walEnd` is
   * how far the safekeeper could send now.
   */
  onWal(lsn: Lsn, bytes: Uint8Array, walEnd: Lsn): void;
  onKeepalive?(walEnd: Lsn, replyRequested: boolean): void;
  /** Everything that had arrived was handed out: the point to finish a batch. */
  onIdle?(): void;
  /** Called once. An error also where a message made no sense. */
  onClose(error?: Error): void;
}

/** A running START_REPLICATION, of a safekeeper or of Postgres. */
export class ReplicationStream {
  readonly #channel: CopyChannel;

  constructor(channel: CopyChannel, startLsn: Lsn, handlers: ReplicationHandlers) {
    this.#channel = channel;
    let next = startLsn;
    let failure: Error | undefined;
    channel.onClose((error) => handlers.onClose(failure ?? error));
    if (handlers.onIdle !== undefined) {
      channel.onIdle(() => handlers.onIdle?.());
    }
    channel.onData((payload) => {
      try {
        const message = decodeReplicationMessage(payload);
        if (message.type === "keepalive") {
          handlers.onKeepalive?.(message.walEnd, message.replyRequested);
          return;
        }
        if (message.startLsn !== next) {
          throw new StorageError(
            "corrupt",
            "wal-gap",
            `WAL at ${formatLsn(message.startLsn)} instead of ${formatLsn(next)}`,
          );
        }
        next = (next + message.walData.length) as Lsn;
        handlers.onWal(message.startLsn, message.walData, message.walEnd);
      } catch (error) {
        failure = error instanceof Error ? error : new Error(String(error));
        channel.destroy();
      }
    });
  }

  sendStandbyStatus(status: StandbyStatus): void {
    this.#channel.send(encodeStandbyStatus(status));
  }

  sendHotStandbyFeedback(feedback: HotStandbyFeedback): void {
    this.#channel.send(encodeHotStandbyFeedback(feedback, nowMs()));
  }

  sendPageserverFeedback(feedback: PageserverFeedback): void {
    this.#channel.send(Buffer.from("z"), encodePageserverFeedback(feedback));
  }

  /** Stops and restarts the arrival of WAL. */
  pause(): void {
    this.#channel.pause();
  }

  resume(): void {
    this.#channel.resume();
  }

  close(): void {
    this.#channel.close();
  }
}

/** Streams a timeline's WAL from `startLsn` on. StorageError where the safekeeper refuses. */
export async function openReplication(
  options: ReplicationOptions,
  handlers: ReplicationHandlers,
): Promise<ReplicationStream> {
  const connection = await connect(options);
  const term = options.term === undefined ? "" : ` (term='${options.term}')`;
  try {
    const channel = await connection.copyBoth(
      `START_REPLICATION PHYSICAL ${formatLsn(options.startLsn)}${term}`,
    );
    return new ReplicationStream(channel, options.startLsn, handlers);
  } catch (error) {
    connection.close();
    throw withContext(error, `stream WAL from ${options.pgAddr}`);
  }
}

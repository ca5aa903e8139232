// The safekeeper's Postgres-protocol commands: WAL push, replication, and the queries around them.

import type { TokenVerifier } from "../base/auth/service-token.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, parseLsn } from "../base/lsn.ts";
import type { WireHandlers, WireSession } from "../postgres/wire/wire-server.ts";
import { encodeMembership } from "../safekeeper-protocol/messages.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import { type StartReplication, WalSender } from "./replication/wal-sender.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";
import {
  checkWalPushOptions,
  GREETING_TIMEOUT_MS,
  receiveWal,
  type WalPusher,
} from "./wal-push.ts";

/** START_REPLICATION [PHYSICAL] X/X [TIMELINE n] [(term='N')], as Neon's and Postgres's. */
const START_REPLICATION =
  /^START_REPLICATION(?:\s+PHYSICAL)?\s+([0-9A-F]+\/[0-9A-F]+)(?:\s+TIMELINE\s+(\d+))?(?:\s*\(\s*term\s*=\s*'(\d+)'\s*\))?$/i;
/** Physical replication has no other timeline: branches continue the numbering of their parent. */
const WAL_TIMELINE = "1";

export class WalService implements WireHandlers {
  readonly logger: Logger;
  readonly callers: TokenVerifier | undefined;
  readonly #timelines: TimelineManager;
  readonly #metrics: SafekeeperMetrics;
  readonly #greetingTimeoutMs: number;
  readonly #receivers = new Map<Timeline, Set<WalPusher>>();

  constructor(
    timelines: TimelineManager,
    metrics: SafekeeperMetrics,
    logger: Logger,
    greetingTimeoutMs = GREETING_TIMEOUT_MS,
    callers?: TokenVerifier,
  ) {
    this.callers = callers;
    this.#timelines = timelines;
    this.#metrics = metrics;
    this.#greetingTimeoutMs = greetingTimeoutMs;
    this.logger = logger;
  }

  receiversOf(timeline: Timeline): ReadonlySet<WalPusher> {
    return this.#receivers.get(timeline) ?? new Set();
  }

  onSession(session: WireSession): void {
    const tenant = session.options.get("tenant_id");
    const timeline = session.options.get("timeline_id");
    if (tenant !== undefined) {
      // Every command is for this one.
      session.requireTenant("safekeeper", parseTenantId(tenant));
    }
    if (tenant !== undefined && timeline !== undefined) {
      const found = this.#timelines.find(parseTenantId(tenant), parseTimelineId(timeline));
      const version = found?.state.persistent.pgVersion ?? 0;
      if (version > 0) {
        session.serverVersion = `${Math.floor(version / 10_000)}.${version % 10_000} (Strata)`;
      }
    }
  }

  async onQuery(session: WireSession, sql: string): Promise<void> {
    const text = sql.trim();
    const command = /^\S+/.exec(text)?.[0]?.toUpperCase() ?? "";
    switch (command) {
      case "START_WAL_PUSH": {
        checkWalPushOptions(text);
        const timeline = this.#timelineOf(session);
        await timeline.wake();
        const receivers = this.#receivers.get(timeline) ?? new Set<WalPusher>();
        this.#receivers.set(timeline, receivers);
        receiveWal(session, timeline, receivers, this.#metrics, this.#greetingTimeoutMs);
        break;
      }
      case "START_REPLICATION":
        await WalSender.start(session, this.#timelineOf(session), parseStartReplication(text));
        break;
      case "IDENTIFY_SYSTEM":
        this.#identifySystem(session);
        break;
      case "TIMELINE_STATUS": {
        const { flushLsn, commitLsn, persistent } = this.#timelineOf(session).state;
        // The last column is ours, for computes that follow and do not propose.
        const membership = Buffer.from(encodeMembership(persistent.mconf)).toString("hex");
        const row = [formatLsn(flushLsn), formatLsn(commitLsn), membership];
        session.sendRows(["flush_lsn", "commit_lsn", "membership"], [row], "TIMELINE_STATUS");
        break;
      }
      case "TIMELINE_HISTORY":
        throw new StorageError(
          "not-found",
          "no-timeline-history",
          `there is no history file: all WAL is of timeline ${WAL_TIMELINE}`,
        );
      case "READ_REPLICATION_SLOT":
        // As Postgres answers for a slot that does not exist.
        session.sendRows(
          ["slot_type", "restart_lsn", "restart_tli"],
          [[null, null, null]],
          "READ_REPLICATION_SLOT",
        );
        break;
      case "CREATE_REPLICATION_SLOT":
      case "ALTER_REPLICATION_SLOT":
      case "DROP_REPLICATION_SLOT":
        throw noSlots();
      case "BASE_BACKUP":
        throw new StorageError(
          "unsupported",
          "no-base-backup",
          "a safekeeper has WAL only: take the base backup from a running endpoint",
        );
      case "SHOW":
        this.#show(session, text);
        break;
      default:
        throw new StorageError("unsupported", "bad-command", `command not supported: ${text}`);
    }
  }

  #timelineOf(session: WireSession): Timeline {
    const tenant = session.options.get("tenant_id");
    const timeline = session.options.get("timeline_id");
    if (tenant === undefined || timeline === undefined) {
      throw new StorageError(
        "invalid",
        "no-timeline-id",
        "tenant_id and timeline_id are needed in the start-up options",
      );
    }
    return this.#timelines.get(parseTenantId(tenant), parseTimelineId(timeline));
  }

  #identifySystem(session: WireSession): void {
    const { persistent, commitLsn } = this.#timelineOf(session).state;
    session.sendRows(
      ["systemid", "timeline", "xlogpos", "dbname"],
      [[persistent.systemId.toString(), WAL_TIMELINE, formatLsn(commitLsn), null]],
      "IDENTIFY_SYSTEM",
    );
  }

  /** What stock pg_receivewal and walreceiver ask before they stream. */
  #show(session: WireSession, text: string): void {
    const name = /^SHOW\s+(\S+)$/i.exec(text)?.[1]?.toLowerCase() ?? "";
    if (name === "wal_segment_size") {
      const { walSegSize } = this.#timelineOf(session).state.persistent;
      session.sendRows([name], [[`${walSegSize / 2 ** 20}MB`]], "SHOW");
    } else if (name === "data_directory_mode") {
      session.sendRows([name], [["0700"]], "SHOW");
    } else {
      throw new StorageError("unsupported", "bad-command", `unknown parameter: ${name}`);
    }
  }
}

function noSlots(): StorageError {
  return new StorageError(
    "unsupported",
    "no-slots",
    "a safekeeper has no replication slots: stream without one (no primary_slot_name, no --slot); " +
      "WAL that has left its disk comes from the object store",
  );
}

/** StorageError `unsupported` where it names a slot, `invalid` where it is none. */
export function parseStartReplication(text: string): StartReplication {
  if (/^START_REPLICATION\s+SLOT\b/i.test(text)) {
    // Not ignored: a slot promises more than that WAL is kept (its xmin outlives the connection).
    throw noSlots();
  }
  const match = START_REPLICATION.exec(text);
  const startLsn = parseLsn(match?.[1] ?? "");
  if (match === null || startLsn === undefined) {
    throw new StorageError("invalid", "bad-command", `cannot parse: ${text}`);
  }
  if (match[2] !== undefined && match[2] !== WAL_TIMELINE) {
    throw new StorageError("invalid", "bad-wal-timeline", `there is no WAL timeline ${match[2]}`);
  }
  const term = match[3] === undefined ? undefined : Number(match[3]);
  if (term !== undefined && !Number.isSafeInteger(term)) {
    throw new StorageError("invalid", "bad-term", `not a term: ${match[3]}`);
  }
  return { startLsn, term };
}

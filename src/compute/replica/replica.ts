// One life of a replica: where it begins, whom its Postgres follows, how far it is, and when it must be built anew.

import { lstatSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { errorKind, withContext } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn } from "../../base/lsn.ts";
import { readLeftFile } from "../../data-directory/left-files.ts";
import type { ComputeState } from "../../pageserver/api.ts";
import { computeState } from "../../pageserver/client.ts";
import {
  CONTROL_FILE_SIZE,
  type ControlParameters,
  decodeControlParameters,
} from "../../postgres/control-file.ts";
import { giveToPostgres } from "../../postgres/installation.ts";
import type { MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import type { EndpointSpec } from "../api.ts";
import type { ReplicaSettings } from "../postgres-settings.ts";
import { FollowedSafekeepers } from "./followed-safekeepers.ts";
import { canGoOn, type ReplicaStart, replicaStart } from "./replica-start.ts";
import { WalRelay } from "./wal-relay.ts";

/** Of the relay's unix socket, in the directory of Postgres's own. */
const RELAY_PORT = 2;
const RETRY_MS = 200;
/** For what was committed before the start to be replayed; with recovery_min_apply_delay it may take longer than anybody waits. */
const CATCH_UP_MS = 10_000;
const ASK_MS = 10;
const WATCH_MS = 1000;
/** Replay stands still for so long: then its reason is looked for. */
const STANDSTILL_MS = 3000;
/**
 * pg_promote() makes a file of this name and tells the postmaster, which looks whether it is there. A link to what is not there is
 * neither made nor seen, so that a superuser gets an error, and Postgres goes on as a replica.
 */
const PROMOTE_FILE = "promote";
const NO_PROMOTION = "not-this-way/use-strata-endpoint-promote";
/** What a promotion leaves first: WAL of another timeline, which no safekeeper gets. */
const PROMOTED_FILE = join("pg_wal", "00000002.history");

export interface ReplicaOptions {
  readonly spec: EndpointSpec;
  /** Of its safekeepers, as the run before this one knew it. */
  readonly membership: MembershipConfiguration | undefined;
  readonly logger: Logger;
  /** It cannot go on as it is; built anew it can. */
  readonly onStale: (why: string) => void;
}

export class Replica {
  readonly #options: ReplicaOptions;
  readonly #closing = new AbortController();
  #start: ReplicaStart | undefined;
  /** At the head, when this began. */
  #primary: ControlParameters | undefined;
  /** What its Postgres is set to. */
  #room: ControlParameters | undefined;
  readonly #safekeepers: FollowedSafekeepers;
  #relay: WalRelay | undefined;

  constructor(options: ReplicaOptions) {
    this.#options = options;
    const { spec, membership } = options;
    this.#safekeepers = new FollowedSafekeepers({
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      first: spec.safekeepers.map(({ pgAddr }) => pgAddr),
      membership,
    });
  }

  /** Of the safekeepers; generation 0 while it is not known. */
  get membership(): MembershipConfiguration {
    return this.#safekeepers.membership;
  }

  /** After `choose`. */
  get start(): ReplicaStart {
    if (this.#start === undefined) {
      throw new Error("a replica's start is asked for before it is known");
    }
    return this.#start;
  }

  /** End of what is replayed; undefined before it told. */
  get replayLsn(): Lsn | undefined {
    const lsn = this.#relay?.appliedLsn ?? INVALID_LSN;
    return lsn === INVALID_LSN ? undefined : lsn;
  }

  /** Bytes of committed WAL that are not replayed; undefined before it told. */
  get replayLagBytes(): number | undefined {
    const { replayLsn } = this;
    return replayLsn === undefined
      ? undefined
      : Math.max(0, (this.#relay?.headLsn ?? replayLsn) - replayLsn);
  }

  /** R; waits for a pageserver that is away, and where nobody can tell yet where to begin. */
  async choose(): Promise<Lsn> {
    const { spec, logger } = this.#options;
    for (let warned = false; ; warned = true) {
      try {
        const newest = await this.#newestState();
        this.#start = replicaStart(newest);
        this.#primary = decodeControlParameters(newest.controlFile);
        return this.#start.lsn;
      } catch (error) {
        if (errorKind(error) !== "unavailable") {
          throw withContext(error, `find where a replica of timeline ${spec.timelineId} begins`);
        }
        if (!warned) {
          logger.warn({ error }, "waiting for a place where a replica can begin");
        }
        await sleep(RETRY_MS, this.#closing.signal);
      }
    }
  }

  #newestState(): Promise<ComputeState> {
    const { pageserver, tenantId, timelineId } = this.#options.spec;
    return computeState(pageserver.pgAddr, { tenantId, timelineId });
  }

  /** What its Postgres must be set to, over the state at R. */
  settings(state: ComputeState, socketDirectory: string): ReplicaSettings {
    const host = socketDirectory.replaceAll("\\", "\\\\").replaceAll("'", "\\'");
    return {
      primaryConnInfo: `host='${host}' port=${RELAY_PORT} user=strata`,
      // Recovery begins with those of R, and goes on with those of the head.
      primary: [decodeControlParameters(state.controlFile), this.#primary!],
    };
  }

  /** Before Postgres starts, in a directory that is written: there is WAL for it. */
  async open(state: ComputeState, dataDirectory: string, socketDirectory: string): Promise<void> {
    const { spec, logger } = this.#options;
    this.#room = roomOf(dataDirectory);
    const relay = new WalRelay({
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      applicationName: `replica ${spec.endpointId}`,
      safekeepers: () => this.#safekeepers.addresses,
      systemId: state.systemId,
      startLsn: this.start.lsn,
      logger,
      onWal: canGoOn(this.start)
        ? undefined
        : () => this.#stale("its branch has got its first WAL"),
    });
    this.#relay = relay;
    const path = join(socketDirectory, `.s.PGSQL.${RELAY_PORT}`);
    await relay.listen(path);
    giveToPostgres(path);
    this.#safekeepers.watch(this.#closing.signal);
  }

  /** Resolves when readers find all that was committed before the start, or it takes too long. */
  async caughtUp(): Promise<void> {
    const { headLsn } = this.start;
    const deadline = monotonicMs() + CATCH_UP_MS;
    const { signal } = this.#closing;
    while (!signal.aborted && (this.replayLsn ?? this.start.lsn) < headLsn) {
      if (monotonicMs() > deadline) {
        const fields = { replayLsn: text(this.replayLsn), headLsn: formatLsn(headLsn) };
        this.#options.logger.warn(
          fields,
          "what was committed before the start is not replayed yet",
        );
        return;
      }
      this.#relay?.ask();
      await sleep(ASK_MS, signal).catch(() => undefined);
    }
  }

  /** While Postgres runs: that nobody makes it a primary behind our back, and that it goes on. */
  watch(dataDirectory: string): void {
    symlinkSync(NO_PROMOTION, join(dataDirectory, PROMOTE_FILE));
    void this.#watch(dataDirectory);
  }

  async #watch(dataDirectory: string): Promise<void> {
    const { signal } = this.#closing;
    let [seen, sinceMs] = [this.replayLsn, monotonicMs()];
    while (!signal.aborted) {
      await sleep(WATCH_MS, signal).catch(() => undefined);
      if (lstatSync(join(dataDirectory, PROMOTED_FILE), { throwIfNoEntry: false }) !== undefined) {
        this.#stale("somebody made its Postgres a primary: nothing written there is kept");
        return;
      }
      if (this.replayLsn !== seen || this.replayLagBytes === 0) {
        [seen, sinceMs] = [this.replayLsn, monotonicMs()];
      } else if (monotonicMs() - sinceMs > STANDSTILL_MS) {
        this.#lookWhy(dataDirectory);
        sinceMs = monotonicMs();
      }
    }
  }

  /**
   * Recovery pauses where WAL says that the primary had more room than there is here (RecoveryRequiresIntParameter), and notes in
   * pg_control before that what the WAL says. Storage may be further, where the primary has less again: nothing there tells why.
   */
  #lookWhy(dataDirectory: string): void {
    const [room, replayed] = [this.#room, roomOf(dataDirectory)];
    if (room !== undefined && replayed !== undefined) {
      const names = Object.keys(replayed) as (keyof ControlParameters)[];
      if (names.some((name) => name !== "walLevel" && replayed[name] > room[name])) {
        this.#stale("the primary's settings leave more room than this replica has");
      }
    }
  }

  #stale(why: string): void {
    if (!this.#closing.signal.aborted) {
      this.#options.onStale(why);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#relay?.close();
  }
}

function text(lsn: Lsn | undefined): string | null {
  return lsn === undefined ? null : formatLsn(lsn);
}

/** Of pg_control; undefined where it is just being written, or is gone with the directory. */
function roomOf(dataDirectory: string): ControlParameters | undefined {
  try {
    const bytes = readLeftFile(dataDirectory, "global/pg_control", CONTROL_FILE_SIZE);
    return bytes && decodeControlParameters(bytes);
  } catch {
    return undefined;
  }
}

// Brings a timeline from another safekeeper here: for one that lost its disk, or that is new.

import { setTimer, type Timer } from "../../base/clock.ts";
import { carryOutInBackground } from "../../base/disk-steps.ts";
import { errorMessage, StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { formatLsn, parseLsn } from "../../base/lsn.ts";
import type { MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import { membershipFromJson } from "../api.ts";
import { SafekeeperHttpClient } from "../client.ts";
import type { IncomingPlace, TimelineManager } from "../timeline-manager.ts";
import { decidePull, type PullDecision, type PullSource } from "./pull-decision.ts";
import { SnapshotReceiver } from "./snapshot-receiver.ts";

const STATUS_TIMEOUT_MS = 5_000;
/** Without a byte for so long a transfer is given up. */
const STALL_TIMEOUT_MS = 30_000;

export interface PullRequest {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** `http://HOST:PORT` or `HOST:PORT` of safekeepers that may have it. */
  readonly httpHosts: readonly string[];
  /** Adopted where its generation is the highest. */
  readonly mconf: MembershipConfiguration | undefined;
}

interface Source extends PullSource {
  readonly client: SafekeeperHttpClient;
  readonly host: string;
}

/**
 * The host it was copied from; undefined where the timeline is here already. StorageError
 * `unavailable` where too few answer or the transfer breaks, `corrupt` where what arrives is wrong,
 * `invalid` where this node is not a member,
 * `conflict` where it may have had the timeline in this very generation.
 */
export async function pullTimeline(
  manager: TimelineManager,
  nodeId: number,
  request: PullRequest,
): Promise<string | undefined> {
  const { tenantId, timelineId } = request;
  if (manager.find(tenantId, timelineId) !== undefined) {
    return undefined;
  }
  const place = manager.reserve(tenantId, timelineId);
  try {
    const sources = (await askAll(request)).filter((source) => source.nodeId !== nodeId);
    const decision = decidePull(nodeId, sources, request.mconf);
    const { donor, term } = decision;
    await receive(donor, request, place, decision);
    const timeline = place.install();
    timeline.logger.info(
      { from: donor.nodeId, flushLsn: formatLsn(timeline.state.flushLsn), term },
      "timeline pulled",
    );
    return donor.host;
  } catch (error) {
    throw withContext(error, `pull timeline ${timelineId}`);
  } finally {
    place.release();
  }
}

async function askAll(request: PullRequest): Promise<Source[]> {
  const answers = await Promise.allSettled(
    request.httpHosts.map(async (host): Promise<Source> => {
      const client = new SafekeeperHttpClient(host, STATUS_TIMEOUT_MS);
      const [{ id }, status] = await Promise.all([
        client.status(),
        client.timelineStatus(request.tenantId, request.timelineId),
      ]);
      const flushLsn = parseLsn(status.flush_lsn);
      const mconf = membershipFromJson(status.mconf);
      if (flushLsn === undefined || !Number.isSafeInteger(status.acceptor_state.term)) {
        throw new StorageError("corrupt", "bad-status", `${host} tells no positions`);
      }
      const { term, epoch: lastLogTerm } = status.acceptor_state;
      return { nodeId: id, client, host, mconf, term, lastLogTerm, flushLsn };
    }),
  );
  const sources = answers.flatMap((answer) =>
    answer.status === "fulfilled" ? [answer.value] : [],
  );
  if (sources.length === 0) {
    const reason: unknown = answers.find((answer) => answer.status === "rejected")?.reason;
    throw reason ?? new StorageError("invalid", "no-hosts", "no safekeeper to pull from was given");
  }
  return sources;
}

async function receive(
  donor: Source,
  request: PullRequest,
  place: IncomingPlace,
  decision: PullDecision<Source>,
): Promise<void> {
  const stall = new AbortController();
  let timer: Timer | undefined;
  const alive = () => {
    timer?.cancel();
    timer = setTimer(() => {
      const message = `${donor.host} sends nothing`;
      stall.abort(new StorageError("unavailable", "snapshot-stalled", message));
    }, STALL_TIMEOUT_MS);
  };
  alive();
  const { tenantId, timelineId } = request;
  const receiver = new SnapshotReceiver(place, { tenantId, timelineId }, decision);
  try {
    const chunks = await donor.client.snapshot(tenantId, timelineId, stall.signal);
    for await (const chunk of watched(chunks, alive)) {
      await carryOutInBackground(receiver.take(chunk), place.disk);
    }
    receiver.finish();
  } catch (error) {
    stall.signal.throwIfAborted();
    throw withContext(error, `receive snapshot from ${donor.host}`);
  } finally {
    timer?.cancel();
    stall.abort();
    await carryOutInBackground(receiver.close(), place.disk);
  }
}

/** A donor that breaks off may do better next time: its log was cut for a new term, or it stopped. */
async function* watched(
  chunks: AsyncIterable<Uint8Array>,
  alive: () => void,
): AsyncIterable<Uint8Array> {
  try {
    for await (const chunk of chunks) {
      alive();
      yield chunk;
    }
  } catch (error) {
    throw new StorageError("unavailable", "snapshot-broke", errorMessage(error), { cause: error });
  }
}

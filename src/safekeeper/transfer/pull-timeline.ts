// Brings a timeline from another safekeeper here: for one that lost its disk, or that is new.

import { setTimer, type Timer } from "../../base/clock.ts";
import { errorMessage, StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, parseLsn, parseWalFileName, segmentNumber } from "../../base/lsn.ts";
import type { MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import { membershipFromJson } from "../api.ts";
import { SafekeeperHttpClient } from "../client.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";
import { CONTROL_FILE_NAME, decodeControlFile } from "../control-file.ts";
import type { TimelineManager } from "../timeline-manager.ts";
import { IncomingTimeline } from "./incoming-timeline.ts";
import { adoptedState, decidePull, type PullDecision, type PullSource } from "./pull-decision.ts";
import { readTar, type TarReceiver } from "./tar.ts";

const STATUS_TIMEOUT_MS = 5_000;
/** Without a byte for so long a transfer is given up. */
const STALL_TIMEOUT_MS = 30_000;
const MAX_CONTROL_FILE_BYTES = 4 * 1024 * 1024;

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
    await receive(donor, request, place.directory, decision);
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
      const client = new SafekeeperHttpClient(
        host.includes("://") ? host : `http://${host}`,
        STATUS_TIMEOUT_MS,
      );
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
  directory: string,
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
  const receiver = new SnapshotReceiver(directory, (state) => {
    if (state.tenantId !== request.tenantId || state.timelineId !== request.timelineId) {
      throw bad(`it is of timeline ${state.tenantId}/${state.timelineId}`);
    }
    return adoptedState(state, decision);
  });
  try {
    const chunks = await donor.client.snapshot(request.tenantId, request.timelineId, stall.signal);
    await readTar(watched(chunks, alive), receiver);
    await receiver.finish();
  } catch (error) {
    stall.signal.throwIfAborted();
    throw withContext(error, `receive snapshot from ${donor.host}`);
  } finally {
    timer?.cancel();
    stall.abort();
    await receiver.close();
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

/** Takes a control file and then segments without a gap; nothing else. */
class SnapshotReceiver implements TarReceiver {
  readonly #directory: string;
  readonly #adopt: (state: AcceptorPersistentState) => AcceptorPersistentState;
  readonly #control: Uint8Array[] = [];
  #state: AcceptorPersistentState | undefined;
  #incoming: IncomingTimeline | undefined;
  #inControl = false;

  constructor(
    directory: string,
    adopt: (state: AcceptorPersistentState) => AcceptorPersistentState,
  ) {
    this.#directory = directory;
    this.#adopt = adopt;
  }

  begin(name: string, sizeBytes: number): void {
    if (name === CONTROL_FILE_NAME && this.#state === undefined && !this.#inControl) {
      if (sizeBytes > MAX_CONTROL_FILE_BYTES) {
        throw bad(`a control file of ${sizeBytes} bytes`);
      }
      this.#inControl = true;
      return;
    }
    if (this.#state === undefined || sizeBytes !== this.#state.walSegSize) {
      throw bad(`unexpected file ${JSON.stringify(name)} of ${sizeBytes} bytes`);
    }
    if (this.#incoming === undefined) {
      const { walSegSize, localStartLsn, flushedLsn } = this.#state;
      const segno = parseWalFileName(name, walSegSize);
      const first = segmentNumber(localStartLsn, walSegSize);
      if (segno === undefined || segno < first || segno * walSegSize >= flushedLsn) {
        throw bad(`unexpected file ${JSON.stringify(name)}`);
      }
      this.#incoming = new IncomingTimeline(
        this.#directory,
        this.#state,
        (segno * walSegSize) as Lsn,
      );
    }
    if (name !== this.#incoming.nextSegmentName) {
      throw bad(`${JSON.stringify(name)} in place of ${this.#incoming.nextSegmentName}`);
    }
  }

  async data(bytes: Uint8Array): Promise<void> {
    if (this.#inControl) {
      this.#control.push(bytes.slice());
    } else {
      await this.#incoming!.write(bytes);
    }
  }

  end(): void {
    if (this.#inControl) {
      this.#inControl = false;
      this.#state = this.#adopt(decodeControlFile(Buffer.concat(this.#control)));
    }
  }

  async finish(): Promise<void> {
    if (this.#state === undefined) {
      throw bad("no control file");
    }
    // A timeline without WAL has no segments.
    const { flushedLsn } = this.#state;
    this.#incoming ??= new IncomingTimeline(this.#directory, this.#state, flushedLsn);
    await this.#incoming.finish();
  }

  async close(): Promise<void> {
    await this.#incoming?.close();
  }
}

function bad(problem: string): StorageError {
  return new StorageError("corrupt", "bad-snapshot", `snapshot: ${problem}`);
}

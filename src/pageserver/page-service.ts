// The read side on the Postgres protocol: pagestream, and the few queries that computes ask.

import type { TokenVerifier } from "../base/auth/service-token.ts";
import { nowMs } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn, MAX_LSN, minLsn, parseLsn } from "../base/lsn.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { setPageChecksum } from "../postgres/page-checksum.ts";
import { DEFAULT_TABLESPACE_OID } from "../postgres/relation-path.ts";
import type { CopyChannel } from "../postgres/wire/copy-channel.ts";
import { WireServer, type WireSession } from "../postgres/wire/wire-server.ts";
import { readComputeState } from "./compute-state.ts";
import { decodeSize, hasRelationsFrom, readRelations } from "./ingest/relation-heads.ts";
import {
  KEYSPACE_RELATION_SIZE,
  relBlockPrefix,
  relSizePrefix,
  slruBlockPrefix,
  slruSizePrefix,
} from "./layers/key.ts";
import { LayerNotResident } from "./layers/layer-file.ts";
import { PrefixMap } from "./layers/prefix-map.ts";
import type { PageServiceMetrics } from "./metrics.ts";
import {
  decodeRequest,
  encodeDbSizeResponse,
  encodeErrorResponse,
  encodeExistsResponse,
  encodeGetPageHead,
  encodeU32Response,
  GET_PAGE_LENGTH,
  newPagestreamRequest,
  type PagestreamRequest,
  TAG_DB_SIZE,
  TAG_EXISTS,
  TAG_GET_PAGE,
  TAG_NBLOCKS,
} from "./pagestream.ts";
import { LSN_LEASE_MS } from "./retention/lsn-lease.ts";
import type { ServedTimeline } from "./served-timeline.ts";

/** Neon's wait_lsn_timeout. */
const DEFAULT_WAIT_LSN_TIMEOUT_MS = 300_000;
/** Answers that a client has not read; then its requests are not read either. */
const MAX_QUEUED_BYTES = 8 * 1024 * 1024;
/** Relation forks whose size a connection remembers; dropped all at once beyond it. */
const MAX_SIZES = 10_000;
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

export interface PageServiceOptions {
  /** StorageError `not-found` where there is none. */
  readonly findTimeline: (tenantId: TenantId, timelineId: TimelineId) => ServedTimeline;
  readonly metrics: PageServiceMetrics;
  readonly callers?: TokenVerifier | undefined;
  /** With TLS, and without plain text, on addresses that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  readonly logger: Logger;
  readonly waitLsnTimeoutMs?: number;
}

/** The server on the pagestream port; not listening yet. */
export function createPageService(options: PageServiceOptions): WireServer {
  const { logger, callers, certificates } = options;
  const onQuery = (session: WireSession, sql: string) => runCommand(options, session, sql);
  return new WireServer({ logger, callers, onQuery }, { certificates });
}

async function runCommand(
  options: PageServiceOptions,
  session: WireSession,
  sql: string,
): Promise<void> {
  const [command, ...args] = sql.trim().split(/\s+/);
  switch (command?.toLowerCase()) {
    case "pagestream_v3": {
      const timeline = findTimeline(options, session, args);
      new PagestreamSession(session.copyBoth(), timeline, options);
      return;
    }
    case "compute_state": {
      const timeline = findTimeline(options, session, args);
      const lsn =
        args[2] === undefined
          ? timeline.lastRecordLsn
          : await waitForLsn(options, timeline, args[2]);
      // A compute that starts there reads there as long as it runs; it renews the lease from now on.
      const leased = timeline.promiseLease(lsn, LSN_LEASE_MS);
      const state = timeline.whenResident(() => readComputeState(timeline, lsn));
      const [, rows] = await Promise.all([leased, state]);
      session.sendRows(["compute_state"], [[JSON.stringify(rows)]], "SELECT 1");
      return;
    }
    case "list_relations": {
      const timeline = findTimeline(options, session, args);
      const lsn = await waitForLsn(options, timeline, args[2]);
      const [spcOid, dbOid] = [parseOid(args[3]), parseOid(args[4])];
      const relations = await timeline.whenResident(() =>
        readRelations(timeline, lsn, spcOid, dbOid),
      );
      const rows = relations.map(({ relNumber, fork, blocks }) => [
        `${relNumber}`,
        `${fork}`,
        `${blocks}`,
      ]);
      session.sendRows(["rel_number", "fork", "blocks"], rows, `SELECT ${rows.length}`);
      return;
    }
    case "has_relations_from": {
      const timeline = findTimeline(options, session, args);
      const lsn = await waitForLsn(options, timeline, args[2]);
      const [spcOid, dbOid, relNumber] = [parseOid(args[3]), parseOid(args[4]), parseOid(args[5])];
      const has = await timeline.whenResident(() =>
        hasRelationsFrom(timeline, lsn, spcOid, dbOid, relNumber),
      );
      session.sendRows(["has_relations_from"], [[has ? "t" : "f"]], "SELECT 1");
      return;
    }
    case "lease": {
      // `lease lsn TENANT TIMELINE LSN`, as Neon's; the answer is when it ends.
      if (args[0]?.toLowerCase() !== "lsn") {
        throw new StorageError("invalid", "bad-lease", "usage: lease lsn TENANT TIMELINE LSN");
      }
      const timeline = findTimeline(options, session, args.slice(1));
      const lsn = await waitForLsn(options, timeline, args[3]);
      await timeline.promiseLease(lsn, LSN_LEASE_MS);
      const end = new Date(nowMs() + LSN_LEASE_MS).toISOString();
      session.sendRows(["valid_until"], [[end]], "SELECT 1");
      return;
    }
    case "set":
      // Clients of Neon's pageserver send settings of their own.
      session.sendCommandComplete("SET");
      return;
    case "pagestream_v2":
    case "basebackup":
    case "fullbackup":
      throw new StorageError("unsupported", "unsupported-command", `${command} is not supported`);
    default:
      throw new StorageError("invalid", "unknown-command", `unknown command '${command ?? ""}'`);
  }
}

function findTimeline(
  options: PageServiceOptions,
  session: WireSession,
  args: readonly string[],
): ServedTimeline {
  const tenantId = parseTenantId(args[0] ?? "");
  session.requireTenant("pageserver", tenantId);
  return options.findTimeline(tenantId, parseTimelineId(args[1] ?? ""));
}

function parseOid(text: string | undefined): number {
  const oid = Number(text);
  if (text === undefined || !/^\d{1,10}$/.test(text) || oid > 0xffff_ffff) {
    throw new StorageError("invalid", "bad-oid", `not an OID: '${text ?? ""}'`);
  }
  return oid;
}

async function waitForLsn(
  options: PageServiceOptions,
  timeline: ServedTimeline,
  text: string | undefined,
): Promise<Lsn> {
  const lsn = parseLsn(text ?? "");
  if (lsn === undefined || lsn === INVALID_LSN) {
    throw new StorageError("invalid", "bad-lsn", `not an LSN: '${text ?? ""}'`);
  }
  timeline.checkKept(lsn);
  const timeoutMs = options.waitLsnTimeoutMs ?? DEFAULT_WAIT_LSN_TIMEOUT_MS;
  await options.metrics.timeWait(timeline.waitForLsn(lsn, timeoutMs));
  return lsn;
}

/**
 * One client's stream. Answers go out in the order of requests, as Neon's clients rely on; so while
 * one waits for its LSN, later ones queue behind it.
 */
class PagestreamSession {
  readonly #channel: CopyChannel;
  readonly #timeline: ServedTimeline;
  readonly #metrics: PageServiceMetrics;
  readonly #waitLsnTimeoutMs: number;
  readonly #request: PagestreamRequest = newPagestreamRequest();
  readonly #pageHead = new Uint8Array(GET_PAGE_LENGTH);
  #waiting = false;
  #draining = false;
  #queue: Uint8Array[] = [];
  /** Sizes by relation fork as of #sizesLsn: a compute asks thousands of blocks at one LSN. */
  readonly #sizes = new PrefixMap<number>();
  #sizesLsn: Lsn = INVALID_LSN;

  constructor(channel: CopyChannel, timeline: ServedTimeline, options: PageServiceOptions) {
    this.#channel = channel;
    this.#timeline = timeline;
    this.#metrics = options.metrics;
    this.#waitLsnTimeoutMs = options.waitLsnTimeoutMs ?? DEFAULT_WAIT_LSN_TIMEOUT_MS;
    options.metrics.connections.inc();
    channel.onClose((error) => {
      options.metrics.connections.dec();
      this.#queue = [];
      options.logger.debug({ error }, "pagestream connection ended");
    });
    channel.onData((payload) => this.#receive(payload));
  }

  #receive(payload: Uint8Array): void {
    if (this.#waiting) {
      this.#queue.push(payload.slice());
    } else if (!this.#answer(payload)) {
      void this.#answerLater(payload.slice());
    }
  }

  async #answerLater(first: Uint8Array): Promise<void> {
    this.#waiting = true;
    // Not parsing more keeps the queue to what one read of the socket brought.
    this.#channel.pause();
    let next: Uint8Array | undefined = first;
    while (next !== undefined && !this.#channel.closed) {
      try {
        decodeRequest(next, this.#request);
        await this.#metrics.timeWait(
          this.#timeline.waitForLsn(this.#request.notModifiedSince, this.#waitLsnTimeoutMs),
        );
        const payload: Uint8Array = next;
        await this.#timeline.whenResident(() => this.#answer(payload, true));
      } catch (error) {
        this.#sendError(next, error);
      }
      next = this.#queue.shift();
      while (next !== undefined && this.#answer(next)) {
        next = this.#queue.shift();
      }
    }
    this.#waiting = false;
    this.#channel.resume();
  }

  /**
   * False where it has to wait first, for its LSN or a layer; nothing was sent then. Not when it has `waited`: then
   * LayerNotResident is thrown.
   */
  #answer(payload: Uint8Array, waited = false): boolean {
    const request = this.#request;
    try {
      decodeRequest(payload, request);
      if (request.notModifiedSince > this.#timeline.lastRecordLsn && !waited) {
        checkLsns(request);
        return false;
      }
      const lsn = this.#effectiveLsn(request);
      switch (request.tag) {
        case TAG_GET_PAGE:
          this.#getPage(payload, request, lsn);
          break;
        case TAG_EXISTS:
          this.#channel.send(
            encodeExistsResponse(payload, this.#relationSize(request, lsn) !== undefined),
          );
          break;
        case TAG_NBLOCKS:
          this.#channel.send(encodeU32Response(payload, this.#existingSize(request, lsn)));
          break;
        case TAG_DB_SIZE:
          this.#channel.send(
            encodeDbSizeResponse(payload, databaseSize(this.#timeline, request.dbOid, lsn)),
          );
          break;
        default:
          this.#slruSegment(payload, request, lsn);
          break;
      }
      this.#metrics.countRequest(request.tag);
    } catch (error) {
      if (error instanceof LayerNotResident) {
        if (waited) {
          throw error;
        }
        return false;
      }
      // After a restart, until the ancestor has taken in its WAL up to the branch point again.
      if (!waited && error instanceof StorageError && error.code === "ancestor-behind") {
        return false;
      }
      this.#sendError(payload, error);
    }
    if (this.#channel.writableLength > MAX_QUEUED_BYTES && !this.#draining) {
      void this.#pauseUntilDrained();
    }
    return true;
  }

  async #pauseUntilDrained(): Promise<void> {
    this.#draining = true;
    this.#channel.pause();
    await this.#channel.drained();
    this.#draining = false;
    if (!this.#waiting) {
      this.#channel.resume();
    }
  }

  /** The LSN to answer at: nothing changed between it and the one asked for. */
  #effectiveLsn(request: PagestreamRequest): Lsn {
    checkLsns(request);
    const lsn = minLsn(this.#timeline.lastRecordLsn, request.requestLsn);
    this.#timeline.checkKept(lsn);
    return lsn;
  }

  #getPage(payload: Uint8Array, request: PagestreamRequest, lsn: Lsn): void {
    const blocks = this.#existingSize(request, lsn);
    if (request.blkno >= blocks) {
      throw new StorageError(
        "not-found",
        "no-block",
        `block ${request.blkno} of relation ${describe(request)} at ${formatLsn(lsn)}: it has ${blocks}`,
      );
    }
    const prefix = relBlockPrefix(request.spcOid, request.dbOid, request.relNumber, request.fork);
    // A block inside the relation that no record wrote: Postgres extended the file by zeros.
    let page = this.#timeline.lendPage(prefix, request.blkno, lsn) ?? ZERO_PAGE;
    if (this.#timeline.dataChecksums) {
      page = page.slice();
      setPageChecksum(page, request.blkno);
    }
    this.#channel.sendCopy(encodeGetPageHead(payload, this.#pageHead), page);
  }

  #existingSize(request: PagestreamRequest, lsn: Lsn): number {
    const blocks = this.#relationSize(request, lsn);
    if (blocks === undefined) {
      throw new StorageError(
        "not-found",
        "no-relation",
        `relation ${describe(request)} does not exist at ${formatLsn(lsn)}`,
      );
    }
    return blocks;
  }

  #relationSize(request: PagestreamRequest, lsn: Lsn): number | undefined {
    if (lsn !== this.#sizesLsn || this.#sizes.size >= MAX_SIZES) {
      this.#sizes.clear();
      this.#sizesLsn = lsn;
    }
    const prefix = relSizePrefix(request.spcOid, request.dbOid, request.relNumber, request.fork);
    let blocks = this.#sizes.get(prefix);
    if (blocks === undefined) {
      const stored = this.#timeline.readValue(prefix, 0, lsn);
      blocks = stored === undefined ? -1 : decodeSize(stored);
      this.#sizes.set(prefix, blocks);
    }
    return blocks < 0 ? undefined : blocks;
  }

  #slruSegment(payload: Uint8Array, request: PagestreamRequest, lsn: Lsn): void {
    const { slruKind, segno } = request;
    const stored = this.#timeline.readValue(slruSizePrefix(slruKind, segno), 0, lsn);
    if (stored === undefined) {
      throw new StorageError(
        "not-found",
        "no-slru-segment",
        `SLRU ${slruKind} has no segment ${segno} at ${formatLsn(lsn)}`,
      );
    }
    const blocks = decodeSize(stored);
    const pages: Uint8Array[] = [encodeU32Response(payload, blocks)];
    for (let block = 0; block < blocks; block++) {
      pages.push(
        this.#timeline.readPage(slruBlockPrefix(slruKind, segno), block, lsn) ?? ZERO_PAGE,
      );
    }
    this.#channel.send(...pages);
  }

  #sendError(payload: Uint8Array, error: unknown): void {
    this.#metrics.countError(error);
    this.#channel.send(encodeErrorResponse(payload, error));
  }
}

function checkLsns(request: PagestreamRequest): void {
  const { requestLsn, notModifiedSince } = request;
  if (requestLsn === INVALID_LSN || notModifiedSince === MAX_LSN) {
    throw new StorageError("invalid", "bad-lsn", "invalid LSN in request");
  }
  if (requestLsn < notModifiedSince) {
    throw new StorageError(
      "invalid",
      "bad-lsn",
      `request LSN ${formatLsn(requestLsn)} is before not_modified_since ${formatLsn(notModifiedSince)}`,
    );
  }
}

function describe(request: PagestreamRequest): string {
  return `${request.spcOid}/${request.dbOid}/${request.relNumber} fork ${request.fork}`;
}

/** Bytes of all forks of a database in the default tablespace. */
function databaseSize(timeline: ServedTimeline, dbOid: number, lsn: Lsn): number {
  let blocks = 0;
  for (const entry of timeline.scan([KEYSPACE_RELATION_SIZE, DEFAULT_TABLESPACE_OID, dbOid], lsn)) {
    blocks += decodeSize(entry.value);
  }
  return blocks * PAGE_SIZE;
}

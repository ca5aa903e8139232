// Clients of a pageserver: pages over pagestream, start-up state over queries, management over HTTP.

import { setIdleTimer, type Timer } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import { HttpClient } from "../http/client.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import type { CopyChannel } from "../postgres/wire/copy-channel.ts";
import { connectWire, parseHostPort, type WireConnection } from "../postgres/wire/wire-client.ts";
import type { CheckPoint, RelationFork, SlruKind } from "../wal-decoder/record-sink.ts";
import type {
  ArchivalState,
  ComputeState,
  ComputeStateWire,
  GcResult,
  ImportStatusJson,
  LayerMapInfo,
  LsnByTimestamp,
  PageserverStatus,
  RelationSize,
  ScrubReportWire,
  ScrubRequest,
  SyntheticSize,
  TenantConfigInfo,
  TenantConfigPatch,
  TenantInfo,
  TenantTimeline,
  TimelineCreateRequest,
  TimelineInfo,
  TimelinesAndOffloaded,
} from "./api.ts";
import {
  decodePage,
  decodeResponse,
  encodeDbSizeRequest,
  encodeRelRequest,
  encodeSlruRequest,
  type PagestreamAnswer,
  requestId,
  TAG_EXISTS,
  TAG_GET_PAGE,
  TAG_NBLOCKS,
} from "./pagestream.ts";
import { LSN_LEASE_MS } from "./retention/lsn-lease.ts";

/** For whoever holds leases, without the schemas of api.ts. */
export { LSN_LEASE_MS } from "./retention/lsn-lease.ts";

/** Longer than the server's longest wait for an LSN (300 s). */
const QUERY_TIMEOUT_MS = 310_000;
/** A lease waits for no LSN. Two tries that get no answer, of connecting and asking, fit twice into one that lasts. */
const LEASE_TIMEOUT_MS = LSN_LEASE_MS / 10;

/** For what rewrites layers. */
const MAINTENANCE_TIMEOUT_MS = 24 * 3_600_000;
/** Others of the tenant may be archived before it, each of which waits for the store. */
const ARCHIVAL_TIMEOUT_MS = 300_000;

interface PendingRequest {
  readonly request: Uint8Array;
  /** With the request's whole answer, lent; throws what is wrong with it. */
  receive(payload: Uint8Array): void;
  reject(error: unknown): void;
}

/**
 * One pagestream connection. Any number of requests may be under way; those of one turn go out together.
 * When the connection ends, or nothing comes for `silenceMs` while a request waits, every open request
 * and every later one is rejected (`unavailable`): connect anew. Errors keep the kind the server gave.
 *
 * `requestLsn` and `notModifiedSince` as in pagestream.ts: the server waits until it has ingested
 * `notModifiedSince`, then answers as of `requestLsn`.
 */
export class PagestreamClient {
  readonly #connection: WireConnection;
  readonly #channel: CopyChannel;
  readonly #pending = new Map<number, PendingRequest>();
  readonly #silence: Timer | undefined;
  #nextId = 1;
  #failure: StorageError | undefined;

  /**
   * `pgAddr`: `host:port`. StorageError `not-found` where the timeline is unknown. Without `silenceMs`
   * requests wait as long as the connection stands.
   */
  static async connect(
    pgAddr: string,
    timeline: TenantTimeline,
    options: { timeoutMs?: number; silenceMs?: number } = {},
  ): Promise<PagestreamClient> {
    const { silenceMs, ...wireOptions } = options;
    const connection = await connectWire({
      ...parseHostPort(pgAddr),
      ...wireOptions,
      sharesReceiveBuffer: true,
    });
    try {
      const channel = await connection.copyBoth(
        `pagestream_v3 ${timeline.tenantId} ${timeline.timelineId}`,
      );
      return new PagestreamClient(connection, channel, silenceMs);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  private constructor(
    connection: WireConnection,
    channel: CopyChannel,
    silenceMs: number | undefined,
  ) {
    this.#connection = connection;
    this.#channel = channel;
    if (silenceMs !== undefined) {
      this.#silence = setIdleTimer(() => this.#fellSilent(silenceMs), silenceMs);
    }
    channel.onData((payload) => this.#receive(payload));
    channel.onClose((error) => {
      this.#fail(
        new StorageError("unavailable", "connection-lost", "the pageserver ended the connection", {
          cause: error,
        }),
      );
    });
  }

  get closed(): boolean {
    return this.#failure !== undefined;
  }

  /** Requests that have no answer yet. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** 8192 bytes of the caller's own. A block past the relation's end is `not-found`. */
  getPage(
    rel: RelationFork,
    blkno: number,
    requestLsn: Lsn,
    notModifiedSince: Lsn = requestLsn,
  ): Promise<Uint8Array> {
    const id = this.#nextId++;
    return this.#ask(
      id,
      encodeRelRequest(TAG_GET_PAGE, id, requestLsn, notModifiedSince, rel, blkno),
    ) as Promise<Uint8Array>;
  }

  /**
   * As many blocks from `blkno` on as fit in `into`, at least one; returns it. Fails as a whole, and then what arrives of
   * the others still goes there.
   */
  getPages(rel: RelationFork, blkno: number, lsn: Lsn, into: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const count = into.length / PAGE_SIZE;
      let missing = count;
      for (let i = 0; i < count; i++) {
        const id = this.#nextId++;
        const request = encodeRelRequest(TAG_GET_PAGE, id, lsn, lsn, rel, blkno + i);
        const receive = (payload: Uint8Array) => {
          decodePage(request, payload, into, i * PAGE_SIZE);
          missing--;
          if (missing === 0) {
            resolve(into);
          }
        };
        this.#send(id, { request, receive, reject });
      }
    });
  }

  /** Blocks of one fork; `not-found` where it does not exist (0 is an empty one). */
  relSize(rel: RelationFork, requestLsn: Lsn, notModifiedSince: Lsn = requestLsn): Promise<number> {
    const id = this.#nextId++;
    return this.#ask(
      id,
      encodeRelRequest(TAG_NBLOCKS, id, requestLsn, notModifiedSince, rel),
    ) as Promise<number>;
  }

  async relExists(
    rel: RelationFork,
    requestLsn: Lsn,
    notModifiedSince: Lsn = requestLsn,
  ): Promise<boolean> {
    const id = this.#nextId++;
    const request = encodeRelRequest(TAG_EXISTS, id, requestLsn, notModifiedSince, rel);
    return (await this.#ask(id, request)) !== 0;
  }

  /** Bytes in all forks of a database in the default tablespace. */
  dbSize(dbOid: number, requestLsn: Lsn, notModifiedSince: Lsn = requestLsn): Promise<number> {
    const id = this.#nextId++;
    const request = encodeDbSizeRequest(id, requestLsn, notModifiedSince, dbOid);
    return this.#ask(id, request) as Promise<number>;
  }

  /** All pages of an SLRU segment, at most 32 of 8192 bytes; `not-found` where there is none. */
  async slruSegment(
    kind: SlruKind,
    segno: number,
    requestLsn: Lsn,
    notModifiedSince: Lsn = requestLsn,
  ): Promise<{ blocks: number; data: Uint8Array }> {
    const id = this.#nextId++;
    const request = encodeSlruRequest(id, requestLsn, notModifiedSince, kind, segno);
    const data = (await this.#ask(id, request)) as Uint8Array;
    return { blocks: data.length / PAGE_SIZE, data };
  }

  close(): void {
    this.#fail(new StorageError("unavailable", "closed", "the pagestream client was closed"));
    this.#channel.close();
    this.#connection.close();
  }

  #ask(id: number, request: Uint8Array): Promise<PagestreamAnswer> {
    return new Promise((resolve, reject) => {
      const receive = (payload: Uint8Array) => resolve(decodeResponse(request, payload));
      this.#send(id, { request, receive, reject });
    });
  }

  #send(id: number, pending: PendingRequest): void {
    if (this.#failure !== undefined) {
      pending.reject(this.#failure);
      return;
    }
    if (this.#pending.size === 0) {
      this.#silence?.restart();
    }
    this.#pending.set(id, pending);
    this.#channel.sendCopy(pending.request);
  }

  #receive(payload: Uint8Array): void {
    this.#silence?.restart();
    const id = payload.length < 9 ? 0 : requestId(payload);
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      this.#fail(
        new StorageError("corrupt", "bad-pagestream-response", `answer to no request (id ${id})`),
      );
      this.#channel.destroy();
      return;
    }
    this.#pending.delete(id);
    try {
      pending.receive(payload);
    } catch (error) {
      pending.reject(error);
    }
  }

  /** A peer behind a network that was cut neither answers nor ends the connection. */
  #fellSilent(silenceMs: number): void {
    if (this.#pending.size > 0) {
      const message = `no answer from the pageserver in ${silenceMs} ms`;
      this.#fail(new StorageError("unavailable", "no-answer", message));
      this.#channel.destroy();
    }
  }

  #fail(failure: StorageError): void {
    this.#failure ??= failure;
    this.#silence?.cancel();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of pending) {
      request.reject(this.#failure);
    }
  }
}

/**
 * What a compute needs to start at `lsn`; waits until the pageserver has it. StorageError
 * `unavailable` where it does not get there in time. Without `lsn`: at the newest there is.
 */
export async function computeState(
  pgAddr: string,
  timeline: TenantTimeline,
  lsn?: Lsn,
): Promise<ComputeState> {
  const at = lsn === undefined ? "" : ` ${formatLsn(lsn)}`;
  const rows = await queryOnce(
    pgAddr,
    `compute_state ${timeline.tenantId} ${timeline.timelineId}${at}`,
  );
  const text = rows[0]?.[0];
  if (text === undefined || text === null) {
    throw new StorageError("corrupt", "bad-compute-state", "compute_state answered no row");
  }
  try {
    return decodeComputeState(JSON.parse(text) as ComputeStateWire);
  } catch (cause) {
    throw new StorageError("corrupt", "bad-compute-state", "compute_state is not readable", {
      cause,
    });
  }
}

/** What is at `lsn` stays readable for LSN_LEASE_MS from now on. StorageError `invalid` where it is not any more, `unavailable` where nobody answers. */
export async function leaseLsn(pgAddr: string, timeline: TenantTimeline, lsn: Lsn): Promise<void> {
  const { tenantId, timelineId } = timeline;
  await queryOnce(
    pgAddr,
    `lease lsn ${tenantId} ${timelineId} ${formatLsn(lsn)}`,
    LEASE_TIMEOUT_MS,
  );
}

/** Every relation fork of a database as of `lsn`. */
export async function listRelations(
  pgAddr: string,
  timeline: TenantTimeline,
  lsn: Lsn,
  spcOid: number,
  dbOid: number,
): Promise<RelationSize[]> {
  const rows = await queryOnce(
    pgAddr,
    `list_relations ${timeline.tenantId} ${timeline.timelineId} ${formatLsn(lsn)} ${spcOid} ${dbOid}`,
  );
  return rows.map(([relNumber, fork, blocks]) => ({
    relNumber: Number(relNumber),
    fork: Number(fork),
    blocks: Number(blocks),
  }));
}

/** Whether a database had a fork of a relation numbered `relNumber` or higher at `lsn`. */
export async function hasRelationsFrom(
  pgAddr: string,
  timeline: TenantTimeline,
  lsn: Lsn,
  rel: { readonly spcOid: number; readonly dbOid: number; readonly relNumber: number },
): Promise<boolean> {
  const { spcOid, dbOid, relNumber } = rel;
  const at = `${timeline.tenantId} ${timeline.timelineId} ${formatLsn(lsn)}`;
  const sql = `has_relations_from ${at} ${spcOid} ${dbOid} ${relNumber}`;
  const answer = (await queryOnce(pgAddr, sql))[0]?.[0];
  if (answer !== "t" && answer !== "f") {
    throw new StorageError("corrupt", "bad-answer", `has_relations_from answered ${answer}`);
  }
  return answer === "t";
}

async function queryOnce(
  pgAddr: string,
  sql: string,
  timeoutMs = QUERY_TIMEOUT_MS,
): Promise<(string | null)[][]> {
  const connection = await connectWire({ ...parseHostPort(pgAddr), timeoutMs });
  try {
    return (await connection.query(sql)).rows;
  } finally {
    connection.close();
  }
}

function requireLsn(text: unknown): Lsn {
  const lsn = typeof text === "string" ? parseLsn(text) : undefined;
  if (lsn === undefined) {
    throw new Error(`not an LSN: ${String(text)}`);
  }
  return lsn;
}

function requireNumber(value: unknown): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value)) {
    throw new Error(`not a number: ${String(value)}`);
  }
  return value;
}

/** From the JSON of `compute_state`; a plain Error where a field is wrong. */
function decodeComputeState(wire: ComputeStateWire): ComputeState {
  const cp = wire.checkPoint;
  const checkPoint: CheckPoint = {
    redo: requireLsn(cp["redo"]),
    timeLineId: requireNumber(cp["timeLineId"]),
    prevTimeLineId: requireNumber(cp["prevTimeLineId"]),
    fullPageWrites: cp["fullPageWrites"] === true,
    walLevel: requireNumber(cp["walLevel"]),
    nextFullXid: BigInt(cp["nextFullXid"]!),
    nextOid: requireNumber(cp["nextOid"]),
    nextMulti: requireNumber(cp["nextMulti"]),
    nextMultiOffset: requireNumber(cp["nextMultiOffset"]),
    oldestXid: requireNumber(cp["oldestXid"]),
    oldestXidDb: requireNumber(cp["oldestXidDb"]),
    oldestMulti: requireNumber(cp["oldestMulti"]),
    oldestMultiDb: requireNumber(cp["oldestMultiDb"]),
    time: BigInt(cp["time"]!),
    oldestCommitTsXid: requireNumber(cp["oldestCommitTsXid"]),
    newestCommitTsXid: requireNumber(cp["newestCommitTsXid"]),
    oldestActiveXid: requireNumber(cp["oldestActiveXid"]),
  };
  const bytes = (base64: string) => new Uint8Array(Buffer.from(base64, "base64"));
  return {
    lsn: requireLsn(wire.lsn),
    prevRecordLsn: requireLsn(wire.prevRecordLsn),
    systemId: BigInt(wire.systemId),
    pgVersion: requireNumber(wire.pgVersion),
    walSegmentSize: requireNumber(wire.walSegmentSize),
    checkPoint,
    controlFile: bytes(wire.controlFile),
    relationMaps: wire.relationMaps.map((map) => ({
      spcOid: map.spcOid,
      dbOid: map.dbOid,
      bytes: bytes(map.base64),
    })),
    databases: wire.databases,
    tablespaces: wire.tablespaces,
    statistics: wire.statistics === undefined ? undefined : bytes(wire.statistics),
    twoPhase: wire.twoPhase.map((prepared) => ({
      fullXid: BigInt(prepared.fullXid),
      payload: bytes(prepared.base64),
    })),
    hasInheritedSubscriptions: wire.hasInheritedSubscriptions === true,
    replicationOrigins: wire.replicationOrigins.map((origin) => ({
      originId: requireNumber(origin.originId),
      remoteLsn: BigInt(origin.remoteLsn),
    })),
    timelineStartLsn: requireLsn(wire.timelineStartLsn),
    standbySnapshots: wire.standbySnapshots.map((snapshot) => ({
      startLsn: requireLsn(snapshot.startLsn),
      endLsn: requireLsn(snapshot.endLsn),
      kind: snapshot.kind === "shutdown" ? "shutdown" : "running",
      oldestRunningXid: requireNumber(snapshot.oldestRunningXid),
      nextXid: requireNumber(snapshot.nextXid),
    })),
    auxFiles: wire.auxFiles.map((file) => ({ path: file.path, bytes: bytes(file.base64) })),
  };
}

/** The management API. Errors keep the kind that the HTTP status names. */
export class PageserverHttpClient {
  readonly #http: HttpClient;

  /** `httpAddr`: `host:port` or an http URL. */
  constructor(httpAddr: string, options: { timeoutMs?: number } = {}) {
    this.#http = new HttpClient({
      component: "pageserver",
      address: httpAddr,
      timeoutMs: options.timeoutMs ?? 60_000,
      isOnlyOne: true,
    });
  }

  status(): Promise<PageserverStatus> {
    return this.#http.call("GET", "/v1/status");
  }

  listTenants(): Promise<TenantInfo[]> {
    return this.#http.call("GET", "/v1/tenant");
  }

  /** Idempotent. */
  createTenant(tenantId: string): Promise<string> {
    return this.#http.call("POST", "/v1/tenant", { body: { new_tenant_id: tenantId } });
  }

  /** With all that it has, for good. Idempotent; to be asked again after a failure. */
  deleteTenant(tenantId: string): Promise<void> {
    return this.#http.call("DELETE", `/v1/tenant/${tenantId}`, {
      timeoutMs: MAINTENANCE_TIMEOUT_MS,
    });
  }

  /** `withSizes`: the logical ones are counted where they are not known, which reads the sizes of all relations. */
  listTimelines(tenantId: string, { withSizes = false } = {}): Promise<TimelineInfo[]> {
    const query = withSizes ? "?force-await-initial-logical-size=true" : "";
    return this.#http.call("GET", `/v1/tenant/${tenantId}/timeline${query}`);
  }

  getTimeline(
    tenantId: string,
    timelineId: string,
    { withSizes = false } = {},
  ): Promise<TimelineInfo> {
    const query = withSizes ? "?force-await-initial-logical-size=true" : "";
    return this.#http.call("GET", `/v1/tenant/${tenantId}/timeline/${timelineId}${query}`);
  }

  syntheticSize(tenantId: string): Promise<SyntheticSize> {
    return this.#http.call("GET", `/v1/tenant/${tenantId}/synthetic_size`);
  }

  /** Idempotent where everything is the same, else `conflict`; waits for `ancestor_start_lsn`. */
  createTimeline(tenantId: string, request: TimelineCreateRequest): Promise<TimelineInfo> {
    return this.#http.call("POST", `/v1/tenant/${tenantId}/timeline`, { body: request });
  }

  /** `not-found` when it is gone already. Branches of it are detached. */
  deleteTimeline(tenantId: string, timelineId: string): Promise<void> {
    return this.#http.call("DELETE", `/v1/tenant/${tenantId}/timeline/${timelineId}`);
  }

  /** Its archived ones too. */
  listTimelinesAndOffloaded(
    tenantId: string,
    { withSizes = false } = {},
  ): Promise<TimelinesAndOffloaded> {
    const query = withSizes ? "?force-await-initial-logical-size=true" : "";
    return this.#http.call("GET", `/v1/tenant/${tenantId}/timeline_and_offloaded${query}`);
  }

  /** Idempotent. `invalid` where a branch of it is in use, or its ancestor is archived. */
  async setArchival(tenantId: string, timelineId: string, state: ArchivalState): Promise<void> {
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/archival_config`;
    await this.#http.call("PUT", path, { body: { state }, timeoutMs: ARCHIVAL_TIMEOUT_MS });
  }

  /**
   * Begins or goes on with the import of a directory on the pageserver's machine; to be called again until `timeline` is set,
   * at least once a minute.
   */
  importPgdata(tenantId: string, timelineId: string, path: string): Promise<ImportStatusJson> {
    const route = `/v1/tenant/${tenantId}/timeline/${timelineId}/import_pgdata`;
    return this.#http.call("PUT", route, { body: { path } });
  }

  /** Breaks an import off; of one that is done the timeline may be deleted from now on. */
  async releaseImport(tenantId: string, timelineId: string): Promise<void> {
    await this.#http.call("DELETE", `/v1/tenant/${tenantId}/timeline/${timelineId}/import_pgdata`);
  }

  listLayers(tenantId: string, timelineId: string): Promise<LayerMapInfo> {
    return this.#http.call("GET", `/v1/tenant/${tenantId}/timeline/${timelineId}/layer`);
  }

  /** The branch needs no ancestor from then on. */
  async detachFromAncestor(tenantId: string, timelineId: string): Promise<void> {
    await this.#http.call("PUT", `/v1/tenant/${tenantId}/timeline/${timelineId}/detach_ancestor`);
  }

  /** `time`: RFC 3339 with its zone. Waits until the timeline has WAL up to `waitLsn`. */
  getLsnByTimestamp(
    tenantId: string,
    timelineId: string,
    { time, waitLsn }: { readonly time: string; readonly waitLsn: Lsn },
  ): Promise<LsnByTimestamp> {
    const query = new URLSearchParams({ timestamp: time, wait_lsn: formatLsn(waitLsn) });
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/get_lsn_by_timestamp`;
    return this.#http.call("GET", `${path}?${query}`);
  }

  /** RFC 3339; `not-found` where no commit at or below the LSN has a time that is known. */
  getTimestampOfLsn(tenantId: string, timelineId: string, lsn: Lsn): Promise<string> {
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/get_timestamp_of_lsn`;
    return this.#http.call("GET", `${path}?${new URLSearchParams({ lsn: formatLsn(lsn) })}`);
  }

  /** Compares the object store with what the indexes there name. Lists all that the tenant has: minutes for millions. */
  scrub(tenantId: string, request: ScrubRequest): Promise<ScrubReportWire> {
    return this.#http.call("PUT", `/v1/tenant/${tenantId}/scrub`, { body: request });
  }

  /** What is set of a tenant, and what counts. */
  getTenantConfig(tenantId: string): Promise<TenantConfigInfo> {
    return this.#http.call("GET", `/v1/tenant/${tenantId}/config`);
  }

  /** null: back to the default; what is not given stays. Durable when it resolves. */
  patchTenantConfig(tenantId: string, patch: TenantConfigPatch): Promise<void> {
    const body = { tenant_id: tenantId, ...patch };
    return this.#http.call("PATCH", "/v1/tenant/config", { body });
  }

  /** Collects old history, however long that takes. `unavailable`, but for a dry run, right after a start. `pitrInterval`: as "1 h", of a dry run only. */
  doGc(
    tenantId: string,
    timelineId: string,
    request: {
      readonly dryRun: boolean;
      readonly force: boolean;
      readonly pitrInterval?: string;
    },
  ): Promise<GcResult> {
    const { dryRun: dry_run, force, pitrInterval: pitr_interval } = request;
    const body = { dry_run, force, pitr_interval };
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/do_gc`;
    return this.#http.call("PUT", path, { body, timeoutMs: MAINTENANCE_TIMEOUT_MS });
  }

  /** As far as it is worth it, however long that takes. */
  compact(tenantId: string, timelineId: string): Promise<void> {
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/compact`;
    return this.#http.call("PUT", path, { timeoutMs: MAINTENANCE_TIMEOUT_MS });
  }

  /** What is at the LSN stays readable for LSN_LEASE_MS; `invalid` where it is not any more. */
  async leaseLsn(tenantId: string, timelineId: string, lsn: Lsn): Promise<void> {
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/lsn_lease`;
    await this.#http.call("POST", path, { body: { lsn: formatLsn(lsn) } });
  }

  /** Writes everything in memory into layer files. */
  checkpoint(tenantId: string, timelineId: string): Promise<void> {
    return this.#http.call("PUT", `/v1/tenant/${tenantId}/timeline/${timelineId}/checkpoint`);
  }
}

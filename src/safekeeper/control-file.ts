// safekeeper.control: the persistent state of one timeline: its acceptor's, and where its WAL lies.

import { crc32c } from "../base/crc32c.ts";
import { type Disk, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import {
  checkMembership,
  type MembershipConfiguration,
} from "../safekeeper-protocol/membership.ts";
import { checkTermHistory } from "../safekeeper-protocol/term-history.ts";
import type { AcceptorPersistentState } from "./consensus/acceptor.ts";
import {
  type PartialSegment,
  parsePartialSegmentName,
  partialSegmentName,
} from "./wal-backup/stored-wal.ts";

/*
 * Ours, format version 2:
 *   0   8 bytes  magic "STRATASK"
 *   8   u32 LE   format version
 *   12  u32 LE   length of the JSON
 *   16  JSON     see `encode`; LSNs as X/X, system id decimal
 *   ..  u32 LE   CRC-32C of everything before
 * Version 1 lacked `partial_backup` and `eviction_state`; it is read as one that has none.
 * It is replaced as a whole, durably. A file that is wrong in any way is `corrupt`: it is never
 * guessed at, since forgetting a vote loses data.
 */

export const CONTROL_FILE_NAME = "safekeeper.control";
const MAGIC = "STRATASK";
const FORMAT_VERSION = 2;
const OLDEST_VERSION = 1;
const HEADER_SIZE = 16;

/** Which of the timeline's WAL is not on this disk alone. */
export interface WalPlacement {
  /** This safekeeper's own partial segment in the object store, if there is one. */
  readonly partial: PartialSegment | undefined;
  /** No WAL is on this disk: the object store has all of it, the end in `partial`. */
  readonly evicted: boolean;
}

export const ALL_LOCAL: WalPlacement = { partial: undefined, evicted: false };

export function encodeControlFile(
  state: AcceptorPersistentState,
  placement: WalPlacement = ALL_LOCAL,
): Uint8Array {
  const json = Buffer.from(
    JSON.stringify({
      tenant_id: state.tenantId,
      timeline_id: state.timelineId,
      mconf: state.mconf,
      term: state.term,
      term_history: state.termHistory.map((entry) => [entry.term, formatLsn(entry.lsn)]),
      pg_version: state.pgVersion,
      system_id: state.systemId.toString(),
      wal_seg_size: state.walSegSize,
      timeline_start_lsn: formatLsn(state.timelineStartLsn),
      local_start_lsn: formatLsn(state.localStartLsn),
      commit_lsn: formatLsn(state.commitLsn),
      backup_lsn: formatLsn(state.backupLsn),
      peer_horizon_lsn: formatLsn(state.peerHorizonLsn),
      remote_consistent_lsn: formatLsn(state.remoteConsistentLsn),
      flushed_lsn: formatLsn(state.flushedLsn),
      partial_backup:
        placement.partial === undefined
          ? null
          : partialSegmentName(placement.partial, state.walSegSize),
      eviction_state: placement.evicted ? "offloaded" : "present",
    }),
  );
  const bytes = new Uint8Array(HEADER_SIZE + json.length + 4);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(MAGIC));
  view.setUint32(8, FORMAT_VERSION, true);
  view.setUint32(12, json.length, true);
  bytes.set(json, HEADER_SIZE);
  view.setUint32(HEADER_SIZE + json.length, crc32c(bytes, 0, HEADER_SIZE + json.length), true);
  return bytes;
}

export function writeControlFile(
  path: string,
  state: AcceptorPersistentState,
  disk: Disk,
  placement: WalPlacement = ALL_LOCAL,
): void {
  writeFileDurably(path, encodeControlFile(state, placement), disk);
}

/** StorageError `corrupt` says what is wrong with the bytes; `unsupported` for a newer format. */
export function decodeControlFile(bytes: Uint8Array): AcceptorPersistentState {
  return decodeWholeControlFile(bytes).state;
}

/** As `decodeControlFile`, with where the WAL lies. */
export function decodeWholeControlFile(bytes: Uint8Array): {
  readonly state: AcceptorPersistentState;
  readonly placement: WalPlacement;
} {
  const corrupt = (problem: string, cause?: unknown) =>
    new StorageError("corrupt", "bad-control-file", `safekeeper control file: ${problem}`, {
      cause,
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_SIZE + 4 || Buffer.from(bytes.subarray(0, 8)).toString() !== MAGIC) {
    throw corrupt(`no magic in ${bytes.length} bytes`);
  }
  const version = view.getUint32(8, true);
  if (version < OLDEST_VERSION || version > FORMAT_VERSION) {
    throw new StorageError(
      "unsupported",
      "control-file-version",
      `safekeeper control file has format version ${version}, this program knows up to ${FORMAT_VERSION}`,
    );
  }
  const length = view.getUint32(12, true);
  if (HEADER_SIZE + length + 4 !== bytes.length) {
    throw corrupt(`${bytes.length} bytes instead of ${HEADER_SIZE + length + 4}`);
  }
  if (crc32c(bytes, 0, HEADER_SIZE + length) !== view.getUint32(HEADER_SIZE + length, true)) {
    throw corrupt("checksum does not match");
  }
  try {
    const text = Buffer.from(bytes.subarray(HEADER_SIZE, HEADER_SIZE + length)).toString();
    const json = JSON.parse(text) as ControlFileJson;
    const state = fromJson(json);
    return { state, placement: placementFromJson(json, state.walSegSize) };
  } catch (error) {
    throw corrupt(error instanceof Error ? error.message : String(error), error);
  }
}

interface ControlFileJson {
  tenant_id: string;
  timeline_id: string;
  mconf: MembershipConfiguration;
  term: number;
  term_history: [number, string][];
  pg_version: number;
  system_id: string;
  wal_seg_size: number;
  partial_backup?: string | null;
  eviction_state?: string;
  [lsn: `${string}_lsn`]: string;
}

function placementFromJson(json: ControlFileJson, segmentSize: number): WalPlacement {
  const name = json.partial_backup ?? null;
  const partial = name === null ? undefined : parsePartialSegmentName(name, segmentSize);
  if (name !== null && partial === undefined) {
    throw new Error(`partial_backup is ${name}`);
  }
  const eviction = json.eviction_state ?? "present";
  if (eviction !== "present" && eviction !== "offloaded") {
    throw new Error(`eviction_state is ${eviction}`);
  }
  return { partial, evicted: eviction === "offloaded" };
}

function fromJson(json: ControlFileJson): AcceptorPersistentState {
  const lsn = (text: string | undefined, what: string): Lsn => {
    const value = parseLsn(text ?? "");
    if (value === undefined) {
      throw new Error(`${what} is not an LSN: ${text}`);
    }
    return value;
  };
  const state: AcceptorPersistentState = {
    tenantId: parseTenantId(json.tenant_id),
    timelineId: parseTimelineId(json.timeline_id),
    mconf: {
      generation: json.mconf.generation,
      members: json.mconf.members,
      newMembers: json.mconf.newMembers,
    },
    term: json.term,
    termHistory: json.term_history.map(([term, start]) => ({ term, lsn: lsn(start, "term") })),
    pgVersion: json.pg_version,
    systemId: BigInt(json.system_id),
    walSegSize: json.wal_seg_size,
    timelineStartLsn: lsn(json.timeline_start_lsn, "timeline_start_lsn"),
    localStartLsn: lsn(json.local_start_lsn, "local_start_lsn"),
    commitLsn: lsn(json.commit_lsn, "commit_lsn"),
    backupLsn: lsn(json.backup_lsn, "backup_lsn"),
    peerHorizonLsn: lsn(json.peer_horizon_lsn, "peer_horizon_lsn"),
    remoteConsistentLsn: lsn(json.remote_consistent_lsn, "remote_consistent_lsn"),
    flushedLsn: lsn(json.flushed_lsn, "flushed_lsn"),
  };
  checkMembership(state.mconf);
  checkTermHistory(state.termHistory);
  if (!Number.isSafeInteger(state.term) || state.term < 0) {
    throw new Error(`term is ${state.term}`);
  }
  return state;
}

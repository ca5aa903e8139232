// safekeeper.control: the persistent state of one timeline's acceptor.

import { crc32c } from "../base/crc32c.ts";
import { writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import type { AcceptorPersistentState } from "./acceptor.ts";
import { checkMembership, type MembershipConfiguration } from "./membership.ts";
import { checkTermHistory } from "./term-history.ts";

/*
 * Ours, format version 1:
 *   0   8 bytes  magic "STRATASK"
 *   8   u32 LE   format version
 *   12  u32 LE   length of the JSON
 *   16  JSON     see `encode`; LSNs as X/X, system id decimal
 *   ..  u32 LE   CRC-32C of everything before
 * It is replaced as a whole, durably. A file that is wrong in any way is `corrupt`: it is never
 * guessed at, since forgetting a vote loses data.
 */

export const CONTROL_FILE_NAME = "safekeeper.control";
const MAGIC = "STRATASK";
const FORMAT_VERSION = 1;
const HEADER_SIZE = 16;

export function encodeControlFile(state: AcceptorPersistentState): Uint8Array {
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

export function writeControlFile(path: string, state: AcceptorPersistentState): void {
  writeFileDurably(path, encodeControlFile(state));
}

/** StorageError `corrupt` says what is wrong with the bytes; `unsupported` for a newer format. */
export function decodeControlFile(bytes: Uint8Array): AcceptorPersistentState {
  const corrupt = (problem: string, cause?: unknown) =>
    new StorageError("corrupt", "bad-control-file", `safekeeper control file: ${problem}`, {
      cause,
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_SIZE + 4 || Buffer.from(bytes.subarray(0, 8)).toString() !== MAGIC) {
    throw corrupt(`no magic in ${bytes.length} bytes`);
  }
  const version = view.getUint32(8, true);
  if (version !== FORMAT_VERSION) {
    throw new StorageError(
      "unsupported",
      "control-file-version",
      `safekeeper control file has format version ${version}, this program knows ${FORMAT_VERSION}`,
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
    return fromJson(JSON.parse(text) as ControlFileJson);
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
  [lsn: `${string}_lsn`]: string;
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

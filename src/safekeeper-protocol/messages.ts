// The walproposer protocol, version 3: messages between a proposer (compute) and an acceptor (safekeeper).

import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import { ByteReader, ByteWriter } from "./byte-codec.ts";
import {
  checkMembership,
  MAX_SAFEKEEPERS,
  type MembershipConfiguration,
  type SafekeeperId,
} from "./membership.ts";
import {
  encodePageserverFeedback,
  type PageserverFeedback,
  readPageserverFeedback,
} from "./pageserver-feedback.ts";
import { checkTermHistory, type Term, type TermHistory, type TermLsn } from "./term-history.ts";

/*
 * Neon's protocol version 3 (safekeeper/src/safekeeper.rs, pgxn/neon/walproposer.c). Each message
 * is the payload of one CopyData; big-endian; first byte is the tag. cstr = zero-terminated text.
 *
 *   mconf              u32 generation, u32 n, n x (u64 id, cstr host, u16 port), u32 n_new, same
 *   'g' to acceptor    cstr tenant, cstr timeline, mconf, u32 pg_version, u64 system_id, u32 seg_size
 *   'g' to proposer    u64 node_id, mconf, u64 term
 *   'v' to acceptor    u32 generation, u64 term
 *   'v' to proposer    u32 generation, u64 term, u8 given, u64 flush_lsn, u64 truncate_lsn,
 *                      u32 n, n x (u64 term, u64 lsn)
 *   'e' to acceptor    u32 generation, u64 term, u64 start_streaming_at, u32 n, n x (u64, u64)
 *   'a' to acceptor    u32 generation, u64 term, begin, end, commit, truncate, then end-begin bytes
 *   'a' to proposer    u32 generation, u64 term, flush_lsn, commit_lsn, i64 ts, u64 xmin,
 *                      u64 catalog_xmin, then optionally pageserver feedback
 *
 * Terms and LSNs must be below 2^53. Wrong bytes are StorageError `invalid`.
 */

/** Most WAL in one AppendRequest (Neon's MAX_SEND_SIZE: 16 WAL pages). */
export const MAX_SEND_SIZE = 16 * 8192;
export const PROTOCOL_VERSION = 3;
const MAX_TERM_HISTORY = 1_000_000;
const TAG_GREETING = "g".charCodeAt(0);
const TAG_VOTE = "v".charCodeAt(0);
const TAG_ELECTED = "e".charCodeAt(0);
const TAG_APPEND = "a".charCodeAt(0);
const APPEND_HEADER_SIZE = 45;
/** An answer without a pageserver's feedback. */
const SHORT_RESPONSE_SIZE = 53;
const TWO_32 = 2 ** 32;

export interface ProposerGreeting {
  readonly type: "greeting";
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly mconf: MembershipConfiguration;
  /** PG_VERSION_NUM form, 170010. */
  readonly pgVersion: number;
  /** 0 where the proposer does not know it. */
  readonly systemId: bigint;
  readonly walSegSize: number;
}

export interface VoteRequest {
  readonly type: "vote-request";
  readonly generation: number;
  readonly term: Term;
}

export interface ProposerElected {
  readonly type: "elected";
  readonly generation: number;
  readonly term: Term;
  /** The acceptor must cut its WAL here and expects the next byte from here. */
  readonly startStreamingAt: Lsn;
  readonly termHistory: TermHistory;
}

export interface AppendRequestHeader {
  readonly generation: number;
  readonly term: Term;
  readonly beginLsn: Lsn;
  readonly endLsn: Lsn;
  readonly commitLsn: Lsn;
  /** No safekeeper needs WAL below. */
  readonly truncateLsn: Lsn;
}

export interface AppendRequest extends AppendRequestHeader {
  readonly type: "append-request";
  /**
   * `endLsn - beginLsn` bytes; a view of the decoded message. Empty: heartbeat or new commit LSN.
   */
  readonly walData: Uint8Array;
}

export type ProposerMessage = ProposerGreeting | VoteRequest | ProposerElected | AppendRequest;

export interface AcceptorGreeting {
  readonly type: "greeting";
  readonly nodeId: number;
  readonly mconf: MembershipConfiguration;
  readonly term: Term;
}

export interface VoteResponse {
  readonly type: "vote-response";
  readonly generation: number;
  readonly term: Term;
  readonly voteGiven: boolean;
  /** End of the last whole record it has on disk. */
  readonly flushLsn: Lsn;
  readonly truncateLsn: Lsn;
  /** Of the WAL up to flushLsn. */
  readonly termHistory: TermHistory;
}

export interface HotStandbyFeedback {
  /** Microseconds since 2000-01-01; 0 where no standby has told anything. */
  readonly timestamp: number;
  /** 64-bit transaction ids. */
  readonly xmin: bigint;
  readonly catalogXmin: bigint;
}

export const NO_HOT_STANDBY_FEEDBACK: HotStandbyFeedback = {
  timestamp: 0,
  xmin: 0n,
  catalogXmin: 0n,
};

export interface AppendResponse {
  readonly type: "append-response";
  readonly generation: number;
  /** Higher than the proposer's: it is fenced, and the LSNs are 0. */
  readonly term: Term;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  readonly hotStandbyFeedback: HotStandbyFeedback;
  readonly pageserverFeedback: PageserverFeedback | undefined;
}

export type AcceptorMessage = AcceptorGreeting | VoteResponse | AppendResponse;

function writeMembership(writer: ByteWriter, mconf: MembershipConfiguration): void {
  writer.u32(mconf.generation);
  for (const set of [mconf.members, mconf.newMembers ?? []]) {
    writer.u32(set.length);
    for (const member of set) {
      writer.u64(member.id);
      writer.cstring(member.host);
      writer.u16(member.pgPort);
    }
  }
}

function readMembers(reader: ByteReader): SafekeeperId[] {
  const count = reader.u32("number of members");
  if (count > MAX_SAFEKEEPERS) {
    throw new StorageError("invalid", "bad-membership", `${count} members in a membership set`);
  }
  const members: SafekeeperId[] = [];
  for (let i = 0; i < count; i++) {
    members.push({
      id: reader.u64("member id"),
      host: reader.cstring("member host"),
      pgPort: reader.u16("member port"),
    });
  }
  return members;
}

function readMembership(reader: ByteReader): MembershipConfiguration {
  const generation = reader.u32("membership generation");
  const members = readMembers(reader);
  const newMembers = readMembers(reader);
  const mconf = {
    generation,
    members,
    newMembers: newMembers.length === 0 ? undefined : newMembers,
  };
  checkMembership(mconf);
  return mconf;
}

/** As greetings have it. */
export function encodeMembership(mconf: MembershipConfiguration): Uint8Array {
  const writer = new ByteWriter();
  writeMembership(writer, mconf);
  return writer.finish();
}

/** Of `encodeMembership`. StorageError `invalid`. */
export function decodeMembership(bytes: Uint8Array): MembershipConfiguration {
  const reader = new ByteReader(bytes);
  return checkEnd(reader, readMembership(reader));
}

function writeHistory(writer: ByteWriter, history: TermHistory): void {
  writer.u32(history.length);
  for (const entry of history) {
    writer.u64(entry.term);
    writer.u64(entry.lsn);
  }
}

function readHistory(reader: ByteReader): TermHistory {
  const count = reader.u32("length of term history");
  if (count > MAX_TERM_HISTORY || count * 16 > reader.remaining) {
    throw new StorageError(
      "invalid",
      "bad-term-history",
      `term history of ${count} entries in ${reader.remaining} bytes`,
    );
  }
  const history: TermLsn[] = [];
  for (let i = 0; i < count; i++) {
    history.push({ term: reader.u64("term"), lsn: reader.u64("term start") as Lsn });
  }
  checkTermHistory(history);
  return history;
}

/** Header of an AppendRequest; its WAL bytes follow in the same CopyData. */
export function encodeAppendHeader(header: AppendRequestHeader): Uint8Array {
  const bytes = new Uint8Array(APPEND_HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  bytes[0] = TAG_APPEND;
  view.setUint32(1, header.generation);
  putU64(view, 5, header.term);
  putU64(view, 13, header.beginLsn);
  putU64(view, 21, header.endLsn);
  putU64(view, 29, header.commitLsn);
  putU64(view, 37, header.truncateLsn);
  return bytes;
}

function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value / TWO_32);
  view.setUint32(at + 4, value);
}

/** For hot paths send `encodeAppendHeader` and the WAL as two parts instead: no copy of the WAL. */
export function encodeProposerMessage(message: ProposerMessage): Uint8Array {
  const writer = new ByteWriter();
  switch (message.type) {
    case "greeting":
      writer.u8(TAG_GREETING);
      writer.cstring(message.tenantId);
      writer.cstring(message.timelineId);
      writeMembership(writer, message.mconf);
      writer.u32(message.pgVersion);
      writer.bigU64(message.systemId);
      writer.u32(message.walSegSize);
      break;
    case "vote-request":
      writer.u8(TAG_VOTE);
      writer.u32(message.generation);
      writer.u64(message.term);
      break;
    case "elected":
      writer.u8(TAG_ELECTED);
      writer.u32(message.generation);
      writer.u64(message.term);
      writer.u64(message.startStreamingAt);
      writeHistory(writer, message.termHistory);
      break;
    case "append-request":
      writer.raw(encodeAppendHeader(message));
      writer.raw(message.walData);
      break;
  }
  return writer.finish();
}

/** `walData` of an AppendRequest is a view of `bytes`. */
export function decodeProposerMessage(bytes: Uint8Array): ProposerMessage {
  const reader = new ByteReader(bytes);
  const tag = reader.u8("tag");
  switch (tag) {
    case TAG_APPEND:
      return decodeAppendRequest(reader);
    case TAG_GREETING: {
      const message: ProposerGreeting = {
        type: "greeting",
        tenantId: parseTenantId(reader.cstring("tenant id")),
        timelineId: parseTimelineId(reader.cstring("timeline id")),
        mconf: readMembership(reader),
        pgVersion: reader.u32("pg version"),
        systemId: reader.bigU64("system id"),
        walSegSize: reader.u32("WAL segment size"),
      };
      return checkEnd(reader, message);
    }
    case TAG_VOTE: {
      const generation = reader.u32("generation");
      return checkEnd(reader, { type: "vote-request", generation, term: reader.u64("term") });
    }
    case TAG_ELECTED: {
      const message: ProposerElected = {
        type: "elected",
        generation: reader.u32("generation"),
        term: reader.u64("term"),
        startStreamingAt: reader.u64("start of streaming") as Lsn,
        termHistory: readHistory(reader),
      };
      return checkEnd(reader, message);
    }
    default:
      throw new StorageError("invalid", "bad-message-tag", `unknown proposer message tag ${tag}`);
  }
}

function decodeAppendRequest(reader: ByteReader): AppendRequest {
  const generation = reader.u32("generation");
  const term = reader.u64("term");
  const beginLsn = reader.u64("begin LSN") as Lsn;
  const endLsn = reader.u64("end LSN") as Lsn;
  const commitLsn = reader.u64("commit LSN") as Lsn;
  const truncateLsn = reader.u64("truncate LSN") as Lsn;
  const length = endLsn - beginLsn;
  if (length < 0 || length > MAX_SEND_SIZE || length !== reader.remaining) {
    throw new StorageError(
      "invalid",
      "bad-append-length",
      `AppendRequest for ${length} bytes of WAL carries ${reader.remaining}`,
    );
  }
  const walData = reader.bytes(length, "WAL");
  return {
    type: "append-request",
    generation,
    term,
    beginLsn,
    endLsn,
    commitLsn,
    truncateLsn,
    walData,
  };
}

function checkEnd<T>(reader: ByteReader, message: T): T {
  if (reader.remaining > 0) {
    throw new StorageError(
      "invalid",
      "long-message",
      `${reader.remaining} bytes after the end of the message`,
    );
  }
  return message;
}

export function encodeAcceptorMessage(message: AcceptorMessage): Uint8Array {
  const writer = new ByteWriter();
  switch (message.type) {
    case "greeting":
      writer.u8(TAG_GREETING);
      writer.u64(message.nodeId);
      writeMembership(writer, message.mconf);
      writer.u64(message.term);
      break;
    case "vote-response":
      writer.u8(TAG_VOTE);
      writer.u32(message.generation);
      writer.u64(message.term);
      writer.u8(message.voteGiven ? 1 : 0);
      writer.u64(message.flushLsn);
      writer.u64(message.truncateLsn);
      writeHistory(writer, message.termHistory);
      break;
    case "append-response":
      writer.u8(TAG_APPEND);
      writer.u32(message.generation);
      writer.u64(message.term);
      writer.u64(message.flushLsn);
      writer.u64(message.commitLsn);
      writer.u64(message.hotStandbyFeedback.timestamp);
      writer.bigU64(message.hotStandbyFeedback.xmin);
      writer.bigU64(message.hotStandbyFeedback.catalogXmin);
      if (message.pageserverFeedback !== undefined) {
        writer.raw(encodePageserverFeedback(message.pageserverFeedback));
      }
      break;
  }
  return writer.finish();
}

export function decodeAcceptorMessage(bytes: Uint8Array): AcceptorMessage {
  return decodePlainResponse(bytes) ?? decodeAnyAcceptorMessage(bytes);
}

/**
 * The answer that each commit gets, of no pageserver and no standby; undefined where it is another message, or a wrong one. The numbers
 * are read where they lie: a reader and the names of fields took four times as long, most of all before it is compiled.
 */
function decodePlainResponse(bytes: Uint8Array): AppendResponse | undefined {
  if (bytes.length !== SHORT_RESPONSE_SIZE || bytes[0] !== TAG_APPEND) {
    return undefined;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, SHORT_RESPONSE_SIZE);
  const term = view.getUint32(5) * TWO_32 + view.getUint32(9);
  const flushLsn = view.getUint32(13) * TWO_32 + view.getUint32(17);
  const commitLsn = view.getUint32(21) * TWO_32 + view.getUint32(25);
  for (let at = 29; at < SHORT_RESPONSE_SIZE; at += 4) {
    if (view.getUint32(at) !== 0) {
      return undefined;
    }
  }
  if (Math.max(term, flushLsn, commitLsn) > Number.MAX_SAFE_INTEGER) {
    return undefined;
  }
  return {
    type: "append-response",
    generation: view.getUint32(1),
    term,
    flushLsn: flushLsn as Lsn,
    commitLsn: commitLsn as Lsn,
    hotStandbyFeedback: NO_HOT_STANDBY_FEEDBACK,
    pageserverFeedback: undefined,
  };
}

function decodeAnyAcceptorMessage(bytes: Uint8Array): AcceptorMessage {
  const reader = new ByteReader(bytes);
  const tag = reader.u8("tag");
  switch (tag) {
    case TAG_APPEND: {
      const message: AppendResponse = {
        type: "append-response",
        generation: reader.u32("generation"),
        term: reader.u64("term"),
        flushLsn: reader.u64("flush LSN") as Lsn,
        commitLsn: reader.u64("commit LSN") as Lsn,
        hotStandbyFeedback: {
          timestamp: reader.u64("feedback time"),
          xmin: reader.bigU64("xmin"),
          catalogXmin: reader.bigU64("catalog xmin"),
        },
        pageserverFeedback: reader.remaining > 0 ? readPageserverFeedback(reader) : undefined,
      };
      return checkEnd(reader, message);
    }
    case TAG_GREETING: {
      const nodeId = reader.u64("node id");
      const mconf = readMembership(reader);
      return checkEnd(reader, { type: "greeting", nodeId, mconf, term: reader.u64("term") });
    }
    case TAG_VOTE: {
      const message: VoteResponse = {
        type: "vote-response",
        generation: reader.u32("generation"),
        term: reader.u64("term"),
        voteGiven: reader.u8("vote given") !== 0,
        flushLsn: reader.u64("flush LSN") as Lsn,
        truncateLsn: reader.u64("truncate LSN") as Lsn,
        termHistory: readHistory(reader),
      };
      return checkEnd(reader, message);
    }
    default:
      throw new StorageError("invalid", "bad-message-tag", `unknown acceptor message tag ${tag}`);
  }
}

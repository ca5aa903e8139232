import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import {
  type AcceptorMessage,
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
  MAX_SEND_SIZE,
  NO_HOT_STANDBY_FEEDBACK,
  type ProposerMessage,
} from "./messages.ts";
import {
  decodePageserverFeedback,
  encodePageserverFeedback,
  NO_PAGESERVER_FEEDBACK,
} from "./pageserver-feedback.ts";
import { decodeReplicationMessage, decodeStandbyMessage } from "./replication-messages.ts";

const lsn = (value: number) => value as Lsn;
const MCONF = {
  generation: 3,
  members: [
    { id: 1, host: "sk-1", pgPort: 5454 },
    { id: 2 ** 40, host: "sk-2", pgPort: 65535 },
  ],
  newMembers: [{ id: 7, host: "", pgPort: 0 }],
};
const HISTORY = [
  { term: 1, lsn: lsn(0x1500028) },
  { term: 5, lsn: lsn(0x1_0000_0000) },
];

const PROPOSER_MESSAGES: ProposerMessage[] = [
  {
    type: "greeting",
    tenantId: parseTenantId("0123456789abcdef0123456789abcdef"),
    timelineId: parseTimelineId("fedcba9876543210fedcba9876543210"),
    mconf: MCONF,
    pgVersion: 170010,
    systemId: 0xffff_ffff_ffff_fffen,
    walSegSize: 16777216,
  },
  { type: "vote-request", generation: 3, term: 9 },
  {
    type: "elected",
    generation: 3,
    term: 9,
    startStreamingAt: lsn(2 ** 45 + 8),
    termHistory: HISTORY,
  },
  {
    type: "append-request",
    generation: 3,
    term: 9,
    beginLsn: lsn(0x1_0000_0010),
    endLsn: lsn(0x1_0000_0014),
    commitLsn: lsn(0x1_0000_0008),
    truncateLsn: lsn(0x1_0000_0000),
    walData: Uint8Array.of(1, 2, 3, 4),
  },
];

const ACCEPTOR_MESSAGES: AcceptorMessage[] = [
  { type: "greeting", nodeId: 12, mconf: { ...MCONF, newMembers: undefined }, term: 8 },
  {
    type: "vote-response",
    generation: 3,
    term: 9,
    voteGiven: true,
    flushLsn: lsn(77),
    truncateLsn: lsn(66),
    termHistory: HISTORY,
  },
  {
    type: "append-response",
    generation: 3,
    term: 9,
    flushLsn: lsn(2 ** 50),
    commitLsn: lsn(5),
    hotStandbyFeedback: { timestamp: 12, xmin: 2n ** 40n, catalogXmin: 3n },
    pageserverFeedback: undefined,
  },
  {
    type: "append-response",
    generation: 3,
    term: 9,
    flushLsn: lsn(1),
    commitLsn: lsn(1),
    hotStandbyFeedback: { timestamp: 0, xmin: 0n, catalogXmin: 3n },
    pageserverFeedback: undefined,
  },
  {
    type: "append-response",
    generation: 0xffff_fffe,
    term: 2 ** 52 + 1,
    flushLsn: lsn(2 ** 53 - 1),
    commitLsn: lsn(2 ** 50 + 7),
    hotStandbyFeedback: NO_HOT_STANDBY_FEEDBACK,
    pageserverFeedback: undefined,
  },
  {
    type: "append-response",
    generation: 3,
    term: 9,
    flushLsn: lsn(1),
    commitLsn: lsn(1),
    hotStandbyFeedback: { timestamp: 0, xmin: 0n, catalogXmin: 0n },
    pageserverFeedback: {
      currentTimelineSize: 12345,
      lastReceivedLsn: lsn(3),
      diskConsistentLsn: lsn(2),
      remoteConsistentLsn: lsn(1),
      replyTime: 99,
      shardNumber: 4,
      corruptionDetected: true,
    },
  },
];

test("messages: every kind survives a round trip", () => {
  for (const message of PROPOSER_MESSAGES) {
    assert.deepEqual(decodeProposerMessage(encodeProposerMessage(message)), message);
  }
  for (const message of ACCEPTOR_MESSAGES) {
    assert.deepEqual(decodeAcceptorMessage(encodeAcceptorMessage(message)), message);
  }
});

test("messages: bytes are those of Neon's protocol version 3", () => {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  assert.equal(
    hex(encodeProposerMessage(PROPOSER_MESSAGES[1]!)),
    ["76", "00000003", "0000000000000009"].join(""),
  );
  assert.equal(
    hex(encodeProposerMessage(PROPOSER_MESSAGES[3]!)),
    [
      ["61", "00000003", "0000000000000009"],
      ["0000000100000010", "0000000100000014", "0000000100000008", "0000000100000000"],
      ["01020304"],
    ]
      .flat()
      .join(""),
  );
  assert.equal(
    hex(encodeAcceptorMessage(ACCEPTOR_MESSAGES[0]!)),
    [
      ["67", "000000000000000c", "00000003", "00000002"],
      ["0000000000000001", "736b2d3100", "154e"],
      ["0000010000000000", "736b2d3200", "ffff"],
      ["00000000", "0000000000000008"],
    ]
      .flat()
      .join(""),
  );
});

test("messages: every cut and every extra byte is refused", () => {
  const all: [Uint8Array, (bytes: Uint8Array) => unknown][] = [
    ...PROPOSER_MESSAGES.map((m) => [encodeProposerMessage(m), decodeProposerMessage] as const),
    ...ACCEPTOR_MESSAGES.map((m) => [encodeAcceptorMessage(m), decodeAcceptorMessage] as const),
  ].map(([bytes, decode]) => [bytes, decode]);
  for (const [bytes, decode] of all) {
    for (let length = 0; length < bytes.length; length++) {
      const isWholeWithoutFeedback = bytes[0] === 0x61 && length === 53;
      if (!isWholeWithoutFeedback) {
        assert.throws(() => decode(bytes.subarray(0, length)), StorageError, `cut at ${length}`);
      }
    }
    assert.throws(() => decode(Buffer.concat([bytes, Buffer.of(0, 0)])), StorageError);
  }
});

test("messages: oversized appends, LSNs beyond 2^53 and bad members are refused", () => {
  const append = PROPOSER_MESSAGES[3] as ProposerMessage & { type: "append-request" };
  const walData = new Uint8Array(MAX_SEND_SIZE + 1);
  const endLsn = lsn(append.beginLsn + walData.length);
  const tooLong = encodeProposerMessage({ ...append, endLsn, walData });
  assert.throws(() => decodeProposerMessage(tooLong), { code: "bad-append-length" });
  const bytes = encodeProposerMessage(PROPOSER_MESSAGES[1]!);
  bytes[5] = 0x80;
  assert.throws(() => decodeProposerMessage(bytes), { code: "number-too-large" });
  const plain = ACCEPTOR_MESSAGES.find((message) => message.type === "append-response")!;
  const hotStandbyFeedback = NO_HOT_STANDBY_FEEDBACK;
  for (const at of [5, 13, 21]) {
    const answer = encodeAcceptorMessage({ ...plain, hotStandbyFeedback });
    answer[at + 1] = 0x20;
    assert.throws(() => decodeAcceptorMessage(answer), { code: "number-too-large" });
  }
  const greeting = PROPOSER_MESSAGES[0] as ProposerMessage & { type: "greeting" };
  const twice = { ...MCONF, members: [MCONF.members[0]!, MCONF.members[0]!] };
  assert.throws(() => decodeProposerMessage(encodeProposerMessage({ ...greeting, mconf: twice })), {
    code: "bad-membership",
  });
});

test("messages: garbage is a StorageError, never anything else", () => {
  const decoders = [
    decodeProposerMessage,
    decodeAcceptorMessage,
    decodeReplicationMessage,
    decodeStandbyMessage,
    decodePageserverFeedback,
  ];
  const tagged = fc
    .tuple(fc.constantFrom(..."gveawkrhz"), fc.uint8Array({ maxLength: 200 }))
    .map(([tag, rest]) => Buffer.concat([Buffer.from(tag), rest]));
  fc.assert(
    fc.property(tagged, (bytes) => {
      for (const decode of decoders) {
        try {
          decode(bytes);
        } catch (error) {
          assert.ok(error instanceof StorageError, String(error));
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test("pageserver feedback: unknown keys are skipped", () => {
  const known = encodePageserverFeedback({ ...NO_PAGESERVER_FEEDBACK, diskConsistentLsn: lsn(8) });
  const extra = Buffer.concat([
    Buffer.of(known[0]! + 1),
    Buffer.from("novelty\0"),
    Buffer.of(0, 0, 0, 3, 9, 9, 9),
    known.subarray(1),
  ]);
  assert.equal(decodePageserverFeedback(extra).diskConsistentLsn, 8);
});

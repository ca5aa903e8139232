// Hostile clients of a safekeeper: garbage, damaged, oversized and out-of-order messages on every port.
//
// One timeline is attacked; a proposer commits to another one all the time. Invariants, after every
// round of attacks:
// 1. The other timeline's proposer is never disconnected, fenced or kept waiting.
// 2. Every refusal is an error with a kind, none is a bug's; after a FATAL one the connection is closed.
//    HTTP never answers 500.
// 3. WAL that was committed stays, byte for byte; the commit LSN never goes back; the flush LSN is the
//    end of a record that a proposer sent, whole.
// 4. No answer names a flush or commit LSN that the timeline did not have; no term gets two votes.
// 5. After a restart everything is as before, and a proposer that behaves goes on.

import assert from "node:assert/strict";
import { generateTimelineId } from "../../src/base/ids.ts";
import { addLsn, formatLsn, type Lsn, maxLsn, minLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { encodeMessage } from "../../src/postgres/wire/wire-messages.ts";
import { persistentNow } from "../../src/safekeeper/consensus/acceptor.ts";
import { NO_MEMBERSHIP } from "../../src/safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerMessage,
} from "../../src/safekeeper-protocol/messages.ts";
import { encodeStandbyStatus } from "../../src/safekeeper-protocol/replication-messages.ts";
import {
  historyUpTo,
  MAX_TERM,
  MAX_TERM_JUMP,
} from "../../src/safekeeper-protocol/term-history.ts";
import { converse, lastError, simpleQuery, startupPacket } from "../hostile-client.ts";
import { commit, type Leader, SafekeeperCluster, SEGMENT, START } from "../safekeeper-cluster.ts";
import { WalBuilder } from "../wal-builder.ts";

/** Connections at a time. */
const ROUND = 10;
const NOBODY = "0123456789abcdef0123456789abcdef";
/** Terms that leave others no room, refused; and the furthest step there is. */
const DISTANT_TERMS = [2 ** 40, Number.MAX_SAFE_INTEGER];

/** `steps` attacks. */
export async function run(seed: number, steps: number): Promise<void> {
  const target = new AttackedSafekeeper(new SeededRandom(seed));
  try {
    await target.start();
    for (let done = 0; done < steps; done += ROUND) {
      await target.round(Math.min(ROUND, steps - done));
    }
    await target.restart();
  } finally {
    await target.cluster.destroy();
  }
}

class AttackedSafekeeper {
  /** Its timeline is the one that is not attacked. */
  readonly cluster = new SafekeeperCluster();
  readonly #random: SeededRandom;
  readonly #timelineId = generateTimelineId();
  /** All WAL that the attacked timeline can get. */
  readonly #wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  readonly #recordEnds: ReadonlySet<Lsn>;
  readonly #otherWal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  #leader: Leader | undefined;
  readonly #votes = new Map<number, number>();
  #highestFlushLsn = START;
  #committed: { readonly lsn: Lsn; readonly sha256: string } | undefined;

  constructor(random: SeededRandom) {
    this.#random = random;
    while (this.#wal.endLsn < START + 3 * SEGMENT) {
      this.#wal.appendFilled(24 + random.int(600));
    }
    this.#recordEnds = new Set([START, ...this.#wal.recordEnds]);
  }

  async start(): Promise<void> {
    const { cluster } = this;
    await cluster.startNode(0);
    const request = cluster.createRequest();
    await cluster.http(0).createTimeline(request);
    await cluster.http(0).createTimeline({ ...request, timeline_id: this.#timelineId });
    this.#leader = await cluster.lead();
    await this.#behave();
  }

  get #state() {
    return this.cluster.nodes[0]!.timelines.get(this.cluster.tenantId, this.#timelineId).state;
  }

  async round(attacks: number): Promise<void> {
    // One proposer after the other, so that each knows the state that it attacks; the rest beside them.
    const pushes = Math.ceil(attacks / 2);
    const others = Promise.all(
      Array.from({ length: attacks - pushes }, () =>
        this.#random.pick([
          () => this.#replicateBadly(),
          () => this.#askBadly(),
          () => this.#speakGarbage(),
        ])(),
      ),
    );
    // Awaited below; a push may fail first.
    others.catch(() => undefined);
    for (let i = 0; i < pushes; i++) {
      await this.#pushBadly();
    }
    await others;
    await commit(this.#leader!, this.#otherWal, [40]);
    assert.equal(this.#leader!.events.fencedBy, 0);
    await this.#check();
  }

  async #check(): Promise<void> {
    const { commitLsn, flushLsn } = this.#state;
    assert.ok(this.#recordEnds.has(flushLsn), `flush LSN ${formatLsn(flushLsn)} is no record end`);
    assert.ok(commitLsn <= flushLsn);
    // Room for everybody after: a fuzzed run sends fewer votes than would use it up.
    assert.ok(this.#state.persistent.term < MAX_TERM / 2);
    const digest = (until: Lsn) =>
      this.cluster.http(0).digest(this.cluster.tenantId, this.#timelineId, START, until);
    if (this.#committed !== undefined) {
      const { lsn, sha256 } = this.#committed;
      assert.ok(commitLsn >= lsn, "the commit LSN went back");
      assert.equal(await digest(lsn), sha256, "committed WAL was changed");
    }
    this.#committed = { lsn: commitLsn, sha256: await digest(commitLsn) };
    const refusals = await (await fetch(`http://${this.cluster.httpAddr(0)}/metrics`)).text();
    assert.doesNotMatch(refusals, /refused_messages_total\{code="bug"\}/);
  }

  async restart(): Promise<void> {
    const { commitCandidate } = this.#state;
    const before = persistentNow(this.#state);
    this.#leader!.driver.close();
    await this.cluster.stopNode(0);
    await this.cluster.startNode(0);
    // WAL that nobody was told to be flushed may have become so, and committed if its leader said that.
    const { flushedLsn, commitLsn } = persistentNow(this.#state);
    assert.ok(flushedLsn >= before.flushedLsn && this.#recordEnds.has(flushedLsn));
    assert.ok(commitLsn >= before.commitLsn && commitLsn <= minLsn(commitCandidate, flushedLsn));
    assert.deepEqual(persistentNow(this.#state), { ...before, flushedLsn, commitLsn });
    this.#leader = await this.cluster.lead();
    assert.equal(this.#leader.startLsn, this.#otherWal.endLsn);
    await this.#behave();
    await this.round(0);
  }

  /** A proposer that does everything right writes 10 kB and commits the first half. */
  async #behave(): Promise<void> {
    const order = ["greeting", "vote-request", "elected", "append-request"] as const;
    for (let i = 0; i < 2; i++) {
      const { persistent, flushLsn } = this.#state;
      const end = this.#nextEnd(flushLsn, 5000);
      const messages = order.map((type) => this.#message(type, persistent.term + 1, flushLsn, end));
      await this.#converse(
        simpleQuery("START_WAL_PUSH (proto_version '3')"),
        messages.map((message) => encodeMessage("d", encodeProposerMessage(message))),
      );
      assert.equal(this.#state.flushLsn, end);
    }
  }

  /** As the timeline would take it in `term`; an AppendRequest of [begin, end) commits what was before. */
  #message(
    type: ProposerMessage["type"],
    term: number,
    beginLsn: Lsn,
    endLsn: Lsn,
  ): ProposerMessage {
    const { persistent, flushLsn, commitLsn } = this.#state;
    const { generation } = persistent.mconf;
    switch (type) {
      case "greeting":
        return {
          type,
          tenantId: this.cluster.tenantId,
          timelineId: this.#timelineId,
          mconf: NO_MEMBERSHIP,
          pgVersion: persistent.pgVersion,
          systemId: persistent.systemId,
          walSegSize: persistent.walSegSize,
        };
      case "vote-request":
        return { type, generation, term };
      case "elected": {
        const known = historyUpTo(persistent.termHistory, flushLsn);
        const history = known.filter((entry) => entry.term < term);
        const termHistory = [...history, { term, lsn: flushLsn }];
        return { type, generation, term, startStreamingAt: flushLsn, termHistory };
      }
      case "append-request": {
        const walData = this.#wal.read(beginLsn, endLsn);
        const truncateLsn = commitLsn;
        const range = { beginLsn, endLsn: addLsn(beginLsn, walData.length) };
        return { type, generation, term, ...range, commitLsn: beginLsn, truncateLsn, walData };
      }
    }
  }

  /** On a connection to the attacked timeline; checks every answer. */
  #converse(
    query: Uint8Array,
    copied: readonly Uint8Array[],
    options = `-c timeline_id=${this.#timelineId} tenant_id=${this.cluster.tenantId}`,
  ): Promise<void> {
    return this.#send([startupPacket({ options, replication: "true" }), query], copied);
  }

  async #send(opening: readonly Uint8Array[], copied: readonly Uint8Array[] = []): Promise<void> {
    const { pgAddr } = this.cluster.address(0);
    const hangUp = this.#random.bool(0.8);
    const { answers, closed } = await converse(pgAddr, opening, copied, { hangUp });
    const error = lastError(answers);
    if (error !== undefined) {
      assert.notEqual(error.get("C"), "XX000", `a bug: ${error.get("M")}`);
      assert.ok(error.get("S") !== "FATAL" || closed, `still open: ${error.get("M")}`);
    }
    const { flushLsn } = this.#state;
    this.#highestFlushLsn = maxLsn(this.#highestFlushLsn, flushLsn);
    for (const { type, body } of answers) {
      if (type === "d" && !"wk".includes(String.fromCharCode(body[0]!))) {
        this.#checkAnswer(decodeAcceptorMessage(body));
      }
    }
  }

  #checkAnswer(answer: AcceptorMessage): void {
    if (answer.type === "append-response") {
      assert.ok(answer.flushLsn <= this.#highestFlushLsn, "acknowledged what is not there");
      assert.ok(answer.commitLsn <= answer.flushLsn);
    } else if (answer.type === "vote-response" && answer.voteGiven) {
      const votes = (this.#votes.get(answer.term) ?? 0) + 1;
      this.#votes.set(answer.term, votes);
      assert.equal(votes, 1, `two votes in term ${answer.term}`);
    }
  }

  async #pushBadly(): Promise<void> {
    const random = this.#random;
    const { persistent, flushLsn } = this.#state;
    const term = Math.max(0, persistent.term + 1 + (random.bool(0.3) ? random.int(4) - 2 : 0));
    const order = ["greeting", "vote-request", "elected", "append-request"] as const;
    const shuffled = random.bool(0.3);
    const frames: Buffer[] = [];
    let at = flushLsn;
    for (let i = 0; i < 1 + random.int(8); i++) {
      const type = shuffled ? random.pick(order) : order[Math.min(i, 3)]!;
      const end = random.bool(0.7) ? this.#nextEnd(at, random.int(2000)) : addLsn(at, 1000);
      const message = this.#message(type, term, at, end);
      at = type === "append-request" ? end : at;
      const perturbed = random.bool(0.2) ? this.#perturb(message) : message;
      const bytes = encodeProposerMessage(perturbed);
      frames.push(this.#frame(random.bool(0.1) ? this.#damage(bytes) : bytes));
    }
    await this.#converse(simpleQuery("START_WAL_PUSH"), frames);
  }

  /** The first record end `bytes` above `lsn`, or that of all WAL. */
  #nextEnd(lsn: Lsn, bytes: number): Lsn {
    return this.#wal.recordEnds.find((end) => end > lsn + bytes) ?? this.#wal.endLsn;
  }

  #perturb(message: ProposerMessage): ProposerMessage {
    const random = this.#random;
    const end = this.#nextEnd(START, random.int(this.#state.flushLsn - START + 800));
    const lsn = random.bool() ? end : addLsn(end, -8 * (1 + random.int(4)));
    switch (message.type) {
      case "greeting":
        return random.pick<ProposerMessage>([
          { ...message, tenantId: NOBODY as typeof message.tenantId },
          { ...message, timelineId: this.cluster.timelineId },
          { ...message, systemId: 4711n },
          { ...message, walSegSize: random.int(2 ** 31) },
          { ...message, pgVersion: 10_000 * (13 + random.int(7)) },
          {
            ...message,
            mconf: {
              generation: 1 + random.int(9),
              members: [{ id: 2, host: "nowhere", pgPort: 1 }],
              newMembers: undefined,
            },
          },
        ]);
      case "vote-request":
        return {
          ...message,
          term: random.pick([0, 1, message.term + MAX_TERM_JUMP, ...DISTANT_TERMS]),
        };
      case "elected":
        return random.pick<ProposerMessage>([
          { ...message, startStreamingAt: lsn },
          { ...message, termHistory: [] },
          { ...message, termHistory: [{ term: message.term, lsn }] },
          { ...message, termHistory: [{ term: message.term, lsn }], startStreamingAt: lsn },
          ...DISTANT_TERMS.map((term) => ({ ...message, term, termHistory: [{ term, lsn }] })),
          { ...message, termHistory: [...message.termHistory, { term: 1, lsn }] },
          { ...message, generation: 1 + random.int(9) },
        ]);
      case "append-request":
        return random.pick<ProposerMessage>([
          { ...message, beginLsn: lsn, endLsn: addLsn(lsn, message.walData.length) },
          { ...message, commitLsn: addLsn(lsn, SEGMENT) },
          { ...message, truncateLsn: addLsn(lsn, SEGMENT) },
          { ...message, walData: this.#damage(message.walData) },
          { ...message, endLsn: addLsn(message.endLsn, 8) },
          { ...message, term: message.term + 1 },
        ]);
    }
  }

  /** Flips, cuts, lengthens or replaces; never the same. */
  #damage(bytes: Uint8Array): Uint8Array {
    const random = this.#random;
    const garbage = Buffer.from(Array.from({ length: 1 + random.int(300) }, () => random.int(256)));
    switch (random.int(bytes.length === 0 ? 1 : 4)) {
      case 0:
        return Buffer.concat([bytes, garbage]);
      case 1:
        return garbage;
      case 2:
        return bytes.subarray(0, random.int(bytes.length));
      default: {
        const flipped = bytes.slice();
        const at = random.int(flipped.length);
        flipped[at] = flipped[at]! ^ (1 << random.int(8));
        return flipped;
      }
    }
  }

  /** A CopyData, sometimes with another type or length. */
  #frame(payload: Uint8Array): Buffer {
    const random = this.#random;
    const frame = encodeMessage("d", payload);
    if (random.bool(0.05)) {
      frame[0] = random.int(256);
    }
    if (random.bool(0.05)) {
      frame.writeInt32BE(random.pick([-1, 0, 3, 5, 2 ** 26, 2 ** 31 - 1, random.int(1000)]), 1);
    }
    return frame;
  }

  async #replicateBadly(): Promise<void> {
    const random = this.#random;
    const { flushLsn, persistent } = this.#state;
    const lsn = random.pick(["0/0", "0/1", "FFFFFFFF/FFFFFFFF", "1/2/3", formatLsn(START), "x"]);
    const near = formatLsn(addLsn(flushLsn, random.int(64) - 32));
    const term = random.pick(["", ` (term='${persistent.term}')`, " (term='9')", " (term='-1')"]);
    const timeline = random.pick(["", " TIMELINE 1", " TIMELINE 2", " TIMELINE x"]);
    const command = `START_REPLICATION PHYSICAL ${random.bool() ? lsn : near}${timeline}${term}`;
    const status = encodeStandbyStatus({
      writeLsn: flushLsn,
      flushLsn,
      applyLsn: addLsn(flushLsn, SEGMENT),
      timeMs: 0,
    });
    await this.#converse(
      simpleQuery(command),
      Array.from({ length: random.int(4) }, () => this.#frame(this.#damage(status))),
    );
  }

  async #speakGarbage(): Promise<void> {
    const random = this.#random;
    const { tenantId } = this.cluster;
    const ids = random.pick([
      "",
      `timeline_id=${NOBODY} tenant_id=${tenantId}`,
      `timeline_id=${this.#timelineId} tenant_id=${NOBODY}`,
      "timeline_id=../../etc tenant_id=%00",
      `tenant_id=${tenantId}`,
    ]);
    const sql = random.pick([
      "START_WAL_PUSH",
      "START_WAL_PUSH (proto_version '2')",
      "START_REPLICATION PHYSICAL 0/0",
      "TIMELINE_STATUS",
      "IDENTIFY_SYSTEM",
      "SHOW everything",
      "DROP TABLE x",
      "",
      "x".repeat(100_000),
    ]);
    if (random.bool(0.4)) {
      // Not even a start-up packet.
      const length = 8 + random.int(20_000);
      await this.#send([this.#damage(new Uint8Array(length).fill(random.int(256)))]);
    } else if (random.bool(0.3)) {
      await this.#converse(this.#damage(simpleQuery(sql)), []);
    } else {
      await this.#converse(simpleQuery(sql), [], ids);
    }
  }

  async #askBadly(): Promise<void> {
    const random = this.#random;
    const { tenantId } = this.cluster;
    const tenant = random.pick([tenantId, tenantId, NOBODY, "..", "%2e%2e", "x".repeat(5000), "'"]);
    const timeline = random.pick([this.#timelineId, this.#timelineId, NOBODY, "%00", "0", "%F0"]);
    const [method, path] = random.pick([
      ["POST", "/v1/tenant/timeline"],
      ["POST", "/v1/pull_timeline"],
      ["GET", `/v1/tenant/${tenant}/timeline/${timeline}`],
      ["POST", `/v1/tenant/${tenant}/timeline/${timeline}/term_bump`],
      ["POST", `/v1/tenant/${tenant}/timeline/${timeline}/copy`],
      ["GET", `/v1/tenant/${tenant}/timeline/${timeline}/digest?from_lsn=0/1&until_lsn=F/F`],
      ["GET", `/v1/tenant/${tenant}/timeline/${timeline}/digest?from_lsn=${"9".repeat(999)}`],
      ["PUT", `/v1/tenant/${tenant}/timeline/${timeline}/exclude`],
      ["DELETE", `/v1/tenant/${NOBODY}/timeline/${timeline}?only_local=maybe`],
      ["DELETE", `/v1/tenant/${tenant}/timeline/${NOBODY}`],
      ["GET", `/v1/debug_dump?tenant_id=${tenant}`],
      ["PATCH", `/v1/tenant/${tenant}`],
    ] as const);
    const value = () =>
      random.pick<unknown>([
        null,
        -1,
        1.5,
        2 ** 60,
        "",
        "x",
        [],
        {},
        tenant,
        timeline,
        "0/0",
        true,
      ]);
    const fields = Object.fromEntries(
      [
        ...["tenant_id", "timeline_id", "pg_version", "system_id", "wal_seg_size", "start_lsn"],
        ...["commit_lsn", "mconf", "term", "target_timeline_id", "until_lsn", "__proto__"],
      ].map((name) => [name, value()]),
    );
    const body = random.pick([
      JSON.stringify(fields),
      JSON.stringify({ ...fields, mconf: { generation: 0, members: value() } }),
      JSON.stringify({
        tenant_id: tenantId,
        timeline_id: NOBODY,
        http_hosts: [random.pick(["127.0.0.1:1", "http://", "file:///etc/passwd", "\0"])],
      }),
      "{",
      "[".repeat(10_000),
      `"${"x".repeat(2 ** 20)}"`,
      String(value()),
    ]);
    const response = await fetch(`http://${this.cluster.httpAddr(0)}${path}`, {
      method,
      headers: { "content-type": random.bool(0.9) ? "application/json" : "text/plain" },
      ...(method === "GET" ? {} : { body }),
    });
    const text = await response.text();
    const what = `${method} ${path} ${body}`.slice(0, 400);
    assert.notEqual(response.status, 500, `${what}: ${text}`);
    assert.ok(response.ok || typeof JSON.parse(text).msg === "string", `${what}: ${text}`);
  }
}

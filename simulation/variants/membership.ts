// Variants that lack a rule of changing the members or of filling one that lost its disk.

import type { Variant } from "./variant.ts";

const CHANGE = "src/safekeeper-protocol/membership-change.ts";
const STEPS = "src/storage-controller/membership-steps.ts";
const PULL = "src/safekeeper/transfer/pull-decision.ts";

export const membershipVariants: readonly Variant[] = [
  {
    name: "joint-asks-the-new-set-only",
    rule: "while members change, every decision needs a majority of both sets",
    seed: 1313,
    changes: [
      {
        file: "src/walproposer/proposer.ts",
        find: ": [this.#mconf.members, this.#mconf.newMembers];",
        replace: ": [this.#mconf.newMembers];",
      },
    ],
  },
  {
    name: "generation-not-checked",
    rule: "messages of another membership generation are refused",
    seed: 3,
    changes: [
      {
        file: "src/safekeeper/consensus/acceptor.ts",
        find: "if (own !== generation) {",
        replace: "if (own < 0) {",
      },
      {
        file: "src/walproposer/proposer.ts",
        find: "if (vote.generation !== this.#mconf.generation) {",
        replace: "if (vote.generation < 0) {",
      },
      {
        file: "src/walproposer/proposer.ts",
        find: "if (message.generation !== this.#mconf.generation || message.term !== this.#term) {",
        replace: "if (message.term !== this.#term) {",
      },
    ],
  },
  {
    name: "change-without-old-majority",
    rule: "the sync position is that of a majority of the old members",
    seed: 17,
    changes: [
      {
        file: CHANGE,
        find: "if (old.length < majority(joint.members.length)) {",
        replace: "if (old.length < 1) {",
      },
      { file: PULL, find: "if (have < need) {", replace: "if (have < need && have < 1) {" },
      {
        file: CHANGE,
        find: "const old = joint.members\n",
        replace: "const old = joint.members.slice(0, 1)\n",
      },
      {
        file: STEPS,
        find: ".filter((other) => other !== id);",
        replace: ".filter((other) => other !== id).slice(0, 1);",
      },
    ],
  },
  {
    name: "change-finished-early",
    rule: "a change is finished when a majority of the new members has everything",
    seed: 3,
    changes: [
      {
        file: STEPS,
        find: "const sync = syncPosition(joint, answers);",
        replace:
          "const sync = syncPosition(joint, answers); if (sync !== undefined) { return undefined; }",
      },
    ],
  },
  {
    name: "new-members-with-old-terms",
    rule: "a new member's term is raised to the highest of the old ones",
    seed: 359,
    changes: [
      { file: CHANGE, find: "answer.term >= sync.term &&", replace: "answer.term >= 0 &&" },
      { file: STEPS, find: "answer.term < sync.term", replace: "answer.term < 0" },
      {
        file: PULL,
        find: "const term = Math.max(state.term, decision.term);",
        replace: "const term = 0;",
      },
    ],
  },
  {
    name: "pulls-from-a-laggard",
    rule: "a copy is pulled from a safekeeper that is at the sync position",
    seed: 23,
    changes: [
      {
        file: PULL,
        find: "(isAhead(source, best) ? source : best)",
        replace: "(isAhead(source, best) ? best : source)",
      },
    ],
  },
  {
    name: "pulled-copy-votes-before-complete",
    rule: "a copy is served only when all of it is on disk",
    seed: 4,
    changes: [
      {
        file: "src/safekeeper/transfer/snapshot.ts",
        find: "encodeControlFile(persistent, ALL_LOCAL)",
        replace:
          "encodeControlFile({ ...persistent, flushedLsn: persistent.localStartLsn, commitLsn: persistent.localStartLsn }, ALL_LOCAL)",
      },
      {
        file: "src/safekeeper/transfer/snapshot.ts",
        find: "start < flushedLsn; start",
        replace: "start < 0; start",
      },
    ],
  },
  {
    name: "copies-two-logs",
    rule: "WAL that a new term cuts off while it is copied is neither sent nor called damaged",
    seed: 680,
    changes: [
      {
        file: "src/safekeeper/transfer/timeline-wal.ts",
        find: "this.#timeline.truncations !== this.#truncations",
        replace: "this.#timeline.truncations < 0",
      },
    ],
  },
  {
    name: "resumes-after-others",
    rule: "a running compute is elected again only where nobody else has campaigned, on WAL of its own",
    seed: 6,
    changes: [
      {
        file: "src/walproposer/proposer.ts",
        find: "if (resumes !== undefined && message.term > Math.max(resumes.term, this.#term)) {",
        replace: "if (resumes !== undefined && message.term < 0) {",
      },
      {
        file: "src/walproposer/proposer.ts",
        find: "resumes.wonTerms.includes(lastTerm) ||",
        replace: "lastTerm > 0 ||",
      },
    ],
  },
  {
    name: "replaced-disk-votes-empty",
    rule: "a safekeeper that lost its disk does not vote before it is filled again",
    seed: 38,
    changes: [
      {
        file: "simulation/safekeeper-node.ts",
        find: "    this.#manager = manager;\n",
        replace: `    this.#manager = manager;
    if (manager.counts.active === 0 && this.#world.time.nowMs > 0 && this.diskNumber > 1) {
      const any = [...this.#world.safekeepers.values()].find((node) => node.state !== undefined);
      const like = any?.state?.persistent;
      if (like !== undefined) {
        createTimeline(this.#context, {
          ...like, term: 0, termHistory: [], commitLsn: FIRST_LSN, flushedLsn: FIRST_LSN,
          peerHorizonLsn: FIRST_LSN, mconf: this.#world.mconf,
        });
        manager.loadAll();
      }
    }
`,
      },
    ],
  },
];

// Variants that lack a rule of changing the members or of filling one that lost its disk.

import type { Variant } from "./variant.ts";

const CHANGE = "src/safekeeper-protocol/membership-change.ts";
const OPERATOR = "simulation/operator-node.ts";

export const membershipVariants: readonly Variant[] = [
  {
    name: "joint-asks-the-new-set-only",
    rule: "while members change, every decision needs a majority of both sets",
    seed: 1649,
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
    seed: 63,
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
    seed: 91,
    changes: [
      {
        file: CHANGE,
        find: "if (old.length < majority(joint.members.length)) {",
        replace: "if (old.length < 1) {",
      },
    ],
  },
  {
    name: "change-finished-early",
    rule: "a change is finished when a majority of the new members has everything",
    seed: 4,
    changes: [
      {
        file: CHANGE,
        find: "isAtLeast(answer, sync)\n",
        replace: "answer.flushLsn > 0\n",
      },
      { file: OPERATOR, find: "const enough = complete ||", replace: "const enough = true ||" },
    ],
  },
  {
    name: "new-members-with-old-terms",
    rule: "a new member's term is raised to the highest of the old ones",
    seed: 721,
    changes: [
      { file: CHANGE, find: "answer.term >= sync.term &&", replace: "answer.term >= 0 &&" },
      { file: OPERATOR, find: "answer.term < sync.term", replace: "answer.term < 0" },
      {
        file: "simulation/timeline-copy.ts",
        find: "term: Math.max(copy.persistent.term, term),",
        replace: "term: 0,",
      },
    ],
  },
  {
    name: "pulls-from-a-laggard",
    rule: "a copy is pulled from a safekeeper that is at the sync position",
    seed: 23,
    changes: [
      {
        file: OPERATOR,
        find: "filter(([, answer]) => isAtLeast(answer, sync));",
        replace: "filter(([, answer]) => answer.flushLsn > 0);",
      },
      {
        file: OPERATOR,
        find: "isAtLeast(copy.position, sync);",
        replace: "copy.position.flushLsn > 0;",
      },
    ],
  },
  {
    name: "pulled-copy-votes-before-complete",
    rule: "a copy is served only when all of it is on disk",
    seed: 91,
    changes: [
      {
        file: "simulation/timeline-copy.ts",
        find: "  writeSegments(disk, copy);",
        replace:
          "const { localStartLsn } = copy.persistent; copy = { ...copy, position: { ...copy.position, flushLsn: localStartLsn }, persistent: { ...copy.persistent, flushedLsn: localStartLsn, commitLsn: localStartLsn } };",
      },
    ],
  },
  {
    name: "filled-in-the-generation-of-its-loss",
    rule: "a disk is filled only in a generation that was recorded after it was seen to be empty",
    seed: 558,
    changes: [
      {
        file: OPERATOR,
        find: "if (emptyDisk !== undefined && emptyDisk === this.#toFill.get(id)) {",
        replace: "if (emptyDisk !== undefined) {",
      },
      {
        file: OPERATOR,
        find: "      this.#begin();",
        replace:
          "const sync = syncPosition(recorded, this.#answers); for (const [id, disk] of this.#absent) { if (sync !== undefined) { this.#pull(id, disk, sync); } } if (this.#absent.size === 0) { this.#begin(); }",
      },
    ],
  },
  {
    name: "resumes-after-others",
    rule: "a running compute is elected again only where nobody else has campaigned, on WAL of its own",
    seed: 93,
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
    seed: 20,
    changes: [
      {
        file: "simulation/safekeeper-node.ts",
        find: "    this.#timeline = undefined;\n    this.#started();",
        replace: `    this.#timeline = undefined;
    if (this.#world.time.nowMs > 0 && this.diskNumber > 1) {
      const any = [...this.#world.safekeepers.values()].find((node) => node.state !== undefined);
      const like = any?.state?.persistent;
      if (like !== undefined) {
        this.#timeline = Timeline.create(this.#context, TIMELINE_DIRECTORY, {
          ...like, term: 0, termHistory: [], commitLsn: FIRST_LSN, flushedLsn: FIRST_LSN,
          peerHorizonLsn: FIRST_LSN, mconf: this.#world.mconf,
        });
      }
    }
    this.#started();`,
      },
    ],
  },
];

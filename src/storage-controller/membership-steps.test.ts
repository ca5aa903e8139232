import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../base/errors.ts";
import { toLsn } from "../base/lsn.ts";
import type { MembershipRecord } from "./controller-state.ts";
import {
  type MembershipAnswer,
  type MembershipCall,
  membershipChange,
  type Told,
} from "./membership-steps.ts";

const NOT_FOUND = new StorageError("not-found", "no-timeline", "it is not here");

/** Safekeepers of which each has the timeline, or does not. */
class FakeSafekeepers {
  readonly empty: Set<number>;
  /** Short, one a call. */
  readonly calls: string[] = [];
  /** Makes the next pull break, with nothing left behind. */
  pullBreaks = false;
  /** Called before each call. */
  before: (call: MembershipCall) => void = () => undefined;
  record: MembershipRecord;

  constructor(record: MembershipRecord, empty: readonly number[]) {
    this.record = record;
    this.empty = new Set(empty);
  }

  /** Until it has ended; or, with `calls`, up to there: the rest is lost, as where the process is killed. */
  change(newMembers: readonly number[], calls = Number.POSITIVE_INFINITY, abort = false): boolean {
    const safekeeper = (id: number) => ({ id, host: "h", pgPort: id });
    const steps = membershipChange(this.record, { newMembers, abort, safekeeper });
    let step = steps.next();
    for (let count = 0; step.done !== true && count < calls; count++) {
      this.before(step.value);
      let answer: MembershipAnswer;
      try {
        answer = this.#perform(step.value);
      } catch (error) {
        step = steps.throw(error);
        continue;
      }
      step = steps.next(answer);
    }
    return step.done === true;
  }

  #perform(call: MembershipCall): MembershipAnswer {
    switch (call.type) {
      case "record":
        this.record = call.record;
        this.calls.push(`record ${call.record.generation}`);
        return undefined;
      case "look":
        return new Set(call.ids.filter((id) => this.empty.has(id)));
      case "tell": {
        assert.equal(call.mconf.generation, this.record.generation, "told before it is on record");
        const { generation } = call.mconf;
        const position = { generation, term: 3, lastLogTerm: 3, flushLsn: toLsn(0x100) };
        const told = (id: number): Told =>
          this.empty.has(id) ? { error: NOT_FOUND } : { position };
        return new Map(call.ids.map((id) => [id, told(id)]));
      }
      case "pull":
        this.calls.push(`pull ${call.id} in ${call.mconf.generation}`);
        if (this.pullBreaks) {
          this.pullBreaks = false;
          throw new StorageError("unavailable", "snapshot-broke", "the donor broke off");
        }
        this.empty.delete(call.id);
        return undefined;
      case "exclude":
        this.calls.push(`exclude ${call.id} in ${call.mconf.generation}`);
        this.empty.add(call.id);
        return undefined;
      case "raise-term":
      case "await-computes":
      case "wait":
      case "say":
        return undefined;
    }
  }
}

const FIRST: MembershipRecord = { generation: 1, members: [1, 2, 3] };

test("membershipChange: joint, filled, final; former members let go at the end", () => {
  const fake = new FakeSafekeepers(FIRST, [4]);
  assert.ok(fake.change([1, 2, 4]));
  const expected = ["record 2", "pull 4 in 2", "record 3", "exclude 3 in 3", "record 3"];
  assert.deepEqual(fake.calls, expected);
  assert.deepEqual(fake.record, { generation: 3, members: [1, 2, 4] });
});

test("membershipChange: the same members that all have it need no change", () => {
  const fake = new FakeSafekeepers(FIRST, []);
  assert.ok(fake.change([3, 1, 2]));
  assert.deepEqual(fake.calls, []);
});

test("membershipChange: an empty disk is filled in a generation that was recorded after it was seen, once", () => {
  const broken = new FakeSafekeepers(FIRST, [3]);
  broken.pullBreaks = true;
  assert.ok(broken.change([1, 2, 3]));
  assert.deepEqual(broken.calls.slice(0, 4), [
    "record 2",
    "pull 3 in 2",
    "record 3",
    "pull 3 in 3",
  ]);
  // Lost while it is on its way to be a member: what it had acknowledged may be counted.
  const lost = new FakeSafekeepers(FIRST, [4]);
  lost.before = (call) => {
    if (call.type === "raise-term" || (call.type === "tell" && lost.calls.length === 2)) {
      lost.empty.add(4);
      lost.before = () => undefined;
    }
  };
  assert.ok(lost.change([1, 2, 4]));
  assert.deepEqual(lost.calls.slice(0, 4), ["record 2", "pull 4 in 2", "record 3", "pull 4 in 3"]);
});

test("membershipChange: begun anew after any call it comes to the same end", () => {
  for (let calls = 1; ; calls++) {
    const fake = new FakeSafekeepers(FIRST, [4]);
    const ended = fake.change([1, 2, 4], calls);
    const again = fake.change([1, 2, 4]);
    assert.ok(again, `after ${calls} calls`);
    assert.deepEqual(fake.record.members, [1, 2, 4]);
    assert.equal(fake.record.newMembers ?? fake.record.excluding, undefined);
    assert.deepEqual([fake.empty.has(3), fake.empty.has(4)], [true, false]);
    const filled = fake.calls.filter((call) => call.startsWith("pull"));
    assert.equal(new Set(filled).size, filled.length, "filled twice in one generation");
    if (ended) {
      assert.ok(calls > 8);
      break;
    }
  }
});

test("membershipChange: given back, the old members stay and the new one lets go", () => {
  const fake = new FakeSafekeepers({ ...FIRST, generation: 2, newMembers: [1, 2, 4] }, []);
  assert.throws(() => fake.change([2, 3]), { code: "change-under-way" });
  assert.ok(fake.change([], undefined, true));
  assert.deepEqual(fake.calls, ["record 3", "exclude 4 in 3", "record 3"]);
  assert.deepEqual(fake.record, { generation: 3, members: [1, 2, 3] });
  assert.throws(() => fake.change([], undefined, true), { code: "no-change" });
});

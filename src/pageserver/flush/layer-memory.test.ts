import assert from "node:assert/strict";
import { test } from "node:test";
import { type LayerHolder, LayerMemory } from "./layer-memory.ts";

class Holder implements LayerHolder {
  readonly name: string;
  readonly #frozen: string[];

  constructor(name: string, frozen: string[]) {
    this.name = name;
    this.#frozen = frozen;
  }

  freeze(): void {
    this.#frozen.push(this.name);
  }
}

const layers = (open: number, frozen = 0) => ({
  open: { sizeBytes: open },
  frozen: frozen === 0 ? [] : [{ sizeBytes: frozen }],
});

test("LayerMemory: above the budget the largest open layer is frozen, whoever came last", () => {
  const frozen: string[] = [];
  const [a, b, c] = ["a", "b", "c"].map((name) => new Holder(name, frozen)) as [
    Holder,
    Holder,
    Holder,
  ];
  const memory = new LayerMemory(100);
  memory.account(a, layers(60));
  memory.account(b, layers(30));
  memory.account(c, layers(10));
  assert.deepEqual(frozen, []);
  memory.account(c, layers(11));
  assert.deepEqual(frozen, ["a"]);
  memory.account(b, layers(31));
  assert.deepEqual(frozen, ["a"], "what is on its way out does not count again");
  memory.account(c, layers(90));
  assert.deepEqual(frozen, ["a", "c"]);
  assert.equal(memory.heldBytes, 60 + 31 + 90);
});

test("LayerMemory: crowded while more than the budget waits for its flush", () => {
  const holder = new Holder("a", []);
  const memory = new LayerMemory(100);
  memory.account(holder, layers(0, 100));
  assert.ok(!memory.isCrowded);
  memory.account(holder, layers(0, 101));
  assert.ok(memory.isCrowded);
  memory.forget(holder);
  assert.ok(!memory.isCrowded);
  assert.equal(memory.heldBytes, 0);
});

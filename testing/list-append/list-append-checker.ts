// Checks that a recorded history of list-append transactions is serializable.

/*
 * Every transaction reads lists or appends to them, and no value is appended twice to a list. A list
 * then tells the order of its own versions, so the dependencies between transactions need no guess:
 *
 *   ww  appended what the next one's append follows
 *   wr  appended the last value that the other read
 *   rw  read the version that the other's append replaced (an anti-dependency)
 *   rt  was answered before the other began
 *
 * A history is serializable if these form no cycle (Adya, Weak Consistency, 1999, sections 3.2 and 4.1;
 * the use of lists: Kingsbury and Alvaro, Elle, VLDB 2020, section 4). Anomalies have Adya's names.
 */

export type Operation =
  | { readonly op: "append"; readonly key: number; readonly value: number }
  | { readonly op: "read"; readonly key: number; readonly values: readonly number[] };

export interface HistoryTransaction {
  readonly name: string;
  /** `unknown`: COMMIT was sent and nothing was heard; it counts as committed where it shows. */
  readonly outcome: "committed" | "aborted" | "unknown";
  /** In their order; what was not answered is left out, but for appends of an unknown outcome. */
  readonly operations: readonly Operation[];
  /** On one clock for the whole history: BEGIN sent, COMMIT answered. */
  readonly startedAt: number;
  readonly endedAt: number;
}

export type AnomalyKind =
  /** An acknowledged append is not in the final list. */
  | "lost-append"
  | "duplicate"
  /** A value that nobody appended. */
  | "phantom-value"
  /** What was read is not a beginning of the final list. */
  | "incompatible-order"
  /** A transaction does not see its own operations. */
  | "internal"
  /** Read of an aborted transaction, of an intermediate version. */
  | "G1a"
  | "G1b"
  /** Cycles of ww; of ww and wr; with one rw (lost update, read skew); with more (write skew). */
  | "G0"
  | "G1c"
  | "G-single"
  | "G2"
  /** A cycle that needs an rt edge: serializable, but not in the order that clients saw. */
  | "real-time";

export interface Anomaly {
  readonly kind: AnomalyKind;
  readonly message: string;
}

type EdgeKind = "ww" | "wr" | "rw" | "rt";

/**
 * `final` is each list as read after all transactions had ended. With `realTime` the order must also
 * be that in which clients saw transactions follow each other (strict serializability).
 */
export function checkListAppend(
  transactions: readonly HistoryTransaction[],
  final: ReadonlyMap<number, readonly number[]>,
  options: { realTime: boolean },
): Anomaly[] {
  const history = new History(transactions, final);
  history.checkLists();
  history.checkReads();
  // Where lists contradict each other there is no order of versions to make edges of.
  if (history.anomalies.length === 0) {
    const cycle = new CycleSearch(history.dependencies(options.realTime)).find();
    if (cycle !== undefined) {
      history.anomalies.push(cycle);
    }
  }
  return history.anomalies;
}

const nameOf = (key: number, value: number) => `${key}:${value}`;

class History {
  readonly anomalies: Anomaly[] = [];
  readonly #transactions: readonly HistoryTransaction[];
  readonly #final: ReadonlyMap<number, readonly number[]>;
  /** Index of the transaction that appended. */
  readonly #writers = new Map<string, number>();
  readonly #committed: boolean[];

  constructor(
    transactions: readonly HistoryTransaction[],
    final: ReadonlyMap<number, readonly number[]>,
  ) {
    this.#transactions = transactions;
    this.#final = final;
    const shown = new Set([...final].flatMap(([key, list]) => list.map((v) => nameOf(key, v))));
    for (const [index, { operations }] of transactions.entries()) {
      for (const operation of operations) {
        if (operation.op === "append") {
          const name = nameOf(operation.key, operation.value);
          if (this.#writers.has(name)) {
            throw new Error(`the workload appends ${name} twice`);
          }
          this.#writers.set(name, index);
        }
      }
    }
    this.#committed = transactions.map(
      ({ outcome, operations }) =>
        outcome === "committed" ||
        (outcome === "unknown" &&
          operations.some((one) => one.op === "append" && shown.has(nameOf(one.key, one.value)))),
    );
  }

  #report(kind: AnomalyKind, message: string): void {
    this.anomalies.push({ kind, message });
  }

  #list(key: number): readonly number[] {
    return this.#final.get(key) ?? [];
  }

  #checkWriter(key: number, value: number, where: string): void {
    const writer = this.#writers.get(nameOf(key, value));
    if (writer === undefined) {
      this.#report("phantom-value", `${where}: nobody appended ${value} to list ${key}`);
    } else if (this.#transactions[writer]!.outcome === "aborted") {
      const { name } = this.#transactions[writer]!;
      this.#report("G1a", `${where}: ${value} in list ${key} is of ${name}, which was aborted`);
    }
  }

  /** The final lists hold every acknowledged append once, and nothing else. */
  checkLists(): void {
    for (const [key, list] of this.#final) {
      const seen = new Set<number>();
      for (const value of list) {
        if (seen.has(value)) {
          this.#report("duplicate", `list ${key} has ${value} twice`);
        }
        seen.add(value);
        this.#checkWriter(key, value, "at the end");
      }
    }
    for (const [index, { name, operations }] of this.#transactions.entries()) {
      for (const operation of this.#committed[index] ? operations : []) {
        if (operation.op === "append" && !this.#list(operation.key).includes(operation.value)) {
          this.#report(
            "lost-append",
            `${operation.value}, appended to list ${operation.key} by ${name}, is not there`,
          );
        }
      }
    }
  }

  checkReads(): void {
    for (const [index, { name, operations }] of this.#transactions.entries()) {
      if (this.#committed[index]) {
        for (const { key, own, seen, expected } of externalReads(operations)) {
          if (expected !== undefined) {
            const message = `${name} read [${[...seen, ...own]}] in list ${key}, expected ${expected}`;
            this.#report("internal", message);
          } else {
            this.#checkRead(index, key, seen);
          }
        }
      }
    }
  }

  /** `seen` is what others had appended. */
  #checkRead(reader: number, key: number, seen: readonly number[]): void {
    const { name } = this.#transactions[reader]!;
    const list = this.#list(key);
    const before = this.anomalies.length;
    for (const [i, value] of seen.entries()) {
      if (value !== list[i]) {
        this.#checkWriter(key, value, `read by ${name}`);
      }
    }
    if (this.anomalies.length > before) {
      return;
    }
    if (seen.some((value, i) => value !== list[i])) {
      this.#report(
        "incompatible-order",
        `${name} read [${seen}] in list ${key}, which is [${list}] in the end`,
      );
      return;
    }
    const last = this.#writerAt(key, seen.length - 1);
    if (last !== undefined && last !== reader && last === this.#writerAt(key, seen.length)) {
      const writer = this.#transactions[last]!.name;
      this.#report("G1b", `${name} read list ${key} between two appends of ${writer}`);
    }
  }

  #writerAt(key: number, position: number): number | undefined {
    const value = this.#list(key)[position];
    return value === undefined ? undefined : this.#writers.get(nameOf(key, value));
  }

  dependencies(realTime: boolean): Dependencies {
    const graph = new Dependencies(this.#transactions.map(({ name }) => name));
    for (const [key, list] of this.#final) {
      for (let i = 1; i < list.length; i++) {
        graph.add(this.#writerAt(key, i - 1), this.#writerAt(key, i), "ww");
      }
    }
    for (const [index, { operations }] of this.#transactions.entries()) {
      for (const { key, seen } of this.#committed[index] ? externalReads(operations) : []) {
        graph.add(this.#writerAt(key, seen.length - 1), index, "wr");
        graph.add(index, this.#writerAt(key, seen.length), "rw");
      }
    }
    if (realTime) {
      graph.addRealTime(this.#transactions, this.#committed);
    }
    return graph;
  }
}

interface ExternalRead {
  readonly key: number;
  /** What others had appended, then what the transaction had appended itself. */
  readonly seen: readonly number[];
  readonly own: readonly number[];
  /** Set where this contradicts the transaction's earlier operations. */
  readonly expected: string | undefined;
}

/** The reads of one transaction, without what it appended itself. */
function externalReads(operations: readonly Operation[]): ExternalRead[] {
  const own = new Map<number, number[]>();
  const first = new Map<number, readonly number[]>();
  const reads: ExternalRead[] = [];
  for (const operation of operations) {
    const { key } = operation;
    const mine = own.get(key) ?? [];
    own.set(key, mine);
    if (operation.op === "append") {
      mine.push(operation.value);
      continue;
    }
    const { values } = operation;
    const seen = values.slice(0, Math.max(0, values.length - mine.length));
    const rest = values.slice(seen.length);
    const earlier = first.get(key);
    let expected: string | undefined;
    if (!sameValues(rest, mine)) {
      expected = `its own [${mine}] at the end`;
    } else if (earlier !== undefined && !sameValues(earlier, seen)) {
      expected = `[${[...earlier, ...mine]}] as before`;
    }
    first.set(key, earlier ?? seen);
    reads.push({ key, seen, own: rest, expected });
  }
  return reads;
}

function sameValues(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/** A graph whose nodes are transactions and, behind them, moments between which real time passes. */
class Dependencies {
  readonly names: string[];
  readonly edges: Map<number, EdgeKind>[];

  constructor(names: readonly string[]) {
    this.names = [...names];
    this.edges = names.map(() => new Map());
  }

  /** The first kind between two nodes stays; ww and wr are added before rw and rt. */
  add(from: number | undefined, to: number | undefined, kind: EdgeKind): void {
    if (from !== undefined && to !== undefined && from !== to) {
      const edges = this.edges[from]!;
      const known = edges.get(to);
      if (known === undefined || STRENGTH.indexOf(kind) < STRENGTH.indexOf(known)) {
        edges.set(to, kind);
      }
    }
  }

  /** One node a moment of an answer, in a chain, in place of an edge between every two transactions. */
  addRealTime(transactions: readonly HistoryTransaction[], counted: readonly boolean[]): void {
    const ends: { readonly at: number; readonly node: number }[] = [];
    const answered = [...transactions.keys()]
      .filter((index) => counted[index] && transactions[index]!.outcome === "committed")
      .sort((a, b) => transactions[a]!.endedAt - transactions[b]!.endedAt);
    for (const index of answered) {
      const node = this.names.push("") - 1;
      this.edges.push(new Map());
      this.add(index, node, "rt");
      this.add(ends.at(-1)?.node, node, "rt");
      ends.push({ at: transactions[index]!.endedAt, node });
    }
    for (const [index, { startedAt }] of transactions.entries()) {
      let low = 0;
      for (let high = ends.length; low < high; ) {
        const middle = (low + high) >>> 1;
        if (ends[middle]!.at < startedAt) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      if (counted[index] === true && low > 0) {
        this.add(ends[low - 1]!.node, index, "rt");
      }
    }
  }
}

/** Of two edges between the same nodes, the one that is an anomaly sooner. */
const STRENGTH: readonly EdgeKind[] = ["ww", "wr", "rw", "rt"];

class CycleSearch {
  readonly #graph: Dependencies;

  constructor(graph: Dependencies) {
    this.#graph = graph;
  }

  /** The worst cycle, of the fewest transactions that could be found. */
  find(): Anomaly | undefined {
    const all = this.#cyclic(new Set<EdgeKind>(STRENGTH));
    if (all.size === 0) {
      return undefined;
    }
    return (
      this.#ofKinds("G0", ["ww"]) ??
      this.#ofKinds("G1c", ["ww", "wr"]) ??
      this.#withOneRead() ??
      this.#ofKinds("G2", ["ww", "wr", "rw"]) ??
      this.#ofKinds("real-time", STRENGTH)
    );
  }

  #ofKinds(kind: AnomalyKind, kinds: readonly EdgeKind[]): Anomaly | undefined {
    const allowed = new Set(kinds);
    let best: number[] | undefined;
    for (const node of this.#cyclic(allowed)) {
      const cycle = this.#path(node, node, allowed);
      if (cycle !== undefined && cycle.length < (best?.length ?? Infinity)) {
        best = cycle;
      }
    }
    return best && this.#describe(kind, best);
  }

  /** One anti-dependency, and a way back without any. */
  #withOneRead(): Anomaly | undefined {
    const back = new Set<EdgeKind>(["ww", "wr"]);
    for (const node of this.#cyclic(new Set<EdgeKind>(["ww", "wr", "rw"]))) {
      for (const [target, kind] of this.#graph.edges[node]!) {
        const path = kind === "rw" ? this.#path(target, node, back) : undefined;
        if (path !== undefined) {
          return this.#describe("G-single", [node, ...path]);
        }
      }
    }
    return undefined;
  }

  /** Nodes that are left when all without a way in or without a way out have gone, again and again. */
  #cyclic(allowed: ReadonlySet<EdgeKind>): Set<number> {
    const { edges } = this.#graph;
    const forward = edges.map((targets) =>
      [...targets].filter(([, kind]) => allowed.has(kind)).map(([target]) => target),
    );
    const backward: number[][] = edges.map(() => []);
    for (const [node, targets] of forward.entries()) {
      for (const target of targets) {
        backward[target]!.push(node);
      }
    }
    const left = new Set(edges.keys());
    for (const [into, out] of [
      [backward, forward],
      [forward, backward],
    ] as const) {
      const degree = into.map((list) => list.filter((node) => left.has(node)).length);
      const free = [...left].filter((node) => degree[node] === 0);
      for (let node = free.pop(); node !== undefined; node = free.pop()) {
        left.delete(node);
        for (const next of out[node]!) {
          degree[next] = degree[next]! - 1;
          if (degree[next] === 0 && left.has(next)) {
            free.push(next);
          }
        }
      }
    }
    return left;
  }

  /** Shortest: nodes from `from` to `to`, both included; `from` = `to` asks for a cycle. */
  #path(from: number, to: number, allowed: ReadonlySet<EdgeKind>): number[] | undefined {
    const cameFrom = new Map<number, number>();
    let frontier = [from];
    while (frontier.length > 0) {
      const next: number[] = [];
      for (const node of frontier) {
        for (const [target, kind] of this.#graph.edges[node]!) {
          if (!allowed.has(kind) || cameFrom.has(target)) {
            continue;
          }
          cameFrom.set(target, node);
          if (target === to) {
            return walkBack(from, to, cameFrom);
          }
          next.push(target);
        }
      }
      frontier = next;
    }
    return undefined;
  }

  #describe(kind: AnomalyKind, cycle: readonly number[]): Anomaly {
    const { names, edges } = this.#graph;
    let message = names[cycle[0]!]!;
    for (let i = 1; i < cycle.length; i++) {
      const name = names[cycle[i]!]!;
      const edge = edges[cycle[i - 1]!]!.get(cycle[i]!)!;
      message += name === "" ? "" : ` -${edge}-> ${name}`;
    }
    return { kind, message };
  }
}

function walkBack(from: number, to: number, cameFrom: ReadonlyMap<number, number>): number[] {
  const path = [to];
  do {
    path.push(cameFrom.get(path.at(-1)!)!);
  } while (path.at(-1) !== from);
  return path.reverse();
}

// Virtual time: events in the order of their times, and nothing happens in between.

interface Event {
  readonly atMs: number;
  readonly sequence: number;
  readonly run: () => void;
}

export class SimulatedTime {
  nowMs = 0;
  /** A binary heap, the earliest first; of equal times the one that was put in first. */
  readonly #heap: Event[] = [];
  #sequence = 0;
  /** Events that have run. */
  events = 0;

  at(atMs: number, run: () => void): void {
    const heap = this.#heap;
    const event = { atMs: Math.max(atMs, this.nowMs), sequence: this.#sequence++, run };
    let child = heap.push(event) - 1;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!isBefore(event, heap[parent]!)) {
        break;
      }
      heap[child] = heap[parent]!;
      child = parent;
    }
    heap[child] = event;
  }

  after(delayMs: number, run: () => void): void {
    this.at(this.nowMs + delayMs, run);
  }

  /** Runs everything due up to `untilMs`, or until `stop` says so after an event. */
  run(untilMs: number, stop: () => boolean = () => false): void {
    for (let next = this.#heap[0]; next !== undefined; next = this.#heap[0]) {
      if (next.atMs > untilMs) {
        break;
      }
      this.#removeFirst();
      this.nowMs = next.atMs;
      this.events += 1;
      next.run();
      if (stop()) {
        return;
      }
    }
    this.nowMs = Math.max(this.nowMs, untilMs);
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) {
      return;
    }
    let parent = 0;
    for (;;) {
      let child = parent * 2 + 1;
      if (child >= heap.length) {
        break;
      }
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) {
        child += 1;
      }
      if (!isBefore(heap[child]!, last)) {
        break;
      }
      heap[parent] = heap[child]!;
      parent = child;
    }
    heap[parent] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
}

// Where the time of commits goes, step by step, as histograms for Prometheus.

import { Histogram, histogramHead } from "../base/histogram.ts";

/** Seconds. */
const BOUNDS = [
  0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5,
];

/**
 * Of an fdatasync of WAL: `ship` until all its whole records are read, checked and handed to the
 * connections; `quorum` until a majority has them; `notify` until Postgres has been answered; `total`.
 */
export type CommitStep = "ship" | "quorum" | "notify" | "total";

/** Of WAL to one safekeeper: `queue` until the socket has it, `answer` until it says it is durable. */
export type SafekeeperStep = "queue" | "answer";

/** Of one agent, over all its runs of Postgres. */
export class CommitTimes {
  readonly #steps: Readonly<Record<CommitStep, Histogram>> = {
    ship: new Histogram(BOUNDS),
    quorum: new Histogram(BOUNDS),
    notify: new Histogram(BOUNDS),
    total: new Histogram(BOUNDS),
  };
  readonly #safekeepers = new Map<number, Readonly<Record<SafekeeperStep, Histogram>>>();

  observe(step: CommitStep, ms: number): void {
    this.#steps[step].observe(ms / 1000);
  }

  observeSafekeeper(id: number, step: SafekeeperStep, ms: number): void {
    let steps = this.#safekeepers.get(id);
    if (steps === undefined) {
      steps = { queue: new Histogram(BOUNDS), answer: new Histogram(BOUNDS) };
      this.#safekeepers.set(id, steps);
    }
    steps[step].observe(ms / 1000);
  }

  lines(): string[] {
    const commit = "strata_compute_commit_step_seconds";
    const safekeeper = "strata_compute_safekeeper_step_seconds";
    return [
      ...histogramHead(commit, "Time of an fdatasync of WAL by step"),
      ...Object.entries(this.#steps).flatMap(([step, histogram]) =>
        histogram.lines(commit, `step="${step}"`),
      ),
      ...histogramHead(safekeeper, "Time of WAL to each safekeeper by step, one piece at a time"),
      ...[...this.#safekeepers].flatMap(([id, steps]) =>
        Object.entries(steps).flatMap(([step, histogram]) =>
          histogram.lines(safekeeper, `safekeeper="${id}",step="${step}"`),
        ),
      ),
    ];
  }
}

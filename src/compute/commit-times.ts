// Where the time of commits goes, step by step, as histograms for Prometheus.

/** Upper bounds in seconds; one more counts what is above all of them. */
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

export class Histogram {
  readonly #counts = new Array<number>(BOUNDS.length + 1).fill(0);
  #sumSeconds = 0;

  observeMs(ms: number): void {
    const seconds = ms / 1000;
    this.#sumSeconds += seconds;
    let bucket = 0;
    while (bucket < BOUNDS.length && seconds > BOUNDS[bucket]!) {
      bucket++;
    }
    this.#counts[bucket]!++;
  }

  /** Lines of Prometheus's text format; `labels` as `a="b"`. */
  lines(name: string, labels: string): string[] {
    let count = 0;
    const buckets = this.#counts.map((each, i) => {
      count += each;
      return `${name}_bucket{${labels},le="${BOUNDS[i] ?? "+Inf"}"} ${count}`;
    });
    return [
      ...buckets,
      `${name}_sum{${labels}} ${this.#sumSeconds}`,
      `${name}_count{${labels}} ${count}`,
    ];
  }
}

/** Of one agent, over all its runs of Postgres. */
export class CommitTimes {
  readonly #steps: Readonly<Record<CommitStep, Histogram>> = {
    ship: new Histogram(),
    quorum: new Histogram(),
    notify: new Histogram(),
    total: new Histogram(),
  };
  readonly #safekeepers = new Map<number, Readonly<Record<SafekeeperStep, Histogram>>>();

  observe(step: CommitStep, ms: number): void {
    this.#steps[step].observeMs(ms);
  }

  observeSafekeeper(id: number, step: SafekeeperStep, ms: number): void {
    let steps = this.#safekeepers.get(id);
    if (steps === undefined) {
      steps = { queue: new Histogram(), answer: new Histogram() };
      this.#safekeepers.set(id, steps);
    }
    steps[step].observeMs(ms);
  }

  lines(): string[] {
    const commit = "strata_compute_commit_step_seconds";
    const safekeeper = "strata_compute_safekeeper_step_seconds";
    return [
      `# HELP ${commit} Time of an fdatasync of WAL by step`,
      `# TYPE ${commit} histogram`,
      ...Object.entries(this.#steps).flatMap(([step, histogram]) =>
        histogram.lines(commit, `step="${step}"`),
      ),
      `# HELP ${safekeeper} Time of WAL to each safekeeper by step, one piece at a time`,
      `# TYPE ${safekeeper} histogram`,
      ...[...this.#safekeepers].flatMap(([id, steps]) =>
        Object.entries(steps).flatMap(([step, histogram]) =>
          histogram.lines(safekeeper, `safekeeper="${id}",step="${step}"`),
        ),
      ),
    ];
  }
}

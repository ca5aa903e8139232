// Counts and latencies of requests by route, in Prometheus's text format.

import { Histogram, histogramHead } from "../base/histogram.ts";

/** Seconds; a status is a millisecond, copying a timeline minutes. */
const BOUNDS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60];

interface RouteCounts {
  /** By status. */
  readonly requests: Map<number, number>;
  readonly seconds: Histogram;
}

export class RequestMetrics {
  readonly #routes = new Map<string, RouteCounts>();

  /** `method` and `path` as the route declares them, never as sent: callers must not make series. */
  observe(route: { method: string; path: string }, status: number, seconds: number): void {
    const labels = `method="${route.method}",route="${route.path}"`;
    let counts = this.#routes.get(labels);
    if (counts === undefined) {
      counts = { requests: new Map(), seconds: new Histogram(BOUNDS) };
      this.#routes.set(labels, counts);
    }
    counts.requests.set(status, (counts.requests.get(status) ?? 0) + 1);
    counts.seconds.observe(seconds);
  }

  text(): string {
    const lines = [
      "# HELP http_requests_total HTTP requests by route and status",
      "# TYPE http_requests_total counter",
    ];
    for (const [labels, { requests }] of this.#routes) {
      for (const [status, count] of requests) {
        lines.push(`http_requests_total{${labels},status="${status}"} ${count}`);
      }
    }
    lines.push(
      ...histogramHead("http_request_duration_seconds", "From headers to the answer's end"),
    );
    for (const [labels, { seconds }] of this.#routes) {
      lines.push(...seconds.lines("http_request_duration_seconds", labels));
    }
    return `${lines.join("\n")}\n`;
  }
}

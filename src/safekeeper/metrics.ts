// Prometheus metrics of a safekeeper.

import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { Histogram as CheapHistogram, histogramHead } from "../base/histogram.ts";

/** Upper bounds. */
const SECONDS = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1];
const BYTES = [256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304];

/** `wait`: for more that shares the flush; `answer`: until the socket has the answer. */
export type AppendStep = "write" | "wait" | "flush" | "answer" | "total";

export class SafekeeperMetrics {
  readonly registry = new Registry();
  readonly writtenWalBytes = new Counter({
    name: "safekeeper_written_wal_bytes",
    help: "WAL bytes written to segments",
    registers: [this.registry],
  });
  /** One WAL flush, in seconds. */
  readonly flushSeconds = new CheapHistogram(SECONDS);
  /** Of AppendRequests that one answer serves, in seconds. */
  readonly appendSteps: Readonly<Record<AppendStep, CheapHistogram>> = {
    write: new CheapHistogram(SECONDS),
    wait: new CheapHistogram(SECONDS),
    flush: new CheapHistogram(SECONDS),
    answer: new CheapHistogram(SECONDS),
    total: new CheapHistogram(SECONDS),
  };
  /** WAL that one flush made durable. */
  readonly flushedBytes = new CheapHistogram(BYTES);
  readonly persistedControlFiles = new Counter({
    name: "safekeeper_persist_control_file_total",
    help: "Control files written durably",
    registers: [this.registry],
  });
  readonly removedSegments = new Counter({
    name: "safekeeper_removed_wal_segments_total",
    help: "WAL segments removed because no one needs them",
    registers: [this.registry],
  });
  readonly uploadedSegments = new Counter({
    name: "safekeeper_uploaded_segments_total",
    help: "WAL segments brought to the object store, by kind: full or partial",
    labelNames: ["kind"],
    registers: [this.registry],
  });
  readonly uploadSeconds = new Histogram({
    name: "safekeeper_segment_upload_seconds",
    help: "Time to check and upload one whole WAL segment",
    buckets: [0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60],
    registers: [this.registry],
  });
  readonly backupErrors = new Counter({
    name: "safekeeper_backup_errors_total",
    help: "Failed attempts to bring WAL to the object store",
    registers: [this.registry],
  });
  readonly refusedMessages = new Counter({
    name: "safekeeper_refused_messages_total",
    help: "Messages of proposers that were refused, by error code",
    labelNames: ["code"],
    registers: [this.registry],
  });
  readonly timelines = new Gauge({
    name: "safekeeper_timelines",
    help: "Timelines by whether they can be served",
    labelNames: ["state"],
    registers: [this.registry],
  });
  readonly lsn = new Gauge({
    name: "safekeeper_timeline_lsn",
    help: "Positions of each timeline",
    labelNames: ["tenant_id", "timeline_id", "kind"],
    registers: [this.registry],
  });

  /** All of them in Prometheus's text format. */
  async text(): Promise<string> {
    const [flush, append] = ["safekeeper_flush_wal_seconds", "safekeeper_append_step_seconds"];
    const bytes = "safekeeper_flush_wal_bytes";
    const steps = Object.entries(this.appendSteps);
    const lines = [
      ...histogramHead(flush, "Time of one WAL flush, shared by all that arrived in one turn"),
      ...this.flushSeconds.lines(flush, ""),
      ...histogramHead(append, `AppendRequests by step: ${steps.map(([step]) => step).join(", ")}`),
      ...steps.flatMap(([step, histogram]) => histogram.lines(append, `step="${step}"`)),
      ...histogramHead(bytes, "WAL that one flush made durable"),
      ...this.flushedBytes.lines(bytes, ""),
    ];
    return `${await this.registry.metrics()}${lines.join("\n")}\n`;
  }
}

// Prometheus metrics of a safekeeper.

import { Counter, Gauge, Histogram, Registry } from "prom-client";

export class SafekeeperMetrics {
  readonly registry = new Registry();
  readonly writtenWalBytes = new Counter({
    name: "safekeeper_written_wal_bytes",
    help: "WAL bytes written to segments",
    registers: [this.registry],
  });
  readonly flushSeconds = new Histogram({
    name: "safekeeper_flush_wal_seconds",
    help: "Time of one WAL flush, shared by all that arrived in one turn",
    buckets: [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1],
    registers: [this.registry],
  });
  /** Of AppendRequests that one answer serves. */
  readonly appendSteps = new Histogram({
    name: "safekeeper_append_step_seconds",
    help: "AppendRequests by step: write, wait (for more to share the flush), flush, answer, total",
    labelNames: ["step"],
    buckets: [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1],
    registers: [this.registry],
  });
  readonly flushedBytes = new Histogram({
    name: "safekeeper_flush_wal_bytes",
    help: "WAL that one flush made durable",
    buckets: [256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304],
    registers: [this.registry],
  });
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
}

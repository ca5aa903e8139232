// The configuration that an exported cluster begins with: little, and what its state needs to start.

import type { ComputeState } from "../../pageserver/api.ts";
import type { ControlFile, ControlParameters } from "../../postgres/control-file.ts";

/** As initdb has them. */
const MAX_CONNECTIONS = 100;
const MAX_WORKER_PROCESSES = 8;
const MAX_WAL_SENDERS = 10;
const MAX_LOCKS = 64;
const MAX_SLOTS = 10;
const REPLICA = 1;

/**
 * Passwords everywhere: whose cluster it becomes is not known, and endpoints' superuser has one. It is the owner's
 * to change.
 */
const HBA = [
  "# TYPE  DATABASE     USER  ADDRESS       METHOD",
  "local   all          all                 scram-sha-256",
  "host    all          all   127.0.0.1/32  scram-sha-256",
  "host    all          all   ::1/128       scram-sha-256",
  "local   replication  all                 scram-sha-256",
  "host    replication  all   127.0.0.1/32  scram-sha-256",
  "host    replication  all   ::1/128       scram-sha-256",
  "",
].join("\n");

export interface ExportSettings {
  readonly configuration: string;
  readonly hba: string;
  readonly controlParameters: ControlParameters;
}

/** Postgres refuses to start without room for prepared transactions and replication origins that there are. */
export function exportSettings(
  { pgVersion, twoPhase, replicationOrigins }: ComputeState,
  { trackCommitTimestamp }: ControlFile,
): ExportSettings {
  const origins = Math.max(MAX_SLOTS, replicationOrigins.length);
  const lines = [
    "# Of a branch of Strata: settings of its endpoints are not here.",
    `max_connections = ${MAX_CONNECTIONS}`,
    "shared_buffers = 128MB",
    "dynamic_shared_memory_type = posix",
    "max_wal_size = 1GB",
    "min_wal_size = 80MB",
    "wal_level = replica",
    `max_prepared_transactions = ${twoPhase.length}`,
    `max_replication_slots = ${pgVersion >= 18 ? MAX_SLOTS : origins}`,
    ...(pgVersion >= 18 ? [`max_active_replication_origins = ${origins}`] : []),
    ...(trackCommitTimestamp ? ["track_commit_timestamp = on"] : []),
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
  ];
  return {
    configuration: `${lines.join("\n")}\n`,
    hba: HBA,
    controlParameters: {
      walLevel: REPLICA,
      maxConnections: MAX_CONNECTIONS,
      maxWorkerProcesses: MAX_WORKER_PROCESSES,
      maxWalSenders: MAX_WAL_SENDERS,
      maxPreparedTransactions: twoPhase.length,
      maxLocksPerTransaction: MAX_LOCKS,
    },
  };
}

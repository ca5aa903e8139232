// Every mutant, part by part.

import { ARCHIVE_MUTANTS } from "./archive.ts";
import { COMPACTION_MUTANTS } from "./compaction.ts";
import { COMPUTE_MUTANTS } from "./compute.ts";
import { COMPUTE_START_MUTANTS } from "./compute-start.ts";
import { CONSOLE_MUTANTS } from "./console.ts";
import { CONSUMPTION_MUTANTS } from "./consumption.ts";
import { CONTROL_PLANE_MUTANTS } from "./control-plane.ts";
import { HTTP_MUTANTS } from "./http.ts";
import { INGEST_MUTANTS } from "./ingest.ts";
import { LOCAL_MUTANTS } from "./local.ts";
import { LOGICAL_SLOT_MUTANTS } from "./logical-slots.ts";
import type { MutantPart } from "./mutant.ts";
import { PAGESERVER_MUTANTS } from "./pageserver.ts";
import { PG_SUITE_MUTANTS } from "./pg-suites.ts";
import { PROXY_MUTANTS } from "./proxy.ts";
import { REDO_MUTANTS } from "./redo.ts";
import { REMOTE_MUTANTS } from "./remote.ts";
import { REPLICA_MUTANTS } from "./replica.ts";
import { SAFEKEEPER_MUTANTS } from "./safekeeper.ts";
import { SERVICE_TLS_MUTANTS } from "./service-tls.ts";
import { SHIM_MUTANTS } from "./shim.ts";
import { SHIM_CACHE_MUTANTS } from "./shim-cache.ts";
import { TRANSFER_MUTANTS } from "./transfer.ts";
import { WALPROPOSER_MUTANTS } from "./walproposer.ts";

export const MUTANT_PARTS: readonly MutantPart[] = [
  SAFEKEEPER_MUTANTS,
  WALPROPOSER_MUTANTS,
  PAGESERVER_MUTANTS,
  REMOTE_MUTANTS,
  ARCHIVE_MUTANTS,
  COMPACTION_MUTANTS,
  INGEST_MUTANTS,
  REDO_MUTANTS,
  SHIM_MUTANTS,
  SHIM_CACHE_MUTANTS,
  COMPUTE_MUTANTS,
  COMPUTE_START_MUTANTS,
  LOGICAL_SLOT_MUTANTS,
  REPLICA_MUTANTS,
  HTTP_MUTANTS,
  SERVICE_TLS_MUTANTS,
  LOCAL_MUTANTS,
  PROXY_MUTANTS,
  CONTROL_PLANE_MUTANTS,
  CONSUMPTION_MUTANTS,
  CONSOLE_MUTANTS,
  PG_SUITE_MUTANTS,
  TRANSFER_MUTANTS,
];

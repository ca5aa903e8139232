// Stock recovery of what endpoints of a tenant wrote: the data directory that the tenant began from, and its WAL from a safekeeper.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "../../src/base/crc32c.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import {
  addLsn,
  type Lsn,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
  walFileName,
} from "../../src/base/lsn.ts";
import type { EndpointSpec } from "../../src/compute/api.ts";
import { computeState } from "../../src/pageserver/client.ts";
import {
  runInitdb,
  templateDirectory,
  writeTemplate,
} from "../../src/pageserver/ingest/initdb-import.ts";
import { DEFAULT_MAJOR, findInstallation } from "../../src/postgres/installation.ts";
import { pgVersion } from "../../src/postgres/versions.ts";
import { openSafekeeperWal } from "../../src/wal-dump/safekeeper-source.ts";
import type { TestCluster } from "../cluster.ts";
import { copyTree, makePostgresDirectory, writePostgresFile } from "../stock-cluster.ts";
import { recoverStock } from "./stock-recovery.ts";

/** xlp_sysid of a segment's first page (access/xlog_internal.h), which no checksum covers. */
const SYSTEM_ID_OFFSET = 24;

/** For the root branch of one tenant. */
export class BranchRecovery {
  readonly #major: number;
  /** In the temporary directory of the cluster: `initdb`, `base`, `wal`, and what is recovered. */
  readonly #directory: string;

  private constructor(major: number, directory: string) {
    this.#major = major;
    this.#directory = directory;
  }

  /** Gives the pageserver of a cluster that was not started a template whose data directory stays here. */
  static async prepare(
    cluster: TestCluster,
    major: number = DEFAULT_MAJOR,
  ): Promise<BranchRecovery> {
    const installation = findInstallation(major);
    const directory = join(cluster.home, "..", `recovery-${major}`);
    makePostgresDirectory(directory);
    const initdb = join(directory, "initdb");
    const superuserSecret = readFileSync(join(cluster.home, "superuser.scram"), "utf8").trim();
    await runInitdb(initdb, { installation, superuserSecret });
    const pageserver = join(cluster.home, "pageserver_1");
    const template = templateDirectory(pageserver, installation, false, superuserSecret);
    mkdirSync(template, { recursive: true });
    await writeTemplate(initdb, major, template);
    return new BranchRecovery(major, directory);
  }

  /**
   * The data directory that stock Postgres recovers from all records of `spec`'s timeline below `endLsn`, a record's
   * end in committed WAL. `name` must be new.
   */
  async recover(spec: EndpointSpec, endLsn: Lsn, name: string): Promise<string> {
    const state = await computeState(spec.pageserver.pgAddr, spec, endLsn);
    const baseDir = join(this.#directory, `${name}.base`);
    copyTree(join(this.#directory, "initdb"), baseDir);
    replaceSystemId(baseDir, state.systemId, this.#major);
    const walDir = join(this.#directory, `${name}.wal`);
    makePostgresDirectory(walDir);
    await this.#fetchWal(spec, state.timelineStartLsn, endLsn, walDir);
    this.#addInitdbWal(baseDir, walDir, state.timelineStartLsn, state.systemId);
    const outDir = join(this.#directory, name);
    await recoverStock({ baseDir, walDir, outDir, pgMajor: this.#major });
    return outDir;
  }

  /** Into segment files, whole ones; of the first only what the timeline has. */
  async #fetchWal(spec: EndpointSpec, startLsn: Lsn, endLsn: Lsn, walDir: string): Promise<void> {
    const range = {
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      startLsn,
      endLsn,
    };
    const source = await openSafekeeperWal(spec.safekeepers, range);
    assert.equal(source.startLsn, startLsn);
    let segment = Buffer.alloc(WAL_SEGMENT_SIZE);
    let position = startLsn;
    const finish = () => {
      writePostgresFile(join(walDir, walFileName(segmentNumber(addLsn(position, -1)))), segment);
      segment = Buffer.alloc(WAL_SEGMENT_SIZE);
    };
    for await (const bytes of source.chunks()) {
      // What is after the end is of later records.
      let rest = bytes.subarray(0, endLsn - position);
      while (rest.length > 0) {
        const offset = segmentOffset(position);
        const part = rest.subarray(0, WAL_SEGMENT_SIZE - offset);
        segment.set(part, offset);
        position = addLsn(position, part.length);
        rest = rest.subarray(part.length);
        if (segmentOffset(position) === 0) {
          finish();
        }
      }
    }
    assert.equal(position, endLsn);
    if (segmentOffset(position) > 0) {
      finish();
    }
  }

  /** Of the first segment what initdb wrote, so that stock starts where initdb ended. */
  #addInitdbWal(baseDir: string, walDir: string, startLsn: Lsn, systemId: bigint): void {
    const name = walFileName(segmentNumber(startLsn));
    const path = join(walDir, name);
    const merged = readFileSync(path);
    readFileSync(join(baseDir, "pg_wal", name)).copy(merged, 0, 0, segmentOffset(startLsn));
    merged.writeBigUInt64LE(systemId, SYSTEM_ID_OFFSET);
    writePostgresFile(path, merged);
    // It names initdb's system.
    rmSync(join(baseDir, "pg_wal", name));
  }
}

/** Gives a stopped data directory another system identifier: offset 0 of pg_control. */
function replaceSystemId(dataDir: string, systemId: bigint, major: number): void {
  const path = join(dataDir, "global", "pg_control");
  const bytes = readFileSync(path);
  bytes.writeBigUInt64LE(systemId, 0);
  const { controlCrcOffset } = pgVersion(major);
  bytes.writeUInt32LE(crc32c(bytes, 0, controlCrcOffset), controlCrcOffset);
  writeFileSync(path, bytes);
}

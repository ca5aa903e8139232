// Judges the dump by Postgres: pg_walinspect of each major that has it, and where there is a pg_waldump
// of the major in a place of the system's packages, by its whole output.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { EACH_MAJOR } from "../../testing/each-major.ts";
import { prepareMixedWorkload, runMixedWorkload } from "../../testing/mixed-workload.ts";
import {
  prepareGinBrinWorkload,
  runGinBrinWorkload,
} from "../../testing/redo/gin-brin-workload.ts";
import {
  prepareGistSpgistHashWorkload,
  runGistSpgistHashWorkload,
} from "../../testing/redo/gist-spgist-hash-workload.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";
import type { Lsn } from "../base/lsn.ts";
import { LineOutput } from "./line-output.ts";
import { openSegmentFiles } from "./segment-files.ts";
import { dumpWal, type WalDumpOptions } from "./wal-dump.ts";
import { WalStats } from "./wal-stats.ts";

const run = promisify(execFile);
const SCALE = 0.01;
/** Of each kind of record that many are compared with what pg_walinspect says. */
const COMPARED = 200;

/** Kinds that the workloads leave out. */
const STATEMENTS = [
  "SELECT pg_logical_emit_message(true, 'prefix', 'pay' || chr(1) || 'load')",
  "SELECT pg_create_restore_point('here')",
  "SELECT pg_replication_origin_create('o')",
  "SELECT pg_replication_origin_advance('o', '0/1234')",
  `SELECT pg_replication_origin_session_setup('o'); BEGIN;
   SELECT pg_replication_origin_xact_setup('0/AABB', now()); CREATE TABLE with_origin(a int); COMMIT;
   SELECT pg_replication_origin_session_reset()`,
  "SELECT pg_replication_origin_drop('o')",
  "SELECT pg_switch_wal()",
  "CREATE TABLE truncated(a serial)",
  "TRUNCATE truncated RESTART IDENTITY CASCADE",
  "SET allow_in_place_tablespaces = on",
  "CREATE TABLESPACE elsewhere LOCATION ''",
  "CREATE TABLE there(a int) TABLESPACE elsewhere",
  "DROP TABLE there",
  "DROP TABLESPACE elsewhere",
  "BEGIN; SELECT txid_current(); LOCK TABLE truncated IN ACCESS EXCLUSIVE MODE; COMMIT",
  "ALTER SYSTEM SET full_page_writes = off",
  "SELECT pg_reload_conf()",
  "VACUUM FULL pg_class",
  "BEGIN; CREATE TABLE gone(a int); SAVEPOINT s; DROP TABLE gone; PREPARE TRANSACTION 'one'",
  "COMMIT PREPARED 'one'",
  "BEGIN; CREATE TABLE never(a int); PREPARE TRANSACTION 'two'",
  "ROLLBACK PREPARED 'two'",
  "CHECKPOINT",
];

interface RecordInfo {
  readonly start_lsn: string;
  readonly end_lsn: string;
  readonly prev_lsn: string;
  readonly xid: string;
  readonly resource_manager: string;
  readonly record_type: string;
  readonly record_length: number;
  readonly fpi_length: number;
  readonly description: string;
}

function findWaldump(major: number): string | undefined {
  return [`/usr/lib/postgresql/${major}/bin`, `/usr/pgsql-${major}/bin`]
    .map((directory) => join(directory, "pg_waldump"))
    .find((path) => existsSync(path));
}

/** The server prints times its own way; its zone here is UTC. */
function withOurTimes(description: string): string {
  return description.replaceAll(
    /(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d+))?(?:\+00| UTC)/g,
    (_, second: string, fraction = "") => `${second}.${fraction.padEnd(6, "0")} UTC`,
  );
}

/** 14 has no pg_walinspect. */
for (const pgMajor of new Set(EACH_MAJOR.map((major) => Math.max(15, major)))) {
  describe(`wal dump of ${pgMajor}`, () => {
    let cluster: StockCluster;
    let startLsn: Lsn;
    let infos: RecordInfo[];

    before(async () => {
      cluster = await StockCluster.create({
        pgMajor,
        settings: {
          wal_compression: "pglz",
          wal_level: "logical",
          track_commit_timestamp: "on",
          timezone: "'UTC'",
        },
      });
      await cluster.start();
      const client = await cluster.connect();
      await client.query("CREATE EXTENSION pg_walinspect");
      startLsn = await cluster.currentLsn(client);
      await prepareMixedWorkload(client);
      await runMixedWorkload(cluster, { scale: SCALE });
      await prepareGistSpgistHashWorkload(client);
      await runGistSpgistHashWorkload(cluster, { scale: SCALE });
      await prepareGinBrinWorkload(client);
      await runGinBrinWorkload(cluster, true);
      for (const statement of STATEMENTS) {
        await client.query(statement);
      }
      infos = (
        await client.query<RecordInfo>(
          `SELECT start_lsn::text, end_lsn::text, prev_lsn::text, xid::text, resource_manager,
             record_type, record_length, fpi_length, description
           FROM (
             SELECT *, row_number() OVER (PARTITION BY resource_manager, record_type) AS number
             FROM pg_get_wal_records_info($1, pg_current_wal_flush_lsn())
           ) AS records WHERE number <= $2 ORDER BY records.start_lsn`,
          [`0/${startLsn.toString(16)}`, COMPARED],
        )
      ).rows;
      await cluster.stop();
    });
    after(() => cluster?.destroy());

    async function dump(options: Partial<WalDumpOptions>): Promise<string> {
      const stream = new PassThrough();
      const answer = text(stream);
      const output = new LineOutput(stream);
      const source = openSegmentFiles(cluster.dataDir, { startLsn });
      const fixed = { filter: {}, startLsn, notice: () => {} };
      await dumpWal(source, { ...fixed, format: "text", ...options }, output);
      if (options.stats !== undefined) {
        output.write(options.stats.table()!);
      }
      await output.close();
      stream.end();
      return answer;
    }

    test("records are called and described as pg_walinspect does it", async () => {
      const ours = new Map<string, string>();
      for (const line of (await dump({ format: "json" })).trim().split("\n")) {
        ours.set(/^\{"lsn":"([0-9A-F/]+)"/.exec(line)![1]!, line);
      }
      for (const info of infos) {
        const record = JSON.parse(ours.get(info.start_lsn) ?? "null");
        assert.deepEqual(
          record && {
            start_lsn: record.lsn,
            end_lsn: record.end_lsn,
            prev_lsn: record.prev_lsn,
            xid: `${record.xid}`,
            resource_manager: record.rmgr,
            record_type: record.type,
            record_length: record.total_length,
            fpi_length: record.total_length - record.length,
            description: record.description,
          },
          { ...info, description: withOurTimes(info.description ?? "") },
        );
      }
      const kinds = new Set(infos.map((it) => `${it.resource_manager} ${it.record_type}`));
      assert.ok(kinds.size >= 85, `only ${kinds.size} kinds of records`);
    });

    const waldump = findWaldump(pgMajor);
    test("the output is that of pg_waldump", {
      skip: waldump === undefined && `no pg_waldump of ${pgMajor} here`,
    }, async () => {
      const walDir = join(cluster.dataDir, "pg_wal");
      assert.ok(readdirSync(walDir).length > 2);
      const stock = async (...args: string[]) => {
        const lsn = `0/${startLsn.toString(16)}`;
        const options = { env: { TZ: "UTC" }, maxBuffer: 2 ** 30 };
        // It calls the end of the WAL an error, when everything is printed.
        const done = run(waldump!, ["-p", walDir, "-s", lsn, ...args], options);
        return (await done.catch((error: { stdout: string }) => error)).stdout;
      };
      const same = async (options: Partial<WalDumpOptions>, ...args: string[]) => {
        const [ours, theirs] = [await dump(options), await stock(...args)];
        assert.ok(theirs.length > 1000);
        assert.ok(ours === theirs, `differs with ${args.join(" ")}`);
      };
      await same({});
      await same({ format: "details" }, "-b");
      await same({ stats: new WalStats(true) }, "--stats=record");
      await same({ filter: { rmids: new Set([9, 11]) } }, "-r", "Heap2", "-r", "Btree");
      await same({ limit: 20 }, "-n", "20");
    });
  });
}

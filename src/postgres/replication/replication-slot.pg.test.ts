// The state of replication slots, as Postgres writes it and as it reads what we make of it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { EACH_MAJOR } from "../../../testing/each-major.ts";
import { StockCluster, writePostgresFile } from "../../../testing/stock-cluster.ts";
import { parseLsn } from "../../base/lsn.ts";
import { decodeReplicationSlot, withoutWal } from "./replication-slot.ts";

for (const major of EACH_MAJOR) {
  test(`replication slots of PostgreSQL ${major}: what a state says, and one whose WAL is gone`, async () => {
    const cluster = await StockCluster.create({
      pgMajor: major,
      settings: { wal_level: "logical" },
    });
    try {
      await cluster.start();
      const client = await cluster.connect();
      await client.query("select pg_create_physical_replication_slot('p', true)");
      await client.query("select pg_create_logical_replication_slot('l', 'test_decoding')");
      const { rows } = await client.query<Record<string, string>>(
        `select slot_name, coalesce(datoid, 0)::int oid, restart_lsn::text, confirmed_flush_lsn::text flush
           from pg_replication_slots order by 1`,
      );
      await cluster.stop();
      const path = (name: string) => join(cluster.dataDir, "pg_replslot", name, "state");
      for (const { slot_name: name, oid, restart_lsn: restart, flush } of rows) {
        const bytes = readFileSync(path(name!));
        assert.deepEqual(decodeReplicationSlot(bytes), {
          ...{ name, dbOid: oid, isPersistent: true },
          restartLsn: parseLsn(restart!),
          // A stop moves that of the logical one to where it was confirmed; of a physical one there is none.
          confirmedFlush: flush === null ? 0 : parseLsn(flush!),
        });
        for (const at of [0, 5, 9, 20, 100, bytes.length - 1]) {
          const damaged = Uint8Array.from(bytes);
          damaged[at]! ^= 1;
          assert.throws(() => decodeReplicationSlot(damaged), { kind: "corrupt" }, `byte ${at}`);
        }
        assert.throws(() => decodeReplicationSlot(bytes.subarray(0, -1)), { kind: "corrupt" });
      }
      writePostgresFile(path("l"), withoutWal(readFileSync(path("l")), major));
      await cluster.start();
      const again = await cluster.connect();
      const slots = await again.query(
        "select slot_name::text, wal_status from pg_replication_slots order by 1",
      );
      assert.deepEqual(slots.rows, [
        { slot_name: "l", wal_status: "lost" },
        { slot_name: "p", wal_status: "reserved" },
      ]);
      await assert.rejects(
        again.query("select * from pg_logical_slot_get_changes('l', null, null)"),
        /can no longer (get changes from|access) replication slot|cannot read from logical replication slot/,
      );
      await again.query("select pg_drop_replication_slot('l')");
    } finally {
      await cluster.destroy();
    }
  });
}

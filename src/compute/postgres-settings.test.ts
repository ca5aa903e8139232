import assert from "node:assert/strict";
import { test } from "node:test";
import { postgresSettings } from "./postgres-settings.ts";

function settingsWith(settings: Record<string, string>, preparedTransactions = 0) {
  return postgresSettings({
    pgVersion: 17,
    host: "127.0.0.1",
    port: 55432,
    socketDirectory: "/tmp",
    settings,
    preparedTransactions,
    replicationOrigins: 0,
  });
}

test("postgresSettings: durability is on the command line and cannot be set away", () => {
  const { commandLine } = settingsWith({});
  for (const setting of ["fsync=on", "wal_sync_method=fdatasync", "restart_after_crash=off"]) {
    assert.ok(commandLine.includes(setting), setting);
  }
  for (const name of ["fsync", "FSYNC", "wal_sync_method", "full_page_writes", "port"]) {
    assert.throws(() => settingsWith({ [name]: "off" }), { code: "protected-setting" }, name);
  }
  for (const value of ["io_uring", " IO_Uring "]) {
    assert.throws(() => settingsWith({ io_method: value }), { code: "protected-setting" });
  }
});

test("postgresSettings: an idle endpoint has few WAL buffers in memory, unless its owner wants more", () => {
  assert.match(settingsWith({}).configuration, /^wal_buffers = '2MB'$/m);
  const { configuration } = settingsWith({ wal_buffers: "16MB" });
  assert.deepEqual(configuration.match(/^wal_buffers = .*$/gm), ["wal_buffers = '16MB'"]);
  // Who takes more memory has more of them, as in stock.
  assert.doesNotMatch(settingsWith({ Shared_Buffers: "4GB" }).configuration, /wal_buffers/);
});

test("postgresSettings: a value cannot break out of its quotes", () => {
  const { configuration } = settingsWith({ application_name: "it's a \\ test\nfsync = off" });
  assert.match(configuration, /^application_name = 'it''s a \\\\ test\\nfsync = off'$/m);
  assert.doesNotMatch(configuration, /^fsync/m);
  const directives = ["include", "Include_Dir", "include_if_exists"];
  for (const name of ["", "a b", "x = 1\nfsync", "1a", "a.", ...directives]) {
    assert.throws(() => settingsWith({ [name]: "1" }), { code: "bad-setting" }, name);
  }
});

test("postgresSettings: no shell command is a setting of an endpoint", () => {
  const names = ["archive_cleanup_command", "recovery_end_command", "SSL_passphrase_command"];
  for (const name of [...names, "archive_command", "restore_command"]) {
    assert.throws(() => settingsWith({ [name]: "true" }), { code: "protected-setting" }, name);
  }
});

test("postgresSettings: who limits the disk has little WAL on it, unless he wants more", () => {
  const most = (settings: Record<string, string>) =>
    /^max_wal_size = '(\w+)'$/m.exec(settingsWith(settings).configuration)![1];
  assert.equal(most({}), "1GB");
  assert.equal(most({ "strata.local_cache": "0" }), "1GB");
  assert.equal(most({ "strata.local_cache": "16MB" }), "128MB");
  assert.equal(most({ "Strata.Local_Cache": "300MB" }), "300MB");
  assert.equal(most({ "strata.local_cache": "20GB" }), "1024MB");
  assert.equal(most({ "strata.local_cache": "64MB", Max_Wal_Size: "2GB" }), "2GB");
  assert.match(settingsWith({}).configuration, /^wal_keep_size = '64MB'$/m);
});

test("postgresSettings: pg_control gets what Postgres will run with", () => {
  const { controlParameters, configuration } = settingsWith({ max_connections: "7" }, 100);
  assert.equal(controlParameters.maxConnections, 7);
  assert.equal(controlParameters.maxPreparedTransactions, 100);
  assert.match(configuration, /^max_prepared_transactions = '100'$/m);
  assert.equal(settingsWith({ wal_level: "logical" }).controlParameters.walLevel, 2);
  assert.throws(() => settingsWith({ wal_level: "minimal" }), /wal_level must be/);
  assert.throws(() => settingsWith({ max_connections: "many" }), /must be a number/);
});

test("postgresSettings: with logical slots Postgres decodes, and has room for them", () => {
  const common = { pgVersion: 17, host: "127.0.0.1", port: 1, socketDirectory: "/tmp" };
  const of = (logicalSlots: number, settings: Record<string, string>) =>
    postgresSettings({
      ...{ ...common, settings, logicalSlots, preparedTransactions: 0, replicationOrigins: 0 },
    });
  const asked = { wal_level: "replica", max_replication_slots: "2" };
  assert.equal(of(0, asked).controlParameters.walLevel, 1);
  const { configuration, controlParameters } = of(3, asked);
  assert.equal(controlParameters.walLevel, 2);
  assert.match(configuration, /^wal_level = 'logical'$/m);
  assert.match(configuration, /^max_replication_slots = '3'$/m);
  assert.match(of(1, asked).configuration, /^max_replication_slots = '2'$/m);
});

test("postgresSettings: what only later majors know is not given to earlier ones", () => {
  const common = {
    host: "127.0.0.1",
    port: 1,
    socketDirectory: "/tmp",
    settings: {},
    preparedTransactions: 0,
    replicationOrigins: 12,
  };
  const of = (pgVersion: number) => postgresSettings({ ...common, pgVersion }).configuration;
  assert.doesNotMatch(of(16), /io_combine_limit/);
  assert.match(of(17), /io_combine_limit = '256kB'/);
  assert.match(of(18), /io_method = 'sync'/);
  // Room for every replication origin that was replayed, or Postgres would not start.
  assert.match(of(17), /max_replication_slots = '12'/);
  assert.match(of(18), /max_replication_slots = '10'/);
  assert.match(of(18), /max_active_replication_origins = '12'/);
});

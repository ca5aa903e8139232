import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Kysely, PostgresDialect } from "kysely";
import pg from "pg";
import { StockCluster } from "../../../testing/stock-cluster.ts";
import { REAL_CLOCK, replaceClock, sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { StrataHome } from "../../local/home.ts";
import type { Context } from "../context.ts";
import { SealedSecrets } from "../sealed-secrets.ts";
import { type Database, migrate, serialized, type VersionedDatabase } from "../state/database.ts";
import { MIGRATIONS } from "../state/migrations.ts";
import { openPostgres } from "../state/postgres.ts";
import { Claims } from "./claims.ts";
import { Operations } from "./operations.ts";
import { type OperationKind, planned } from "./state-machine.ts";

// Several control planes on one Postgres: the tables of every version, and who carries out what.

const LOGGER = createLogger("control_plane", "silent");
const LEASE_MS = 3000;
const OF = { action: "make", args: {} };

let cluster: StockCluster;
let directory: string;
/** Leases run out by it, and it goes on only where a test says so: a machine that stands still between two beats lets none run out. */
let leaseClockMs = 0;

before(async () => {
  cluster = await StockCluster.create();
  await cluster.start();
  directory = mkdtempSync(join(tmpdir(), "strata-claims-"));
  replaceClock({ ...REAL_CLOCK, monotonicMs: () => leaseClockMs });
});

after(async () => {
  replaceClock(REAL_CLOCK);
  await cluster?.destroy();
  rmSync(directory, { recursive: true, force: true });
});

async function urlOf(name: string): Promise<string> {
  const client = await cluster.connect();
  await client.query(`create database ${name}`);
  const { host, port, user } = client;
  return `postgresql:///${name}?${new URLSearchParams({ host, port: `${port}`, user: user! })}`;
}

function contextOf(db: Database): Context {
  const secrets = SealedSecrets.open(join(directory, "secret.key"));
  return { home: new StrataHome(directory), db, secrets, logger: LOGGER };
}

function operationsOf(db: Database, claims: Claims, kind: OperationKind<object>): Operations {
  return new Operations(contextOf(db), [kind as unknown as OperationKind<never>], claims);
}

for (const from of MIGRATIONS.keys()) {
  test(`openPostgres: a state of version ${from} is brought to this one by two at once, and keeps what it has`, async () => {
    const url = await urlOf(`version_${from}`);
    const pool = new pg.Pool({ connectionString: url });
    const old: VersionedDatabase = new Kysely({ dialect: new PostgresDialect({ pool }) });
    await migrate(old, from);
    if (from > 2) {
      await sqlOf(
        old,
        "insert into operations values ('o', 'j', 0, 'p', null, null, 'a', 'k', 'running', 0, '{}', null, 0, '', '', null)",
      );
    }
    await old.destroy();
    const both = await Promise.all([openPostgres(url, LOGGER), openPostgres(url, LOGGER)]);
    const rows = await both[0].selectFrom("operations").select(["id", "claimed_by"]).execute();
    assert.deepEqual(rows, from > 2 ? [{ id: "o", claimed_by: null }] : []);
    await Promise.all(both.map((db) => db.destroy()));
  });
}

function sqlOf(db: VersionedDatabase, text: string) {
  return db.executeQuery({ sql: text, parameters: [] } as never);
}

test("openPostgres: nobody there is an error that says so", async () => {
  await assert.rejects(openPostgres("postgresql://127.0.0.1:1/x", LOGGER), {
    code: "no-database",
    message: /control plane's database: .*ECONNREFUSED/,
  });
});

test("serialized: of two that look first and write then, one sees what the other wrote", async () => {
  const db = await openPostgres(await urlOf("serialized"), LOGGER);
  const addOne = () =>
    serialized(db, async (transaction) => {
      const rows = await transaction.selectFrom("secret_key").selectAll().execute();
      await sleep(20);
      await transaction
        .insertInto("secret_key")
        .values({ fingerprint: `${rows.length}` })
        .execute();
    });
  await Promise.all(Array.from({ length: 5 }, addOne));
  assert.equal((await db.selectFrom("secret_key").selectAll().execute()).length, 5);
  await db.destroy();
});

test("Operations: what a dead control plane had begun another one ends; a live one's is left alone, and one that comes back stops", async () => {
  const url = await urlOf("claims");
  const [first, second] = [await openPostgres(url, LOGGER), await openPostgres(url, LOGGER)];
  const done: string[] = [];
  const gate = Promise.withResolvers<void>();
  const kindOf = (who: string, wait: () => Promise<void>): OperationKind<object> => ({
    name: "make",
    steps: [
      { name: "one", run: async () => void done.push(`${who} one`) },
      {
        name: "two",
        run: async () => {
          await wait();
          done.push(`${who} two`);
        },
      },
      { name: "three", run: async () => void done.push(`${who} three`) },
    ],
  });
  const paused = new Claims(first, "paused", { leaseMs: LEASE_MS });
  const live = new Claims(second, "live", { leaseMs: LEASE_MS });
  const its = kindOf("paused", () => gate.promise);
  const others = operationsOf(
    second,
    live,
    kindOf("live", async () => {}),
  );
  const job = await operationsOf(first, paused, its).submit("p", [planned(its, OF)]);
  const failed = assert.rejects(job.done, /another one goes on/);
  while (!done.includes("paused one")) {
    await sleep(5);
  }
  // It has beaten, and does so for longer than a lease.
  for (let beats = 0; beats < 30; beats++) {
    await paused.beat();
    await others.resume();
    leaseClockMs += LEASE_MS / 20;
  }
  assert.deepEqual(done, ["paused one"]);
  // It is silent from here on.
  leaseClockMs += LEASE_MS;
  while (!done.includes("live three")) {
    await others.resume();
    await sleep(50);
  }
  assert.deepEqual(done, ["paused one", "live two", "live three"]);
  gate.resolve();
  await failed;
  assert.deepEqual(done, ["paused one", "live two", "live three", "paused two"]);
  const row = await first.selectFrom("operations").selectAll().executeTakeFirstOrThrow();
  assert.equal(row.status, "finished");
  assert.equal(row.claimed_by, "live");
  await Promise.all([first.destroy(), second.destroy()]);
});

test("Claims.take: one that beats in between keeps what it has; one that left in good order has nothing", async () => {
  const db = await openPostgres(await urlOf("take"), LOGGER);
  const mine = new Claims(db, "mine", { leaseMs: LEASE_MS });
  const other = new Claims(db, "other", { leaseMs: LEASE_MS });
  const kind: OperationKind<object> = {
    name: "make",
    steps: [{ name: "never", run: () => new Promise<void>(() => {}) }],
  };
  const { operations } = await operationsOf(db, other, kind).submit("p", [planned(kind, OF)]);
  const jobId = operations[0]!.job_id;
  await other.beat();
  await mine.beat();
  assert.ok(mine.isFirst());
  assert.equal(await mine.take(jobId, "other"), false);
  leaseClockMs += LEASE_MS;
  // Dead as far as `mine` has seen; but it lives again before the taking over.
  await other.beat();
  assert.equal(await mine.take(jobId, "other"), false);
  assert.equal(await other.holds(jobId), true);
  await other.leave();
  await mine.beat();
  assert.equal(await mine.take(jobId, "other"), true);
  assert.equal(await other.holds(jobId), false);
  await db.destroy();
});

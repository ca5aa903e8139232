import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { getPriority } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { mayRaisePriority } from "../../testing/may-raise-priority.ts";
import { sleep } from "../base/clock.ts";
import { addLsn, formatLsn, type Lsn, pageStart, parseLsn, XLOG_BLCKSZ } from "../base/lsn.ts";
import { commandWords } from "../base/proc.ts";
import { postgresSocketDirectory } from "../postgres/installation.ts";
import { dataDirectoryOf, sparesOf } from "./postgres-side.ts";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(3);
});

after(() => world.remove());

function lsn(text: string | null): Lsn {
  return parseLsn(text!)!;
}

/** Inserts 1, 2, 3, ... until told to stop or the connection breaks; what was acknowledged. */
class Writer {
  readonly acknowledged = new Set<number>();
  readonly #done: Promise<void>;
  #stopped = false;

  constructor(endpoint: ComputeEndpoint, id: number) {
    this.#done = this.#write(endpoint, id);
  }

  async #write(endpoint: ComputeEndpoint, id: number): Promise<void> {
    try {
      const sql = await endpoint.connect();
      for (let n = id; !this.#stopped; n += 100) {
        await sql.query(`INSERT INTO acked VALUES (${n})`);
        this.acknowledged.add(n);
      }
      sql.close();
    } catch {
      // The compute was killed; what was not acknowledged may or may not be there.
    }
  }

  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }
}

async function missing(endpoint: ComputeEndpoint, writers: readonly Writer[]): Promise<number[]> {
  const rows = await endpoint.query("SELECT n FROM acked");
  const present = new Set(rows.map(([n]) => Number(n)));
  return writers.flatMap((writer) => [...writer.acknowledged].filter((n) => !present.has(n)));
}

async function startWriters(endpoint: ComputeEndpoint, count: number): Promise<Writer[]> {
  await endpoint.query("CREATE TABLE IF NOT EXISTS acked (n int PRIMARY KEY)");
  const rows = await endpoint.query("SELECT coalesce(max(n), 0) / 100 + 1 FROM acked");
  const base = Number(rows[0]![0]) * 100;
  const writers = Array.from({ length: count }, (_, i) => new Writer(endpoint, base + i));
  await eventually("writers to write", () => writers.every((w) => w.acknowledged.size > 10));
  return writers;
}

test("compute: what was committed is there after stop and start, and on a static endpoint", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  await endpoint.query("CREATE TABLE t AS SELECT generate_series(1, 20000) n");
  await endpoint.query("CREATE UNLOGGED TABLE u AS SELECT 1 AS n");
  const before = await endpoint.query("SELECT pg_current_wal_flush_lsn()");
  await endpoint.query("DELETE FROM t WHERE n > 10");
  await endpoint.query("CREATE DATABASE second");
  await endpoint.query("BEGIN; INSERT INTO t VALUES (77); PREPARE TRANSACTION 'later'");
  const { lsn: stoppedAt } = await endpoint.client.terminate("fast");
  await endpoint.daemon.exited();
  assert.equal(endpoint.daemon.exitCode, 0);
  assert.ok(lsn(stoppedAt) > lsn(before[0]![0]!));

  const spare = statSync(join(sparesOf(endpoint.daemon.workdir), "pgdata")).ino;
  await endpoint.start();
  assert.equal(statSync(dataDirectoryOf(endpoint.daemon.workdir)).ino, spare);
  const status = await endpoint.client.status();
  assert.equal(status.startLsn, stoppedAt);
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["10"]]);
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM u"), [["0"]]);
  await endpoint.query("COMMIT PREPARED 'later'");
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["11"]]);
  const metrics = await endpoint.client.startMetrics();
  assert.ok(metrics.total_startup_ms > metrics.start_postgres_ms);

  const past = await world.createEndpoint(timeline_id, { mode: { static: before[0]![0]! } });
  await past.start();
  assert.deepEqual(await past.query("SELECT count(*) FROM t"), [["20000"]]);
  await assert.rejects(past.query("INSERT INTO t VALUES (1)"), /read-only/);
  assert.equal((await past.client.status()).mode, "static");

  const branch = await world.createTimeline({ timelineId: timeline_id, lsn: before[0]![0]! });
  const onBranch = await world.createEndpoint(branch.timeline_id);
  await onBranch.start();
  await onBranch.query("INSERT INTO t VALUES (0)");
  assert.deepEqual(await onBranch.query("SELECT count(*) FROM t"), [["20001"]]);
  for (const one of [past, onBranch, endpoint]) {
    await one.daemon.kill("SIGTERM");
    assert.equal(one.daemon.exitCode, 0);
  }
});

test("compute: agent and safekeepers get the CPU before Postgres, where they may", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  const session = await endpoint.connect();
  const { rows } = await session.query("SELECT pg_backend_pid()");
  const backend = Number(rows[0]![0]);
  const ours = [endpoint.daemon, ...world.safekeepers.map(({ daemon }) => daemon)];
  const steps = mayRaisePriority() ? 10 : 0;
  for (const { name, pid } of ours) {
    assert.equal(getPriority(backend) - getPriority(pid), steps, name);
  }
  assert.equal(getPriority(backend), getPriority(), "Postgres has what it would have without");
  session.close();
  await endpoint.daemon.kill("SIGTERM");
});

test("compute: what starts have read is there at the next one, as of its own L", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  const record = join(endpoint.daemon.workdir, "start-reads.json");
  await endpoint.start();
  await endpoint.query("CREATE TABLE t AS SELECT 0 AS round, generate_series(1, 2000) n");
  await endpoint.query("CREATE TABLE dropped AS SELECT 1 AS n");
  for (let round = 1; round <= 3; round++) {
    await endpoint.daemon.kill("SIGTERM");
    await endpoint.start();
    const rows = await endpoint.query("SELECT round, count(*) FROM t GROUP BY 1");
    assert.deepEqual(rows, [[`${round - 1}`, "2000"]]);
    await endpoint.query(round === 1 ? "SELECT n FROM dropped" : "DROP TABLE IF EXISTS dropped");
    await endpoint.query(`UPDATE t SET round = ${round}`);
    // Kept whole, so that the same blocks are read again.
    await endpoint.query("VACUUM t");
  }
  const [[path]] = (await endpoint.query("SELECT pg_relation_filepath('t')")) as [[string]];
  const { files } = JSON.parse(readFileSync(record, "utf8")) as { files: [string, ...number[]][] };
  assert.ok(files.some(([file, ...blocks]) => file === path && blocks.includes(0)));
  // Built anew at once: the pageserver may not have all WAL yet when it is asked for the newest state.
  await endpoint.query("UPDATE t SET round = 4");
  const killed = (await endpoint.client.status()).postgresPid!;
  process.kill(killed, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query("SELECT round, count(*) FROM t GROUP BY 1"), [
    ["4", "2000"],
  ]);
  await endpoint.daemon.kill("SIGTERM");
});

test("compute: a branch may begin anywhere: in a record, a page header, off any alignment", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  await endpoint.query("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
  const [[text]] = (await endpoint.query("SELECT pg_current_wal_flush_lsn()")) as [[string]];
  await endpoint.query("CREATE TABLE filler AS SELECT generate_series(1, 10000) n");
  await endpoint.daemon.kill("SIGTERM");
  const page = pageStart(addLsn(lsn(text), XLOG_BLCKSZ));
  for (const offset of [0, 8, 3, 1003, XLOG_BLCKSZ - 8]) {
    const at = formatLsn(addLsn(page, offset));
    const branch = await world.createTimeline({ timelineId: timeline_id, lsn: at });
    const onBranch = await world.createEndpoint(branch.timeline_id);
    for (let start = 1; start <= 2; start++) {
      await onBranch.start();
      await onBranch.query("INSERT INTO t VALUES (0)");
      assert.deepEqual(await onBranch.query("SELECT count(*) FROM t"), [[`${1000 + start}`]], at);
      await onBranch.daemon.kill("SIGTERM");
    }
  }
});

test("compute: Postgres killed under load is built anew, and nothing acknowledged is lost", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  const all: Writer[] = [];
  for (let round = 1; round <= 3; round++) {
    const writers = await startWriters(endpoint, 6);
    all.push(...writers);
    const { postgresPid } = await endpoint.client.status();
    process.kill(postgresPid!, "SIGKILL");
    await endpoint.running(round);
    await Promise.all(writers.map((writer) => writer.stop()));
    assert.deepEqual(await missing(endpoint, all), []);
  }
  await endpoint.daemon.kill("SIGTERM");
});

/** Before its agent has built it anew. */
async function killAndTakePort({ client, spec }: ComputeEndpoint): Promise<Server> {
  process.kill((await client.status()).postgresPid!, "SIGKILL");
  for (;;) {
    const server = createServer().listen(spec.pgPort, spec.pgHost);
    const [error] = await Promise.race([once(server, "listening"), once(server, "error")]).catch(
      (error: unknown) => [error],
    );
    if (error === undefined) {
      return server;
    }
  }
}

test("compute: a port that somebody takes after a crash is waited for a little, and then named", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  const taken = new RegExp(
    `start .*: 127\\.0\\.0\\.1:${endpoint.spec.pgPort} is already in use by pid ${process.pid} `,
  );
  const brief = await killAndTakePort(endpoint);
  try {
    await eventually("the agent to say so", async () => {
      const { status, error } = await endpoint.client.status();
      return status === "init" && taken.test(error ?? "");
    });
  } finally {
    brief.close();
  }
  await endpoint.running(1);
  assert.doesNotMatch((await endpoint.client.status()).error!, taken);

  const server = await killAndTakePort(endpoint);
  try {
    await endpoint.daemon.exited();
    assert.equal(endpoint.daemon.exitCode, 1);
    assert.match(endpoint.daemon.log, new RegExp(`fatal: ${taken.source}`));
  } finally {
    server.close();
  }
});

test("compute: when the agent is killed, Postgres ends, and the next agent has everything", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  const writers = await startWriters(endpoint, 6);
  const { postgresPid } = await endpoint.client.status();
  await endpoint.daemon.kill("SIGKILL");
  await eventually("Postgres to end", () => !exists(postgresPid!), { timeoutMs: 15_000 });
  await Promise.all(writers.map((writer) => writer.stop()));
  await endpoint.start();
  assert.deepEqual(await missing(endpoint, writers), []);
  await endpoint.daemon.kill("SIGTERM");
});

test("compute: a lock file whose pid is another Postgres's now keeps none from its start", async () => {
  const { timeline_id } = await world.createTimeline();
  const other = await world.createEndpoint(timeline_id);
  await other.start();
  const { postgresPid } = await other.client.status();
  const endpoint = await world.createEndpoint((await world.createTimeline()).timeline_id);
  const { workdir } = endpoint.daemon;
  const socket = join(postgresSocketDirectory(workdir), `.s.PGSQL.${endpoint.spec.pgPort}`);
  writeFileSync(`${socket}.lock`, `${postgresPid}\n${workdir}\n1\n${endpoint.spec.pgPort}\n`);
  await endpoint.start();
  await endpoint.daemon.kill("SIGTERM");
  await other.daemon.kill("SIGTERM");
});

function exists(pid: number): boolean {
  // Not a zombie: where process 1 does not wait for orphans they stay.
  return commandWords(pid) !== undefined;
}

test("compute: a second compute fences the first, which stops and says so", async () => {
  const { timeline_id } = await world.createTimeline();
  const first = await world.createEndpoint(timeline_id);
  const second = await world.createEndpoint(timeline_id);
  await first.start();
  const writers = await startWriters(first, 6);
  await second.start();
  await first.daemon.exited();
  assert.equal(first.daemon.exitCode, 1);
  assert.match(
    first.daemon.log,
    /fatal: another compute has taken over this timeline \(term \d+\)/,
  );
  await Promise.all(writers.map((writer) => writer.stop()));
  assert.deepEqual(await missing(second, writers), []);
  await second.daemon.kill("SIGTERM");
});

test("compute: a minority of safekeepers may be away, without a majority commits wait", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  await endpoint.query("CREATE TABLE t (n int)");
  const [first, second] = world.safekeepers;
  await first!.daemon.kill("SIGKILL");
  await endpoint.query("INSERT INTO t SELECT generate_series(1, 50000)");

  await second!.daemon.kill("SIGKILL");
  let committed = false;
  const waiting = endpoint.query("INSERT INTO t VALUES (0)").then(() => {
    committed = true;
  });
  await sleep(700);
  assert.equal(committed, false);
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["50000"]]);
  second!.daemon.start();
  await waiting;
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["50001"]]);

  first!.daemon.start();
  const head = lsn((await endpoint.client.status()).commitLsn);
  await world.flushed(1, timeline_id, head, lsn);
  await world.flushed(2, timeline_id, head, lsn);
  await endpoint.daemon.kill("SIGTERM");
});

/** The third safekeeper is back and gets what it lacks; then it counts: the first may go, and there is a start without it. */
async function startOnCaughtUp(endpoint: ComputeEndpoint, timelineId: string): Promise<void> {
  world.safekeepers[2]!.daemon.start();
  const head = lsn((await endpoint.client.status()).commitLsn);
  await world.flushed(3, timelineId, head, lsn);
  await world.safekeepers[0]!.daemon.kill("SIGKILL");
  await endpoint.daemon.kill("SIGKILL");
  await endpoint.start();
}

test("compute: a safekeeper that missed earlier terms is caught up from the donor", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  const third = world.safekeepers[2]!;
  await endpoint.start();
  await endpoint.query("CREATE TABLE t (n int)");
  await third.daemon.kill("SIGKILL");
  await endpoint.query("INSERT INTO t SELECT generate_series(1, 50000)");
  await endpoint.client.terminate("fast");
  await endpoint.daemon.exited();
  await endpoint.start();
  await endpoint.query("INSERT INTO t SELECT generate_series(1, 50000)");
  await startOnCaughtUp(endpoint, timeline_id);
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["100000"]]);
  await endpoint.daemon.kill("SIGTERM");
  await world.restart(world.safekeepers[0]!);
});

test("compute: a safekeeper whose WAL Postgres has removed meanwhile is caught up from another one", async () => {
  const { timeline_id } = await world.createTimeline();
  const settings = { wal_keep_size: "0", max_wal_size: "32MB", min_wal_size: "32MB" };
  const endpoint = await world.createEndpoint(timeline_id, { settings });
  const pgWal = () =>
    readdirSync(join(dataDirectoryOf(endpoint.daemon.workdir), "pg_wal")).filter(
      (name) => name.length === 24,
    );
  const third = world.safekeepers[2]!;
  await endpoint.start();
  await endpoint.query("CREATE TABLE t (n int, filler text STORAGE plain)");
  await third.daemon.kill("SIGKILL");
  const [missed] = pgWal();
  const fill = "INSERT INTO t SELECT n, repeat('x', 7000) FROM generate_series(1, 7000) n";
  await endpoint.query(fill);
  await endpoint.query("CHECKPOINT");
  assert.ok(!pgWal().includes(missed!), `${missed} is still in pg_wal`);
  await startOnCaughtUp(endpoint, timeline_id);
  const sums = "SELECT count(*), sum(n), sum(length(filler)) FROM t";
  assert.deepEqual(await endpoint.query(sums), [["7000", "24503500", "49000000"]]);
  await endpoint.daemon.kill("SIGTERM");
  await world.restart(world.safekeepers[0]!);
});

test("compute: a Postgres that was started before the election answers nobody, and goes where L is not what it has", async (t) => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  const writer = await endpoint.connect();
  await writer.query("CREATE TABLE t (n int)");
  await writer.query("INSERT INTO t SELECT generate_series(1, 100)");
  // What comes now is with the safekeepers alone.
  await world.pageserver.daemon.kill("SIGKILL");
  await writer.query("INSERT INTO t SELECT generate_series(101, 200)");
  writer.close();
  await endpoint.daemon.kill("SIGKILL");
  for (const { daemon } of world.safekeepers) {
    await daemon.kill("SIGKILL");
  }
  await world.restart(world.pageserver);

  const held: number[] = [];
  t.after(() => {
    for (const pid of held.filter(exists)) {
      process.kill(pid, "SIGKILL");
    }
  });
  const startHeld = async () => {
    endpoint.daemon.start();
    await eventually("Postgres to be held", () => {
      const pids = postgresPids(endpoint);
      return pids.length > held.length + 1 && hasSocket(endpoint, pids.at(-1)!);
    });
    held.push(postgresPids(endpoint).at(-1)!);
  };
  await startHeld();
  await eventually("a connection that nobody answers", async () => {
    const answer = endpoint.connect(500).then((connection) => connection.close());
    return /no answer from/.test(String(await answer.catch((error: unknown) => error)));
  });
  await endpoint.daemon.kill("SIGKILL");
  await eventually("Postgres to end with its agent", () => !exists(held[0]!));

  await startHeld();
  await eventually("the agent to answer", async () => {
    return (await endpoint.client.status()).status === "init";
  });
  await endpoint.client.terminate("immediate");
  await endpoint.daemon.exited();
  assert.equal(endpoint.daemon.exitCode, 0);
  assert.ok(!exists(held[1]!));

  await startHeld();
  for (const safekeeper of world.safekeepers) {
    await world.restart(safekeeper);
  }
  await endpoint.running();
  assert.ok(!exists(held[2]!), "L is not what the pageserver had");
  assert.deepEqual(await endpoint.query("SELECT count(*) FROM t"), [["200"]]);
  await endpoint.daemon.kill("SIGTERM");
});

/** Of all that its agents have started. */
function postgresPids(endpoint: ComputeEndpoint): number[] {
  return [...endpoint.daemon.log.matchAll(/"postgresPid":(\d+).*"started Postgres"/g)].map(
    ([, pid]) => Number(pid),
  );
}

/** Whether it has taken the endpoint's unix socket. */
function hasSocket(endpoint: ComputeEndpoint, pid: number): boolean {
  const { workdir } = endpoint.daemon;
  const lock = join(postgresSocketDirectory(workdir), `.s.PGSQL.${endpoint.spec.pgPort}.lock`);
  return existsSync(lock) && Number.parseInt(readFileSync(lock, "utf8"), 10) === pid;
}

test("compute: a stop in order that hangs without a majority ends at the second signal, and says so", async (t) => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id);
  await endpoint.start();
  await endpoint.query("CREATE TABLE t (n int)");
  const away = world.safekeepers.slice(0, 2);
  t.after(async () => {
    for (const node of away) {
      await world.restart(node);
    }
  });
  for (const { daemon } of away) {
    await daemon.kill("SIGKILL");
  }
  endpoint.query("INSERT INTO t VALUES (1)").catch(() => undefined);
  await sleep(500);
  const { daemon } = endpoint;
  process.kill(daemon.pid, "SIGTERM");
  await sleep(1000);
  const secondMs = performance.now();
  process.kill(daemon.pid, "SIGTERM");
  await daemon.exited();
  assert.equal(daemon.exitCode, 3);
  const tookMs = performance.now() - secondMs;
  assert.ok(tookMs < 7000, `ended after ${tookMs} ms`);
});

test("compute: one whose start waits for a pageserver that hangs ends when it is told to", async () => {
  const { timeline_id, start_lsn } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, { mode: { static: start_lsn } });
  const pageserver = world.pageserver.daemon.pid;
  process.kill(pageserver, "SIGSTOP");
  try {
    endpoint.daemon.start();
    await eventually("the agent to answer", async () => {
      return (await endpoint.client.status()).status === "init";
    });
    await sleep(1000);
    await endpoint.client.terminate("immediate");
    await Promise.race([endpoint.daemon.exited(), sleep(20_000)]);
    assert.equal(endpoint.daemon.exitCode, 0);
  } finally {
    process.kill(pageserver, "SIGCONT");
  }
});

test("compute: what can never start says why and ends", async () => {
  const { timeline_id } = await world.createTimeline();
  const wrong = await world.createEndpoint(timeline_id, { settings: { fsync: "off" } });
  wrong.daemon.start();
  await wrong.daemon.exited();
  assert.equal(wrong.daemon.exitCode, 1);
  assert.match(wrong.daemon.log, /fatal: .*setting 'fsync' cannot be changed/);

  const unknown = await world.createEndpoint(timeline_id, { settings: { no_such: "1" } });
  // Of a start before that did not last: nothing deletes it after this one either.
  const aside = [0, 1].map((n) => `${dataDirectoryOf(unknown.daemon.workdir)}.removed-${n}`);
  for (const directory of aside) {
    mkdirSync(directory);
  }
  unknown.daemon.start();
  await unknown.daemon.exited();
  assert.equal(unknown.daemon.exitCode, 1);
  assert.match(unknown.daemon.log, /fatal: .*no_such/);
  assert.deepEqual(aside.filter(existsSync), []);

  const busy = await world.createEndpoint(timeline_id);
  const server = createServer().listen(busy.spec.pgPort, "127.0.0.1");
  try {
    busy.daemon.start();
    await busy.daemon.exited();
    assert.equal(busy.daemon.exitCode, 1);
    assert.match(busy.daemon.log, /fatal: start .*: 127\.0\.0\.1:\d+ is already in use by pid \d+/);
  } finally {
    server.close();
  }
});

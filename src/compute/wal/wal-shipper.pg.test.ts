import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import {
  installation,
  type RunningPostgres,
  StoppedCluster,
  startPostgres,
} from "../../../testing/synthesized-cluster.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import {
  addLsn,
  alignLsn,
  formatLsn,
  type Lsn,
  pageStart,
  parseLsn,
  toLsn,
  XLOG_BLCKSZ,
} from "../../base/lsn.ts";
import { pgVersion } from "../../postgres/versions.ts";
import { findShim, shimEnvironment } from "../shim/shim-loader.ts";
import { ShimServer } from "../shim/shim-server.ts";
import { LocalWal } from "./local-wal.ts";
import { WalShipper } from "./wal-shipper.ts";
import { WalWalker } from "./wal-walker.ts";

const SEGMENT = 16 * 1024 * 1024;
let cluster: StoppedCluster;

before(async () => {
  cluster = await StoppedCluster.create();
});

after(() => cluster.remove());

/** Keeps what it is sent; acknowledges at once, later, or not at all. */
class FakeQuorum {
  readonly start: Lsn;
  end: Lsn;
  delayMs = 0;
  down = false;
  readonly #parts: Uint8Array[] = [];
  shipper!: WalShipper;

  constructor(start: Lsn) {
    this.start = start;
    this.end = start;
  }

  available(end: Lsn): void {
    // Copied at once: what was shipped must never change afterwards.
    this.#parts.push(Buffer.from(this.shipper.read(this.end, end)));
    this.end = end;
    this.acknowledge(end);
  }

  acknowledge(end: Lsn): void {
    if (!this.down) {
      if (this.delayMs === 0) {
        queueMicrotask(() => this.shipper.committed(end));
      } else {
        setTimeout(() => !this.down && this.shipper.committed(end), this.delayMs);
      }
    }
  }

  wal(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

interface World {
  readonly quorum: FakeQuorum;
  readonly shipper: WalShipper;
  readonly localWal: LocalWal;
  readonly server: ShimServer;
  readonly postgres: RunningPostgres;
  readonly fatal: Error[];
  stop(): Promise<void>;
}

async function startWorld(name: string, lsn: Lsn): Promise<World> {
  const { path, wal, args, state } = await cluster.synthesize(name, lsn);
  const localWal = new LocalWal(join(path, "pg_wal"));
  const quorum = new FakeQuorum(alignLsn(lsn));
  const fatal: Error[] = [];
  const shipper = new WalShipper({
    walker: new WalWalker({
      start: alignLsn(lsn),
      prevLsn: 0 as Lsn,
      pageMagic: pgVersion(installation.major).pageMagic,
      systemId: state.systemId,
    }),
    localWal,
    segmentSize: SEGMENT,
    onAvailable: (end) => quorum.available(end),
    onFatal: (error) => fatal.push(error),
  });
  quorum.shipper = shipper;
  shipper.noteWrittenUpTo(addLsn(pageStart(addLsn(wal.recordEnd, -1)), XLOG_BLCKSZ));
  const server = new ShimServer({
    socketPath: join(cluster.directory, `${name}.sock`),
    logger: createLogger("test"),
    handlers: {
      stat: () => Promise.resolve(undefined),
      readPages: () => Promise.reject(new Error("nothing is remote here")),
      listDirectory: () => Promise.resolve([]),
      prefetch: () => undefined,
      walWritten: (segment, offset, length) => shipper.walWritten(segment, offset, length),
      flushWal: (segment, end) => shipper.flushWal(segment, end),
    },
  });
  await server.listen();
  const environment = shimEnvironment({
    shimPath: findShim(cluster.directory),
    dataDirectory: path,
    socketPath: join(cluster.directory, `${name}.sock`),
    wal: "quorum",
    walSegmentSize: SEGMENT,
    versionDirectory: "PG_17_1",
  });
  const postgres = await startPostgres(path, args, environment);
  return {
    quorum,
    shipper,
    localWal,
    server,
    postgres,
    fatal,
    async stop() {
      await postgres.process.stop("immediate");
      await server.close();
      localWal.close();
    },
  };
}

/** What the quorum got is byte for byte what is in pg_wal. */
function assertShippedEqualsLocal(world: World): void {
  const { quorum, localWal } = world;
  const shipped = quorum.wal();
  assert.equal(shipped.length, quorum.end - quorum.start);
  const local = Buffer.alloc(shipped.length);
  localWal.read(quorum.start, quorum.end, local);
  const differs = Buffer.compare(shipped, local);
  if (differs !== 0) {
    const at = shipped.findIndex((byte, i) => byte !== local[i]);
    assert.fail(`shipped WAL differs from pg_wal at ${formatLsn(addLsn(quorum.start, at))}`);
  }
}

test("WalShipper: what Postgres writes under load arrives whole, and what it flushed is there", async () => {
  const world = await startWorld("load", addLsn(parseLsn("0/5000000")!, SEGMENT - 128));
  try {
    const { postgres, quorum, shipper } = world;
    const setup = await postgres.connect();
    await setup.query("CREATE TABLE counter (id int PRIMARY KEY, n int, filler text)");
    await setup.query("INSERT INTO counter SELECT i, 0, '' FROM generate_series(1, 8) i");
    let acknowledged = 0;
    const worker = async (id: number) => {
      const sql = await postgres.connect();
      for (let i = 0; i < 60; i++) {
        const filler = "x".repeat(i % 10 === 0 ? 20_000 : 10);
        await sql.query(`UPDATE counter SET n = n + 1, filler = '${filler}' WHERE id = ${id}`);
        acknowledged++;
      }
      sql.close();
    };
    const bulk = async () => {
      const sql = await postgres.connect();
      for (let i = 0; i < 3; i++) {
        await sql.query(`CREATE TABLE bulk_${i} AS SELECT generate_series(1, 100000) n`);
        await sql.query("SELECT pg_switch_wal()");
        await sql.query("CHECKPOINT");
      }
      // One record of 5 MB, which crosses hundreds of pages.
      await sql.query("SELECT pg_logical_emit_message(true, 'big', repeat('y', 5000000))");
      await sql.query(`VACUUM FULL bulk_0`);
      sql.close();
    };
    await Promise.all([...[1, 2, 3, 4, 5, 6, 7, 8].map(worker), bulk()]);
    assert.equal(acknowledged, 480);
    const flushed = (await setup.query("SELECT pg_current_wal_flush_lsn()")).rows[0]![0]!;
    const sum = await setup.query("SELECT sum(n) FROM counter");
    assert.deepEqual(sum.rows, [["480"]]);
    setup.close();
    assert.ok(shipper.committedLsn >= parseLsn(flushed)! - XLOG_BLCKSZ);
    assert.ok(quorum.end > addLsn(quorum.start, 3 * SEGMENT));
    assert.deepEqual(world.fatal, []);
    assertShippedEqualsLocal(world);
    await postgres.process.stop("fast");
    assert.equal(shipper.committedLsn, shipper.endOfRecords);
    assertShippedEqualsLocal(world);
  } finally {
    await world.stop();
  }
});

test("WalShipper: commits hang while there is no quorum, and go on afterwards", async () => {
  const world = await startWorld("hang", parseLsn("0/5002108")!);
  try {
    const { postgres, quorum, shipper } = world;
    const sql = await postgres.connect();
    await sql.query("CREATE TABLE t (n int)");
    const reader = await postgres.connect();
    quorum.down = true;
    let committed = false;
    const insert = sql.query("INSERT INTO t VALUES (1)").then(() => {
      committed = true;
    });
    await eventually("a flush waits", () => shipper.waiting > 0);
    await sleep(100);
    assert.equal(committed, false);
    const visible = await reader.query("SELECT count(*) FROM t");
    assert.deepEqual(visible.rows, [["0"]], "what is not acknowledged is not visible either");
    quorum.down = false;
    quorum.acknowledge(quorum.end);
    await insert;
    const count = await reader.query("SELECT count(*) FROM t");
    assert.deepEqual(count.rows, [["1"]]);
    sql.close();
    reader.close();
  } finally {
    await world.stop();
  }
});

test("WalShipper: after stop nothing is answered, and SIGQUIT ends Postgres at once", async () => {
  const world = await startWorld("stopped", parseLsn("0/5004000")!);
  try {
    const { postgres, shipper } = world;
    const sql = await postgres.connect();
    await sql.query("CREATE TABLE t (n int)");
    shipper.stop();
    let outcome = "none";
    sql.query("INSERT INTO t VALUES (1)").then(
      () => (outcome = "committed"),
      () => (outcome = "failed"),
    );
    await sleep(200);
    assert.equal(outcome, "none");
    shipper.committed(toLsn(2 ** 40));
    const started = performance.now();
    postgres.process.quit();
    await postgres.process.exited;
    assert.ok(performance.now() - started < 4000);
    await eventually("its client hears of it", () => outcome !== "none");
    assert.equal(outcome, "failed");
  } finally {
    await world.stop();
  }
});

test("WalShipper: WAL that cannot be true stops everything", async () => {
  const { wal, path, state } = await cluster.synthesize("corrupt", parseLsn("0/5000100")!);
  const localWal = new LocalWal(join(path, "pg_wal"));
  const fatal: Error[] = [];
  const shipper = new WalShipper({
    walker: new WalWalker({
      start: wal.recordStart,
      prevLsn: 0 as Lsn,
      pageMagic: pgVersion(installation.major).pageMagic,
      systemId: state.systemId,
    }),
    localWal,
    segmentSize: SEGMENT,
    onAvailable: () => undefined,
    onFatal: (error) => fatal.push(error),
  });
  // The record is followed by zeros, and a page past them is said to be written.
  shipper.noteWrittenUpTo(parseLsn("0/5004000")!);
  assert.equal(fatal.length, 1);
  assert.match(String(fatal[0]), /WAL of Postgres is wrong at 0\/5000178/);
  let answered = false;
  void shipper.flushWal(5, 0x6000).then(() => {
    answered = true;
  });
  await sleep(20);
  assert.equal(answered, false);
  localWal.close();
});

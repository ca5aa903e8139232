// pg_recvlogical with an endpoint and beside it with stock: the same slots, the same output, over restarts on both sides.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { STOCK_USER, StockCluster } from "../../testing/stock-cluster.ts";

/** The npm packages have no client programs; Debian's of 15 speaks to any major. */
const PROGRAM = "/usr/lib/postgresql/15/bin/pg_recvlogical";
const skip = !existsSync(PROGRAM) && `no ${PROGRAM}`;
const SQL = [
  "insert into t values (1, 'one'), (2, null)",
  "update t set n = 3 where n = 2",
  "begin; insert into t values (9, 'nine'); rollback",
  "begin; insert into t select i, repeat('v', 3000) from generate_series(100, 140) i; delete from t where n < 120; commit",
  "truncate t",
];

const scratch = mkdtempSync(join(tmpdir(), "strata-recvlogical-"));
const started = new Set<ChildProcess>();
let cluster: TestCluster;
let stock: StockCluster;

/** One of the two servers. */
interface Side {
  readonly name: string;
  readonly conninfo: () => string;
  run(...statements: string[]): Promise<unknown>;
  restart(): Promise<void>;
}
let sides: readonly Side[];

before(async () => {
  if (skip !== false) {
    return;
  }
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main", "-c", "wal_level=logical");
  await cluster.ok("endpoint", "start", "main");
  stock = await StockCluster.create({ settings: { wal_level: "logical" } });
  await stock.start();
  sides = [
    {
      name: "strata",
      conninfo: () => cluster.url(),
      run: (...statements) => cluster.query("main", ...statements),
      restart: async () => {
        await cluster.kill9("postgres-main");
        await eventually("Postgres to be back", () => cluster.query("main", "select 1"));
      },
    },
    {
      name: "stock",
      conninfo: () => `host=${stock.workdir} port=5432 user=${STOCK_USER} dbname=postgres`,
      run: async (...statements) => {
        const client = await stock.connect();
        for (const statement of statements) {
          await client.query(statement);
        }
      },
      restart: async () => {
        await stock.stop("immediate");
        await stock.start();
      },
    },
  ];
  for (const side of sides) {
    await side.run("create table t (n int primary key, v text)");
  }
});

after(async () => {
  for (const child of started) {
    child.kill("SIGKILL");
  }
  await stock?.destroy();
  await cluster?.[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

const execute = promisify(execFile);

const tool = (side: Side, slot: string, ...args: string[]) =>
  execute(PROGRAM, ["-d", side.conninfo(), "-S", slot, ...args], { timeout: 120_000 });

/** Follows a slot into a file until it is told to end; what is in the file then. */
async function follow(
  side: Side,
  slot: string,
  whileItFollows: (output: () => string) => Promise<void>,
  ...args: string[]
): Promise<string> {
  const file = join(scratch, `${side.name}-${slot}`);
  const options = ["-o", "include-xids=0", "-o", "skip-empty-xacts=1", "-F", "0", "-s", "1"];
  const child = spawn(
    PROGRAM,
    ["-d", side.conninfo(), "-S", slot, "--start", "-f", file, ...options, ...args],
    { stdio: "ignore" },
  );
  started.add(child);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const output = () => (existsSync(file) ? readFileSync(file, "latin1") : "");
  await whileItFollows(output);
  child.kill("SIGINT");
  await ended;
  started.delete(child);
  return output();
}

/** Up to the end of the transaction that `last` is in: who is told to end before that comes has not got it. */
const isWhole = (output: string, last: string) =>
  output.includes(last) && output.endsWith("\nCOMMIT\n");

/** Each side's own, and whether they are the same. */
async function same(what: (side: Side) => Promise<string>): Promise<string> {
  const [ours, theirs] = [await what(sides[0]!), await what(sides[1]!)];
  assert.equal(ours, theirs);
  return ours;
}

test("a slot is made, streamed from and dropped, as on stock", { skip }, async () => {
  const text = await same(async (side) => {
    await tool(side, "made", "--create-slot", "-P", "test_decoding");
    const got = await follow(side, "made", async (output) => {
      await side.run(...SQL);
      await eventually(`the end on ${side.name}`, () => isWhole(output(), "TRUNCATE"));
    });
    await tool(side, "made", "--drop-slot");
    const again = await tool(side, "made", "--drop-slot").catch(({ stderr }) => stderr);
    return `${got}${/replication slot "made" does not exist/.exec(again)}`;
  });
  assert.ok(text.includes("table public.t: INSERT: n[integer]:1 v[text]:'one'"), text);
  assert.ok(!text.includes("nine"));
});

test("it follows through a crash of the server by itself, and nothing is missing", {
  skip,
}, async () => {
  const lines = await Promise.all(
    sides.map(async (side) => {
      await tool(side, "crash", "--create-slot", "-P", "test_decoding");
      const text = await follow(side, "crash", async (output) => {
        for (let n = 1; n <= 30; n++) {
          await side.run(`insert into t values (${n}, 'x')`);
          if (n === 15) {
            await eventually("some to have come", () => output().includes("n[integer]:10 "));
            await side.restart();
          }
        }
        await eventually(`the last row on ${side.name}`, () => output().includes("n[integer]:30 "));
      });
      await tool(side, "crash", "--drop-slot");
      await side.run("truncate t");
      return [...text.matchAll(/n\[integer\]:(\d+) /g)].map(([, n]) => Number(n));
    }),
  );
  for (const numbers of lines) {
    assert.deepEqual(
      [...new Set(numbers)],
      Array.from({ length: 30 }, (_, i) => i + 1),
    );
  }
});

test("up to a given LSN, and from another start what comes behind it", { skip }, async () => {
  const text = await same(async (side) => {
    await tool(side, "ends", "--create-slot", "-P", "test_decoding");
    await side.run("insert into t values (1, 'before')");
    const lsn = await lsnOf(side);
    await side.run("insert into t values (2, 'behind')");
    const file = join(scratch, `${side.name}-until`);
    const options = ["-o", "include-xids=0", "-o", "skip-empty-xacts=1"];
    await tool(side, "ends", "--start", "--endpos", lsn, "-f", file, "--no-loop", ...options);
    const first = readFileSync(file, "latin1");
    await side.restart();
    const rest = await follow(side, "ends", async (output) => {
      await eventually("the rest", () => isWhole(output(), "behind"));
    });
    await tool(side, "ends", "--drop-slot");
    await side.run("truncate t");
    return `${first}---\n${rest}`;
  });
  assert.match(text, /before.*\nCOMMIT\n---\nBEGIN\n.*behind/s);
});

async function lsnOf(side: Side): Promise<string> {
  if (side.name === "strata") {
    const [row] = await cluster.query("main", "select pg_current_wal_insert_lsn()::text lsn");
    return String(row!["lsn"]);
  }
  const client = await stock.connect();
  return (await client.query("select pg_current_wal_insert_lsn()::text lsn")).rows[0].lsn;
}

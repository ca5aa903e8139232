// Suspends, kills and promotions in the middle of rows, sequences, DDL and prepared transactions: nothing acknowledged is lost, no
// sequence goes back, slots and statistics are what they were, and the replica has what the primary has.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { childrenOf } from "../../testing/compute/child-processes.ts";
import { eventually } from "../../testing/eventually.ts";
import { MixedClient, PREPARE_ROUNDS, TABLE_CONTENT } from "../../testing/rounds/mixed-client.ts";
import { checkConsistency, withClient } from "../../testing/tpcb.ts";

/** `npm run test:rounds -- --rounds N --seed S`. */
const ROUNDS = Number(process.env["STRATA_ROUNDS"] ?? 6);
const SEED = Number(process.env["STRATA_ROUNDS_SEED"] ?? 1);
const CLIENTS = 5;
const SLOT = "decoded";

const random = new SeededRandom(SEED);
let cluster: TestCluster;
let clients: MixedClient[];
/** Rows that the slot told of, as "client:n". */
const decoded = new Set<string>();
const count = new Map<string, number>();
/** Of the endpoints "one" and "two", which change places. */
let primary = "one";
let replica = "two";

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  const settings = ["wal_level=logical", "max_prepared_transactions=20", "autovacuum_naptime=1s"];
  const options = settings.flatMap((one) => ["-c", one]);
  await cluster.ok("endpoint", "create", primary, "--branch-name", "main", ...options);
  await cluster.ok("endpoint", "start", primary);
  await cluster.query(
    primary,
    ...PREPARE_ROUNDS,
    `select pg_create_logical_replication_slot('${SLOT}', 'test_decoding')`,
  );
  await cluster.ok(
    ...["endpoint", "create", replica, "--branch-name", "main", "--replica", ...options],
  );
  await cluster.ok("endpoint", "start", replica);
  clients = Array.from(
    { length: CLIENTS },
    (_, id) => new MixedClient(id, () => cluster.url(primary), new SeededRandom(SEED * 1000 + id)),
  );
});

after(async () => {
  await Promise.all((clients ?? []).map((client) => client.end()));
  await cluster?.[Symbol.asyncDispose]();
});

const start = (endpoint = primary) =>
  eventually(
    `${endpoint} starts`,
    async () => (await cluster.cli("endpoint", "start", endpoint)).code === 0,
  );

/** Each leaves everything running. */
const FAULTS = {
  suspend: async () => {
    await cluster.ok("endpoint", "stop", primary);
    await start();
  },
  "stop immediate": async () => {
    await cluster.ok("endpoint", "stop", primary, "--mode", "immediate");
    await start();
  },
  promote: async () => {
    await cluster.ok("endpoint", "promote", replica);
    [primary, replica] = [replica, primary];
    await start(replica);
  },
  "kill -9 agent, promote": async () => {
    await cluster.kill9(`agent-${primary}`);
    await FAULTS.promote();
  },
  "kill -9 agent": async () => {
    await cluster.kill9(`agent-${primary}`);
    await start();
  },
  "kill -9 agent of the replica": async () => {
    await cluster.kill9(`agent-${replica}`);
    await start(replica);
  },
  "kill -9 postmaster": () => cluster.kill9(`postgres-${primary}`),
  "kill -9 postmaster of the replica": () => cluster.kill9(`postgres-${replica}`),
  "kill -9 backend": async () => {
    const postmaster = cluster.pid(`postgres-${primary}`);
    // One that ends by itself meanwhile, as workers of autovacuum do all the time, is none that was killed.
    await eventually("a process of Postgres to kill", () =>
      process.kill(random.pick(childrenOf(postmaster)), "SIGKILL"),
    );
  },
  "kill -9 pageserver": async () => {
    await cluster.kill9("pageserver");
    await cluster.ok("pageserver", "start");
  },
  "kill -9 safekeeper": async () => {
    const id = 1 + random.int(3);
    await cluster.kill9(`safekeeper-${id}`);
    await sleep(random.int(300));
    await cluster.ok("safekeeper", "start", `${id}`);
  },
} as const;
type Fault = keyof typeof FAULTS;
/** What a suspend is told of: the rest is a crash to Postgres, or nothing at all. */
const PICKS: readonly Fault[] = [
  "suspend",
  "suspend",
  "suspend",
  ...(Object.keys(FAULTS) as Fault[]),
];

/** A connection that outlives what the last fault left to do. */
async function look<T>(body: (client: pg.Client) => Promise<T>, endpoint = primary): Promise<T> {
  const { result } = await eventually(`${endpoint} answers`, () =>
    withClient(cluster.url(endpoint), async (client) => ({ result: await body(client) })),
  );
  return result;
}

/** The replica comes to have all that the primary has, by scan and by index. */
async function checkReplica(): Promise<void> {
  const tables = clients.flatMap((one) => [...one.tables.keys()]);
  const sums = (endpoint: string) =>
    look(async (client) => {
      const { rows } = await client.query(`
        select (select count(*) || ' ' || coalesce(sum(hashtext(log::text)), 0) from log) as log,
          (select sum(balance * id) from accounts)::text as accounts`);
      const found = [rows[0]];
      for (const name of tables) {
        found.push(...(await contentOf(client, name)));
      }
      return JSON.stringify(found);
    }, endpoint);
  const wanted = await sums(primary);
  await eventually("the replica has it all", async () => (await sums(replica)) === wanted);
}

async function check(): Promise<void> {
  await look(async (client) => {
    const sum = await client.query(
      "select sum(balance)::int as sum, count(*)::int as count from accounts",
    );
    assert.deepEqual(sum.rows, [{ sum: 0, count: 1000 }]);
    const { rows } = await client.query("select client, n, number from log");
    const there = new Set(rows.map((row) => `${row.client}:${row.n}`));
    assert.equal(there.size, rows.length, "a row twice");
    checkRows(there);
    checkNumbers(rows);
    await checkTables(client);
    await checkSlot(client, there);
  });
}

/** All that was acknowledged is there, and nothing that nobody sent. */
function checkRows(there: ReadonlySet<string>): void {
  const known = new Set<string>();
  const lost: string[] = [];
  for (const { id, rows } of clients) {
    for (const [n, fate] of rows) {
      known.add(`${id}:${n}`);
      if (fate === "done" && !there.has(`${id}:${n}`)) {
        lost.push(`${id}:${n}`);
      }
    }
  }
  assert.deepEqual(lost, [], "acknowledged rows are lost");
  assert.deepEqual(there.difference(known), new Set());
}

/** No value of the sequence was given twice, and to no client a lower one than before. */
function checkNumbers(rows: readonly { client: number; n: number; number: string }[]): void {
  const given = new Map<bigint, string>();
  const give = (number: bigint, to: string) => {
    assert.ok(
      (given.get(number) ?? to) === to,
      `${number} was given twice: ${given.get(number)}, ${to}`,
    );
    given.set(number, to);
  };
  for (const { number, client, n } of rows) {
    give(BigInt(number), `row ${client}:${n}`);
  }
  for (const { id, numbers } of clients) {
    for (const [index, { number, owner }] of numbers.entries()) {
      const before = numbers[index - 1]?.number ?? 0n;
      assert.ok(number > before, `client ${id}: ${number} after ${before}`);
      give(number, owner);
    }
  }
}

/** Every table that was made has its rows, by scan and by index; what was dropped is gone. */
async function checkTables(client: pg.Client): Promise<void> {
  const { rows } = await client.query(
    "select relname as name from pg_class where relname like 'made%' and relkind = 'r'",
  );
  const there = new Set<string>(rows.map(({ name }) => name));
  for (const one of clients) {
    for (const [name, fate] of one.tables) {
      assert.ok(fate === "unknown" || there.has(name), `table ${name} is lost`);
      one.settleTable(name, there.has(name));
    }
    assert.deepEqual(there.intersection(one.dropped), new Set(), "tables came back");
    for (const name of one.tables.keys()) {
      assert.deepEqual(await contentOf(client, name), [TABLE_CONTENT, TABLE_CONTENT], name);
    }
  }
}

/** By scan, and by index. */
async function contentOf(client: pg.Client, table: string): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const disabled of ["index", "seq"]) {
    await client.query(`set enable_${disabled}scan = off; set enable_bitmapscan = off`);
    const { rows } = await client.query(
      `select count(*)::int as rows, sum(i)::int as sum from ${table} where t > ''`,
    );
    found.push(...rows);
    await client.query("reset all");
  }
  return found;
}

/** What the slot has to say, it says of all rows that are there; a crash may make it say some again. */
async function checkSlot(client: pg.Client, there: ReadonlySet<string>): Promise<void> {
  const { rows } = await client.query(
    `select data from pg_logical_slot_get_changes('${SLOT}', null, null) where data like 'table public.log: INSERT:%'`,
  );
  for (const { data } of rows) {
    const [, id, n] = /client\[integer\]:(\d+) n\[integer\]:(\d+)/.exec(data)!;
    decoded.add(`${id}:${n}`);
  }
  assert.deepEqual(there.difference(decoded), new Set(), "rows that the slot does not tell of");
  assert.deepEqual(decoded.difference(there), new Set(), "rows that only the slot tells of");
}

const insertsCounted = () =>
  look(async (client) => {
    const { rows } = await client.query(
      "select n_tup_ins::int as count from pg_stat_user_tables where relname = 'counted'",
    );
    return rows[0].count as number;
  });

async function round(fault: Fault): Promise<void> {
  for (const client of clients) {
    client.start();
  }
  await sleep(100 + random.int(400));
  await FAULTS[fault]();
  await sleep(random.int(300));
  await Promise.all(clients.map((client) => client.pause()));
  await check();
  await checkReplica();
}

/** With nobody at work: what a clean stop saves is exact. */
async function quietSuspend(): Promise<void> {
  await look((client) => client.query("insert into counted select generate_series(1, 10)"));
  const before = await eventually(
    "inserts are counted",
    async () => (await insertsCounted()) || undefined,
  );
  const next = () =>
    look(async (client) =>
      Number((await client.query("select nextval('numbers') as n")).rows[0].n),
    );
  const number = await next();
  await FAULTS.suspend();
  assert.equal(await next(), number + 1, "a clean suspend skips no value");
  assert.equal(await insertsCounted(), before, "statistics of a clean suspend");
  await check();
}

test(`${ROUNDS} rounds of suspends, kills and promotions under rows, sequences and DDL (seed ${SEED})`, async () => {
  for (let number = 0; number < ROUNDS; number++) {
    const fault = random.pick(PICKS);
    try {
      await round(fault);
      if (number % 5 === 4) {
        await quietSuspend();
      }
    } catch (error) {
      throw new Error(`round ${number}, ${fault}, seed ${SEED}\n${cluster.logTails()}`, {
        cause: error,
      });
    }
    count.set(fault, (count.get(fault) ?? 0) + 1);
    if (number % 20 === 19) {
      console.log(
        `round ${number + 1}: ${decoded.size} rows, ${[...count].map(([name, n]) => `${n} ${name}`).join(", ")}`,
      );
    }
  }
  await checkConsistency(cluster.url(primary));
});

// How fast a logical slot is decoded: Strata beside stock, warm, after a suspension, and where the object store alone has its WAL.

import { INVALID_LSN, parseLsn } from "../../src/base/lsn.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { LogicalStream } from "../../testing/replication/logical-stream.ts";
import { segmentOfMain, walLeavesDisks } from "../../testing/replication/stored-wal.ts";
import { withClient } from "../../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, StockCluster } from "../stock.ts";

const ROWS_OF_A_TRANSACTION = 1000;
const INSERT = "I".charCodeAt(0);
const BYTES_OF_A_MB = 1e6;
/** Old WAL is neither removed nor read again by checkpoints within a round. */
const SETTINGS = { ...COMMON_SETTINGS, wal_level: "logical", max_wal_size: "8GB" };

type Plugin = "pgoutput" | "test_decoding";

/** One side; `megabytes`: of WAL that the slots have to read. */
interface Side {
  readonly url: () => string;
  readonly megabytes: number;
  readonly rows: number;
}

interface Rates {
  /** Rows a second of each round. */
  readonly ours: number[];
  readonly theirs: number[];
}

/** Loads `transactions`; how much WAL that was, in MB. */
async function load(url: string, transactions: number): Promise<number> {
  return await withClient(url, async (client) => {
    const lsn = async () => {
      const { rows } = await client.query("select pg_current_wal_insert_lsn()::text lsn");
      return parseLsn(rows[0].lsn)!;
    };
    await client.query("create table decoded (n int primary key, v text)");
    await client.query("create publication decoded for table decoded");
    for (const plugin of ["pgoutput", "test_decoding"]) {
      await client.query("select pg_create_logical_replication_slot($1, $1)", [plugin]);
    }
    const before = await lsn();
    for (let i = 0; i < transactions; i++) {
      await client.query(
        `insert into decoded select i, repeat('v', 100)
           from generate_series($1::int, $1::int + $2::int - 1) i`,
        [i * ROWS_OF_A_TRANSACTION, ROWS_OF_A_TRANSACTION],
      );
    }
    return ((await lsn()) - before) / BYTES_OF_A_MB;
  });
}

/** Streams all that the slot has and confirms none of it; rows a second. */
async function stream(side: Side): Promise<number> {
  const began = performance.now();
  let rows = 0;
  const all = Promise.withResolvers<void>();
  const open = await LogicalStream.open(
    { connectionString: side.url() },
    {
      slot: "pgoutput",
      from: INVALID_LSN,
      plugin: "proto_version '1', publication_names 'decoded'",
      onData: (bytes) => {
        if (bytes[0] === INSERT && ++rows === side.rows) {
          all.resolve();
        }
      },
    },
  );
  await Promise.race([all.promise, open.ended]);
  const seconds = (performance.now() - began) / 1000;
  await open.close();
  return side.rows / seconds;
}

/** The same by SQL and with no client to keep up with. */
async function peek(side: Side): Promise<number> {
  return await withClient(side.url(), async (client) => {
    const began = performance.now();
    const { rows } = await client.query(
      `select count(*)::int n from pg_logical_slot_peek_changes('test_decoding', null, null)
        where data like 'table %'`,
    );
    if (rows[0].n !== side.rows) {
      throw new Error(`${rows[0].n} of ${side.rows} rows were decoded`);
    }
    return side.rows / ((performance.now() - began) / 1000);
  });
}

const DECODE: Readonly<Record<Plugin, (side: Side) => Promise<number>>> = {
  pgoutput: stream,
  test_decoding: peek,
};

function row(what: string, { ours, theirs }: Rates, strata: Side, stock: Side): Row {
  const text = (rates: number[], { rows, megabytes }: Side) => {
    const perSecond = median(rates);
    const mb = (megabytes * perSecond) / rows;
    return `${(perSecond / 1000).toFixed(0)}, ${mb.toFixed(0)}`;
  };
  progress(`${what}: ${text(ours, strata)}; ${text(theirs, stock)}`);
  return {
    what: `${what}, thousand rows and MB of WAL a second`,
    ours: text(ours, strata),
    theirs: text(theirs, stock),
    ratio: ratio(median(ours), median(theirs)),
    aim: "",
  };
}

/** `rounds` interleaved rounds over `transactions` of 1000 rows. */
export async function benchLogical(rounds: number, transactions: number): Promise<Row[]> {
  const rows = transactions * ROWS_OF_A_TRANSACTION;
  progress(`logical: loading ${rows} rows`);
  await using plain = await StockCluster.create(SETTINGS);
  await plain.start();
  const stock: Side = {
    url: () => plain.url,
    rows,
    megabytes: await load(plain.url, transactions),
  };
  await using cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.ok("endpoint", "create", "main");
  cluster.setPostgres("main", SETTINGS);
  await cluster.ok("endpoint", "start", "main");
  const strata: Side = {
    url: () => cluster.url(),
    rows,
    megabytes: await load(cluster.url(), transactions),
  };
  const restart = async () => {
    await cluster.ok("endpoint", "stop", "main");
    await cluster.ok("endpoint", "start", "main");
    await plain.stop();
    await plain.start();
  };
  const table: Row[] = [];
  const measure = async (when: string, plugins: readonly Plugin[], before: () => Promise<void>) => {
    const rates = plugins.map((): Rates => ({ ours: [], theirs: [] }));
    for (let i = 0; i < rounds; i++) {
      for (const [at, plugin] of plugins.entries()) {
        await before();
        rates[at]!.ours.push(await DECODE[plugin](strata));
        rates[at]!.theirs.push(await DECODE[plugin](stock));
      }
    }
    for (const [at, plugin] of plugins.entries()) {
      table.push(row(`${plugin} ${when}`, rates[at]!, strata, stock));
    }
  };
  await measure("warm", ["pgoutput", "test_decoding"], async () => {});
  await measure("after a suspension, WAL of the safekeepers", ["pgoutput"], restart);
  await cluster.query("main", "select pg_switch_wal()", "checkpoint");
  await walLeavesDisks(cluster, await segmentOfMain(cluster));
  await measure("after a suspension, WAL of the object store", ["pgoutput"], restart);
  return table;
}

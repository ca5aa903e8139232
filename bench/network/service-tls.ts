// What TLS between services costs: commits and GetPage of a cluster with it, beside one on the same host's network without.

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import pg from "pg";
import { freeConfig, TestCluster } from "../../testing/cluster.ts";
import { NetworkHosts } from "../../testing/network-hosts.ts";
import { initializeTpcb } from "../../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS } from "../stock.ts";
import type { AskedPageserver, AskedTimes } from "./getpage-asker.ts";

const COMMITS = 100;

async function createCluster(hosts: NetworkHosts<"all">, plaintextNetwork: boolean) {
  const text = JSON.stringify(await freeConfig(3)).replaceAll("127.0.0.1", hosts.address("all"));
  const config = JSON.parse(text) as Awaited<ReturnType<typeof freeConfig>>;
  const { controlPlane: _, proxy: __, ...storage } = config;
  const fronts = { controlPlane: config.controlPlane, proxy: config.proxy };
  for (const front of Object.values(fronts) as Record<string, string>[]) {
    for (const [name, address] of Object.entries(front)) {
      // A control plane never listens elsewhere without TLS.
      front[name] = address.replace(hosts.address("all"), "127.0.0.1");
    }
  }
  const cluster = await TestCluster.create({
    start: false,
    config: { ...storage, ...fronts, serviceTokens: true, plaintextNetwork },
  });
  const run = async (...args: string[]) => {
    const { code, stderr } = await cluster.cliBehind(hosts.on("all"), ...args);
    if (code !== 0) {
      throw new Error(`${args.join(" ")}: ${stderr}`);
    }
  };
  await run("start");
  await run("tenant", "create", "--set-default");
  await run("endpoint", "create", "main");
  cluster.setPostgres("main", COMMON_SETTINGS);
  await run("endpoint", "start", "main");
  await initializeTpcb(cluster.socketUrl("main"));
  return cluster;
}

/** Milliseconds of each of some commits, one after the other. */
async function commits(client: pg.Client): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < COMMITS; i++) {
    const began = performance.now();
    await client.query("update pgbench_tellers set tbalance = tbalance + 1 where tid = 1");
    times.push(performance.now() - began);
  }
  return median(times);
}

async function asked(
  cluster: TestCluster,
  client: pg.Client,
  isPlaintext: boolean,
): Promise<AskedPageserver> {
  const { rows } = await client.query(`
    select pg_current_wal_flush_lsn()::text as lsn, d.oid::int as "dbOid",
      pg_relation_filenode('pgbench_accounts')::int as "relNumber",
      (pg_relation_size('pgbench_accounts') / 8192)::int as blocks
    from pg_database d where datname = current_database()`);
  const { tenantId, timelineId, pageserver } = cluster.endpointSpec();
  return {
    ...rows[0],
    pgAddr: pageserver.pgAddr,
    tokenFile: join(cluster.home, "auth", "admin.jwt"),
    trust: { isPlaintext, caFiles: [join(cluster.home, "tls", "ca.crt")] },
    tenantId,
    timelineId,
  };
}

/** `rounds` interleaved rounds; a ratio is the median of those of the rounds. */
export async function benchServiceTls(rounds: number): Promise<Row[]> {
  const hosts = new NetworkHosts<"all">(["all"]);
  const problem = hosts.create();
  if (problem !== undefined) {
    progress(`tls: ${problem}`);
    return [];
  }
  try {
    await using encrypted = await createCluster(hosts, false);
    await using plain = await createCluster(hosts, true);
    const clients = [encrypted, plain].map((one) => new pg.Client(one.socketUrl("main")));
    await Promise.all(clients.map((client) => client.connect()));
    const times: number[][] = [[], []];
    for (let round = -1; round < rounds; round++) {
      for (const [i, client] of clients.entries()) {
        const took = await commits(client);
        if (round >= 0) {
          times[i]!.push(took);
        }
      }
    }
    const order = await Promise.all([
      asked(encrypted, clients[0]!, false),
      asked(plain, clients[1]!, true),
    ]);
    await Promise.all(clients.map((client) => client.end()));
    const [ip, ...args] = [...hosts.on("all"), process.execPath];
    const asker = join(import.meta.dirname, "getpage-asker.ts");
    const argument = JSON.stringify([order, rounds]);
    const output = execFileSync(ip!, [...args, asker, argument], { encoding: "utf8" });
    const pages = JSON.parse(output) as AskedTimes;
    return [
      row("one commit at a time, ms (TLS / plain)", times, 2),
      row("GetPage one at a time, us (TLS / plain)", pages.single, 0),
      row("GetPage 16 at once, us a page (TLS / plain)", pages.many, 0),
    ];
  } finally {
    hosts.destroy();
  }
}

function row(what: string, [ours, theirs]: readonly number[][], digits: number): Row {
  const ratios = ours!.map((took, i) => took / theirs![i]!);
  return {
    what,
    ours: median(ours!).toFixed(digits),
    theirs: median(theirs!).toFixed(digits),
    ratio: ratio(median(ratios), 1),
    aim: "",
  };
}

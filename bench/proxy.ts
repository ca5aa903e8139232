// The proxy beside direct connections and pgbouncer, all in front of one stock Postgres: `pgbench -S`, logins, idle clients, /sql.
//
// $PGBOUNCER names its binary where it is not in $PATH. Before 1.21 it knows no prepared statements in transaction mode.

import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { neon, neonConfig } from "@neondatabase/serverless";
import pg from "pg";
import { monotonicMs, sleep } from "../src/base/clock.ts";
import { postgresUser } from "../src/postgres/installation.ts";
import { freePort } from "../testing/free-port.ts";
import { FakeControlPlane } from "../testing/proxy/fake-control-plane.ts";
import { ENDPOINT, PASSWORD, ProxiedPostgres, ROLE } from "../testing/proxy/proxy-fixture.ts";
import { median, progress, type Row, ratio } from "./report.ts";

const run = promisify(execFile);
const CLIENTS = [1, 8, 32];
const SCALE = 10;
const POOL_SIZE = 20;
const IDLE_CLIENTS = 1000;

/** A way to the same Postgres. */
interface Way {
  readonly name: string;
  readonly port: number;
  readonly options: string;
  readonly pid: number | undefined;
}

export async function benchProxy(rounds: number, seconds: number): Promise<Row[]> {
  const postgres = await ProxiedPostgres.start(400);
  const directory = mkdtempSync(join(tmpdir(), "strata-bench-proxy-"));
  const controlPlane = new FakeControlPlane();
  const children: ChildProcess[] = [];
  try {
    await postgres.sql(`GRANT CREATE ON SCHEMA public TO ${ROLE}`);
    const secrets = new Map([[ROLE, await postgres.secretOf(ROLE)]]);
    controlPlane.endpoints.set(ENDPOINT, { address: `127.0.0.1:${postgres.port}`, secrets });
    const { ways, httpPort } = await startProxy(directory, await controlPlane.start(), children);
    const direct = { name: "direct", port: postgres.port, options: "", pid: undefined };
    const bouncer = await startPgbouncer(directory, postgres, children);
    progress(`proxy: loading scale ${SCALE}`);
    await pgbench(direct, ["-i", "-q", "-s", `${SCALE}`]);
    return [
      ...(await throughput([direct, ...ways, ...bouncer], rounds, seconds)),
      ...(await logins([direct, ...ways, ...bouncer], rounds, seconds)),
      await idleClients(ways[0]!),
      ...(await sqlOverHttp(httpPort, direct, seconds)),
    ];
  } finally {
    for (const child of children) {
      child.kill();
    }
    await controlPlane.stop();
    await postgres.cluster.destroy();
    rmSync(directory, { recursive: true, force: true });
  }
}

async function startProxy(
  directory: string,
  controlPlane: string,
  children: ChildProcess[],
): Promise<{ ways: Way[]; httpPort: number }> {
  const [port, httpPort] = [await freePort(), await freePort()];
  const main = join(import.meta.dirname, "..", "src", "proxy", "main.ts");
  const child = spawn(
    process.execPath,
    [
      ...[main, "--workdir", join(directory, "proxy"), "--control-plane", controlPlane],
      ...["--listen-pg", `127.0.0.1:${port}`, "--listen-http", `127.0.0.1:${httpPort}`],
      ...["--pool-size", `${POOL_SIZE}`],
    ],
    { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, STRATA_LOG: "warn" } },
  );
  children.push(child);
  await listens(port);
  const way = (name: string, suffix: string): Way => ({
    name,
    port,
    options: `endpoint=${ENDPOINT}${suffix}`,
    pid: child.pid,
  });
  return { ways: [way("proxy", ""), way("proxy, pooled", "-pooler")], httpPort };
}

/** Its transaction mode, and its session mode for prepared statements; none where it is not installed. */
async function startPgbouncer(
  directory: string,
  postgres: ProxiedPostgres,
  children: ChildProcess[],
): Promise<Way[]> {
  const binary = process.env["PGBOUNCER"] ?? "pgbouncer";
  if (spawnSync(binary, ["--version"]).status !== 0) {
    progress("proxy: no pgbouncer here");
    return [];
  }
  const ways: Way[] = [];
  // It refuses to run as root.
  chmodSync(directory, 0o755);
  for (const mode of ["transaction", "session"]) {
    const port = await freePort();
    const users = join(directory, "users.txt");
    writeFileSync(users, `"${ROLE}" "${await postgres.secretOf(ROLE)}"\n`);
    const file = join(directory, `${mode}.ini`);
    const size = mode === "transaction" ? POOL_SIZE : 80;
    const lines = [
      "[databases]",
      `postgres = host=127.0.0.1 port=${postgres.port} dbname=postgres`,
      "[pgbouncer]",
      `listen_addr = 127.0.0.1\nlisten_port = ${port}\nunix_socket_dir =`,
      `auth_type = scram-sha-256\nauth_file = ${users}`,
      `pool_mode = ${mode}\ndefault_pool_size = ${size}\nmax_client_conn = 2000`,
      "log_connections = 0\nlog_disconnections = 0",
    ];
    writeFileSync(file, `${lines.join("\n")}\n`);
    const user = postgresUser();
    const child = spawn(binary, ["-q", file], {
      stdio: ["ignore", "ignore", "inherit"],
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
    });
    children.push(child);
    await listens(port);
    ways.push({ name: `pgbouncer, ${mode}`, port, options: "", pid: child.pid });
  }
  return ways;
}

async function listens(port: number): Promise<void> {
  for (let i = 0; i < 500; i++) {
    const socket = createConnection({ host: "127.0.0.1", port });
    const connected = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (connected) {
      return;
    }
    await sleep(20);
  }
  throw new Error(`nobody listens on ${port}`);
}

async function pgbench(way: Way, args: readonly string[]): Promise<string> {
  const env = {
    ...process.env,
    PGHOST: "127.0.0.1",
    PGPORT: `${way.port}`,
    PGUSER: ROLE,
    PGPASSWORD: PASSWORD,
    PGDATABASE: "postgres",
    PGSSLMODE: "disable",
    PGOPTIONS: way.options,
  };
  return (await run("pgbench", [...args], { env })).stdout;
}

/** Of the process so far, user and system, in microseconds. */
function cpuMicros(pid: number | undefined): number {
  if (pid === undefined) {
    return 0;
  }
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
  // Ticks of 10 ms (proc(5)).
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

async function throughput(ways: Way[], rounds: number, seconds: number): Promise<Row[]> {
  const rows: Row[] = [];
  for (const mode of ["simple", "prepared"]) {
    for (const clients of CLIENTS) {
      const taking = ways.filter(({ name }) => !(mode === "prepared" && name.includes("transac")));
      const results = new Map(taking.map(({ name }) => [name, { tps: [], cpu: [] } as Series]));
      for (let round = 0; round < rounds; round++) {
        for (const way of taking) {
          const before = cpuMicros(way.pid);
          const threads = mode === "prepared" ? clients : Math.min(clients, 2);
          const text = await pgbench(way, [
            ...["-n", "-S", "-s", `${SCALE}`, "-M", mode, "-T", `${seconds}`],
            ...["-c", `${clients}`, "-j", `${threads}`],
          ]);
          const tps = Number(/tps = ([\d.]+) \(without/.exec(text)?.[1]);
          const done = Number(/processed: (\d+)/.exec(text)?.[1]);
          results.get(way.name)!.tps.push(tps);
          results.get(way.name)!.cpu.push((cpuMicros(way.pid) - before) / done);
        }
      }
      const direct = median(results.get("direct")!.tps);
      for (const [name, { tps, cpu }] of results) {
        const ours = median(tps);
        progress(`proxy ${mode} c=${clients} ${name}: ${ours.toFixed(0)} tps`);
        if (name !== "direct") {
          rows.push({
            what: `-S ${mode}, ${clients} clients, ${name}: tps (CPU)`,
            ours: `${ours.toFixed(0)} (${median(cpu).toFixed(0)} µs)`,
            theirs: `${direct.toFixed(0)} direct`,
            ratio: ratio(ours, direct),
            aim: "",
          });
        }
      }
    }
  }
  return rows;
}

interface Series {
  readonly tps: number[];
  readonly cpu: number[];
}

/** A connection for each transaction. */
async function logins(ways: Way[], rounds: number, seconds: number): Promise<Row[]> {
  const latency = new Map<string, number[]>(ways.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const way of ways) {
      const args = ["-n", "-S", "-C", "-s", `${SCALE}`, "-T", `${seconds}`, "-c", "1"];
      const text = await pgbench(way, args);
      latency.get(way.name)!.push(Number(/average connection time = ([\d.]+)/.exec(text)?.[1]));
    }
  }
  const direct = median(latency.get("direct")!);
  return [...latency]
    .filter(([name]) => name !== "direct")
    .map(([name, values]) => ({
      what: `login, ${name}`,
      ours: `${median(values).toFixed(2)} ms`,
      theirs: `${direct.toFixed(2)} ms direct`,
      ratio: ratio(median(values), direct),
      aim: "",
    }));
}

function memoryKiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1]);
}

/** Of the pooler's name: they have no Postgres behind them. */
async function idleClients(way: Way): Promise<Row> {
  const before = memoryKiB(way.pid!);
  const clients: pg.Client[] = [];
  while (clients.length < IDLE_CLIENTS) {
    const some = Array.from({ length: 50 }, () => {
      const client = new pg.Client({
        ...{ host: "127.0.0.1", port: way.port, user: ROLE, password: PASSWORD },
        ...{ database: "postgres", options: `endpoint=${ENDPOINT}-pooler` },
      });
      client.on("error", () => {});
      return client;
    });
    await Promise.all(some.map((client) => client.connect()));
    clients.push(...some);
  }
  await sleep(500);
  const each = (memoryKiB(way.pid!) - before) / IDLE_CLIENTS;
  for (const client of clients) {
    (client as unknown as { connection: { stream: Socket } }).connection.stream.destroy();
  }
  return {
    what: `${IDLE_CLIENTS} idle pooled clients, memory each`,
    ours: `${each.toFixed(1)} KiB`,
    theirs: "",
    ratio: "",
    aim: "",
  };
}

async function sqlOverHttp(httpPort: number, direct: Way, seconds: number): Promise<Row[]> {
  neonConfig.fetchEndpoint = () => `http://127.0.0.1:${httpPort}/sql`;
  const word = encodeURIComponent(PASSWORD);
  const sql = neon(`postgresql://${ROLE}:${word}@${ENDPOINT}.localtest.me/postgres`);
  const client = new pg.Client({
    ...{ host: "127.0.0.1", port: direct.port, user: ROLE, password: PASSWORD },
    database: "postgres",
  });
  await client.connect();
  const query = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
  const measure = async (ask: (aid: number) => Promise<unknown>) => {
    const times: number[] = [];
    const until = monotonicMs() + seconds * 1000;
    for (let aid = 1; monotonicMs() < until; aid++) {
      const start = monotonicMs();
      await ask(aid);
      times.push(monotonicMs() - start);
    }
    return median(times);
  };
  const theirs = await measure((aid) => client.query(query, [aid]));
  const ours = await measure(async (aid) => await sql.query(query, [aid]));
  await client.end();
  return [
    {
      what: "/sql, one query after another, p50",
      ours: `${ours.toFixed(2)} ms`,
      theirs: `${theirs.toFixed(2)} ms pg, direct`,
      ratio: ratio(ours, theirs),
      aim: "",
    },
  ];
}

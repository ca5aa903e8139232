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
  /** Prepared statements do not work there. */
  readonly noPrepared?: boolean;
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
      await idleClients(ways[1]!, bouncer.at(0)),
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

/** Its transaction mode, and its session mode where only that has prepared statements; none where it is not installed. */
async function startPgbouncer(
  directory: string,
  postgres: ProxiedPostgres,
  children: ChildProcess[],
): Promise<Way[]> {
  const binary = process.env["PGBOUNCER"] ?? "pgbouncer";
  const version = spawnSync(binary, ["--version"], { encoding: "utf8" });
  if (version.status !== 0) {
    progress("proxy: no pgbouncer here");
    return [];
  }
  const [, major = "0", minor = "0"] = /(\d+)\.(\d+)/.exec(version.stdout) ?? [];
  const hasPrepared = Number(major) > 1 || Number(minor) >= 21;
  const ways: Way[] = [];
  // It refuses to run as root.
  chmodSync(directory, 0o755);
  for (const mode of hasPrepared ? ["transaction"] : ["transaction", "session"]) {
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
      ...(hasPrepared ? ["max_prepared_statements = 200"] : []),
    ];
    writeFileSync(file, `${lines.join("\n")}\n`);
    const user = postgresUser();
    const child = spawn(binary, ["-q", file], {
      stdio: ["ignore", "ignore", "inherit"],
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
    });
    children.push(child);
    await listens(port);
    const noPrepared = mode === "transaction" && !hasPrepared;
    ways.push({ name: `pgbouncer, ${mode}`, port, options: "", pid: child.pid, noPrepared });
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
      const taking = ways.filter(({ noPrepared }) => mode === "simple" || noPrepared !== true);
      const series = new Map<string, Sample[]>(taking.map(({ name }) => [name, []]));
      for (let round = 0; round < rounds; round++) {
        for (const way of taking) {
          series.get(way.name)!.push(await sample(way, mode, clients, seconds));
        }
      }
      const results = new Map([...series].map(([name, samples]) => [name, middle(samples)]));
      for (const [name, result] of results) {
        progress(`proxy ${mode} c=${clients} ${name}: ${describe(result)}`);
      }
      const bouncer = [...results.keys()].find((name) => name.startsWith("pgbouncer"));
      for (const name of ["proxy", "proxy, pooled"]) {
        const ours = results.get(name)!;
        for (const other of ["direct", ...(bouncer === undefined ? [] : [bouncer])]) {
          const theirs = results.get(other)!;
          rows.push({
            what: `-S ${mode}, ${clients} clients, ${name}, beside ${other}`,
            ours: describe(ours),
            theirs: describe(theirs),
            ratio: ratio(ours.latencyMs, theirs.latencyMs),
            aim: other === "direct" ? "" : "latency 1.2",
          });
        }
      }
    }
  }
  return rows;
}

interface Sample {
  readonly latencyMs: number;
  readonly tps: number;
  /** Of the process between, for a transaction. */
  readonly cpuMicros: number;
}

function describe({ latencyMs, tps, cpuMicros }: Sample): string {
  const cpu = cpuMicros === 0 ? "" : `, ${cpuMicros.toFixed(0)} us CPU`;
  return `${latencyMs.toFixed(3)} ms, ${tps.toFixed(0)} tps${cpu}`;
}

/** Each number's median. */
function middle(samples: readonly Sample[]): Sample {
  const of = (name: keyof Sample) => median(samples.map((one) => one[name]));
  return { latencyMs: of("latencyMs"), tps: of("tps"), cpuMicros: of("cpuMicros") };
}

async function sample(way: Way, mode: string, clients: number, seconds: number): Promise<Sample> {
  const before = cpuMicros(way.pid);
  const threads = mode === "prepared" ? clients : Math.min(clients, 2);
  // The time counts from before the logins.
  const durationSeconds = seconds + Math.ceil(clients / 16);
  const text = await pgbench(way, [
    ...["-n", "-S", "-s", `${SCALE}`, "-M", mode, "-T", `${durationSeconds}`],
    ...["-c", `${clients}`, "-j", `${threads}`],
  ]);
  const done = Number(/processed: (\d+)/.exec(text)?.[1]);
  return {
    latencyMs: Number(/latency average = ([\d.]+)/.exec(text)?.[1]),
    tps: Number(/tps = ([\d.]+) \(without/.exec(text)?.[1]),
    cpuMicros: (cpuMicros(way.pid) - before) / done,
  };
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

/** Pooled ones: they have no Postgres behind them. */
async function idleClients(ours: Way, bouncer: Way | undefined): Promise<Row> {
  const each = await idleClientMemory(ours);
  const theirs = bouncer === undefined ? undefined : await idleClientMemory(bouncer);
  return {
    what: `${IDLE_CLIENTS} idle pooled clients, memory each`,
    ours: `${each.toFixed(1)} KiB`,
    theirs: theirs === undefined ? "" : `${theirs.toFixed(1)} KiB pgbouncer`,
    ratio: theirs === undefined ? "" : ratio(each, theirs),
    aim: "",
  };
}

/** KiB of one. */
async function idleClientMemory(way: Way): Promise<number> {
  const before = memoryKiB(way.pid!);
  const clients: pg.Client[] = [];
  while (clients.length < IDLE_CLIENTS) {
    const some = Array.from({ length: 50 }, () => {
      const client = new pg.Client({
        ...{ host: "127.0.0.1", port: way.port, user: ROLE, password: PASSWORD },
        database: "postgres",
        ...(way.options === "" ? {} : { options: way.options }),
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
  return each;
}

interface Asked {
  readonly p50Ms: number;
  readonly perSecond: number;
}

/** As many callers, each with one question after another. */
async function askFor(
  seconds: number,
  callers: number,
  ask: (aid: number) => Promise<unknown>,
): Promise<Asked> {
  const times: number[] = [];
  const began = monotonicMs();
  const until = began + seconds * 1000;
  let aid = 0;
  const call = async () => {
    while (monotonicMs() < until) {
      const start = monotonicMs();
      await ask(++aid);
      times.push(monotonicMs() - start);
    }
  };
  await Promise.all(Array.from({ length: callers }, call));
  const perSecond = (times.length * 1000) / (monotonicMs() - began);
  return { p50Ms: median(times), perSecond };
}

async function sqlOverHttp(httpPort: number, direct: Way, seconds: number): Promise<Row[]> {
  neonConfig.fetchEndpoint = () => `http://127.0.0.1:${httpPort}/sql`;
  const word = encodeURIComponent(PASSWORD);
  const sql = neon(`postgresql://${ROLE}:${word}@${ENDPOINT}.localtest.me/postgres`);
  const pool = new pg.Pool({
    ...{ host: "127.0.0.1", port: direct.port, user: ROLE, password: PASSWORD },
    ...{ database: "postgres", max: POOL_SIZE },
  });
  const query = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
  const show = ({ p50Ms, perSecond }: Asked) => `${p50Ms.toFixed(2)} ms, ${perSecond.toFixed(0)}/s`;
  const rows: Row[] = [];
  for (const callers of CLIENTS) {
    const theirs = await askFor(seconds, callers, (aid) => pool.query(query, [aid]));
    const ours = await askFor(seconds, callers, async (aid) => await sql.query(query, [aid]));
    rows.push({
      what: `/sql, ${callers} at a time, p50 and queries a second`,
      ours: show(ours),
      theirs: `${show(theirs)} pg, direct`,
      ratio: ratio(ours.p50Ms, theirs.p50Ms),
      aim: "",
    });
  }
  await pool.end();
  return rows;
}

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { findInstallation } from "../../src/postgres/installation.ts";
import { eventually } from "../../testing/eventually.ts";
import {
  HOST,
  PASSWORD,
  ProxiedPostgres,
  ProxyFixture,
  ROLE,
} from "../../testing/proxy/proxy-fixture.ts";

// Programs of others through the proxy, with verify-full and, where they can, channel binding; pooled and not. Each
// prepares, copies in and out, fails, cancels and goes on. What this machine does not have is skipped, and named.

const HOSTS = { direct: HOST, pooled: HOST.replace(".", "-pooler.") };
const JDBC = "/usr/share/java/postgresql.jar";
const PYTHON = "/usr/bin/python3";
const PROGRAMS = join(import.meta.dirname, "client-programs");
const LINES = Array.from({ length: 1000 }, (_, n) => `${n}\trow ${n}\n`).join("");

let postgres: ProxiedPostgres;
let proxy: ProxyFixture;

before(async () => {
  postgres = await ProxiedPostgres.start();
  proxy = await ProxyFixture.start(postgres);
});

after(async () => {
  await proxy?.stop();
  await postgres?.cluster.destroy();
});

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** Called when the program has begun. */
  readonly whileRunning?: (child: ChildProcess) => Promise<void>;
}

async function run(file: string, args: string[], options: RunOptions = {}): Promise<Ended> {
  const child = spawn(file, args, { env: { PATH: process.env["PATH"] ?? "", ...options.env } });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (part: Buffer) => {
    stdout += part.toString();
  });
  child.stderr.on("data", (part: Buffer) => {
    stderr += part.toString();
  });
  child.stdin.on("error", () => {});
  child.stdin.end(options.stdin ?? "");
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  await Promise.race([options.whileRunning?.(child), ended]);
  return { code: await ended, stdout, stderr };
}

/** False, and the test is skipped, where the machine does not have it. */
async function has(context: TestContext, what: string, file: string, args: string[]) {
  const there = await new Promise<boolean>((resolve) => {
    execFile(file, args, (error) => resolve(error === null));
  });
  if (!there) {
    context.skip(`no ${what} on this machine`);
  }
  return there;
}

function conninfo(host: string, more = ""): string {
  return (
    `host=${host} hostaddr=127.0.0.1 port=${proxy.port} user=${ROLE} dbname=postgres ` +
    `sslmode=verify-full sslrootcert=${proxy.tls.caCert} channel_binding=require ${more}`
  );
}

async function freshTable(name: string): Promise<string> {
  await postgres.sql(`DROP TABLE IF EXISTS ${name}; CREATE TABLE ${name} (n int, t text)`);
  await postgres.sql(`GRANT ALL ON ${name} TO ${ROLE}`);
  return name;
}

async function untilAsleep(): Promise<void> {
  const sql = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
  await eventually("a backend sleeps", async () => (await postgres.sql(sql)).rowCount! > 0);
}

const SCRIPT = (table: string) => `
\\set VERBOSITY sqlstate
prepare twice(int) as select $1 * 2;
execute twice(1);
execute twice(2);
copy ${table} from stdin;
${LINES}\\.
copy (select count(*), sum(n) from ${table}) to stdout;
select 1 / 0;
\\echo :LAST_ERROR_SQLSTATE
begin; select no_such_column; rollback;
select 'still here';
`;

/** psql with a libpq of choice. */
async function psqlWorks(
  hosts: readonly string[],
  libraries: Readonly<Record<string, string>>,
  more = "",
): Promise<void> {
  for (const host of hosts) {
    const env = { PGPASSWORD: PASSWORD, PGAPPNAME: "psql", ...libraries };
    const table = await freshTable("by_psql");
    const shown = await run("psql", ["-XAtq", conninfo(host, more)], {
      env,
      stdin: SCRIPT(table),
    });
    assert.equal(shown.stdout, "2\n4\n1000\t499500\n22012\nstill here\n", shown.stderr);
    assert.match(shown.stderr, /ERROR: {2}22012[\s\S]*ERROR: {2}42703/);
    const stopped = await run("psql", ["-X", conninfo(host, more), "-c", "select pg_sleep(100)"], {
      env,
      whileRunning: async (child) => {
        await untilAsleep();
        child.kill("SIGINT");
      },
    });
    assert.match(stopped.stderr, /canceling statement due to user request/);
    const wrong = { ...env, PGPASSWORD: "wrong" };
    const refused = await run("psql", ["-X", conninfo(host, more), "-c", "select 1"], {
      env: wrong,
    });
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /password authentication failed for user "ann"/);
  }
}

test("psql of this machine", async (context) => {
  if (await has(context, "psql", "psql", ["--version"])) {
    await psqlWorks(Object.values(HOSTS), {});
  }
});

/** Empty where this machine's psql does not start with that library. */
async function libraryOf(context: TestContext, major: number): Promise<Record<string, string>> {
  const { libDir } = findInstallation(major);
  const env = { LD_LIBRARY_PATH: libDir ?? "" };
  const { code } = await run("psql", ["--version"], { env }).catch(() => ({ code: 1 }));
  if (libDir === undefined || code !== 0) {
    context.skip(`no psql that takes the libpq of ${major}`);
    return {};
  }
  return env;
}

test("libpq of 17: direct TLS", async (context) => {
  const env = await libraryOf(context, 17);
  if (Object.keys(env).length > 0) {
    await psqlWorks([HOSTS.direct], env, "sslnegotiation=direct");
  }
});

test("libpq of 18: a newer protocol is talked down", async (context) => {
  const env = await libraryOf(context, 18);
  if (Object.keys(env).length > 0) {
    await psqlWorks([HOSTS.pooled], env, "max_protocol_version=latest");
  }
});

for (const driver of ["psycopg2", "psycopg"]) {
  test(`${driver} of Debian`, async (context) => {
    if (!(await has(context, `${driver} for ${PYTHON}`, PYTHON, ["-c", `import ${driver}`]))) {
      return;
    }
    for (const host of Object.values(HOSTS)) {
      const table = await freshTable(`by_${driver}`);
      const program = join(PROGRAMS, "psycopg_client.py");
      const args = [program, driver, conninfo(host), table];
      const { stdout, stderr } = await run(PYTHON, args, { env: { PGPASSWORD: PASSWORD } });
      assert.notEqual(stdout, "", stderr);
      assert.deepEqual(JSON.parse(stdout), {
        doubled: [0, 2, 4, 6, 8],
        copied: true,
        failed: "22012",
        stopped: "57014",
        after: "still here",
        refusal: "password authentication failed",
      });
    }
  });
}

test("JDBC of Debian", async (context) => {
  if (!existsSync(JDBC)) {
    context.skip(`no ${JDBC} on this machine`);
    return;
  }
  if (!(await has(context, "javac", "javac", ["--version"]))) {
    return;
  }
  const hosts = join(proxy.directory, "hosts");
  writeFileSync(
    hosts,
    Object.values(HOSTS)
      .map((host) => `127.0.0.1 ${host}\n`)
      .join(""),
  );
  const tables = [await freshTable("by_jdbc_direct"), await freshTable("by_jdbc_pooled")];
  const tls = `sslmode=verify-full&sslrootcert=${proxy.tls.caCert}`;
  const urls = Object.values(HOSTS).map(
    (host) => `jdbc:postgresql://${host}:${proxy.port}/postgres?${tls}`,
  );
  const { stdout, stderr } = await run("java", [
    ...["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", `-Djdk.net.hosts.file=${hosts}`],
    ...["-cp", JDBC, join(PROGRAMS, "JdbcClient.java"), ROLE, PASSWORD],
    ...urls.flatMap((url, i) => [url, tables[i]!]),
  ]);
  const expected = {
    doubled: [0, 2, 4, 6, 8],
    copied: true,
    failed: "22012",
    stopped: "57014",
    after: "still here",
    refusal: "28P01",
  };
  const told = stdout.split("\n").slice(0, -1);
  assert.deepEqual(
    told.map((line) => JSON.parse(line)),
    [expected, expected],
    stderr,
  );
});

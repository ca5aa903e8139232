// A whole cluster on an address that other machines can reach: TLS between all of its services, and nothing without.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { CertificateAuthority } from "../src/local/tls/certificate-authority.ts";
import { giveToPostgres, postgresUser } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { NetworkHosts } from "../testing/network-hosts.ts";
import type { ProbeAnswer, ProbeOrder } from "../testing/services/probe-services.ts";
import { ServiceAuthority } from "../testing/services/service-authority.ts";
import { checkTpcb, initializeTpcb, TpcbLoad, withClient } from "../testing/tpcb.ts";

/** As the client programs of Debian 12, which take no newer server. */
const MAJOR = 15;
const PG_RECEIVEWAL = `/usr/lib/postgresql/${MAJOR}/bin/pg_receivewal`;
const PSQL = `/usr/lib/postgresql/${MAJOR}/bin/psql`;
const hosts = new NetworkHosts(["all"]);
const on = hosts.on("all");
const at = (port: number) => `${hosts.address("all")}:${port}`;
const SAFEKEEPERS = [1, 2, 3];
const CONFIG = {
  pgVersion: MAJOR,
  broker: { listenAddr: at(50051) },
  controlPlane: { listenAddr: at(9096) },
  proxy: { listenPgAddr: at(4432), listenHttpAddr: at(4444) },
  pageservers: [{ id: 1, listenPgAddr: at(64000), listenHttpAddr: at(9898) }],
  safekeepers: SAFEKEEPERS.map((id) => ({
    id,
    listenPgAddr: at(5453 + id),
    listenHttpAddr: at(7675 + id),
  })),
  endpointBasePort: 5500,
  serviceTokens: true,
};
const WIRE = [at(64000), ...SAFEKEEPERS.map((id) => at(5453 + id))];
const HTTP: Record<string, string> = {
  [at(50051)]: "/status",
  [at(9096)]: "/status",
  [at(9898)]: "/v1/status",
  ...Object.fromEntries(SAFEKEEPERS.map((id) => [at(7675 + id), "/v1/status"])),
};
const PORTS = WIRE.length + Object.keys(HTTP).length;

let cluster: TestCluster;
let skip: string | undefined;
let stranger: ServiceAuthority;
const acknowledged: string[] = [];
let loads = 0;

async function run(...args: string[]): Promise<string> {
  const { code, stderr, stdout } = await cluster.cliBehind(on, ...args);
  assert.equal(code, 0, `${args.join(" ")}: ${stderr}\n${cluster.logTails()}`);
  return stdout;
}

before(async () => {
  skip = hosts.create();
  if (skip !== undefined) {
    return;
  }
  stranger = await ServiceAuthority.create();
  cluster = await TestCluster.create({ start: false, config: CONFIG });
  await run("start");
  await run("tenant", "create", "--set-default");
  await run("endpoint", "create", "main");
  await run("endpoint", "start", "main");
  await initializeTpcb(cluster.socketUrl("main"));
});
after(async () => {
  await cluster?.[Symbol.asyncDispose]();
  stranger?.remove();
  hosts.destroy();
});

function networkTest(name: string, body: (t: TestContext) => Promise<void>): void {
  test(name, async (t) => {
    if (skip !== undefined) {
      t.skip(skip);
      return;
    }
    await body(t);
  });
}

/** What each port answers to our own clients, and to plain text. */
function probe(caFile = join(cluster.home, "tls", "ca.crt")): Promise<ProbeAnswer[]> {
  const tokenFile = join(cluster.home, "auth", "admin.jwt");
  const order: ProbeOrder = { caFile, tokenFile, wire: WIRE, http: HTTP };
  const script = join(import.meta.dirname, "../testing/services/probe-services.ts");
  const [ip, ...args] = [...on, process.execPath, script, JSON.stringify(order)];
  return new Promise((resolve, reject) => {
    execFile(ip!, args, (error, stdout, stderr) => {
      if (error === null) {
        resolve(Object.values(JSON.parse(stdout) as Record<string, ProbeAnswer>));
      } else {
        reject(new Error(`${error.message}\n${stderr}`));
      }
    });
  });
}

async function underLoad(body: (load: TpcbLoad) => Promise<void>): Promise<void> {
  const load = new TpcbLoad(cluster.socketUrl("main"), { name: `${++loads}/`, seed: loads });
  try {
    await load.progress(30);
    await body(load);
    await load.progress(30);
  } finally {
    await load.stop();
    acknowledged.push(...load.acknowledged);
  }
}

networkTest(
  "load through kill -9 of every service and of the compute: nothing is lost",
  async () => {
    await underLoad(async (load) => {
      await cluster.kill9("safekeeper-2");
      await load.progress(30);
      await cluster.kill9("pageserver");
      await cluster.kill9("broker");
      await cluster.kill9("control_plane");
      await run("start");
      await load.progress(30);
      await cluster.kill9("agent-main");
      await run("endpoint", "start", "main");
    });
    await checkTpcb(cluster.socketUrl("main"), acknowledged);
  },
);

networkTest("a branch has what its parent had, read over TLS", async () => {
  await run("branch", "create", "dev");
  await run("endpoint", "create", "dev", "--branch-name", "dev");
  await run("endpoint", "start", "dev");
  await checkTpcb(cluster.socketUrl("dev"), acknowledged);
  await run("endpoint", "stop", "dev");
});

networkTest(
  "every port speaks TLS to who believes the home's authority, and to nobody plain text",
  async () => {
    const answers = await probe();
    assert.equal(answers.length, PORTS);
    for (const { encrypted, plain } of answers) {
      assert.equal(encrypted, "ok");
      assert.match(plain, /tls-needed/);
    }
    for (const { encrypted } of await probe(stranger.caFile)) {
      assert.match(encrypted, /the certificate of [\d.:]+ is of no authority in /);
    }
  },
);

networkTest(
  "a certificate that has expired is refused at every port; start makes new ones, and nothing is restarted",
  async () => {
    const file = (name: string) => join(cluster.home, "tls", name);
    const [cert, key] = ["ca.crt", "ca.key"].map((name) => readFileSync(file(name), "utf8"));
    const authority = await CertificateAuthority.open({ cert: cert!, key: key! });
    const services = readdirSync(file("."))
      .filter((name) => name.endsWith(".crt") && !/^(?:ca|proxy)\./.test(name))
      .map((name) => name.slice(0, -4));
    assert.equal(services.length, 3 + SAFEKEEPERS.length);
    const names = { subject: "old", dns: [], ip: [hosts.address("all")] };
    for (const service of services) {
      const old = await authority.issue(names, -1);
      writeFileSync(file(`${service}.key`), old.key);
      writeFileSync(file(`${service}.crt`), old.cert);
    }
    const pids = () =>
      (
        [
          "pageserver",
          "broker",
          "control_plane",
          ...SAFEKEEPERS.map((id) => `safekeeper-${id}`),
        ] as const
      ).map((victim) => cluster.pid(victim as "pageserver"));
    const before = pids();
    await eventually("all show the expired ones", async () => {
      const answers = await probe();
      return answers.every(({ encrypted }) => /has expired/.test(encrypted));
    });
    const { code, stderr } = await cluster.cliBehind(on, "safekeeper", "status", "1");
    assert.equal(code, 1, stderr);
    // What is connected stays so; who connects anew is refused until there are new ones.
    await run("start", "--start-timeout", "60");
    await eventually("all show new ones", async () => {
      const answers = await probe();
      return answers.every(({ encrypted }) => encrypted === "ok");
    });
    assert.deepEqual(pids(), before);
    await underLoad(async () => {});
    await checkTpcb(cluster.socketUrl("main"), acknowledged);
  },
);

networkTest(
  "the proxy asks the control plane over TLS, and its certificate is for its address",
  async (t) => {
    if (!existsSync(PSQL)) {
      t.skip(`no ${PSQL}`);
      return;
    }
    const ca = join(cluster.home, "tls", "ca.crt");
    const conninfo = `host=${hosts.address("all")} port=4432 user=cloud_admin dbname=postgres sslmode=verify-full sslrootcert=${ca} options=endpoint=main`;
    const [ip, ...args] = [...on, PSQL, "-XAtc", "select 40 + 2", conninfo];
    const answer = await new Promise<string>((resolve) => {
      const env = { ...process.env, PGPASSWORD: cluster.password() };
      execFile(ip!, args, { env }, (_, stdout, stderr) => resolve(`${stdout}${stderr}`));
    });
    assert.equal(answer.trim(), "42");
  },
);

networkTest("the home's commands and the console's link come over TLS", async () => {
  const status = JSON.parse(await run("status", "--json")) as {
    name: string;
    status: string;
  }[];
  const silent = status.filter((one) => one.status !== "running" && one.name !== "endpoint dev");
  assert.deepEqual(silent, []);
  assert.ok(status.length > 7);
  assert.match(await run("console"), new RegExp(`https://${at(9096)}/#token=`));
  await run("safekeeper", "list");
});

networkTest(
  "pg_receivewal streams with sslmode=verify-full, and not by another authority",
  async (t) => {
    if (!existsSync(PG_RECEIVEWAL)) {
      t.skip(`no ${PG_RECEIVEWAL}`);
      return;
    }
    const token = (await run("auth", "token")).trim();
    const directory = join(cluster.home, "..", "received");
    // Where another user can read them.
    const readable = (from: string, name: string) => {
      const copy = join(cluster.home, "..", name);
      writeFileSync(copy, readFileSync(from), { mode: 0o644 });
      return copy;
    };
    const ca = readable(join(cluster.home, "tls", "ca.crt"), "ca.crt");
    const otherCa = readable(stranger.caFile, "other.crt");
    const { tenantId, timelineId } = cluster.endpointSpec();
    await withClient(cluster.socketUrl("main"), (client) =>
      client.query("select pg_switch_wal(); select pg_logical_emit_message(true, '', 'x')"),
    );
    const receive = (caFile: string, mode = "verify-full") => {
      rmSync(directory, { recursive: true, force: true });
      mkdirSync(directory);
      giveToPostgres(directory);
      const conninfo = `host=${hosts.address("all")} port=5455 user=strata sslmode=${mode} sslrootcert=${caFile} options='-c tenant_id=${tenantId} -c timeline_id=${timelineId}'`;
      const user = postgresUser();
      const child = spawn(
        on[0]!,
        [
          ...on.slice(1),
          ...(user === undefined
            ? []
            : ["setpriv", `--reuid=${user.uid}`, `--regid=${user.gid}`, "--clear-groups"]),
          ...[PG_RECEIVEWAL, "--no-loop", "-D", directory, "-d", conninfo],
        ],
        {
          // libpq looks for a certificate of its own there.
          env: { ...process.env, HOME: directory, PGPASSWORD: token },
          stdio: ["ignore", "ignore", "pipe"],
        },
      );
      let said = "";
      child.stderr.on("data", (chunk: Buffer) => {
        said += chunk.toString();
      });
      const ended = new Promise<string>((resolve) => {
        child.on("close", (code, signal) => resolve(`${code ?? signal}: ${said}`));
      });
      return { child, ended };
    };
    assert.match(await receive(otherCa).ended, /certificate verify failed/);
    assert.match(await receive(ca, "disable").ended, /speaks TLS only/);
    const { child, ended } = receive(ca);
    const partial = () => readdirSync(directory).find((name) => name.endsWith(".partial"));
    await Promise.race([
      eventually("it streams", () => partial() !== undefined),
      ended.then((why) => assert.fail(why)),
    ]);
    child.kill("SIGINT");
    assert.match(await ended, /^0:/);
  },
);

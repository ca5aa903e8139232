// Every daemon: a second one on the same directory, with other ports, is refused and changes nothing.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { EndpointSpec } from "../../src/compute/api.ts";
import { DaemonProcess } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { freePort } from "../../testing/free-port.ts";

const ID = "0123456789abcdef0123456789abcdef";

const address = async () => `127.0.0.1:${await freePort()}`;

interface Kind {
  readonly name: string;
  /** Folder of its main.ts, and name of its pid file. */
  readonly entry: string;
  readonly pidFile: string;
  /** Options with ports of their own, and where its HTTP is then. */
  ports(workdir: string): Promise<{ args: string[]; http: string }>;
  /** Below its directory; a start finds it unfinished or unknown and removes it. */
  readonly leftover?: string;
}

const PAIR = async () => {
  const http = await address();
  return { args: ["--listen-pg", await address(), "--listen-http", http], http };
};

const KINDS: readonly Kind[] = [
  {
    name: "pageserver",
    entry: "pageserver",
    pidFile: "pageserver.pid",
    leftover: join("tenants", ID, "timelines", `${ID}-1.___temp`),
    ports: PAIR,
  },
  {
    name: "safekeeper",
    entry: "safekeeper",
    pidFile: "safekeeper.pid",
    leftover: join(ID, `${ID}.deleted`),
    ports: PAIR,
  },
  {
    name: "storage broker",
    entry: "storage-broker",
    pidFile: "storage_broker.pid",
    ports: async () => {
      const http = await address();
      return { args: ["--listen", http], http };
    },
  },
  {
    name: "compute agent",
    entry: "compute",
    pidFile: "compute.pid",
    // Its ports are in its specification. Storage that is not there: it waits, as a compute does.
    ports: async (workdir) => {
      const internalHttpPort = await freePort();
      const spec: EndpointSpec = {
        endpointId: "one",
        tenantId: ID,
        timelineId: ID,
        mode: "primary",
        pgVersion: 17,
        pgHost: "127.0.0.1",
        pgPort: await freePort(),
        internalHttpPort,
        pageserver: { pgAddr: await address(), httpAddr: await address() },
        safekeepers: [{ id: 1, pgAddr: await address(), httpAddr: await address() }],
        settings: {},
      };
      writeFileSync(join(workdir, "endpoint.json"), JSON.stringify(spec));
      return { args: [], http: `127.0.0.1:${internalHttpPort}` };
    },
  },
];

const root = mkdtempSync(join(tmpdir(), "strata one-"));
after(() => rmSync(root, { recursive: true, force: true }));

async function answers(http: string): Promise<boolean> {
  const response = await fetch(`http://${http}/metrics`);
  await response.arrayBuffer();
  return response.ok;
}

const startedOn = (process: DaemonProcess, pidFile: string, http: string) =>
  eventually(
    `${process.name} on ${http}`,
    async () => readFileSync(pidFile, "utf8").startsWith(`${process.pid}\n`) && answers(http),
  );

for (const kind of KINDS) {
  test(`${kind.name}: one process a directory; after kill -9 the next one`, async (t) => {
    const workdir = join(root, kind.entry);
    const pidFile = join(workdir, kind.pidFile);
    mkdirSync(workdir);
    const daemons: DaemonProcess[] = [];
    t.after(() => Promise.all(daemons.map((daemon) => daemon.kill("SIGKILL"))));
    const start = async (name: string) => {
      const { args, http } = await kind.ports(workdir);
      const daemon = new DaemonProcess(name, kind.entry, workdir, args);
      daemons.push(daemon);
      daemon.start();
      return { daemon, http };
    };
    const first = await start("first");
    await startedOn(first.daemon, pidFile, first.http);
    const leftover = kind.leftover && join(workdir, kind.leftover);
    if (leftover !== undefined) {
      mkdirSync(leftover, { recursive: true });
    }

    const second = await start("second");
    await second.daemon.exited();
    assert.equal(second.daemon.exitCode, 1);
    const refusal = `fatal: another process (pid ${first.daemon.pid}) works in ${workdir}\n`;
    assert.ok(second.daemon.log.endsWith(refusal), second.daemon.log);
    assert.ok(first.daemon.running);
    assert.ok(await answers(first.http));
    assert.ok(readFileSync(pidFile, "utf8").startsWith(`${first.daemon.pid}\n`));
    assert.ok(leftover === undefined || existsSync(leftover));

    await first.daemon.kill("SIGKILL");
    const third = await start("third");
    await startedOn(third.daemon, pidFile, third.http);
    assert.ok(leftover === undefined || !existsSync(leftover));
    await third.daemon.kill("SIGTERM");
    assert.equal(existsSync(pidFile), false);
  });
}

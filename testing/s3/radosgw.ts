// Ceph's S3 service on loopback in a temporary directory: a monitor, an OSD in memory, radosgw.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { randomBytes } from "../../src/base/random.ts";
import { S3Client } from "../../src/object-store/s3/client.ts";
import { s3Configuration } from "../../src/object-store/s3/configuration.ts";
import { freePort } from "../free-port.ts";

const READY_MS = 120_000;
export const CEPH_PROGRAMS = ["ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin"];

/** Everything in it ends with `stop`, also where a start failed half way. */
export class Radosgw {
  readonly accessKeyId = `AK${randomBytes(8).toString("hex").toUpperCase()}`;
  readonly secretAccessKey = randomBytes(20).toString("hex");
  readonly #directory = mkdtempSync(join(tmpdir(), "strata-radosgw-"));
  readonly #children: ChildProcess[] = [];
  #port = 0;

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  async start(): Promise<void> {
    const monitorPort = await freePort();
    this.#port = await freePort();
    const fsid = uuid();
    for (const name of ["mon", "osd", "log"]) {
      mkdirSync(join(this.#directory, name));
    }
    writeFileSync(this.#path("ceph.conf"), this.#configuration(fsid, monitorPort));
    this.#makeMonitor(fsid, monitorPort);
    this.#daemon("ceph-mon", "-i", "a");
    const osd = uuid();
    const secret = this.#run("ceph-authtool", "--gen-print-key").trim();
    writeFileSync(this.#path("secret.json"), JSON.stringify({ cephx_secret: secret }));
    this.#run(
      "ceph",
      "--connect-timeout",
      "60",
      "osd",
      "new",
      osd,
      "-i",
      this.#path("secret.json"),
    );
    writeFileSync(this.#path("osd/keyring"), `[osd.0]\n\tkey = ${secret}\n`);
    this.#run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd);
    this.#daemon("ceph-osd", "-i", "0");
    this.#daemon("radosgw", "-n", "client.admin");
    await this.#answers();
    // Not before: pools are made when the service begins, and one maker is enough.
    const keys = ["--access-key", this.accessKeyId, "--secret-key", this.secretAccessKey];
    const user = ["--uid", "strata", "--display-name", "strata"];
    this.#run("radosgw-admin", "-n", "client.admin", "user", "create", ...user, ...keys);
  }

  async stop(): Promise<void> {
    for (const child of this.#children) {
      child.kill("SIGKILL");
    }
    for (const child of this.#children) {
      while (child.exitCode === null && child.signalCode === null) {
        await sleep(20);
      }
    }
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** For who has no time left. */
  stopAtOnce(): void {
    for (const child of this.#children) {
      child.kill("SIGKILL");
    }
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 20 });
  }

  /** The ends of what the daemons wrote. */
  logs(): string {
    const directory = this.#path("log");
    const tail = (name: string) =>
      readFileSync(join(directory, name), "utf8").split("\n").slice(-15).join("\n");
    return readdirSync(directory)
      .map((name) => `-- ${name}\n${tail(name)}`)
      .join("\n");
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  #configuration(fsid: string, monitorPort: number): string {
    const directory = this.#directory;
    // Without tcp_nodelay a small answer takes 40 ms; with `auth = none` radosgw never connects.
    const settings: Record<string, string | number> = {
      fsid,
      "mon host": `v2:127.0.0.1:${monitorPort}`,
      "public addr": "127.0.0.1",
      "run dir": directory,
      "admin socket": join(directory, "$name.asok"),
      "log file": join(directory, "log", "$name.log"),
      keyring: join(directory, "keyring"),
      "mon data": join(directory, "mon"),
      "osd data": join(directory, "osd"),
      "crash dir": join(directory, "crash"),
      "rgw data": join(directory, "rgw"),
      "osd objectstore": "memstore",
      "memstore device bytes": 2 * 1024 ** 3,
      "osd pool default size": 1,
      "osd pool default min size": 1,
      "osd crush chooseleaf type": 0,
      "osd pool default pg num": 8,
      "osd pool default pgp num": 8,
      "osd pool default pg autoscale mode": "off",
      "mon allow pool size one": "true",
      "mon max pg per osd": 1000,
      "mon data avail crit": 0,
      "rgw frontends": `beast endpoint=127.0.0.1:${this.#port} tcp_nodelay=1`,
    };
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
    return `[global]\n${lines.join("\n")}\n[osd]\nkeyring = ${join(directory, "osd", "keyring")}\n`;
  }

  #makeMonitor(fsid: string, port: number): void {
    const map = this.#path("monmap");
    const address = `[v2:127.0.0.1:${port}]`;
    this.#run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, map);
    const all = ["mon", "osd", "mds", "mgr"].flatMap((what) => ["--cap", what, "allow *"]);
    const keyring = this.#path("keyring");
    const create = ["--create-keyring", keyring, "--gen-key"];
    this.#run("ceph-authtool", ...create, "-n", "mon.", "--cap", "mon", "allow *");
    this.#run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", ...all);
    this.#run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map, "--keyring", keyring);
  }

  #run(program: string, ...args: string[]): string {
    const result = spawnSync(program, [...args, ...this.#settings(program)], {
      encoding: "utf8",
      timeout: READY_MS,
    });
    if (result.status !== 0) {
      const why = result.error?.message ?? `${result.stdout}${result.stderr}`.slice(-1000);
      throw new Error(`${program} ${args[0]}: ${why}`);
    }
    return result.stdout;
  }

  #daemon(program: string, ...args: string[]): void {
    const log = this.#settings(program);
    this.#children.push(spawn(program, ["-f", ...args, ...log], { stdio: "ignore" }));
  }

  #settings(program: string): string[] {
    const takesNone = ["ceph-authtool", "monmaptool"].includes(program);
    return takesNone ? [] : ["-c", this.#path("ceph.conf")];
  }

  async #answers(): Promise<void> {
    const until = performance.now() + READY_MS;
    for (;;) {
      const ended = this.#children.find((child) => child.exitCode !== null);
      if (ended !== undefined || performance.now() > until) {
        const what = ended === undefined ? "no answer in time" : `${ended.spawnfile} has ended`;
        throw new Error(`radosgw does not start: ${what}\n${this.logs()}`);
      }
      if (await isAnswering(this.endpoint)) {
        return;
      }
      await sleep(200);
    }
  }
}

function isAnswering(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get(url, { agent: false, timeout: 2000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on("timeout", () => request.destroy());
    request.on("error", () => resolve(false));
  });
}

function uuid(): string {
  const hex = randomBytes(16).toString("hex");
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-8$4-$5");
}

/** `env`: the credentials. */
export async function makeBucket(location: string, env: Record<string, string>): Promise<void> {
  const client = new S3Client(s3Configuration(location, env));
  const headers = { "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "content-length": "0" };
  const call = { doing: "make bucket", method: "PUT", key: "", headers, signal: undefined };
  await client.call(call, ({ exchange }) => exchange.read(10_000));
  client.close();
}

// The two servers that a suite is compared on: a Strata endpoint, and stock Postgres of the same binary and settings.

import { cpSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { installationLayout } from "../../src/compute/extensions/installation-layout.ts";
import {
  type Installation,
  postgresSocketDirectory,
  SUPERUSER,
} from "../../src/postgres/installation.ts";
import { TestCluster } from "../cluster.ts";
import { BranchRecovery } from "../redo/branch-recovery.ts";
import { StockCluster } from "../stock-cluster.ts";

/** Of both kinds: a suite cannot tell them apart by it. */
export interface TestedServer {
  readonly name: "stock" | "strata";
  /** Directory of its unix socket. */
  readonly host: string;
  readonly port: number;
  /** Of its postmaster, as long as that lives. */
  pid(): number;
  /** What its configuration file sets, without where it is to be reached. */
  readonly settings: Readonly<Record<string, string>>;
  stop(): Promise<void>;
}

export interface ServerOptions {
  readonly major: number;
  readonly settings: Readonly<Record<string, string>>;
  /** What an endpoint has without being told. */
  readonly stockSettings?: Readonly<Record<string, string>>;
  /** A limit such as `32MB` of what the endpoint's disk holds. */
  readonly localCache?: string | undefined;
  /** Extensions of the endpoint beside those of the installation, and the programs of stock Postgres that has them installed. */
  readonly extensionDir?: string | undefined;
  readonly stockBin?: string | undefined;
  /** Of the endpoint's home; default 1. */
  readonly safekeepers?: number;
}

export interface StrataServer extends TestedServer {
  /** With the endpoint `main`. */
  readonly cluster: TestCluster;
  readonly recovery: BranchRecovery;
}

export async function startStrata(options: ServerOptions): Promise<StrataServer> {
  // The commands of this home take it for their default.
  process.env["STRATA_PG_VERSION"] = `${options.major}`;
  const cluster = await TestCluster.create({ start: false, safekeepers: options.safekeepers ?? 1 });
  try {
    const recovery = await BranchRecovery.prepare(cluster, options.major);
    await cluster.ok("start");
    await cluster.ok("tenant", "create", "--set-default");
    const limit = options.localCache === undefined ? [] : ["--local-cache", options.localCache];
    const own = options.extensionDir === undefined ? [] : ["--extension-dir", options.extensionDir];
    await cluster.ok("endpoint", "create", "main", "--branch-name", "main", ...limit, ...own);
    cluster.setPostgres("main", options.settings);
    await cluster.ok("endpoint", "start", "main");
    const host = postgresSocketDirectory(join(cluster.home, "endpoints", "main"));
    const port = cluster.endpointSpec().pgPort;
    const settings = await configuredSettings(host, port);
    const stop = () => cluster[Symbol.asyncDispose]();
    const pid = () => cluster.pid("postgres-main");
    return { name: "strata", host, port, pid, settings, stop, cluster, recovery };
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

/** `options.settings` are those of the endpoint beside it. */
export async function startStock(options: ServerOptions): Promise<TestedServer> {
  const cluster = await StockCluster.create({
    pgMajor: options.major,
    pgBin: options.stockBin,
    // As our own initdb: names, collations and checksums are in outputs.
    initdbArgs: [
      `--username=${SUPERUSER}`,
      ...(options.major >= 17
        ? ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        : []),
      ...(options.major >= 18 ? ["--no-data-checksums"] : []),
    ],
    settings: Object.fromEntries(
      // What an endpoint has committed is on disk.
      Object.entries({ fsync: "on", ...options.settings, ...options.stockSettings }).map(
        ([name, value]) => [name, `'${value.replaceAll("'", "''")}'`],
      ),
    ),
  });
  try {
    await cluster.start();
    const host = cluster.workdir;
    const settings = await configuredSettings(host, STOCK_PORT);
    const pid = () => cluster.postmasterPid;
    const stop = () => cluster.destroy();
    return { name: "stock", host, port: STOCK_PORT, pid, settings, stop };
  } catch (error) {
    await cluster.destroy();
    throw error;
  }
}

/** A copy of the installation in `target`, into which the extensions of a directory are installed as `make install` would; its programs. */
export function installedBeside(
  installation: Installation,
  extensionDir: string,
  target: string,
): string {
  const { prefix, bin, share, lib } = installationLayout(installation);
  cpSync(prefix, target, { recursive: true, verbatimSymlinks: true });
  cpSync(join(extensionDir, "share"), join(target, share), { recursive: true });
  cpSync(join(extensionDir, "lib"), join(target, lib), { recursive: true });
  return join(target, bin);
}

const STOCK_PORT = 5432;

/** Where a server is to be reached, and names with a dot, which only Strata's library reads. */
const OWN_SETTINGS = /^(listen_addresses|port|unix_socket_.*|.*\..*)$/;

async function configuredSettings(host: string, port: number): Promise<Record<string, string>> {
  const client = new pg.Client({ host, port, user: SUPERUSER, database: "postgres" });
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string; setting: string }>(
      "SELECT name, setting FROM pg_file_settings WHERE applied ORDER BY seqno",
    );
    const shared = rows.filter(({ name }) => !OWN_SETTINGS.test(name));
    return Object.fromEntries(shared.map(({ name, setting }) => [name, setting]));
  } finally {
    await client.end();
  }
}

// A proxy in front of stock Postgres, with a control plane that is pretended: for tests of the proxy alone.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { createLogger } from "../../src/base/log.ts";
import { TlsCertificates } from "../../src/base/network/tls-certificates.ts";
import { type CertificatePaths, ensureCertificates } from "../../src/local/tls/certificates.ts";
import { scramSecret } from "../../src/postgres/scram.ts";
import { ControlPlaneClient } from "../../src/proxy/compute/control-plane.ts";
import { proxyRoutes } from "../../src/proxy/http.ts";
import type { ProxySettings } from "../../src/proxy/proxy-parts.ts";
import { ProxyServer } from "../../src/proxy/proxy-server.ts";
import { FrontHttp } from "../../src/proxy/serverless/front-http.ts";
import { freePort } from "../free-port.ts";
import { STOCK_USER, StockCluster } from "../stock-cluster.ts";
import { FakeControlPlane } from "./fake-control-plane.ts";

export const ENDPOINT = "ep-quiet-tree-a1b2c3d4";
export const HOST = `${ENDPOINT}.localtest.me`;
export const ROLE = "ann";
export const PASSWORD = "correct horse";

/** Stock Postgres that takes SCRAM over TCP, with a role that is known to both sides. */
export class ProxiedPostgres {
  readonly cluster: StockCluster;
  readonly port: number;

  private constructor(cluster: StockCluster, port: number) {
    this.cluster = cluster;
    this.port = port;
  }

  static async start(maxConnections = 100): Promise<ProxiedPostgres> {
    const port = await freePort();
    const cluster = await StockCluster.create({
      initdbArgs: ["--auth-host=scram-sha-256", "--auth-local=trust"],
      settings: {
        listen_addresses: "'127.0.0.1'",
        port: `${port}`,
        max_connections: `${maxConnections}`,
      },
    });
    await cluster.start();
    const postgres = new ProxiedPostgres(cluster, port);
    await postgres.sql(`CREATE ROLE ${ROLE} LOGIN PASSWORD '${PASSWORD}'`);
    await postgres.sql(`GRANT ALL ON SCHEMA public TO ${ROLE}`);
    return postgres;
  }

  /** As superuser, past the proxy. */
  async sql(text: string): Promise<pg.QueryResult> {
    const client = new pg.Client({
      host: this.cluster.workdir,
      port: this.port,
      user: STOCK_USER,
      database: "postgres",
    });
    await client.connect();
    try {
      return await client.query(text);
    } finally {
      await client.end();
    }
  }

  async secretOf(role: string): Promise<string> {
    const sql = `SELECT rolpassword FROM pg_authid WHERE rolname = '${role}'`;
    return String((await this.sql(sql)).rows[0]?.rolpassword ?? "");
  }
}

export class ProxyFixture {
  readonly directory = mkdtempSync(join(tmpdir(), "strata-proxy-"));
  readonly controlPlane = new FakeControlPlane();
  readonly postgres: ProxiedPostgres;
  tls!: CertificatePaths;
  proxy!: ProxyServer;
  port = 0;
  http!: FrontHttp;
  httpPort = 0;
  #address = "";
  readonly #clients: pg.Client[] = [];

  constructor(postgres: ProxiedPostgres) {
    this.postgres = postgres;
  }

  static async start(
    postgres: ProxiedPostgres,
    settings: Partial<ProxySettings> = {},
  ): Promise<ProxyFixture> {
    const fixture = new ProxyFixture(postgres);
    fixture.#address = await fixture.controlPlane.start();
    fixture.controlPlane.endpoints.set(ENDPOINT, {
      address: `127.0.0.1:${postgres.port}`,
      secrets: new Map([[ROLE, await postgres.secretOf(ROLE)]]),
    });
    fixture.tls = await ensureCertificates({ path: fixture.directory }, "localtest.me");
    await fixture.startProxy(settings);
    return fixture;
  }

  async startProxy(settings: Partial<ProxySettings> = {}): Promise<void> {
    const logger = createLogger("proxy", process.env["STRATA_LOG"] ?? "silent");
    this.proxy = new ProxyServer({
      controlPlane: new ControlPlaneClient(this.#address),
      certificates: new TlsCertificates([{ cert: this.tls.cert, key: this.tls.key }], logger),
      settings,
      logger,
      mockSeed: Buffer.alloc(32, 7),
    });
    this.port = await this.proxy.listen("127.0.0.1", 0);
    this.http = new FrontHttp({
      parts: this.proxy.parts,
      routes: proxyRoutes(this.proxy),
      listenHost: "127.0.0.1",
      allowedHosts: [],
    });
    this.httpPort = await this.http.listen("127.0.0.1", 0);
  }

  get ca(): string {
    return readFileSync(this.tls.caCert, "latin1");
  }

  /** For drivers of Neon's. */
  get url(): string {
    return `postgresql://${ROLE}:${encodeURIComponent(PASSWORD)}@${HOST}/postgres`;
  }

  /** `verify-full` with channel binding unless `overrides` say otherwise. */
  config(overrides: pg.ClientConfig = {}): pg.ClientConfig {
    return {
      host: "127.0.0.1",
      port: this.port,
      user: ROLE,
      password: PASSWORD,
      database: "postgres",
      ssl: { ca: this.ca, servername: HOST },
      enableChannelBinding: true,
      ...overrides,
    } as pg.ClientConfig;
  }

  /** Closed by `stop`. */
  async connect(overrides: pg.ClientConfig = {}): Promise<pg.Client> {
    const client = new pg.Client(this.config(overrides));
    client.on("error", () => {});
    this.#clients.push(client);
    await client.connect();
    return client;
  }

  async stop(): Promise<void> {
    this.proxy.parts.certificates?.close();
    await Promise.all([this.proxy.close(), this.http.close()]);
    await Promise.allSettled(this.#clients.map((client) => client.end()));
    await this.controlPlane.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** As for a role that Postgres does not have. */
export const anySecret = () => scramSecret("nobody's");

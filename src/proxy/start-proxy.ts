// Puts a proxy together from its options: certificates, the Postgres port, the HTTP port.

import { join } from "node:path";
import { collectDefaultMetrics } from "prom-client";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { isLoopback } from "../base/network/addresses.ts";
import { TlsCertificates } from "../base/network/tls-certificates.ts";
import { randomBytes } from "../base/random.ts";
import { parseHostPort } from "../postgres/wire/wire-client.ts";
import { ControlPlaneClient } from "./compute/control-plane.ts";
import { proxyRoutes } from "./http.ts";
import type { ProxySettings } from "./proxy-parts.ts";
import { ProxyServer } from "./proxy-server.ts";
import { FrontHttp } from "./serverless/front-http.ts";
import { TransferReports } from "./transfers.ts";

const SEED_BYTES = 32;

export interface ProxyOptions {
  readonly workdir: string;
  /** `host:port`. */
  readonly listenPg: string;
  readonly listenHttp: string;
  readonly allowedHosts: readonly string[];
  readonly controlPlane: string;
  /** File of the token for it, read at each call; absent: it asks for none. */
  readonly controlPlaneTokenFile?: string | undefined;
  /** PEM files; the keys in the same order. */
  readonly certificates: readonly string[];
  readonly keys: readonly string[];
  readonly settings: Partial<ProxySettings>;
  readonly logger: Logger;
}

export interface Proxy {
  readonly pgPort: number;
  readonly httpPort: number;
  stop(): Promise<void>;
}

/** StorageError `invalid` for options that do not fit together, `conflict` where a port is in use. */
export async function startProxy(options: ProxyOptions): Promise<Proxy> {
  const { logger } = options;
  const pg = parseHostPort(options.listenPg);
  const http = parseHostPort(options.listenHttp);
  const certificates = loadCertificates(options);
  if (certificates === undefined && !isLoopback(pg.host) && pg.host !== "localhost") {
    throw new StorageError(
      "invalid",
      "no-certificate",
      `--listen-pg ${options.listenPg} can be reached from elsewhere: it needs --tls-cert and --tls-key`,
    );
  }
  const controlPlane = new ControlPlaneClient(options.controlPlane, () => tokenOf(options));
  const server = new ProxyServer({
    controlPlane,
    certificates,
    settings: options.settings,
    logger,
    mockSeed: mockSeed(options.workdir),
  });
  collectDefaultMetrics({ register: server.parts.metrics.registry });
  const httpServer = new FrontHttp({
    parts: server.parts,
    routes: proxyRoutes(server),
    listenHost: http.host,
    allowedHosts: options.allowedHosts,
  });
  const { transfers } = server.parts;
  const reports = new TransferReports(
    transfers,
    (report) => controlPlane.reportTransfer(report),
    logger,
  );
  const pgPort = await server.listen(pg.host, pg.port);
  const httpPort = await httpServer.listen(http.host, http.port);
  reports.start();
  logger.info({ listenPg: options.listenPg, listenHttp: options.listenHttp }, "proxy listens");
  return {
    pgPort,
    httpPort,
    stop: async () => {
      certificates?.close();
      await Promise.all([server.close(), httpServer.close()]);
      await reports.stop();
    },
  };
}

function tokenOf({ controlPlaneTokenFile: file }: ProxyOptions): string | undefined {
  return file === undefined ? undefined : readFileIfExists(file)?.toString("latin1").trim();
}

function loadCertificates(options: ProxyOptions): TlsCertificates | undefined {
  const { certificates, keys, logger } = options;
  if (certificates.length !== keys.length) {
    throw new StorageError(
      "invalid",
      "bad-option",
      `${certificates.length} times --tls-cert, ${keys.length} times --tls-key: each needs the other`,
    );
  }
  return certificates.length === 0
    ? undefined
    : new TlsCertificates(
        certificates.map((cert, i) => ({ cert, key: keys[i]! })),
        logger,
      );
}

/** Kept, so that what is pretended of a role that is not there stays the same, as it does for those that are. */
function mockSeed(workdir: string): Uint8Array {
  const path = join(workdir, "mock.seed");
  const known = readFileIfExists(path);
  if (known?.length === SEED_BYTES) {
    return known;
  }
  const seed = randomBytes(SEED_BYTES);
  writeFileDurably(path, seed);
  return seed;
}

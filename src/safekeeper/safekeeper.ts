// A whole safekeeper: its timelines, both listeners and the broker publisher, put together.

import { mkdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { TokenVerifier } from "../base/auth/service-token.ts";
import { setRepeatingTimer } from "../base/clock.ts";
import { fsyncDirectory } from "../base/disk.ts";
import type { Logger } from "../base/log.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { authorizeBy } from "../http/authorize.ts";
import type { HttpLimits } from "../http/limits.ts";
import { HttpServer } from "../http/server.ts";
import type { ObjectStore } from "../object-store/object-store.ts";
import { parseHostPort } from "../postgres/wire/wire-client.ts";
import { WireServer } from "../postgres/wire/wire-server.ts";
import { BrokerClient } from "../storage-broker/client.ts";
import { BrokerPublisher } from "./broker-publisher.ts";
import { collectMetrics, safekeeperRoutes } from "./http.ts";
import { SafekeeperMetrics } from "./metrics.ts";
import { WalSender } from "./replication/wal-sender.ts";
import type { SafekeeperRouteOptions } from "./route-options.ts";
import { TimelineManager } from "./timeline-manager.ts";
import { DEFAULT_BACKUP_SETTINGS, type WalBackupSettings } from "./wal-backup/timeline-backup.ts";
import { WalBackup } from "./wal-backup/wal-backup.ts";
import { WalService } from "./wal-service.ts";

const MAINTENANCE_INTERVAL_MS = 1000;

export interface SafekeeperOptions {
  readonly nodeId: number;
  readonly workdir: string;
  /** `HOST:PORT`; port 0 takes a free one. */
  readonly listenPg: string;
  readonly listenHttp: string;
  /** `host:port`; absent: nobody is told. */
  readonly broker: string | undefined;
  /** Where WAL is kept for good; absent: nowhere but in the work directory. */
  readonly store?: ObjectStore | undefined;
  readonly backup?: WalBackupSettings;
  /** How often removal, backup and eviction are looked at; default 1000. */
  readonly maintenanceIntervalMs?: number;
  /** For a client's first command, and a proposer's greeting; defaults 60,000 and 10,000. */
  readonly startupTimeoutMs?: number | undefined;
  /** Names that HTTP callers may use beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[];
  readonly httpLimits?: Partial<HttpLimits>;
  /** Who connects, over HTTP or Postgres's protocol, must show it a token; absent: everybody may. */
  readonly callers?: TokenVerifier | undefined;
  /** With TLS, and without plain text, on addresses that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  readonly logger: Logger;
}

export interface Safekeeper {
  readonly pgAddr: string;
  readonly httpAddr: string;
  readonly timelines: TimelineManager;
  /** Ends connections, flushes and persists everything. */
  stop(): Promise<void>;
}

/** Resolves when both listeners accept connections. StorageError `conflict` for a port in use. */
export async function startSafekeeper(options: SafekeeperOptions): Promise<Safekeeper> {
  const { nodeId, logger } = options;
  makeDirectory(options.workdir);
  const metrics = new SafekeeperMetrics();
  let publisher: BrokerPublisher | undefined;
  const timelines = new TimelineManager(options.workdir, {
    nodeId,
    logger,
    metrics,
    store: options.store,
    onChange: (timeline) => publisher?.changed(timeline),
  });
  const { startupTimeoutMs, callers, certificates } = options;
  const service = new WalService(timelines, metrics, logger, startupTimeoutMs, callers);
  const backup = new WalBackup({
    nodeId,
    metrics,
    settings: options.backup ?? DEFAULT_BACKUP_SETTINGS,
    timelines: () => timelines.timelines,
    hasProposer: (timeline) => service.receiversOf(timeline).size > 0,
  });
  const wire = new WireServer(service, { startupTimeoutMs, certificates });
  const pg = parseHostPort(options.listenPg);
  const web = parseHostPort(options.listenHttp);
  const http = createHttpServer(options, web.host, {
    nodeId,
    timelines,
    metrics,
    backup,
    receiversOf: (timeline) => service.receiversOf(timeline),
  });
  let httpPort: number;
  let pgPort: number;
  try {
    // A port first: two processes must not share a work directory.
    httpPort = await http.listen(web.host, web.port);
    timelines.loadAll();
    pgPort = (await wire.listen(pg.host, pg.port)).port;
  } catch (error) {
    await http.close();
    await timelines.close();
    throw error;
  }
  const pgAddr = `${pg.host}:${pgPort}`;
  const httpAddr = `${web.host}:${httpPort}`;
  const broker =
    options.broker === undefined ? undefined : new BrokerClient(options.broker, logger);
  if (broker !== undefined) {
    publisher = new BrokerPublisher({ nodeId, pgAddr, httpAddr, broker, timelines });
    hearPeers(broker, nodeId, timelines);
  }
  const maintenance = setRepeatingTimer(() => {
    timelines.maintain();
    backup.tick();
    keepReadersAlive(timelines);
  }, options.maintenanceIntervalMs ?? MAINTENANCE_INTERVAL_MS);
  logger.info({ nodeId, pgAddr, httpAddr }, "safekeeper listens");
  return {
    pgAddr,
    httpAddr,
    timelines,
    async stop() {
      maintenance?.cancel();
      publisher?.close();
      broker?.close();
      await Promise.all([wire.close(), http.close(), backup.stop()]);
      await timelines.close();
    },
  };
}

function hearPeers(broker: BrokerClient, nodeId: number, timelines: TimelineManager): void {
  broker.subscribe({
    onInfo: (info) => {
      if (info.safekeeperId !== nodeId) {
        timelines.find(info.tenantId, info.timelineId)?.peerReported(info.safekeeperId, info);
      }
    },
  });
}

function keepReadersAlive(timelines: TimelineManager): void {
  for (const timeline of timelines.timelines) {
    for (const consumer of timeline.consumers) {
      if (consumer instanceof WalSender) {
        consumer.keepalive();
      }
    }
  }
}

/** Durably, with its parents. */
function makeDirectory(path: string): void {
  const first = mkdirSync(path, { recursive: true });
  if (first !== undefined) {
    for (let at = resolve(path); at.length >= resolve(first).length; at = dirname(at)) {
      fsyncDirectory(dirname(at));
    }
  }
}

function createHttpServer(
  options: SafekeeperOptions,
  listenHost: string,
  routeOptions: SafekeeperRouteOptions,
): HttpServer {
  const { metrics } = routeOptions;
  return new HttpServer({
    component: "safekeeper",
    routes: safekeeperRoutes(routeOptions),
    metrics: {
      contentType: metrics.registry.contentType,
      text: () => {
        collectMetrics(routeOptions);
        return metrics.text();
      },
    },
    logger: options.logger,
    listenHost,
    allowedHosts: options.allowedHosts,
    limits: options.httpLimits,
    authorize: authorizeBy(options.callers, "safekeeper"),
    certificates: options.certificates,
  });
}

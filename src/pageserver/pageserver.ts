// A whole pageserver: storage, page service, management API, WAL receivers. The process and tests use it.

import { Gauge } from "prom-client";
import type { TokenVerifier } from "../base/auth/service-token.ts";
import { readFileIfExists } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { authorizeBy } from "../http/authorize.ts";
import type { HttpLimits } from "../http/limits.ts";
import type { Route } from "../http/route.ts";
import { HttpServer } from "../http/server.ts";
import type { ObjectStore } from "../object-store/object-store.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import { parseHostPort } from "../postgres/wire/wire-client.ts";
import type { WireServer } from "../postgres/wire/wire-server.ts";
import { BrokerClient } from "../storage-broker/client.ts";
import { pageserverRoutes } from "./http.ts";
import { TimelineImports } from "./import/timeline-imports.ts";
import { InitdbTemplates } from "./ingest/initdb-import.ts";
import { type EvictionSettings, LayerEviction } from "./layer-eviction.ts";
import { createRegistry, IngestMetrics, PageServiceMetrics } from "./metrics.ts";
import { createPageService } from "./page-service.ts";
import { retentionRoutes } from "./retention/http.ts";
import { LayerUpkeep } from "./retention/layer-upkeep.ts";
import type { UpkeepSettings } from "./retention/tenant-config.ts";
import { ScrubLoop, type ScrubLoopSettings } from "./scrub-loop.ts";
import { LogicalSizes } from "./sizes/timeline-sizes.ts";
import type { StorageConfig } from "./storage/storage-resources.ts";
import { TenantManager } from "./storage/tenant-manager.ts";
import { TimelineCreation } from "./timeline-creation.ts";
import { WalReceivers } from "./wal-receivers.ts";

export interface PageserverOptions {
  readonly id: number;
  /** Exists; used by no other process. */
  readonly workdir: string;
  /** `host:port`; port 0 takes a free one. */
  readonly listenPg: string;
  readonly listenHttp: string;
  /** `host:port`; absent: no WAL is received. */
  readonly broker?: string | undefined;
  /** Major of root timelines whose request names none; default: 17. */
  readonly pgVersion?: number | undefined;
  /** Bin directory of another unmodified Postgres of that major. */
  readonly pgBin?: string | undefined;
  /** As `initdb --pwfile`: its first line is the superuser's password, or the SCRAM secret of it. */
  readonly initdbPasswordFile?: string | undefined;
  readonly logger: Logger;
  readonly storage?: Partial<StorageConfig>;
  /** Of tenants that have set nothing else. */
  readonly upkeep?: Partial<UpkeepSettings>;
  /** Where tenants live for good; absent: `workdir` is all there is. */
  readonly store?: ObjectStore | undefined;
  readonly eviction?: Partial<EvictionSettings>;
  readonly scrub?: Partial<ScrubLoopSettings>;
  readonly waitLsnTimeoutMs?: number;
  readonly ancestorWaitMs?: number;
  /** An import that nobody asks about for so long is broken off. */
  readonly importLeaseMs?: number;
  /** Names that HTTP callers may use beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[];
  readonly httpLimits?: Partial<HttpLimits>;
  /** Who connects, over HTTP or Postgres's protocol, must show it a token; absent: everybody may. */
  readonly callers?: TokenVerifier | undefined;
  /** With TLS, and without plain text, on addresses that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  /** Run initdb at the first start already. */
  readonly prepareTemplate?: boolean;
}

export class Pageserver {
  readonly pgPort: number;
  readonly httpPort: number;
  readonly tenants: TenantManager;
  readonly receivers: WalReceivers;
  readonly #pageService: WireServer;
  readonly #http: HttpServer;
  readonly #broker: BrokerClient | undefined;
  readonly #upkeep: LayerUpkeep;
  readonly #eviction: LayerEviction | undefined;
  readonly #scrubLoop: ScrubLoop | undefined;
  readonly #imports: TimelineImports;

  private constructor(parts: {
    pgPort: number;
    httpPort: number;
    tenants: TenantManager;
    receivers: WalReceivers;
    pageService: WireServer;
    http: HttpServer;
    broker: BrokerClient | undefined;
    upkeep: LayerUpkeep;
    eviction: LayerEviction | undefined;
    scrubLoop: ScrubLoop | undefined;
    imports: TimelineImports;
  }) {
    this.pgPort = parts.pgPort;
    this.httpPort = parts.httpPort;
    this.tenants = parts.tenants;
    this.receivers = parts.receivers;
    this.#pageService = parts.pageService;
    this.#http = parts.http;
    this.#broker = parts.broker;
    this.#upkeep = parts.upkeep;
    this.#eviction = parts.eviction;
    this.#scrubLoop = parts.scrubLoop;
    this.#imports = parts.imports;
  }

  /** StorageError `conflict` where a port is in use. */
  static async start(options: PageserverOptions): Promise<Pageserver> {
    const { logger, pgVersion = DEFAULT_MAJOR } = options;
    const registry = createRegistry();
    let tenants: TenantManager | undefined;
    let upkeep: LayerUpkeep | undefined;
    const pageService = createPageService({
      findTimeline: (tenantId, timelineId) => {
        if (tenants === undefined) {
          throw new StorageError("unavailable", "starting", "the pageserver is starting");
        }
        return tenants.timeline(tenantId, timelineId);
      },
      metrics: new PageServiceMetrics(registry),
      callers: options.callers,
      certificates: options.certificates,
      logger,
      ...(options.waitLsnTimeoutMs === undefined
        ? {}
        : { waitLsnTimeoutMs: options.waitLsnTimeoutMs }),
    });
    const pgAddress = parseHostPort(options.listenPg);
    // Before the tenants are opened, which removes unfinished files: a second process with the same
    // settings must not get that far.
    const { port: pgPort } = await pageService.listen(pgAddress.host, pgAddress.port);
    try {
      tenants = await TenantManager.open({
        workdir: options.workdir,
        logger,
        store: options.store,
        ...(options.storage === undefined ? {} : { config: options.storage }),
      });
      addStorageGauges(registry, tenants);
      const receivers = new WalReceivers(new IngestMetrics(registry), logger);
      const templates = new InitdbTemplates({
        workdir: options.workdir,
        ownMajor: pgVersion,
        pgBin: options.pgBin,
        superuserSecret: readSecret(options.initdbPasswordFile),
        logger,
      });
      upkeep = new LayerUpkeep(tenants, options.upkeep ?? {}, logger);
      const creation = new TimelineCreation(tenants, templates, receivers, options.ancestorWaitMs);
      const imports = new TimelineImports(tenants, receivers, logger, options.importLeaseMs);
      const parts = { tenants, receivers, creation, imports, sizes: new LogicalSizes() };
      const httpAddress = parseHostPort(options.listenHttp);
      const http = createHttpServer(options, registry, [
        ...pageserverRoutes({ id: options.id, pgVersion, ...parts }),
        ...retentionRoutes({ ...parts, upkeep }),
      ]);
      const httpPort = await http.listen(httpAddress.host, httpAddress.port);
      const broker = followBroker(options, tenants, receivers);
      if (options.prepareTemplate === true) {
        // So that the first tenant does not wait for initdb.
        templates.get(pgVersion).catch((error: unknown) => {
          logger.warn({ error }, "could not prepare the template of root timelines");
        });
      }
      const eviction =
        options.store &&
        new LayerEviction(tenants, options.workdir, options.eviction ?? {}, logger);
      return new Pageserver({
        pgPort,
        httpPort,
        tenants,
        receivers,
        pageService,
        http,
        broker,
        upkeep,
        eviction,
        scrubLoop: options.store && new ScrubLoop(tenants, options.scrub ?? {}, logger),
        imports,
      });
    } catch (error) {
      await pageService.close();
      await Promise.all([upkeep?.close(), tenants?.close({ flush: false })]);
      throw error;
    }
  }

  /** `flush`: what is in memory goes to disk first, so the next start has less WAL to take in. */
  async close(options: { flush: boolean }): Promise<void> {
    this.#broker?.close();
    await this.#imports.close();
    await this.receivers.close();
    await this.#http.close();
    await this.#pageService.close();
    await this.#eviction?.close();
    // Timelines that close end the compaction at work, and the store that closes the scrub.
    await Promise.all([
      this.#upkeep.close(),
      this.#scrubLoop?.close(),
      this.tenants.close(options),
    ]);
  }
}

function createHttpServer(
  options: PageserverOptions,
  registry: ReturnType<typeof createRegistry>,
  routes: readonly Route[],
): HttpServer {
  return new HttpServer({
    component: "pageserver",
    routes,
    metrics: { contentType: registry.contentType, text: () => registry.metrics() },
    logger: options.logger,
    listenHost: parseHostPort(options.listenHttp).host,
    allowedHosts: options.allowedHosts,
    limits: options.httpLimits,
    authorize: authorizeBy(options.callers, "pageserver"),
    certificates: options.certificates,
  });
}

function followBroker(
  options: PageserverOptions,
  tenants: TenantManager,
  receivers: WalReceivers,
): BrokerClient | undefined {
  for (const tenant of tenants.tenants) {
    for (const timeline of tenant.timelines) {
      receivers.start(timeline);
    }
  }
  if (options.broker === undefined) {
    return undefined;
  }
  const broker = new BrokerClient(options.broker, options.logger);
  broker.subscribe({
    onInfo: (info) =>
      receivers.update(info.tenantId, info.timelineId, {
        safekeeperId: info.safekeeperId,
        pgAddr: info.safekeeperConnstr,
        commitLsn: info.commitLsn,
        remoteConsistentLsn: info.remoteConsistentLsn,
      }),
  });
  return broker;
}

/** Read when metrics are asked for, so they cost nothing otherwise. */
function addStorageGauges(registry: ReturnType<typeof createRegistry>, tenants: TenantManager) {
  const timelines = () => tenants.tenants.flatMap((tenant) => tenant.timelines);
  const gauge = (name: string, help: string, value: () => number) => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  };
  gauge("pageserver_tenants", "Tenants", () => tenants.tenants.length);
  gauge("pageserver_timelines", "Timelines that are loaded", () => timelines().length);
  gauge("pageserver_timelines_broken", "Timelines that do not load", () =>
    tenants.tenants.reduce((sum, tenant) => sum + tenant.brokenTimelines.size, 0),
  );
  gauge("pageserver_resident_physical_size_bytes", "Bytes in layer files", () =>
    timelines().reduce((sum, timeline) => sum + timeline.physicalSizeBytes, 0),
  );
  gauge("pageserver_in_memory_layer_bytes", "Bytes that are not in layer files yet", () =>
    timelines().reduce((sum, timeline) => sum + timeline.memorySizeBytes, 0),
  );
}

/** StorageError `invalid` where the file cannot be used. */
function readSecret(path: string | undefined): string | undefined {
  if (path === undefined) {
    return undefined;
  }
  const secret = readFileIfExists(path)?.toString("utf8").split("\n")[0];
  if (secret === undefined || secret === "") {
    const problem = secret === undefined ? "no such file" : "its first line is empty";
    throw new StorageError("invalid", "bad-pwfile", `--initdb-pwfile ${path}: ${problem}`);
  }
  return secret;
}

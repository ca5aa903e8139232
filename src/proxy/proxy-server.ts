// The proxy's Postgres port: one address for all endpoints.

import { createServer, type Server, type Socket } from "node:net";
import { errnoCode, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { plainAddress } from "../base/network/addresses.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { CancelKeys } from "./client/cancel-keys.ts";
import { openClient } from "./client/client-opening.ts";
import { ClientSession } from "./client/client-session.ts";
import { FailedLogins } from "./client/failed-logins.ts";
import { LoginGate } from "./client/login-gate.ts";
import type { ControlPlaneClient } from "./compute/control-plane.ts";
import { RoleAccess } from "./compute/role-access.ts";
import { Computes } from "./compute/wake.ts";
import { ProxyMetrics } from "./metrics.ts";
import { Pools } from "./pooling/pools.ts";
import {
  DEFAULT_PROXY_SETTINGS,
  EndpointConnections,
  HalfOpenConnections,
  type ProxyParts,
  type ProxySettings,
} from "./proxy-parts.ts";
import { TransferCounts } from "./transfers.ts";

/** Waiting to be accepted; the kernel's own limit (net.core.somaxconn) may be lower. */
const BACKLOG = 4096;

export interface ProxyServerOptions {
  readonly controlPlane: Pick<ControlPlaneClient, "accessControl" | "tokenRules" | "wakeCompute">;
  /** Undefined: no TLS, and only connections of this machine. */
  readonly certificates: TlsCertificates | undefined;
  readonly settings?: Partial<ProxySettings>;
  readonly logger: Logger;
  /** Any bytes that stay secret; the same after a restart. */
  readonly mockSeed: Uint8Array;
}

export class ProxyServer {
  readonly parts: ProxyParts;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(options: ProxyServerOptions) {
    const settings = { ...DEFAULT_PROXY_SETTINGS, ...options.settings };
    const { controlPlane, certificates, logger, mockSeed } = options;
    const halfOpen = new HalfOpenConnections(settings.maxHalfOpen);
    this.parts = {
      settings,
      certificates,
      logger,
      halfOpen,
      gate: new LoginGate({
        roles: new RoleAccess(controlPlane, settings.accessKeepMs),
        computes: new Computes(controlPlane, settings.wakeTimeoutMs, logger),
        failedLogins: new FailedLogins(settings.failedLoginsPerMinute),
        logger,
        mockSeed,
      }),
      pools: new Pools(settings.pool),
      cancelKeys: new CancelKeys(),
      endpoints: new EndpointConnections(settings.maxConnectionsPerEndpoint),
      transfers: new TransferCounts(),
      metrics: new ProxyMetrics({
        open: () => this.#sockets.size,
        halfOpen: () => halfOpen.count,
      }),
    };
    this.#server = createServer({ noDelay: true }, (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.setKeepAlive(true, settings.keepAliveMs);
      const session = new ClientSession(
        { connection: socket, socket },
        clientAddress(socket),
        this.parts,
      );
      void session.run((onStream) => openClient(socket, { certificates, onStream }));
    });
    // Above it, connections are closed as they come, without a word.
    this.#server.maxConnections = settings.maxConnections;
  }

  /** Of clients; TLS, where there is any, is on top of them. */
  get sockets(): ReadonlySet<Socket> {
    return this.#sockets;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** The port; 0 takes a free one. StorageError `conflict` where the address is in use. */
  listen(host: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", (cause) => {
        const message = `port in use: ${host}:${port}`;
        reject(
          errnoCode(cause) === "EADDRINUSE"
            ? new StorageError("conflict", "port-in-use", message, { cause })
            : cause,
        );
      });
      this.#server.listen({ host, port, backlog: BACKLOG }, () => {
        const address = this.#server.address();
        resolve(typeof address === "object" && address !== null ? address.port : port);
      });
    });
  }

  /** Stops listening and ends every connection. */
  close(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    this.parts.pools.close();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}

export function clientAddress(socket: Pick<Socket, "remoteAddress">): string {
  return plainAddress(socket.remoteAddress ?? "");
}

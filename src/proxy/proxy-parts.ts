// What all connections of a proxy share: settings, limits, keys, and whom to ask.

import type { Duplex } from "node:stream";
import type { Logger } from "../base/log.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { ACCESS_KEEP_MS } from "./api.ts";
import type { CancelKeys } from "./client/cancel-keys.ts";
import type { LoginGate } from "./client/login-gate.ts";
import { clientError } from "./client/postgres-errors.ts";
import type { ProxyMetrics } from "./metrics.ts";
import type { Pools } from "./pooling/pools.ts";
import { DEFAULT_POOL_SETTINGS, type PoolSettings } from "./pooling/server-pool.ts";
import type { TransferCounts } from "./transfers.ts";

export interface ProxySettings {
  /** Host names are ENDPOINT.domain; the first is the one that messages name. */
  readonly domains: readonly string[];
  /** Also of clients of this machine. */
  readonly requireTls: boolean;
  readonly maxConnections: number;
  readonly maxConnectionsPerEndpoint: number;
  /** Connections that have not logged in; the oldest goes for one more. */
  readonly maxHalfOpen: number;
  /** From connecting to the last message of the login. */
  readonly loginTimeoutMs: number;
  /** From the login to Postgres being ready. */
  readonly wakeTimeoutMs: number;
  /** By address and endpoint. */
  readonly failedLoginsPerMinute: number;
  /** How long an answer about a role is used; not longer than ACCESS_KEEP_MS where changes are to hold at once. */
  readonly accessKeepMs: number;
  readonly keepAliveMs: number;
  readonly pool: PoolSettings;
}

export const DEFAULT_PROXY_SETTINGS: ProxySettings = {
  domains: ["localtest.me"],
  requireTls: false,
  maxConnections: 10_000,
  maxConnectionsPerEndpoint: 5000,
  maxHalfOpen: 1000,
  loginTimeoutMs: 30_000,
  wakeTimeoutMs: 60_000,
  failedLoginsPerMinute: 30,
  accessKeepMs: ACCESS_KEEP_MS,
  keepAliveMs: 60_000,
  pool: DEFAULT_POOL_SETTINGS,
};

export interface ProxyParts {
  readonly settings: ProxySettings;
  readonly certificates: TlsCertificates | undefined;
  readonly gate: LoginGate;
  readonly pools: Pools;
  readonly cancelKeys: CancelKeys;
  readonly halfOpen: HalfOpenConnections;
  readonly endpoints: EndpointConnections;
  readonly transfers: TransferCounts;
  readonly metrics: ProxyMetrics;
  readonly logger: Logger;
}

/**
 * Connections that have not logged in. A login takes milliseconds, so when there are too many, the oldest
 * is the one that nobody means: whoever opens thousands and says nothing keeps no others away.
 */
export class HalfOpenConnections {
  readonly #most: number;
  /** In the order in which they came. */
  readonly #sockets = new Set<Duplex>();

  constructor(most: number) {
    this.#most = most;
  }

  get count(): number {
    return this.#sockets.size;
  }

  add(socket: Duplex): void {
    this.#sockets.add(socket);
    if (this.#sockets.size > this.#most) {
      const oldest = this.#sockets.values().next().value!;
      this.#sockets.delete(oldest);
      oldest.destroy();
    }
  }

  delete(socket: Duplex): void {
    this.#sockets.delete(socket);
  }
}

/** How many clients each endpoint has. */
export class EndpointConnections {
  readonly #most: number;
  readonly #counts = new Map<string, number>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Returns what takes it back, once. StorageError 53300 where there are too many. */
  enter(endpoint: string): () => void {
    const count = this.#counts.get(endpoint) ?? 0;
    if (count >= this.#most) {
      throw clientError(
        "53300",
        "too-many-connections",
        `endpoint '${endpoint}' has ${count} connections through this proxy, as many as it may`,
      );
    }
    this.#counts.set(endpoint, count + 1);
    let inside = true;
    return () => {
      const left = (this.#counts.get(endpoint) ?? 0) - 1;
      if (!inside) {
        return;
      }
      inside = false;
      if (left <= 0) {
        this.#counts.delete(endpoint);
      } else {
        this.#counts.set(endpoint, left);
      }
    };
  }

  /** Endpoint to number of clients. */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }
}

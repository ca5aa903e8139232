// Puts the control plane's parts together and serves them.

import { join } from "node:path";
import { z } from "zod";
import { setRepeatingTimer, type Timer } from "../base/clock.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { type Route, route } from "../http/route.ts";
import { HttpServer } from "../http/server.ts";
import type { StrataHome } from "../local/home.ts";
import { Accounts, ensureOwnerKey } from "./accounts.ts";
import { accountRoutes } from "./api-v2/account.ts";
import { branchRoutes } from "./api-v2/branches.ts";
import { endpointRoutes } from "./api-v2/endpoints.ts";
import { deleteExpiredBranches } from "./api-v2/expiry.ts";
import type { Parts } from "./api-v2/lookup.ts";
import { seeObjectsOf } from "./api-v2/objects-seen.ts";
import { projectRoutes } from "./api-v2/projects.ts";
import { roleRoutes } from "./api-v2/roles.ts";
import { schemaRoutes } from "./api-v2/schema.ts";
import { unsupportedRoutes } from "./api-v2/unsupported.ts";
import type { FrontAddress } from "./api-v2/views.ts";
import { authorizeCaller } from "./authorize.ts";
import { Computes } from "./computes/computes.ts";
import { LocalProcesses } from "./computes/provider.ts";
import { SuspendLoop } from "./computes/suspend-loop.ts";
import { type Context, withHomeLocked } from "./context.ts";
import { Inventory } from "./inventory.ts";
import { computeKinds } from "./operations/compute-kinds.ts";
import { Operations, type StepHook } from "./operations/operations.ts";
import type { OperationKind } from "./operations/state-machine.ts";
import { storageKinds } from "./operations/storage-kinds.ts";
import { isProxyRequest, proxyError, proxyRoutes } from "./proxy-routes.ts";
import { SealedSecrets } from "./sealed-secrets.ts";
import { openDatabase } from "./state/database.ts";
import { sqliteDialect } from "./state/node-sqlite.ts";

const EXPIRY_INTERVAL_MS = 5000;

export interface ControlPlaneOptions {
  readonly home: StrataHome;
  /** Holds the state, the key of its secrets, and the owner's API key. */
  readonly workdir: string;
  readonly front: FrontAddress;
  readonly logger: Logger;
  /** Names that callers may use beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[] | undefined;
  /** For tests. */
  readonly stepHook?: StepHook;
}

export class ControlPlane {
  readonly parts: Parts;
  readonly accounts: Accounts;
  readonly #options: ControlPlaneOptions;
  readonly #suspendLoop: SuspendLoop;
  #server: HttpServer | undefined;
  #expiry: Timer | undefined;

  private constructor(options: ControlPlaneOptions, parts: Parts, accounts: Accounts) {
    this.#options = options;
    this.parts = parts;
    this.accounts = accounts;
    this.#suspendLoop = new SuspendLoop(parts, parts.computes, (endpoint) =>
      seeObjectsOf(parts, endpoint),
    );
  }

  static async open(options: ControlPlaneOptions): Promise<ControlPlane> {
    const { home, workdir, logger, front } = options;
    const db = await openDatabase(sqliteDialect(join(workdir, "state.db")));
    const secrets = SealedSecrets.open(join(workdir, "secret.key"));
    const context: Context = { home, db, secrets, logger };
    const accounts = new Accounts(db);
    await ensureOwnerKey(accounts, home.controlPlaneKeyFile());
    const inventory = new Inventory(context);
    const computes = new Computes(context, new LocalProcesses(home));
    const kinds = {
      ...storageKinds({ ...context, inventory, computes }),
      ...computeKinds({ ...context, computes }),
    };
    const machines = Object.values(kinds) as unknown as OperationKind<never>[];
    const operations = new Operations(context, machines, options.stepHook);
    const parts = { ...context, inventory, computes, operations, kinds, front };
    return new ControlPlane(options, parts, accounts);
  }

  /**
   * Operations that a crash left go on meanwhile. Port 0 takes a free one. StorageError `invalid` for an address that
   * others can reach: keys and passwords are in the clear here.
   */
  async listen(host: string, port: number): Promise<number> {
    if (!/^(?:127\.\d+\.\d+\.\d+|::1|localhost)$/.test(host)) {
      throw new StorageError(
        "invalid",
        "not-loopback",
        `the control plane does not listen on ${host}: API keys would travel in the clear; let it listen on 127.0.0.1, and a server with TLS in front of it`,
      );
    }
    const { logger, allowedHosts } = this.#options;
    this.#server = new HttpServer({
      component: "control_plane",
      routes: controlPlaneRoutes(this.parts, this.accounts),
      metrics: { contentType: "text/plain; version=0.0.4", text: () => "" },
      logger,
      listenHost: host,
      allowedHosts,
      authorize: (request, scope, found) => authorizeCaller(this.accounts, request, scope, found),
      errorBody: (error, id, request) =>
        isProxyRequest(request) ? proxyError(error) : neonError(error, id),
    });
    this.#suspendLoop.start();
    this.#expiry = setRepeatingTimer(() => void this.#deleteExpired(), EXPIRY_INTERVAL_MS);
    const bound = await this.#server.listen(host, port);
    void this.#resume();
    return bound;
  }

  /** Who starts the services has the home locked until the storage answers: before that, steps would only fail. */
  async #resume(): Promise<void> {
    const { home, logger } = this.#options;
    try {
      await withHomeLocked(home, async () => {});
    } catch (error) {
      logger.warn({ error }, "the home stays locked; operations of before go on nevertheless");
    }
    try {
      await this.parts.operations.resume();
    } catch (error) {
      logger.error({ error }, "operations of before could not be gone on with");
    }
  }

  async #deleteExpired(): Promise<void> {
    try {
      await deleteExpiredBranches(this.parts);
    } catch (error) {
      this.#options.logger.warn({ error }, "could not look for expired branches");
    }
  }

  /** What it was doing goes on at its next start. */
  async close(): Promise<void> {
    this.#suspendLoop.stop();
    this.#expiry?.cancel();
    this.parts.operations.stop();
    await this.#server?.close();
    await this.parts.db.destroy();
  }
}

export function controlPlaneRoutes(parts: Parts, accounts: Accounts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/status",
        summary: "Whether it answers.",
        scope: "public",
        answer: z.object({}),
      },
      () => ({}),
    ),
    ...projectRoutes(parts),
    ...branchRoutes(parts),
    ...endpointRoutes(parts),
    ...roleRoutes(parts),
    ...accountRoutes(parts, accounts),
    ...schemaRoutes(parts),
    ...proxyRoutes(parts),
    ...unsupportedRoutes(),
  ];
}

/** As Neon's clients read it. */
function neonError(error: unknown, requestId: string) {
  const code = error instanceof StorageError ? error.code.toUpperCase().replaceAll("-", "_") : "";
  return { request_id: requestId, code, message: errorMessage(error) };
}

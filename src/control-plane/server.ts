// Puts the control plane's parts together and serves them.

import { join } from "node:path";
import { z } from "zod";
import { setRepeatingTimer, type Timer } from "../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { isLoopback } from "../base/network/addresses.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { errorBody } from "../http/http-errors.ts";
import { type Route, route } from "../http/route.ts";
import { HttpServer } from "../http/server.ts";
import { WarmAgents } from "../local/agents/warm-agents.ts";
import type { StrataHome } from "../local/home.ts";
import { withHomeLocked } from "../local/lock.ts";
import { renewDaily } from "../local/tls/renewal.ts";
import { AccessAnswers } from "./access-answers.ts";
import { Accounts, ensureKey } from "./accounts.ts";
import { accountRoutes } from "./api-v2/account.ts";
import { branchRoutes } from "./api-v2/branches.ts";
import { consumptionRoutes } from "./api-v2/consumption.ts";
import { deletedProjectRoutes, purgeDeletedProjects } from "./api-v2/deleted-projects.ts";
import { endpointRoutes } from "./api-v2/endpoints.ts";
import { deleteExpiredBranches } from "./api-v2/expiry.ts";
import { jwksRoutes } from "./api-v2/jwks.ts";
import type { Parts } from "./api-v2/lookup.ts";
import { NewBranchRoles } from "./api-v2/new-branch-roles.ts";
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
import { treeRoutes } from "./console/branch-tree.ts";
import { Changes } from "./console/changes.ts";
import { ConsoleBuild } from "./console/console-build.ts";
import { Logs } from "./console/log-routes.ts";
import { Monitoring } from "./console/monitoring.ts";
import { pageRoutes } from "./console/page-routes.ts";
import { type SessionPort, sessionRoutes } from "./console/session-routes.ts";
import { Sessions } from "./console/sessions.ts";
import { sqlRoutes } from "./console/sql-routes.ts";
import { startRoutes } from "./console/start-routes.ts";
import { storageRoutes } from "./console/storage-routes.ts";
import { Meter } from "./consumption/meter.ts";
import { type Context, newUuid } from "./context.ts";
import { homeRoutes, isHomeRequest } from "./home-routes.ts";
import { Inventory } from "./inventory.ts";
import { Claims } from "./operations/claims.ts";
import { computeKinds } from "./operations/compute-kinds.ts";
import { deletionKinds } from "./operations/deletion-kinds.ts";
import { Operations, type StepHook } from "./operations/operations.ts";
import { schemaKinds } from "./operations/schema-branch.ts";
import type { OperationKind } from "./operations/state-machine.ts";
import { storageKinds } from "./operations/storage-kinds.ts";
import { isProxyRequest, proxyError, proxyRoutes } from "./proxy-routes.ts";
import { SealedSecrets } from "./sealed-secrets.ts";
import { type Database, openDatabase, serialized } from "./state/database.ts";
import { sqliteDialect } from "./state/node-sqlite.ts";
import { openPostgres } from "./state/postgres.ts";

const EXPIRY_INTERVAL_MS = 5000;
const METER_INTERVAL_MS = 15_000;

export interface ControlPlaneOptions {
  readonly home: StrataHome;
  /** Holds the state, the key of its secrets, and the owner's API key. */
  readonly workdir: string;
  readonly front: FrontAddress;
  readonly logger: Logger;
  /** Names that callers may use beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[] | undefined;
  /** With TLS, and without plain text, on an address that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  /** How many agents wait for an endpoint; none where it is absent. */
  readonly warmAgents?: number | undefined;
  /** Of a Postgres that keeps the state; absent: `state.db` in `workdir`. */
  readonly databaseUrl?: string | undefined;
  /** For tests: how long another control plane must be silent before its operations are taken over. */
  readonly leaseMs?: number;
  /** For tests. */
  readonly stepHook?: StepHook;
}

interface OwnParts {
  readonly warmAgents: WarmAgents;
  readonly claims: Claims;
  readonly meter: Meter;
}

export class ControlPlane {
  readonly parts: Parts;
  readonly accounts: Accounts;
  readonly meter: Meter;
  readonly #sessions: Sessions;
  readonly #changes: Changes;
  readonly #logs: Logs;
  readonly #monitoring: Monitoring;
  readonly #options: ControlPlaneOptions;
  readonly #suspendLoop: SuspendLoop;
  readonly #warmAgents: WarmAgents;
  readonly #claims: Claims;
  #server: HttpServer | undefined;
  #expiry: Timer | undefined;
  #meterTimer: Timer | undefined;
  #renewal: Timer | undefined;

  private constructor(
    options: ControlPlaneOptions,
    parts: Parts,
    accounts: Accounts,
    { warmAgents, claims, meter }: OwnParts,
  ) {
    this.#options = options;
    this.meter = meter;
    this.#warmAgents = warmAgents;
    this.parts = parts;
    this.accounts = accounts;
    this.#sessions = new Sessions(parts.db);
    this.#changes = new Changes(parts);
    this.#logs = new Logs(parts);
    this.#monitoring = new Monitoring(parts);
    this.#claims = claims;
    this.#suspendLoop = new SuspendLoop(parts, parts.computes, () => claims.isFirst());
  }

  static async open(options: ControlPlaneOptions): Promise<ControlPlane> {
    const { home, workdir, logger, front } = options;
    const { databaseUrl } = options;
    const db =
      databaseUrl === undefined
        ? await openDatabase(sqliteDialect(join(workdir, "state.db")))
        : await openPostgres(databaseUrl, logger);
    const keyFile = join(workdir, "secret.key");
    const secrets = SealedSecrets.open(keyFile);
    if (databaseUrl !== undefined) {
      await requireSameKey(db, secrets, keyFile);
    }
    const context: Context = { home, db, secrets, logger };
    const accounts = new Accounts(db);
    const owner = { name: "owner of this home", scope: "all" } as const;
    await ensureKey(accounts, home.controlPlaneKeyFile(), owner);
    const proxy = { name: "proxy of this home", scope: "proxy" } as const;
    await ensureKey(accounts, home.proxyKeyFile(), proxy);
    const inventory = new Inventory(context);
    const directory = home.endpointsDirectory();
    const warmAgents = new WarmAgents({ size: options.warmAgents ?? 0, directory, logger });
    const meter = new Meter({ ...context, inventory });
    const computes = new Computes(
      context,
      new LocalProcesses(home, warmAgents, logger),
      async (endpoint) => {
        // Its processes tell nothing any more once they have ended.
        await meter.look({ withSizes: false }).catch((error: unknown) => {
          logger.warn({ endpoint: endpoint.id, error }, "its use could not be counted");
        });
        await seeObjectsOf(parts, endpoint);
      },
    );
    const isAlone = databaseUrl === undefined;
    const access = new AccessAnswers({ isAlone });
    const kinds = {
      ...storageKinds({ ...context, inventory, computes, access }),
      ...deletionKinds({ ...context, inventory, computes, access }),
      ...schemaKinds({ ...context, inventory, computes, access }),
      ...computeKinds({ ...context, computes, access }),
    };
    const claims = new Claims(db, lastingId(join(workdir, "control_plane.id")), {
      leaseMs: options.leaseMs,
      isAlone,
    });
    const machines = Object.values(kinds) as unknown as OperationKind<never>[];
    const operations = new Operations(context, machines, claims, options.stepHook);
    const parts: Parts = {
      ...context,
      inventory,
      computes,
      operations,
      access,
      newBranchRoles: new NewBranchRoles(),
      kinds,
      front,
    };
    return new ControlPlane(options, parts, accounts, { warmAgents, claims, meter });
  }

  /**
   * Operations that a crash left go on meanwhile. Port 0 takes a free one. StorageError `invalid` for an address that
   * others can reach without a certificate: keys and passwords are in the clear there, on whatever network.
   */
  async listen(host: string, port: number): Promise<number> {
    const { logger, allowedHosts, certificates } = this.#options;
    if (!isLoopback(host) && certificates === undefined) {
      throw new StorageError(
        "invalid",
        "not-loopback",
        `the control plane does not listen on ${host} in plain text: API keys would travel in the clear; without "plaintextNetwork" it has a certificate, or let it listen on 127.0.0.1, and a server with TLS in front of it`,
      );
    }
    let bound = port;
    this.#server = new HttpServer({
      component: "control_plane",
      routes: [
        ...controlPlaneRoutes(this.parts, this.accounts),
        ...this.#consoleRoutes({ number: () => bound, isEncrypted: !isLoopback(host) }),
      ],
      metrics: { contentType: "text/plain; version=0.0.4", text: () => "" },
      logger,
      listenHost: host,
      allowedHosts,
      certificates,
      authorize: (request, scope, found) =>
        authorizeCaller(
          { accounts: this.accounts, sessions: this.#sessions },
          request,
          scope,
          found,
        ),
      errorBody: (error, id, request) =>
        isProxyRequest(request)
          ? proxyError(error)
          : isHomeRequest(request)
            ? errorBody(error, id)
            : neonError(error, id),
    });
    this.#suspendLoop.start();
    this.#expiry = setRepeatingTimer(() => void this.#deleteExpired(), EXPIRY_INTERVAL_MS);
    this.#meterTimer = setRepeatingTimer(() => void this.#count(), METER_INTERVAL_MS);
    this.#renewal = renewDaily(this.#options.home, logger);
    bound = await this.#server.listen(host, port);
    this.parts.operations.start();
    void this.#resume();
    this.#warmAgents.fillSoon();
    return bound;
  }

  #consoleRoutes(port: SessionPort): Route[] {
    return [
      ...sessionRoutes(this.#sessions, this.accounts, port, this.#options.front),
      ...treeRoutes(this.parts),
      ...sqlRoutes(this.parts),
      ...storageRoutes(this.parts),
      ...startRoutes(this.parts),
      ...this.#changes.routes(),
      ...this.#logs.routes(),
      ...this.#monitoring.routes(),
      ...pageRoutes(new ConsoleBuild(this.#options.logger)),
    ];
  }

  /** Who starts the services has the home locked until the storage answers: before that, steps would only fail. */
  async #resume(): Promise<void> {
    const { home, logger } = this.#options;
    try {
      await withHomeLocked(home, async () => {});
    } catch (error) {
      logger.warn({ error }, "the home stays locked; operations of before go on nevertheless");
    }
    // What is made from now on counts from its beginning.
    void this.#count();
    try {
      await this.parts.operations.resume();
    } catch (error) {
      logger.error({ error }, "operations of before could not be gone on with");
    }
  }

  async #deleteExpired(): Promise<void> {
    if (!this.#claims.isFirst()) {
      return;
    }
    try {
      await deleteExpiredBranches(this.parts);
      await purgeDeletedProjects(this.parts);
    } catch (error) {
      this.#options.logger.warn({ error }, "could not look for what has expired");
    }
  }

  async #count(): Promise<void> {
    if (!this.#claims.isFirst()) {
      return;
    }
    try {
      await this.meter.look();
    } catch (error) {
      this.#options.logger.warn(
        { error },
        "what projects use could not be counted; the next look has it",
      );
    }
  }

  /** What it was doing goes on at its next start. */
  async close(): Promise<void> {
    this.#suspendLoop.stop();
    this.#expiry?.cancel();
    this.#meterTimer?.cancel();
    this.#renewal?.cancel();
    this.parts.operations.stop();
    this.#changes.close();
    this.#logs.close();
    this.#monitoring.close();
    await this.#server?.close();
    await this.#warmAgents.close();
    await this.parts.operations.leave();
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
    ...deletedProjectRoutes(parts),
    ...branchRoutes(parts),
    ...endpointRoutes(parts),
    ...roleRoutes(parts),
    ...accountRoutes(parts, accounts),
    ...consumptionRoutes(parts),
    ...schemaRoutes(parts),
    ...jwksRoutes(parts),
    ...proxyRoutes(parts),
    ...homeRoutes(parts),
    ...unsupportedRoutes(),
  ];
}

/** Of this control plane, for good: it goes on at once with what a life before this one had begun. */
function lastingId(file: string): string {
  const known = readFileIfExists(file)?.toString("utf8").trim();
  if (known !== undefined && /^[0-9a-f-]{36}$/.test(known)) {
    return known;
  }
  const id = newUuid();
  writeFileDurably(file, `${id}\n`);
  return id;
}

/** StorageError `invalid` where the passwords in the database are sealed with another key than this workdir has. */
async function requireSameKey(db: Database, secrets: SealedSecrets, file: string): Promise<void> {
  const fingerprint = secrets.fingerprint();
  await serialized(db, async (transaction) => {
    const known = await transaction.selectFrom("secret_key").selectAll().executeTakeFirst();
    if (known === undefined) {
      await transaction.insertInto("secret_key").values({ fingerprint }).execute();
    } else if (known.fingerprint !== fingerprint) {
      const message = `the passwords in this database are sealed with another key than ${file}: copy the one of its other control plane`;
      throw new StorageError("invalid", "other-key", message);
    }
  });
}

/** As Neon's clients read it. */
function neonError(error: unknown, requestId: string) {
  const code = error instanceof StorageError ? error.code.toUpperCase().replaceAll("-", "_") : "";
  return { request_id: requestId, code, message: errorMessage(error) };
}

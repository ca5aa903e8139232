// Wakes and suspends endpoints: one thing at a time each, and many who want it awake wake it once.

import { monotonicMs, nowMs } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Context } from "../context.ts";
import { nowText } from "../inventory.ts";
import { recordFinished } from "../operations/operation-log.ts";
import type { BranchRow, EndpointRow } from "../state/tables.ts";
import { applyChanges } from "./postgres-objects.ts";
import { PreparedEndpoints } from "./prepared-endpoints.ts";
import type { HostPort, LocalProcesses } from "./provider.ts";

export interface Woken extends HostPort {
  /** It ran already; an agent took it over that waited for one; neither. In the words of Neon's proxy. */
  readonly coldStart: "warm" | "pool_hit" | "pool_miss";
}

interface Waking {
  readonly woken: Promise<Woken>;
  /** Resolves when an agent has been told to start it, where one has to be. */
  readonly told: Promise<void>;
}

/** While its Postgres still runs: notes what it cannot be asked while it sleeps. */
export type BeforeSuspend = (endpoint: EndpointRow) => Promise<void>;

export interface WakeOptions {
  /** An operation tells of it. */
  readonly isNoted?: boolean;
  readonly underWay?: () => void;
}

export interface SuspendOptions {
  /** An operation tells of it. */
  readonly isNoted?: boolean;
  /** Asked when its turn has come. */
  readonly still?: () => Promise<boolean>;
}

export class Computes {
  readonly provider: LocalProcesses;
  readonly prepared: PreparedEndpoints;
  readonly #context: Context;
  readonly #before: BeforeSuspend;
  /** By endpoint: the last of what is done with it one after the other. */
  readonly #queues = new Map<string, Promise<unknown>>();
  readonly #waking = new Map<string, Waking>();
  /** Of those that are being woken, the ones that did not run. */
  readonly #starting = new Set<string>();
  /** By endpoint: resolves when it sleeps and that is noted. */
  readonly #suspending = new Map<string, Promise<void>>();
  /** Who has just been told an address is about to connect. */
  readonly #wantedAtMs = new Map<string, number>();

  constructor(context: Context, provider: LocalProcesses, before: BeforeSuspend) {
    this.#context = context;
    this.#before = before;
    this.provider = provider;
    this.prepared = new PreparedEndpoints(provider, (id, options) => this.wake(id, options));
  }

  /**
   * Its address, once Postgres accepts connections there; a suspension that is under way ends first. StorageError
   * `not-found` for an endpoint that is not there, `invalid` for a disabled one. `isNoted`: an operation tells of it.
   * `underWay`: called when an agent has been told to start it, where one has to be.
   */
  wake(id: string, { isNoted = false, underWay }: WakeOptions = {}): Promise<Woken> {
    this.#wantedAtMs.set(id, monotonicMs());
    let waking = this.#waking.get(id);
    if (waking === undefined) {
      const told = Promise.withResolvers<void>();
      const woken = this.#inTurn(id, () => this.#wake(id, isNoted, told.resolve)).finally(() => {
        this.#waking.delete(id);
        this.#wantedAtMs.set(id, monotonicMs());
      });
      waking = { woken, told: told.promise };
      this.#waking.set(id, waking);
    }
    void waking.told.then(underWay);
    return waking.woken;
  }

  /** As endpointView takes it. One that is suspended runs until that is noted: who sees it asleep finds all that tells of it. */
  stateOf(id: string): { readonly isRunning: boolean; readonly isStarting: boolean } {
    const isRunning = this.provider.isRunning(id) || this.#suspending.has(id);
    return { isRunning, isStarting: this.#starting.has(id) };
  }

  /** Waits for a suspension that is under way; whether there was one. */
  async suspended(id: string): Promise<boolean> {
    const suspending = this.#suspending.get(id);
    await suspending;
    return suspending !== undefined;
  }

  /** Somebody waits for its address. */
  isWaking(id: string): boolean {
    return this.#waking.has(id);
  }

  /** Milliseconds since somebody asked for its address; infinite where nobody did in this process's life. */
  sinceWantedMs(id: string): number {
    return monotonicMs() - (this.#wantedAtMs.get(id) ?? -Infinity);
  }

  /** Whether it was; not where it does not run. */
  suspend(
    id: string,
    { isNoted = false, still = async () => true }: SuspendOptions = {},
  ): Promise<boolean> {
    return this.#inTurn(id, async () => {
      if (!this.provider.isRunning(id)) {
        return false;
      }
      const isSeen = await this.#see(id);
      // Between a first look and its turn somebody may have come.
      if (!(await still())) {
        return false;
      }
      const { promise: noted, resolve } = Promise.withResolvers<void>();
      this.#suspending.set(id, noted);
      try {
        await this.#stop(id, { isNoted, isSeen });
      } finally {
        this.#suspending.delete(id);
        resolve();
      }
      return true;
    });
  }

  async #stop(
    id: string,
    { isNoted, isSeen }: { readonly isNoted: boolean; readonly isSeen: boolean },
  ): Promise<void> {
    const started = nowMs();
    await this.provider.stop(id);
    // Else what is known of its roles may be old.
    await this.#change(id, { suspended_at: isSeen ? nowText() : null });
    if (!isNoted) {
      await this.#record(id, "suspend_compute", started);
    }
  }

  /** Whatever runs on it ends. */
  destroy(id: string): Promise<void> {
    return this.#inTurn(id, () => this.provider.destroy(id));
  }

  /** One after the other for an endpoint; what failed is nobody else's matter. */
  #inTurn<T>(id: string, body: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(id) ?? Promise.resolve();
    const mine = before.then(body, body);
    const settled = mine.then(
      () => undefined,
      () => undefined,
    );
    this.#queues.set(id, settled);
    void settled.then(() => {
      if (this.#queues.get(id) === settled) {
        this.#queues.delete(id);
      }
    });
    return mine;
  }

  async #wake(id: string, isNoted: boolean, underWay: () => void): Promise<Woken> {
    const { db } = this.#context;
    const row = await db
      .selectFrom("endpoints")
      .selectAll()
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined || !this.provider.exists(id)) {
      throw new StorageError("not-found", "no-endpoint", `endpoint ${id} not found`);
    }
    if (row.disabled === 1) {
      throw new StorageError("invalid", "endpoint-disabled", `endpoint ${id} is disabled`);
    }
    let coldStart: Woken["coldStart"] = "warm";
    if (!(await this.provider.joins(id))) {
      const started = nowMs();
      const { isFromPool } = await this.#start(id, underWay);
      coldStart = isFromPool ? "pool_hit" : "pool_miss";
      await this.#change(id, { started_at: nowText() });
      if (!isNoted) {
        await this.#record(id, "start_compute", started);
      }
    }
    await this.#configureIfNeeded(row);
    return { ...this.provider.address(id), coldStart };
  }

  async #start(id: string, underWay: () => void): ReturnType<LocalProcesses["start"]> {
    this.#starting.add(id);
    try {
      return await this.provider.start(id, underWay);
    } finally {
      this.#starting.delete(id);
    }
  }

  /** Roles and databases that the branch is to have and may not. Who connects does not wait for a failure's end. */
  async #configureIfNeeded(endpoint: EndpointRow): Promise<void> {
    const { db, logger } = this.#context;
    const branch = await db
      .selectFrom("branches")
      .selectAll()
      .where("id", "=", endpoint.branch_id)
      .executeTakeFirst();
    if (branch?.needs_configure !== 1 || endpoint.type !== "read_write") {
      return;
    }
    try {
      await this.configure(endpoint.id, branch);
    } catch (error) {
      logger.error({ endpoint: endpoint.id, error }, "roles and databases could not be brought in");
    }
  }

  /** All roles and databases of the branch, into its Postgres, which runs. */
  async configure(id: string, branch: Pick<BranchRow, "id">): Promise<void> {
    const { db } = this.#context;
    const roles = await db
      .selectFrom("roles")
      .selectAll()
      .where("branch_id", "=", branch.id)
      .execute();
    const databases = await db
      .selectFrom("databases")
      .selectAll()
      .where("branch_id", "=", branch.id)
      .execute();
    await applyChanges(this.provider.agent(id), {
      roles: roles.map(({ name, verifier, no_login }) => ({
        name,
        verifier,
        noLogin: no_login === 1,
      })),
      databases: databases.map(({ name, owner_name }) => ({ name, owner: owner_name })),
    });
    await db
      .updateTable("branches")
      .set({ needs_configure: 0 })
      .where("id", "=", branch.id)
      .execute();
  }

  /** Whether all is noted. That it cannot be, as its agent does not answer, keeps nothing awake. */
  async #see(id: string): Promise<boolean> {
    const { db, logger } = this.#context;
    try {
      const endpoints = db.selectFrom("endpoints").selectAll().where("id", "=", id);
      const row = await endpoints.executeTakeFirst();
      if (row !== undefined) {
        await this.#before(row);
      }
      return true;
    } catch (error) {
      logger.info({ endpoint: id, reason: errorMessage(error) }, "suspended without a last look");
      return false;
    }
  }

  async #change(id: string, values: Partial<EndpointRow>): Promise<void> {
    await this.#context.db.updateTable("endpoints").set(values).where("id", "=", id).execute();
  }

  /** What the API lists as done; that it cannot be noted does not undo it. */
  async #record(id: string, action: "start_compute" | "suspend_compute", startedMs: number) {
    try {
      await recordFinished(this.#context.db, { endpointId: id, action, startedMs });
    } catch (error) {
      this.#context.logger.warn({ endpoint: id, reason: errorMessage(error) }, "not noted");
    }
  }
}

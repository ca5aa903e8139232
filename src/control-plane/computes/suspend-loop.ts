// Scale to zero: suspends endpoints on which nothing has happened for their suspend timeout.

import { monotonicMs, nowMs, setRepeatingTimer, type Timer } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { Context } from "../context.ts";
import type { EndpointRow } from "../state/tables.ts";
import type { Computes } from "./computes.ts";

/** What 0 means. */
export const DEFAULT_SUSPEND_TIMEOUT_SECONDS = 300;
const CHECK_INTERVAL_MS = 1000;
/** Who was just told an address connects in this time, or asks again. */
const CONNECT_GRACE_MS = 5000;
/** How often an agent is asked: a look costs its Postgres a session. */
const QUESTIONS_MS = { least: 1000, most: 30_000 };

/** One that was asleep is looked at again after this. */
const ASLEEP_MS = 3000;

export class SuspendLoop {
  readonly #context: Context;
  readonly #computes: Computes;
  /** One of those that share the home does it. */
  readonly #isMine: () => boolean;
  /** By endpoint: when it is asked again, on the monotonic clock. */
  readonly #nextLookMs = new Map<string, number>();
  readonly #timeouts = new Map<string, number>();
  readonly #suspending = new Set<string>();
  #timer: Timer | undefined;
  #busy = false;

  constructor(context: Context, computes: Computes, isMine: () => boolean = () => true) {
    this.#isMine = isMine;
    this.#context = context;
    this.#computes = computes;
  }

  start(): void {
    this.#timer = setRepeatingTimer(() => void this.#tick(), CHECK_INTERVAL_MS);
  }

  stop(): void {
    this.#timer?.cancel();
  }

  async #tick(): Promise<void> {
    if (this.#busy || !this.#isMine()) {
      return;
    }
    this.#busy = true;
    try {
      await this.look();
    } catch (error) {
      this.#context.logger.warn({ error }, "could not look for idle endpoints");
    } finally {
      this.#busy = false;
    }
  }

  /** Once at all that run; suspensions go on behind it. */
  async look(): Promise<void> {
    const rows = await this.#context.db
      .selectFrom("endpoints")
      .selectAll()
      .where("suspend_timeout_seconds", ">=", 0)
      .where("creating", "=", 0)
      .execute();
    for (const row of rows) {
      // Another timeout counts at once.
      if (this.#timeouts.get(row.id) !== row.suspend_timeout_seconds) {
        this.#timeouts.set(row.id, row.suspend_timeout_seconds);
        this.#nextLookMs.delete(row.id);
      }
      const isDue = monotonicMs() >= (this.#nextLookMs.get(row.id) ?? -Infinity);
      if (!isDue || this.#suspending.has(row.id)) {
        continue;
      }
      if (!this.#computes.provider.isRunning(row.id)) {
        // Thousands may sleep.
        this.#nextLookMs.set(row.id, monotonicMs() + ASLEEP_MS);
        continue;
      }
      if (await this.#isIdle(row)) {
        this.#suspending.add(row.id);
        void this.#suspend(row).finally(() => this.#suspending.delete(row.id));
      }
    }
  }

  async #suspend(row: EndpointRow): Promise<void> {
    const { db, logger } = this.#context;
    try {
      const still = () => this.#isIdle(row);
      const suspended = await this.#computes.suspend(row.id, { still });
      this.#nextLookMs.delete(row.id);
      if (suspended) {
        logger.info({ endpoint: row.id }, "suspended: nothing has happened there");
      }
      if (suspended && row.ephemeral === 1) {
        await this.#computes.destroy(row.id);
        await db.deleteFrom("endpoints").where("id", "=", row.id).execute();
      }
    } catch (error) {
      logger.warn({ endpoint: row.id, error }, "could not be suspended");
    }
  }

  /** Notes when to look again where it is not. An agent that does not tell is never idle. */
  async #isIdle(row: EndpointRow): Promise<boolean> {
    const timeoutMs = 1000 * (row.suspend_timeout_seconds || DEFAULT_SUSPEND_TIMEOUT_SECONDS);
    if (this.#computes.sinceWantedMs(row.id) < CONNECT_GRACE_MS) {
      return false;
    }
    const lastActive = await this.#lastActive(row.id);
    // What comes and goes between two questions counts as of the second, so they must not be far apart.
    const { least, most } = QUESTIONS_MS;
    const intervalMs = Math.min(most, Math.max(least, timeoutMs / 5));
    this.#nextLookMs.set(row.id, monotonicMs() + intervalMs);
    if (lastActive === null) {
      return false;
    }
    if (lastActive !== row.last_active) {
      const values = { last_active: lastActive };
      await this.#context.db
        .updateTable("endpoints")
        .set(values)
        .where("id", "=", row.id)
        .execute();
    }
    return nowMs() - Date.parse(lastActive) >= timeoutMs;
  }

  /** Null: it is used, or does not tell, which counts as now. */
  async #lastActive(id: string): Promise<string | null> {
    try {
      return (await this.#computes.provider.agent(id).status()).last_active;
    } catch (error) {
      const reason = errorMessage(error);
      this.#context.logger.debug({ endpoint: id, reason }, "agent does not answer");
      return null;
    }
  }
}

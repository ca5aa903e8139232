// Which of the control planes on one database are alive, and who carries out which operations.
//
// Each has a row with a number that it raises every BEAT_MS. Another one watches that number by its own clock: where it
// has stood still for LEASE_MS its owner counts as dead, and what it claimed is taken over. Clocks of machines need not
// agree. One that was only away (a pause, a cut network) finds its claims gone, and stops before its next step.
//
// A beat and a taking over of the same owner's claims lock the same row: either comes first, and the other one sees it.

import { monotonicMs } from "../../base/clock.ts";
import type { Database } from "../state/database.ts";

export const BEAT_MS = 2000;
const LEASE_MS = 15_000;
/** After this without a beat it may not be long until others take over: first a beat, then a look. */
const FRESH_MS = 5000;

export class Claims {
  /** Of this control plane, the same in all its lives. */
  readonly id: string;
  readonly #db: Database;
  readonly #leaseMs: number;
  /** Nobody else can have the database open: there is nobody to tell, and nothing is written for it. */
  readonly isAlone: boolean;
  #beatAtMs = -Infinity;
  /** Of the others: their number, and since when it has been that. */
  readonly #seen = new Map<string, { readonly beat: number; readonly sinceMs: number }>();

  constructor(
    db: Database,
    id: string,
    options: { leaseMs?: number | undefined; isAlone?: boolean } = {},
  ) {
    this.#db = db;
    this.id = id;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
    this.isAlone = options.isAlone ?? false;
  }

  /** Tells the others that this one is alive, and looks which of them are. */
  async beat(): Promise<void> {
    if (this.isAlone) {
      return;
    }
    const atMs = monotonicMs();
    await this.#db
      .insertInto("control_planes")
      .values({ id: this.id, beat: 1 })
      .onConflict((conflict) =>
        conflict.column("id").doUpdateSet((row) => ({ beat: row("control_planes.beat", "+", 1) })),
      )
      .execute();
    this.#beatAtMs = atMs;
    const rows = await this.#db.selectFrom("control_planes").selectAll().execute();
    const known = new Set(rows.map(({ id }) => id));
    for (const id of this.#seen.keys()) {
      if (!known.has(id)) {
        this.#seen.delete(id);
      }
    }
    for (const { id, beat } of rows) {
      if (id !== this.id && this.#seen.get(id)?.beat !== beat) {
        this.#seen.set(id, { beat, sinceMs: monotonicMs() });
      }
    }
  }

  /** No other one can have taken over anything. */
  isFresh(): boolean {
    return this.isAlone || monotonicMs() - this.#beatAtMs < Math.min(FRESH_MS, this.#leaseMs / 2);
  }

  /** Of those that are alive, the first: what one of them should see to is its. */
  isFirst(): boolean {
    return [...this.#seen.keys()].every((id) => id > this.id || this.#isDead(id));
  }

  /** Whether it still has the job. */
  async holds(jobId: string): Promise<boolean> {
    if (!this.isFresh()) {
      await this.beat();
    }
    const row = await this.#db
      .selectFrom("operations")
      .select("id")
      .where("job_id", "=", jobId)
      .where("claimed_by", "=", this.id)
      .limit(1)
      .executeTakeFirst();
    return row !== undefined;
  }

  /** Takes over a job of `owner`, where that one is dead, has gone, or never was; whether this one has it now. */
  async take(jobId: string, owner: string | null): Promise<boolean> {
    if (owner === this.id) {
      return true;
    }
    const seen = owner === null ? undefined : this.#seen.get(owner);
    if (owner !== null && seen !== undefined && !this.#isDead(owner)) {
      return false;
    }
    return this.#db.transaction().execute(async (db) => {
      const row =
        owner === null
          ? undefined
          : await db
              .updateTable("control_planes")
              .set((eb) => ({ beat: eb.ref("beat") }))
              .where("id", "=", owner)
              .returning("beat")
              .executeTakeFirst();
      // It has come back since it was looked at; one that was not there then is watched first.
      if (row !== undefined && row.beat !== seen?.beat) {
        return false;
      }
      const taken = await db
        .updateTable("operations")
        .set({ claimed_by: this.id })
        .where("job_id", "=", jobId)
        .where("claimed_by", owner === null ? "is" : "=", owner)
        .executeTakeFirst();
      return Number(taken.numUpdatedRows) > 0;
    });
  }

  /** It ends in good order: what it leaves is free at once. */
  async leave(): Promise<void> {
    await this.#db.deleteFrom("control_planes").where("id", "=", this.id).execute();
  }

  #isDead(id: string): boolean {
    return monotonicMs() - (this.#seen.get(id)?.sinceMs ?? -Infinity) >= this.#leaseMs;
  }
}

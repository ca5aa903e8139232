// When a change of who may come in holds everywhere: proxies use what they were told for a moment longer.
//
// What was asked for, and when, is enough to know how long that moment lasts: nothing is sent to proxies, and one that is
// away, or slow, keeps nobody waiting longer than one that answers.

import { monotonicMs, sleep } from "../base/clock.ts";
import { ACCESS_KEEP_MS } from "../proxy/api.ts";
import type { Database } from "./state/database.ts";

export interface AccessAnswersOptions {
  /** No other control plane tells proxies anything. */
  readonly isAlone: boolean;
  /** As ACCESS_KEEP_MS. */
  readonly keepMs?: number;
}

export class AccessAnswers {
  readonly #isAlone: boolean;
  readonly #keepMs: number;
  /** Who may have been told anything by the process before this one. */
  readonly #sinceMs = monotonicMs();
  /** By the name that was asked with, of an endpoint or a branch; the oldest first. */
  readonly #askedMs = new Map<string, number>();

  constructor({ isAlone, keepMs = ACCESS_KEEP_MS }: AccessAnswersOptions) {
    this.#isAlone = isAlone;
    this.#keepMs = keepMs;
  }

  /** How many names are remembered. */
  get size(): number {
    return this.#askedMs.size;
  }

  /** Somebody asks. Before anything is read for the answer: a change that the answer has not seen then sees this. */
  note(name: string): void {
    const now = monotonicMs();
    for (const [old, atMs] of this.#askedMs) {
      if (now - atMs < this.#keepMs) {
        break;
      }
      this.#askedMs.delete(old);
    }
    this.#askedMs.delete(name);
    this.#askedMs.set(name, now);
  }

  /**
   * After a change that concerns these names. Resolves when no proxy lets anybody in, or refuses anybody, by what it was
   * told before: at once where none was told anything lately, else ACCESS_KEEP_MS after the last time, at most.
   */
  async expire(names: Iterable<string>): Promise<void> {
    let last = this.#isAlone ? this.#sinceMs : monotonicMs();
    for (const name of names) {
      last = Math.max(last, this.#askedMs.get(name) ?? last);
    }
    for (;;) {
      const left = last + this.#keepMs - monotonicMs();
      if (left <= 0) {
        return;
      }
      await sleep(left);
    }
  }
}

/**
 * After a change of who may come to the endpoints of a project, or of one of its branches. Resolves when it holds at
 * every proxy.
 */
export async function accessHolds(
  { db, access }: { readonly db: Database; readonly access: AccessAnswers },
  of: { readonly projectId: string } | { readonly branchId: string },
): Promise<void> {
  const [ofBranches, ofEndpoints, id] =
    "projectId" in of
      ? (["project_id", "project_id", of.projectId] as const)
      : (["id", "branch_id", of.branchId] as const);
  const branches = await db
    .selectFrom("branches")
    .select("id")
    .where(ofBranches, "=", id)
    .execute();
  const endpoints = await db
    .selectFrom("endpoints")
    .select("id")
    .where(ofEndpoints, "=", id)
    .execute();
  await access.expire([...branches, ...endpoints].map((row) => row.id));
}

// Passwords of a branch whose Postgres starts for the first time: who connects meanwhile is let in by what they are on its parent.
//
// A branch's rows are copies of its parent's, which tell what was last noted of that: SQL may have changed it since. So only
// what the parent's Postgres says when the branch is made counts, or what was noted when it was suspended; what is not known
// so waits for the branch's own Postgres. Nothing of it is used once that runs.

import { errorMessage } from "../../base/errors.ts";
import type { Computes } from "../computes/computes.ts";
import { readVerifier } from "../computes/postgres-objects.ts";
import type { Context } from "../context.ts";
import type { BranchRow, EndpointRow } from "../state/tables.ts";

type Parts = Pick<Context, "db" | "logger"> & { readonly computes: Computes };

export interface NewBranch {
  readonly branch: BranchRow;
  readonly parent: BranchRow;
  /** Of the parent: the endpoint that writes. */
  readonly writer: EndpointRow | undefined;
}

/** Each is a session of the parent's Postgres. */
const MAX_ROLES = 8;

export class NewBranchRoles {
  /** By branch and role: what a password is checked against. */
  readonly #known = new Map<string, ReadonlyMap<string, string>>();

  /** Undefined where it is not known. */
  verifierOf(branchId: string, role: string): string | undefined {
    return this.#known.get(branchId)?.get(role);
  }

  /**
   * Those of `branch`, which is being made at the head of `parent`, until `done` settles. Never rejects: it is only a help,
   * and is waited for late.
   */
  async learn(
    parts: Parts,
    { branch, parent, writer }: NewBranch,
    done: Promise<void>,
  ): Promise<void> {
    let isDone = false;
    const forget = () => {
      isDone = true;
      this.#known.delete(branch.id);
    };
    done.then(forget, forget);
    try {
      const verifiers = await verifiersOf(parts, parent, writer);
      if (!isDone) {
        this.#known.set(branch.id, verifiers);
      }
    } catch (error) {
      const reason = errorMessage(error);
      parts.logger.info({ branch: branch.id, reason }, "the parent's roles not asked for");
    }
  }
}

async function verifiersOf(
  parts: Pick<Parts, "db" | "computes">,
  parent: BranchRow,
  endpoint: EndpointRow | undefined,
): Promise<ReadonlyMap<string, string>> {
  const { db, computes } = parts;
  const none = new Map<string, string>();
  const rows = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", parent.id)
    .execute();
  if (endpoint === undefined || parent.needs_configure === 1 || rows.length > MAX_ROLES) {
    return none;
  }
  const pairs = (verifiers: readonly (string | null)[]) =>
    rows.flatMap(({ name }, i): [string, string][] =>
      verifiers[i] == null ? [] : [[name, verifiers[i]]],
    );
  if (!computes.provider.isRunning(endpoint.id)) {
    const isNoted = endpoint.suspended_at !== null && !hasRunSince(endpoint, computes);
    return isNoted ? new Map(pairs(rows.map(({ verifier }) => verifier))) : none;
  }
  const agent = computes.provider.agent(endpoint.id);
  return new Map(pairs(await Promise.all(rows.map(({ name }) => readVerifier(agent, name)))));
}

/**
 * Since we suspended it, and noted all its roles: a command started it, or something other than we ended it, and SQL
 * may have given other passwords meanwhile.
 */
export function hasRunSince({ id, suspended_at }: EndpointRow, computes: Computes): boolean {
  const ranMs = computes.provider.lastRanMs(id);
  return ranMs !== undefined && ranMs > (suspended_at === null ? 0 : Date.parse(suspended_at));
}

// Carries out operations: persisted before the first step, each step's end persisted, gone on with after a crash.
//
// One request is one job: operations one after the other. One job at a time a project. A step that fails is tried
// again where that may help; else its operation is undone and has failed, and the rest of its job is skipped.

import { nowMs, sleep } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { type Context, newUuid } from "../context.ts";
import { nowText } from "../inventory.ts";
import type { Database } from "../state/database.ts";
import type { OperationRow } from "../state/tables.ts";
import type { OperationKind, PlannedOperation } from "./state-machine.ts";

const UNFINISHED = ["scheduling", "running"] as const;
/** Between attempts; after the last one it has failed. */
const RETRY_DELAYS_MS = [300, 1000, 2000];

export interface Job {
  readonly operations: readonly OperationRow[];
  /** Rejects with why an operation of it failed. */
  readonly done: Promise<void>;
}

/** For tests: `KIND STEP before|after`; what it throws is a crash at that point. */
export type StepHook = (point: string) => void;

export class Operations {
  readonly #context: Context;
  readonly #kinds: ReadonlyMap<string, OperationKind<object>>;
  readonly #hook: StepHook;
  #stopped = false;

  constructor(context: Context, kinds: readonly OperationKind<never>[], hook: StepHook = () => {}) {
    this.#context = context;
    this.#kinds = new Map(
      kinds.map((kind) => [kind.name, kind as unknown as OperationKind<object>]),
    );
    this.#hook = hook;
  }

  /**
   * `prepare` writes, in the same transaction, the rows of what they are to make. StorageError
   * `operation-in-progress` while another job of the project goes on.
   */
  async submit(
    projectId: string,
    operations: readonly PlannedOperation[],
    prepare: (db: Database) => Promise<void> = async () => {},
  ): Promise<Job> {
    const jobId = newUuid();
    const rows = operations.map((each, position) => newRow(jobId, position, projectId, each));
    await this.#context.db.transaction().execute(async (db) => {
      await requireIdle(db, projectId);
      await prepare(db);
      for (const row of rows) {
        await db.insertInto("operations").values(row).execute();
      }
    });
    return { operations: rows, done: this.#runJob(rows) };
  }

  /** Goes on with what a process before this one left unfinished; resolves when all of it has ended. */
  async resume(): Promise<void> {
    const rows = await this.#context.db
      .selectFrom("operations")
      .selectAll()
      .where("status", "in", UNFINISHED)
      .orderBy("created_at")
      .orderBy("position")
      .execute();
    const jobs = Map.groupBy(rows, (row) => row.job_id);
    await Promise.all([...jobs.values()].map((job) => this.#runJob(job).catch(() => undefined)));
  }

  /** No further step begins. */
  stop(): void {
    this.#stopped = true;
  }

  async #runJob(rows: readonly OperationRow[]): Promise<void> {
    for (const [i, row] of rows.entries()) {
      try {
        await this.#run(row);
      } catch (error) {
        if (error instanceof Interrupted) {
          throw error;
        }
        for (const left of rows.slice(i + 1)) {
          await this.#change(left, { status: "skipped", finished_at: nowText() });
        }
        throw error;
      }
    }
  }

  async #run(row: OperationRow): Promise<void> {
    // One of a version that knew other kinds ends here, or its project would be busy for ever.
    const kind = this.#kinds.get(row.kind) ?? unknownKind(row.kind);
    let failure: unknown;
    if (row.error === null) {
      await this.#change(row, { status: "running" });
      failure = await this.#runSteps(row, kind);
    } else {
      failure = new StorageError("internal", "operation-failed", row.error);
    }
    if (failure === undefined) {
      await this.#change(row, { status: "finished", finished_at: nowText() });
      return;
    }
    // From here on it is undone, also after a crash.
    await this.#change(row, { error: errorMessage(failure) });
    await this.#undo(row, kind);
    await this.#change(row, { status: "failed", finished_at: nowText() });
    throw failure;
  }

  /** Why one cannot be done; undefined where all are. */
  async #runSteps(row: OperationRow, kind: OperationKind<object>): Promise<unknown> {
    const keep = (args: object) => this.#change(row, { args: JSON.stringify(args) });
    for (let i = row.step; i < kind.steps.length; i++) {
      const step = kind.steps[i]!;
      this.#at(`${kind.name} ${step.name} before`);
      const failure = await this.#attempt(row, () => step.run(JSON.parse(row.args), keep));
      if (failure !== undefined) {
        return failure;
      }
      this.#at(`${kind.name} ${step.name} after`);
      await this.#change(row, { step: i + 1 });
    }
    return undefined;
  }

  async #attempt(row: OperationRow, body: () => Promise<void>): Promise<unknown> {
    for (let attempt = 0; ; attempt++) {
      try {
        await body();
        return undefined;
      } catch (error) {
        if (this.#stopped) {
          throw new Interrupted();
        }
        const delayMs = RETRY_DELAYS_MS[attempt];
        if (errorKind(error) !== "unavailable" || delayMs === undefined) {
          const { action, id } = row;
          this.#context.logger.warn({ operation: id, action, error }, "operation failed");
          return error;
        }
        await this.#change(row, { failures_count: row.failures_count + 1 });
        await sleep(delayMs);
      }
    }
  }

  async #undo(row: OperationRow, kind: OperationKind<object>): Promise<void> {
    this.#at(`${kind.name} undo before`);
    try {
      await kind.undo?.(JSON.parse(row.args));
    } catch (error) {
      this.#context.logger.error({ operation: row.id, error }, "operation could not be undone");
    }
    this.#at(`${kind.name} undo after`);
  }

  #at(point: string): void {
    if (this.#stopped) {
      throw new Interrupted();
    }
    try {
      this.#hook(point);
    } catch (cause) {
      this.#stopped = true;
      throw new Interrupted(cause);
    }
  }

  async #change(row: OperationRow, values: Partial<OperationRow>): Promise<void> {
    Object.assign(row, values, { updated_at: nowText() });
    await this.#context.db
      .updateTable("operations")
      .set({ ...values, updated_at: row.updated_at })
      .where("id", "=", row.id)
      .execute();
  }
}

function unknownKind(name: string): OperationKind<object> {
  return {
    name,
    steps: [
      {
        name: "unknown",
        run: () => {
          const message = `this version of Strata knows no operation '${name}'`;
          throw new StorageError("unsupported", "unknown-operation", message);
        },
      },
    ],
  };
}

/** The process ends here; the next one goes on. */
class Interrupted extends Error {
  constructor(cause?: unknown) {
    super("the control plane stops", { cause });
  }
}

async function requireIdle(db: Database, projectId: string): Promise<void> {
  const busy = await db
    .selectFrom("operations")
    .select(["id", "action"])
    .where("project_id", "=", projectId)
    .where("status", "in", UNFINISHED)
    .limit(1)
    .executeTakeFirst();
  if (busy !== undefined) {
    throw new StorageError(
      "invalid",
      "operation-in-progress",
      `project already has running operations (${busy.action} ${busy.id}), scheduling of new ones is prohibited`,
    );
  }
}

function newRow(
  jobId: string,
  position: number,
  projectId: string,
  { kind, action, branchId, endpointId, args }: PlannedOperation,
): OperationRow {
  const now = new Date(nowMs()).toISOString();
  return {
    id: newUuid(),
    job_id: jobId,
    position,
    project_id: projectId,
    branch_id: branchId ?? null,
    endpoint_id: endpointId ?? null,
    action,
    kind,
    status: "scheduling",
    step: 0,
    args: JSON.stringify(args),
    error: null,
    failures_count: 0,
    created_at: now,
    updated_at: now,
    finished_at: null,
  };
}

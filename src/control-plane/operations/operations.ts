// Carries out operations: persisted before the first step, each step's end persisted, gone on with after a crash.
//
// One request is one job: operations one after the other. One job at a time a project. A step that fails is tried
// again where that may help; else its operation is undone and has failed, and the rest of its job is skipped. Undoing is
// tried again for as long as something does not answer, after a crash too.
//
// A job whose rows cannot be written ends as a crash would end it: what is in the database says where it goes on, at the
// next look.
//
// Where several control planes share a database, a job is carried out by the one that has claimed it (claims.ts).

import { nowMs, setIdleTimer, setRepeatingTimer, sleep, type Timer } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { type Context, newUuid } from "../context.ts";
import { nowText } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";
import type { OperationRow } from "../state/tables.ts";
import { BEAT_MS, type Claims } from "./claims.ts";
import type { OperationKind, PlannedOperation } from "./state-machine.ts";

const UNFINISHED = ["scheduling", "running"] as const;
/** Between attempts; after the last one it has failed. */
const RETRY_DELAYS_MS = [300, 1000, 2000];
/** Between later attempts to undo: they end with the outage only. */
const UNDO_RETRY_MS = 5000;
/** Between looks for what could not be noted, where nobody else can leave anything. */
const ALONE_LOOK_MS = 5000;
/** What is for later and has something to do first is not waited for any longer. */
const UNDER_WAY_MS = 50;

export interface Job {
  readonly operations: readonly OperationRow[];
  /** Rejects with why an operation of it failed. */
  readonly done: Promise<void>;
  /** Resolves when nothing is left but a last step that is for later, which has begun when it is heard. */
  readonly nearlyDone: Promise<void>;
}

/** For tests: `KIND STEP before|after`; what it throws is a crash at that point. */
export type StepHook = (point: string) => void;

export class Operations {
  readonly #context: Context;
  readonly #kinds: ReadonlyMap<string, OperationKind<object>>;
  readonly #hook: StepHook;
  readonly #claims: Claims;
  /** By project: the end of a job of which somebody has been told before it. */
  readonly #nearlyDone = new Map<string, Promise<void>>();
  /** Ids of jobs that go on here. */
  readonly #running = new Set<string>();
  /** Of those that ended because they could not be noted, of which the log has been told. */
  readonly #unnoted = new Set<string>();
  #stopped = false;
  #timer: Timer | undefined;
  #isLooking = false;
  #mayGoOn = false;
  #isAway = false;

  constructor(
    context: Context,
    kinds: readonly OperationKind<never>[],
    claims: Claims,
    hook: StepHook = () => {},
  ) {
    this.#context = context;
    this.#claims = claims;
    this.#kinds = new Map(
      kinds.map((kind) => [kind.name, kind as unknown as OperationKind<object>]),
    );
    this.#hook = hook;
  }

  /**
   * `prepare` writes, in the same transaction, the rows of what they are to make. StorageError
   * `operation-in-progress` while another job of the project goes on; one that is nearly done is waited for.
   */
  async submit(
    projectId: string,
    operations: readonly PlannedOperation[],
    prepare: (db: Database) => Promise<void> = async () => {},
  ): Promise<Job> {
    for (let other = this.#nearlyDone.get(projectId); other !== undefined; ) {
      await other;
      other = this.#nearlyDone.get(projectId);
    }
    const jobId = newUuid();
    const rows = operations.map((each, position) => ({
      ...newRow(jobId, position, projectId, each),
      // It begins at once.
      ...(position === 0 ? { status: "running" as const } : {}),
      claimed_by: this.#claims.id,
    }));
    this.#running.add(jobId);
    try {
      await serialized(this.#context.db, async (db) => {
        await requireIdle(db, projectId);
        await prepare(db);
        for (const row of rows) {
          await db.insertInto("operations").values(row).execute();
        }
      });
    } catch (error) {
      this.#running.delete(jobId);
      throw error;
    }
    return this.#begin(projectId, jobId, rows);
  }

  #begin(projectId: string, jobId: string, rows: readonly OperationRow[]): Job {
    const nearly = Promise.withResolvers<void>();
    let isNearly = false;
    const done = this.#runJob(jobId, rows, () => {
      if (isNearly) {
        return;
      }
      isNearly = true;
      const over = () => void this.#nearlyDone.delete(projectId);
      this.#nearlyDone.set(projectId, done.then(over, over));
      nearly.resolve();
    });
    // Who asked for it may have failed before it comes to wait: that must not end the process.
    done.catch(() => undefined);
    return { operations: rows, done, nearlyDone: nearly.promise };
  }

  /**
   * From here on it beats, where it has company; after `resume` it also goes on with what is nobody's any more, and with
   * what it could not note itself.
   */
  start(): void {
    void this.#look();
    const intervalMs = this.#claims.isAlone ? ALONE_LOOK_MS : BEAT_MS;
    this.#timer = setRepeatingTimer(() => void this.#look(), intervalMs);
  }

  async #look(): Promise<void> {
    if (this.#isLooking || this.#stopped) {
      return;
    }
    this.#isLooking = true;
    try {
      await this.#claims.beat();
      if (this.#mayGoOn) {
        // They end by themselves: a beat does not wait for them.
        void (await this.#goOn());
      }
      this.#isAway = false;
    } catch (error) {
      if (!this.#isAway && !this.#stopped) {
        this.#context.logger.warn({ error }, "the control plane's database does not answer");
      }
      this.#isAway = true;
    } finally {
      this.#isLooking = false;
    }
  }

  /**
   * Goes on with what a life before this one, or another control plane that has died, left unfinished; resolves when all
   * of it has ended.
   */
  async resume(): Promise<void> {
    // First: what does not answer now the next look asks.
    this.#mayGoOn = true;
    await this.#claims.beat();
    await Promise.all(await this.#goOn());
  }

  /** The jobs that it has begun to go on with. */
  async #goOn(): Promise<Promise<void>[]> {
    const rows = await this.#context.db
      .selectFrom("operations")
      .selectAll()
      .where("status", "in", UNFINISHED)
      .orderBy("created_at")
      .orderBy("position")
      .execute();
    const begun: Promise<void>[] = [];
    for (const [jobId, job] of Map.groupBy(rows, (row) => row.job_id)) {
      const owner = job[0]!.claimed_by;
      if (this.#running.has(jobId)) {
        continue;
      }
      const left = await this.#takeOver(jobId, owner);
      if (left === undefined) {
        continue;
      }
      if (owner !== this.#claims.id && owner !== null) {
        this.#context.logger.warn({ job: jobId, owner }, "goes on with what a dead one had begun");
      }
      begun.push(this.#runJob(jobId, left).catch(() => undefined));
    }
    return begun;
  }

  /** What is left of it, which goes on here from now on; undefined where it is another one's. */
  async #takeOver(jobId: string, owner: string | null): Promise<OperationRow[] | undefined> {
    this.#running.add(jobId);
    let left: OperationRow[] | undefined;
    try {
      left = (await this.#claims.take(jobId, owner)) ? await this.#rowsOf(jobId) : undefined;
    } finally {
      if (left === undefined) {
        this.#running.delete(jobId);
      }
    }
    return left;
  }

  /** As they are now: between the look and the taking over their owner may have gone on. */
  #rowsOf(jobId: string): Promise<OperationRow[]> {
    return this.#context.db
      .selectFrom("operations")
      .selectAll()
      .where("job_id", "=", jobId)
      .where("status", "in", UNFINISHED)
      .orderBy("position")
      .execute();
  }

  /** No further step begins. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  /** After `stop`. Others may go on at once with what is left, where no step of it is still under way here. */
  async leave(): Promise<void> {
    if (this.#running.size === 0) {
      await this.#claims.leave();
    }
  }

  async #runJob(
    jobId: string,
    rows: readonly OperationRow[],
    nearlyDone: () => void = () => {},
  ): Promise<void> {
    try {
      for (const [i, row] of rows.entries()) {
        await this.#run(row, rows.slice(i + 1), i === rows.length - 1 ? nearlyDone : () => {});
      }
      this.#unnoted.delete(jobId);
    } catch (error) {
      this.#tellUnnoted(jobId, rows, error);
      throw error;
    } finally {
      this.#running.delete(jobId);
    }
  }

  /** Where it ends neither as an operation of it failed, which is told by then, nor interrupted. */
  #tellUnnoted(jobId: string, rows: readonly OperationRow[], error: unknown): void {
    if (rows.some(({ status }) => status === "failed")) {
      this.#unnoted.delete(jobId);
    } else if (!(error instanceof Interrupted) && !this.#unnoted.has(jobId)) {
      this.#unnoted.add(jobId);
      this.#context.logger.warn({ job: jobId, error }, "not noted: it goes on when that works");
    }
  }

  async #run(
    row: OperationRow,
    later: readonly OperationRow[],
    nearlyDone: () => void,
  ): Promise<void> {
    // One of a version that knew other kinds ends here, or its project would be busy for ever.
    const kind = this.#kinds.get(row.kind) ?? unknownKind(row.kind);
    let failure: unknown;
    if (row.error === null) {
      if (row.status !== "running") {
        await this.#change(row, { status: "running" });
      }
      failure = await this.#runSteps(row, kind, nearlyDone);
    } else {
      failure = new StorageError("internal", "operation-failed", row.error);
    }
    if (failure === undefined) {
      await this.#finish(row, kind.steps.length, later[0]);
      return;
    }
    // From here on it is undone, also after a crash.
    await this.#change(row, { error: errorMessage(failure) });
    await this.#undo(row, kind);
    await this.#fail(row, later);
    throw failure;
  }

  /** And begins the next one of its job: a transaction is a write to the disk. */
  async #finish(row: OperationRow, step: number, next: OperationRow | undefined): Promise<void> {
    const finished = { status: "finished", step, finished_at: nowText() } as const;
    await this.#changeAll([
      [row, finished],
      ...(next === undefined ? [] : [[next, { status: "running" }] as const]),
    ]);
  }

  /** In one transaction: nobody finds the rest of its job to go on with. */
  async #fail(row: OperationRow, later: readonly OperationRow[]): Promise<void> {
    const finished_at = nowText();
    const skipped = { status: "skipped", finished_at } as const;
    await this.#changeAll([
      [row, { status: "failed", finished_at }],
      ...later.map((one) => [one, skipped] as const),
    ]);
  }

  /** Why one cannot be done; undefined where all are. */
  async #runSteps(
    row: OperationRow,
    kind: OperationKind<object>,
    nearlyDone: () => void,
  ): Promise<unknown> {
    const keep = (args: object) => this.#change(row, { args: JSON.stringify(args) });
    for (let i = row.step; i < kind.steps.length; i++) {
      const step = kind.steps[i]!;
      await this.#requireClaim(row);
      this.#at(`${kind.name} ${step.name} before`);
      const isLast = i === kind.steps.length - 1;
      const isForLater = step.isForLater === true && isLast;
      const underWay = isForLater ? nearlyDone : () => {};
      const late = isForLater ? setIdleTimer(nearlyDone, UNDER_WAY_MS) : undefined;
      const failure = await this.#attempt(row, () =>
        step.run(JSON.parse(row.args), keep, underWay),
      );
      late?.cancel();
      if (failure !== undefined) {
        return failure;
      }
      underWay();
      this.#at(`${kind.name} ${step.name} after`);
      // The end notes the last one.
      if (!isLast && step.isSeen !== true) {
        await this.#change(row, { step: i + 1 });
      }
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

  /**
   * Until it is undone: its project is busy as long, and what it began is nobody else's. A failure that trying again does not
   * mend is told with the operation's, and what is left over is an operator's matter.
   *
   * Whether it does is learnt from attempts that were noted: while the database takes nothing none is, and the job ends until it
   * does. Most of what is undone are rows in there.
   */
  async #undo(row: OperationRow, kind: OperationKind<object>): Promise<void> {
    const { logger } = this.#context;
    for (let attempt = 0, failures = 0; ; attempt++) {
      await this.#requireClaim(row);
      this.#at(`${kind.name} undo before`);
      try {
        await kind.undo?.(JSON.parse(row.args));
        break;
      } catch (error) {
        if (errorKind(error) !== "unavailable") {
          await this.#change(row, { failures_count: row.failures_count + 1 });
          failures++;
        }
        if (failures > RETRY_DELAYS_MS.length) {
          logger.error({ operation: row.id, error }, "operation could not be undone");
          await this.#change(row, { error: `${row.error}; not undone: ${errorMessage(error)}` });
          break;
        }
        if (attempt === 0) {
          logger.warn({ operation: row.id, error }, "operation is not undone yet: trying again");
        }
        await sleep(RETRY_DELAYS_MS[attempt] ?? UNDO_RETRY_MS);
      }
    }
    this.#at(`${kind.name} undo after`);
  }

  /** One that was away for long may have lost it to another. */
  async #requireClaim(row: OperationRow): Promise<void> {
    if (!this.#claims.isFresh() && !(await this.#claims.holds(row.job_id))) {
      throw new Interrupted();
    }
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
    await this.#changeAll([[row, values]]);
  }

  /** All or none; the rows here are what they are there. */
  async #changeAll(
    changes: readonly (readonly [OperationRow, Partial<OperationRow>])[],
  ): Promise<void> {
    const updated_at = nowText();
    const write = async (db: Database) => {
      for (const [{ id }, values] of changes) {
        const { numUpdatedRows } = await db
          .updateTable("operations")
          .set({ ...values, updated_at })
          .where("id", "=", id)
          .where("claimed_by", "=", this.#claims.id)
          .executeTakeFirst();
        if (Number(numUpdatedRows) === 0) {
          // Another control plane goes on with it.
          throw new Interrupted();
        }
      }
    };
    const { db } = this.#context;
    await (changes.length === 1 ? write(db) : db.transaction().execute(write));
    for (const [row, values] of changes) {
      Object.assign(row, values, { updated_at });
    }
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

/** This process ends here, or has lost its claim: the next one, or another one, goes on. */
class Interrupted extends Error {
  constructor(cause?: unknown) {
    super("the control plane stops, and another one goes on with the operation", { cause });
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
    claimed_by: null,
  };
}

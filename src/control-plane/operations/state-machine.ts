// What an operation is made of: idempotent steps, done in order, and what undoes them where one cannot be done.

/** Args are JSON: all ids in them are chosen before the first step, and kept with the operation. */
export interface OperationKind<A> {
  readonly name: string;
  readonly steps: readonly Step<A>[];
  /** Idempotent too; after whatever part of the steps. Absent: what was done stays. */
  readonly undo?: (args: A) => Promise<void>;
}

export interface Step<A> {
  readonly name: string;
  /** Who asked for the job need not wait for it, where it is the last one: who uses what it makes does. */
  readonly isForLater?: true;
  /**
   * To see that it was done takes less than to note it, which is a transaction: after a crash it is called again, also where steps
   * after it were done.
   */
  readonly isSeen?: true;
  /**
   * May be called again after it was done, or half done: a crash comes before what it did is noted. `underWay`: of one that is for
   * later, what others need not wait behind has been done.
   */
  run(args: A, keep: KeepArgs<A>, underWay: () => void): Promise<void>;
}

/** Notes other args, before the step does what it needs them for. */
export type KeepArgs<A> = (args: A) => Promise<void>;

export interface PlannedOperation {
  readonly kind: string;
  /** As the API names it. */
  readonly action: string;
  readonly branchId?: string | undefined;
  readonly endpointId?: string | undefined;
  readonly args: object;
}

export function planned<A extends object>(
  kind: OperationKind<A>,
  of: Omit<PlannedOperation, "kind" | "args"> & { readonly args: A },
): PlannedOperation {
  return { ...of, kind: kind.name };
}

// Endpoints whose directories are made beside the timelines that they are for: once such a timeline has its name, its endpoint starts at once,
// while what is left of the operations is noted.
//
// Nothing depends on it: who makes or starts the endpoint later finds it made, or started, or does it then. What was made for a
// timeline that did not come to be, `endpointsGone` in operations/storage-kinds.ts removes.

import { setIdleTimer, turn } from "../../base/clock.ts";
import type { LocalProcesses, NewCompute } from "./provider.ts";

/** What a start has to do first is not waited for any longer. */
const UNDER_WAY_MS = 50;

/** Of Computes. */
type Wake = (
  id: string,
  options: { readonly isNoted: true; readonly underWay: () => void },
) => Promise<unknown>;

interface Prepared {
  readonly compute: NewCompute;
  readonly pgVersion: number;
  /** Whether it is there; undefined: that has not begun. */
  made?: Promise<boolean>;
}

export class PreparedEndpoints {
  readonly #provider: LocalProcesses;
  readonly #wake: Wake;
  /** By timeline. */
  readonly #prepared = new Map<string, Prepared>();

  constructor(provider: LocalProcesses, wake: Wake) {
    this.#provider = provider;
    this.#wake = wake;
  }

  /** Of a timeline of this major that operations are making, and whose endpoint starts then; they have ended when `done` settles. */
  add(compute: NewCompute, pgVersion: number, done: Promise<void>): void {
    this.#prepared.set(compute.timelineId, { compute, pgVersion });
    const over = () => void this.#prepared.delete(compute.timelineId);
    done.then(over, over);
  }

  /** The storage has been asked for the timeline, and works. */
  make(timelineId: string): void {
    const prepared = this.#prepared.get(timelineId);
    if (prepared !== undefined) {
      prepared.made ??= this.#make(prepared);
    }
  }

  async #make({ compute, pgVersion }: Prepared): Promise<boolean> {
    // What was asked for leaves first.
    await turn();
    try {
      await this.#provider.create(compute, pgVersion);
      return true;
    } catch {
      // The operation meets the same, and says so.
      return false;
    }
  }

  /** The timeline has its name: resolves when its endpoint has an agent, or that takes longer, or none was prepared. */
  async start(timelineId: string): Promise<void> {
    const prepared = this.#prepared.get(timelineId);
    if (prepared?.made === undefined) {
      return;
    }
    const { id } = prepared.compute;
    const { promise, resolve } = Promise.withResolvers<void>();
    const late = setIdleTimer(resolve, UNDER_WAY_MS);
    const started = prepared.made.then(async (isMade) => {
      if (isMade) {
        await this.#wake(id, { isNoted: true, underWay: resolve });
      }
    });
    // Whoever waits for the endpoint asks again, and hears why.
    started.then(resolve, resolve);
    await promise;
    late.cancel();
  }

  /** Resolves when nothing is being made for the timeline, and nothing will be. */
  async forget(timelineId: string): Promise<void> {
    const prepared = this.#prepared.get(timelineId);
    this.#prepared.delete(timelineId);
    await prepared?.made;
  }
}

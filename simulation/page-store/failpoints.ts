// Named points at which a simulated disk fails or a process ends: `fsync layer`, `rename index`.

import { type DiskOperation, diskFault, type SimulatedDisk } from "../simulated-disk.ts";

export type Failure = "ENOSPC" | "EIO" | "crash";

interface Armed {
  failure: Failure;
  /** Passes that do no harm, before ... */
  skip: number;
  /** ... so many that do. */
  times: number;
}

/** The points of one disk. What is done to which kind of file makes their names. */
export class Failpoints {
  /** How often each was passed. */
  readonly passed = new Map<string, number>();
  readonly #armed = new Map<string, Armed>();

  constructor(disk: SimulatedDisk, kindOfFile: (path: string) => string) {
    disk.onOperation = (operation) => {
      const name = `${operation.name} ${kindOfFile(operation.path)}`;
      this.passed.set(name, (this.passed.get(name) ?? 0) + 1);
      this.#hit(name, operation);
    };
  }

  arm(name: string, failure: Failure, { skip = 0, times = 1 } = {}): void {
    this.#armed.set(name, { failure, skip, times });
  }

  disarm(): void {
    this.#armed.clear();
  }

  /** Whether it has done all the harm that it was armed for. */
  isSpent(name: string): boolean {
    return this.#armed.get(name)?.times === 0;
  }

  #hit(name: string, { path }: DiskOperation): void {
    const armed = this.#armed.get(name);
    if (armed === undefined || armed.times === 0) {
      return;
    }
    if (armed.skip > 0) {
      armed.skip -= 1;
      return;
    }
    armed.times -= 1;
    throw diskFault(armed.failure, `${name}: ${path}`);
  }
}

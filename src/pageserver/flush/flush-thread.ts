// Runs layer flushes on a thread of their own, so that ingest and page service go on meanwhile.
//
// One thread a process, started by the first layer that is worth it, and no reason for the process to
// stay alive while it has nothing to do. Frozen layers are in shared memory, so handing one over
// copies only its keys.

import { Worker } from "node:worker_threads";
import { type ErrorKind, errorMessage, StorageError } from "../../base/errors.ts";
import type { FrozenLayer } from "../layers/frozen-layer.ts";
import type {
  FlushResult,
  FlushSettings,
  PageLookup,
  PageReply,
  PageRequest,
} from "./layer-flush.ts";

/** To the thread. */
export type FlushOrder =
  | {
      readonly type: "flush";
      readonly id: number;
      readonly layer: FrozenLayer;
      readonly settings: FlushSettings;
      /** One number in shared memory; not 0: give up. */
      readonly cancelled: Int32Array;
    }
  | { readonly type: "pages"; readonly replies: readonly PageReply[] };

/** From the thread; `id` as in the order. */
export type FlushAnswer =
  | { readonly type: "pages"; readonly id: number; readonly requests: readonly PageRequest[] }
  | { readonly type: "done"; readonly id: number; readonly result: FlushResult }
  | {
      readonly type: "failed";
      readonly id: number;
      readonly kind: ErrorKind;
      readonly code: string;
      readonly message: string;
    };

interface Job {
  readonly pages: PageLookup;
  readonly resolve: (result: FlushResult) => void;
  readonly reject: (error: StorageError) => void;
}

/** Started by the first flush, kept for the next ones; it does not keep the process alive. */
export class FlushThread {
  readonly #jobs = new Map<number, Job>();
  #lastId = 0;
  #thread: Worker | undefined;

  /** As writeFrozenLayer, on the thread; `pages` is called on this one. */
  async flush(
    layer: FrozenLayer,
    settings: FlushSettings,
    pages: PageLookup,
    signal: AbortSignal,
  ): Promise<FlushResult> {
    const id = ++this.#lastId;
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const cancel = () => Atomics.store(cancelled, 0, 1);
    const { promise, resolve, reject } = Promise.withResolvers<FlushResult>();
    this.#thread ??= this.#start();
    const worker = this.#thread;
    this.#jobs.set(id, { pages, resolve, reject });
    worker.ref();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      if (signal.aborted) {
        cancel();
      }
      const order: FlushOrder = { type: "flush", id, layer, settings, cancelled };
      worker.postMessage(order);
      return await promise;
    } finally {
      signal.removeEventListener("abort", cancel);
      this.#jobs.delete(id);
      if (this.#jobs.size === 0) {
        this.#thread?.unref();
      }
    }
  }

  /** The next flush starts another. */
  async close(): Promise<void> {
    await this.#thread?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(new URL("./flush-worker.ts", import.meta.url));
    worker.on("message", (answer: FlushAnswer) => this.#onAnswer(worker, answer));
    const lost = (why: string) => {
      if (this.#thread === worker) {
        this.#thread = undefined;
        for (const job of this.#jobs.values()) {
          job.reject(new StorageError("internal", "flush-thread-lost", `the flush thread ${why}`));
        }
      }
    };
    worker.on("error", (error) => lost(`failed: ${errorMessage(error)}`));
    worker.on("exit", (code) => lost(`ended with code ${code}`));
    return worker;
  }

  #onAnswer(worker: Worker, answer: FlushAnswer): void {
    const job = this.#jobs.get(answer.id);
    if (job === undefined) {
      // A thread that failed: what it had said before comes after its end.
      return;
    }
    switch (answer.type) {
      case "pages":
        void sendPages(worker, job, answer.requests);
        return;
      case "done":
        job.resolve(answer.result);
        return;
      case "failed":
        job.reject(new StorageError(answer.kind, answer.code, answer.message));
    }
  }
}

async function sendPages(worker: Worker, job: Job, requests: readonly PageRequest[]) {
  const replies = await job.pages(requests);
  const moved = replies.flatMap((reply) => (reply.state === "page" ? [reply.page.buffer] : []));
  const order: FlushOrder = { type: "pages", replies };
  worker.postMessage(order, moved as ArrayBuffer[]);
}

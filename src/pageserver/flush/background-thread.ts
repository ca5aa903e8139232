// Runs layer flushes and compactions on a thread of their own, so that ingest and page service go on.
//
// One thread a process, started by the first layer that is worth it, and no reason for the process to
// stay alive while it has nothing to do. Frozen layers are in shared memory, so handing one over
// copies only its keys. One flush and one compaction are at work at a time, and a compaction waits while
// there is anything to flush, since ingest waits for that.

import { Worker } from "node:worker_threads";
import { type ErrorKind, errorMessage, StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { programOf } from "../../base/program-files.mjs";
import type { CompactionResult } from "../compaction/compact-layers.ts";
import type {
  BasePageLookup,
  BasePageRequest,
  CompactionSettings,
} from "../compaction/compaction-settings.ts";
import type { CompactionInput } from "../compaction/layer-cursor.ts";
import type { FrozenLayer } from "../layers/frozen-layer.ts";
import { formatKey } from "../layers/key.ts";
import { formatLayerName, parseLayerFileName } from "../layers/layer-format.ts";
import type { LayerDescription } from "../layers/layer-writer.ts";
import type {
  FlushResult,
  FlushSettings,
  PageLookup,
  PageReply,
  PageRequest,
} from "./layer-flush.ts";

/** As data for another thread: keys and names are text. */
export interface CompactionWork {
  readonly inputs: readonly {
    readonly path: string;
    readonly name: string;
    readonly sizeBytes: number;
    readonly maxLsn: Lsn;
  }[];
  readonly settings: Omit<CompactionSettings, "range" | "keyCuts">;
  readonly range: { readonly start: string; readonly end: string };
  readonly keyCuts: readonly string[];
}

export interface CompactionOutcome extends Omit<CompactionResult, "layers"> {
  readonly layers: readonly LayerDescription[];
}

/** What there is to do. */
export type Work =
  | { readonly type: "flush"; readonly layer: FrozenLayer; readonly settings: FlushSettings }
  | { readonly type: "compaction"; readonly compaction: CompactionWork };

/** To the thread. */
export type Order =
  | {
      readonly type: "work";
      readonly id: number;
      readonly work: Work;
      /** One number in shared memory; not 0: give up. */
      readonly cancelled: Int32Array;
    }
  | { readonly type: "pages"; readonly id: number; readonly replies: readonly PageReply[] };

/** From the thread; `id` as in the order. */
export type Answer =
  | {
      readonly type: "pages";
      readonly id: number;
      readonly requests: readonly PageRequest[] | readonly BasePageRequest[];
    }
  | { readonly type: "done"; readonly id: number; readonly result: FlushResult | CompactionOutcome }
  | {
      readonly type: "failed";
      readonly id: number;
      readonly kind: ErrorKind;
      readonly code: string;
      readonly message: string;
    };

interface Job {
  /** Of the requests of its kind of work. */
  readonly pages: (requests: readonly never[]) => Promise<readonly PageReply[]>;
  /** With the result of its kind of work. */
  readonly resolve: (result: never) => void;
  readonly reject: (error: StorageError) => void;
}

/** Started by the first work, kept for the next; it does not keep the process alive. */
export class BackgroundThread {
  readonly #jobs = new Map<number, Job>();
  #lastId = 0;
  #thread: Worker | undefined;

  /** As writeFrozenLayer, on the thread; `pages` is called on this one. */
  flush(
    layer: FrozenLayer,
    settings: FlushSettings,
    pages: PageLookup,
    signal: AbortSignal,
  ): Promise<FlushResult> {
    return this.#run<FlushResult>({ type: "flush", layer, settings }, pages, signal);
  }

  /** As compactLayers, on the thread; `pages` is called on this one. */
  async compact(
    inputs: readonly CompactionInput[],
    { range, keyCuts, ...settings }: CompactionSettings,
    pages: BasePageLookup,
    signal: AbortSignal,
  ): Promise<CompactionResult> {
    const { start, end } = range;
    const compaction: CompactionWork = {
      inputs: inputs.map((input) => ({ ...input, name: formatLayerName(input.name) })),
      settings,
      range: {
        start: formatKey(start.prefix, start.index),
        end: formatKey(end.prefix, end.index),
      },
      keyCuts: keyCuts.map(({ prefix, index }) => formatKey(prefix, index)),
    };
    const work: Work = { type: "compaction", compaction };
    const outcome = await this.#run<CompactionOutcome>(work, pages, signal);
    return {
      ...outcome,
      layers: outcome.layers.map((layer) => ({
        ...layer,
        name: parseLayerFileName(layer.fileName)!,
      })),
    };
  }

  async #run<R>(work: Work, pages: Job["pages"], signal: AbortSignal): Promise<R> {
    const id = ++this.#lastId;
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const cancel = () => Atomics.store(cancelled, 0, 1);
    const { promise, resolve, reject } = Promise.withResolvers<R>();
    this.#thread ??= this.#start();
    const worker = this.#thread;
    this.#jobs.set(id, { pages, resolve, reject });
    worker.ref();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      if (signal.aborted) {
        cancel();
      }
      worker.postMessage({ type: "work", id, work, cancelled } satisfies Order);
      return await promise;
    } finally {
      signal.removeEventListener("abort", cancel);
      this.#jobs.delete(id);
      if (this.#jobs.size === 0) {
        this.#thread?.unref();
      }
    }
  }

  /** The next work starts another. */
  async close(): Promise<void> {
    await this.#thread?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(programOf("pageserver/flush/background-worker.ts"));
    worker.on("message", (answer: Answer) => this.#onAnswer(worker, answer));
    const lost = (why: string) => {
      if (this.#thread === worker) {
        this.#thread = undefined;
        for (const job of this.#jobs.values()) {
          const message = `the background thread ${why}`;
          job.reject(new StorageError("internal", "background-thread-lost", message));
        }
      }
    };
    worker.on("error", (error) => lost(`failed: ${errorMessage(error)}`));
    worker.on("exit", (code) => lost(`ended with code ${code}`));
    return worker;
  }

  #onAnswer(worker: Worker, answer: Answer): void {
    const job = this.#jobs.get(answer.id);
    if (job === undefined) {
      // A thread that failed: what it had said before comes after its end.
      return;
    }
    switch (answer.type) {
      case "pages":
        void sendPages(worker, answer.id, job, answer.requests);
        return;
      case "done":
        job.resolve(answer.result as never);
        return;
      case "failed":
        job.reject(new StorageError(answer.kind, answer.code, answer.message));
    }
  }
}

async function sendPages(
  worker: Worker,
  id: number,
  job: Job,
  requests: readonly PageRequest[] | readonly BasePageRequest[],
): Promise<void> {
  const replies = await job.pages(requests as readonly never[]);
  const moved = replies.flatMap((reply) => (reply.state === "page" ? [reply.page.buffer] : []));
  const order: Order = { type: "pages", id, replies };
  worker.postMessage(order, moved as ArrayBuffer[]);
}

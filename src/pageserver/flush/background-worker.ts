// The background thread: one flush and one compaction at a time; pages it lacks it asks the other side for.

import { parentPort } from "node:worker_threads";
import { monotonicMs, sleep, turn } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { compactLayers } from "../compaction/compact-layers.ts";
import type { BasePageRequest } from "../compaction/compaction-settings.ts";
import { decodeKey } from "../layers/key.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import type {
  Answer,
  CompactionOutcome,
  CompactionWork,
  Order,
  Work,
} from "./background-thread.ts";
import {
  type FlushResult,
  type PageReply,
  type PageRequest,
  writeFrozenLayer,
} from "./layer-flush.ts";

/** A compaction looks after so long whether there is something to flush. */
const COMPACTION_SLICE_MS = 5;
/** A compaction's time between two flushes, against that of the first: more with each flush since it began, and at most. */
const COMPACTION_SHARE = 0.25;
const MAX_COMPACTION_SHARE = 4;

const port = parentPort!;
/** Who waits for pages, by the id of the work. */
const waiting = new Map<number, (replies: readonly PageReply[]) => void>();
let flushing = 0;
let compacting = 0;
/** Since the compaction at work began. */
let flushesInCompaction = 0;
/** Until then a compaction need not wait for flushes. */
let compactionTurnEndMs = 0;
let lastFlushEnd = Promise.withResolvers<void>();
let lastFlush: Promise<void> = Promise.resolve();
let lastCompaction: Promise<void> = Promise.resolve();

type Requests = readonly PageRequest[] | readonly BasePageRequest[];
type Result = FlushResult | CompactionOutcome;

/** What all work is given. */
interface Surroundings {
  readonly disk: typeof REAL_DISK;
  readonly cancelled: () => boolean;
  readonly pages: (requests: Requests) => Promise<readonly PageReply[]>;
}

async function carryOut({ id, work, cancelled }: Extract<Order, { type: "work" }>): Promise<void> {
  let answer: Answer;
  try {
    const result = await resultOf(work, {
      disk: REAL_DISK,
      cancelled: () => Atomics.load(cancelled, 0) !== 0,
      pages: (requests) => {
        const { promise, resolve } = Promise.withResolvers<readonly PageReply[]>();
        waiting.set(id, resolve);
        port.postMessage({ type: "pages", id, requests } satisfies Answer);
        return promise;
      },
    });
    answer = { type: "done", id, result };
  } catch (error) {
    const code = error instanceof StorageError ? error.code : "internal";
    answer = { type: "failed", id, kind: errorKind(error), code, message: errorMessage(error) };
  }
  waiting.delete(id);
  port.postMessage(answer);
}

function resultOf(work: Work, surroundings: Surroundings): Promise<Result> {
  if (work.type === "compaction") {
    return compact(work.compaction, surroundings);
  }
  const { layer, settings } = work;
  const sliceMs = Number.POSITIVE_INFINITY;
  return writeFrozenLayer(layer, { ...settings, ...surroundings, sliceMs });
}

async function compact(
  { inputs, settings, range, keyCuts }: CompactionWork,
  surroundings: Surroundings,
): Promise<CompactionOutcome> {
  const key = (text: string) => decodeKey(Buffer.from(text, "hex"));
  const { layers, ...rest } = await compactLayers(
    inputs.map((input) => ({ ...input, name: parseLayerFileName(input.name)! })),
    {
      ...settings,
      ...surroundings,
      range: { start: key(range.start), end: key(range.end) },
      keyCuts: keyCuts.map(key),
      sliceMs: COMPACTION_SLICE_MS,
      pause: afterFlushes,
    },
  );
  return {
    ...rest,
    layers: layers.map(({ fileName, sizeBytes }) => ({ fileName, sizeBytes })),
  };
}

/** Lets orders arrive, and what is to be flushed be flushed, but for the compaction's share of the time. */
async function afterFlushes(): Promise<void> {
  await turn();
  while (flushing > 0 && monotonicMs() >= compactionTurnEndMs) {
    await lastFlushEnd.promise;
  }
}

async function flushNext(order: Extract<Order, { type: "work" }>): Promise<void> {
  const leftMs = compactionTurnEndMs - monotonicMs();
  if (compacting > 0 && leftMs > 0) {
    await Promise.race([sleep(leftMs), lastCompaction]);
  }
  const beganMs = monotonicMs();
  await carryOut(order);
  flushing--;
  // The longer a compaction waits, the more it gets: never nothing, or layers would pile up for as long as WAL comes.
  flushesInCompaction = compacting > 0 ? flushesInCompaction + 1 : 0;
  const share = Math.min(MAX_COMPACTION_SHARE, flushesInCompaction * COMPACTION_SHARE);
  compactionTurnEndMs = monotonicMs() + (monotonicMs() - beganMs) * share;
  const ended = lastFlushEnd;
  lastFlushEnd = Promise.withResolvers();
  ended.resolve();
}

async function compactNext(order: Extract<Order, { type: "work" }>): Promise<void> {
  flushesInCompaction = 0;
  await carryOut(order);
  compacting--;
}

port.on("message", (order: Order) => {
  if (order.type === "pages") {
    waiting.get(order.id)?.(order.replies);
  } else if (order.work.type === "flush") {
    // One at a time: two at once would only take turns at the same processor.
    flushing++;
    lastFlush = lastFlush.then(() => flushNext(order));
  } else {
    compacting++;
    lastCompaction = lastCompaction.then(() => compactNext(order));
  }
});

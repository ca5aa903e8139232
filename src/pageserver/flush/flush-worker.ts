// The flush thread: writes one frozen layer after the other; pages it lacks it asks the other side for.

import { parentPort } from "node:worker_threads";
import { REAL_DISK } from "../../base/disk.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import type { FlushAnswer, FlushOrder } from "./flush-thread.ts";
import { type PageReply, writeFrozenLayer } from "./layer-flush.ts";

const port = parentPort!;
let arrived: (replies: readonly PageReply[]) => void = () => {};
let last: Promise<void> = Promise.resolve();

async function flush(order: Extract<FlushOrder, { type: "flush" }>): Promise<void> {
  const { id, layer, settings, cancelled } = order;
  let answer: FlushAnswer;
  try {
    const result = await writeFrozenLayer(layer, {
      ...settings,
      disk: REAL_DISK,
      cancelled: () => Atomics.load(cancelled, 0) !== 0,
      sliceMs: Number.POSITIVE_INFINITY,
      pages: (requests) => {
        const { promise, resolve } = Promise.withResolvers<readonly PageReply[]>();
        arrived = resolve;
        port.postMessage({ type: "pages", id, requests } satisfies FlushAnswer);
        return promise;
      },
    });
    answer = { type: "done", id, result };
  } catch (error) {
    const code = error instanceof StorageError ? error.code : "internal";
    answer = { type: "failed", id, kind: errorKind(error), code, message: errorMessage(error) };
  }
  port.postMessage(answer);
}

port.on("message", (order: FlushOrder) => {
  if (order.type === "pages") {
    arrived(order.replies);
  } else {
    // One at a time: two at once would only take turns at the same processor.
    last = last.then(() => flush(order));
  }
});

// A process in which one life of a pageserver follows another, each in a home of its own: a start of a process costs more than all else of a try.

/*
 * Over the IPC channel: `{ start: [arguments as the daemon's] }`, answered by `{ started: true }` or `{ failed: reason }`, and
 * `{ stop: true }`, which leaves what is in memory there, answered by `{ stopped: true }`. file-steps.ts takes the rest.
 */

import { parseArgs } from "node:util";
import { lockDirectory, wholeNumber } from "../../src/base/daemon.ts";
import { errorMessage } from "../../src/base/errors.ts";
import { createLogger } from "../../src/base/log.ts";
import { openObjectStore } from "../../src/object-store/open-object-store.ts";
import { Pageserver } from "../../src/pageserver/pageserver.ts";

interface Life {
  close(): Promise<void>;
}

const text = { type: "string" } as const;
const OPTIONS = {
  workdir: text,
  "remote-storage": text,
  "listen-pg": text,
  "listen-http": text,
  broker: text,
  "compaction-period-ms": text,
  "scrub-period-ms": text,
  "eviction-period-ms": text,
  "max-resident-bytes": text,
};

async function begin(args: readonly string[]): Promise<Life> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const workdir = values.workdir!;
  const logger = createLogger("pageserver");
  const lock = lockDirectory(workdir);
  try {
    const periodMs = wholeNumber(values, "eviction-period-ms");
    const maxResidentBytes = wholeNumber(values, "max-resident-bytes");
    const pageserver = await Pageserver.start({
      id: 1,
      workdir,
      listenPg: values["listen-pg"]!,
      listenHttp: values["listen-http"]!,
      broker: values.broker!,
      store: await openObjectStore(values["remote-storage"]!, {
        env: process.env,
        onAway: (error) => logger.warn({ error }, "object store is away"),
      }),
      logger,
      prepareTemplate: true,
      eviction: {
        ...(periodMs === undefined ? {} : { periodMs }),
        ...(maxResidentBytes === undefined ? {} : { maxResidentBytes }),
      },
      scrub: { periodMs: wholeNumber(values, "scrub-period-ms")! },
      upkeep: { compactionPeriodMs: wholeNumber(values, "compaction-period-ms")! },
    });
    return {
      close: async () => {
        await pageserver.close({ flush: false });
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

let life: Life | undefined;
// It lives until it is killed.
process.channel!.ref();
process.on("message", async (message: { start?: readonly string[]; stop?: true } | string) => {
  if (typeof message === "string") {
    return;
  }
  if (message.start !== undefined) {
    try {
      life = await begin(message.start);
      process.send!({ started: true });
    } catch (error) {
      process.stderr.write(`fatal: ${errorMessage(error)}\n`);
      process.send!({ failed: errorMessage(error) });
    }
  } else {
    await life?.close();
    life = undefined;
    process.send!({ stopped: true });
  }
});

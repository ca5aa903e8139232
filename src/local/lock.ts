// Locks between commands that run at once: one holder a name, gone with its process whatever kills it.

import { createHash } from "node:crypto";
import { createServer, type Server } from "node:net";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errnoCode, StorageError } from "../base/errors.ts";

const POLL_MS = 50;

/**
 * Runs `body` while holding the lock `name` of the home at `path`. The lock is a listening socket in
 * Linux's abstract namespace (unix(7)): the kernel frees it when the process dies, so there are no
 * stale lock files. StorageError `unavailable` after `timeoutMs` of waiting for another holder.
 */
export async function withLock<T>(
  path: string,
  name: string,
  body: () => Promise<T>,
  options: { timeoutMs?: number; onWait?: () => void } = {},
): Promise<T> {
  const digest = createHash("sha256").update(`${path}\0${name}`).digest("hex").slice(0, 32);
  const deadline = monotonicMs() + (options.timeoutMs ?? 120_000);
  const noticeAt = monotonicMs() + 1000;
  let noticed = false;
  let holder = await tryListen(`\0strata-${digest}`);
  while (holder === undefined) {
    if (monotonicMs() > deadline) {
      throw new StorageError(
        "unavailable",
        "home-locked",
        `another strata command keeps '${path}' locked`,
      );
    }
    if (!noticed && monotonicMs() > noticeAt) {
      noticed = true;
      options.onWait?.();
    }
    await sleep(POLL_MS);
    holder = await tryListen(`\0strata-${digest}`);
  }
  try {
    return await body();
  } finally {
    holder.close();
  }
}

function tryListen(address: string): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      if (errnoCode(error) === "EADDRINUSE") {
        resolve(undefined);
      } else {
        reject(error);
      }
    });
    server.listen({ path: address }, () => {
      server.unref();
      resolve(server);
    });
  });
}

// Reads committed WAL back from the safekeepers, which have what has left their disks from the object store.

import { setTimer } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { addLsn, formatLsn, type Lsn } from "../../base/lsn.ts";
import { openReplication, type ReplicationStream } from "../../safekeeper/client.ts";
import type { ReadWal } from "./old-wal.ts";

const CONNECT_TIMEOUT_MS = 2000;
/** Nothing came for so long: a safekeeper that is behind, or whose object store is. Then the next one is asked. */
const STALL_MS = 5000;

export interface SafekeeperWalOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** `HOST:PORT` of each, when it is asked. */
  readonly safekeepers: () => readonly string[];
}

/** Asks one after the other; what one has sent is not asked again. */
export function safekeeperWal(options: SafekeeperWalOptions): ReadWal {
  return async (begin, end, onWal) => {
    const failures: unknown[] = [];
    let next = begin;
    for (const pgAddr of options.safekeepers()) {
      try {
        await readFrom({ ...options, pgAddr }, next, end, (lsn, bytes) => {
          onWal(lsn, bytes);
          next = addLsn(lsn, bytes.length);
        });
        return;
      } catch (error) {
        failures.push(error);
      }
    }
    const isGone = failures.length > 0 && failures.every((one) => errorKind(one) === "not-found");
    throw new StorageError(
      isGone ? "not-found" : "unavailable",
      isGone ? "wal-is-gone" : "wal-not-read",
      `no safekeeper gives WAL at ${formatLsn(next)}: ${failures.map(errorMessage).join("; ")}`,
    );
  };
}

/** Of one safekeeper, [begin, end) and not a byte more. */
async function readFrom(
  { pgAddr, tenantId, timelineId }: SafekeeperWalOptions & { readonly pgAddr: string },
  begin: Lsn,
  end: Lsn,
  onWal: (lsn: Lsn, bytes: Uint8Array) => void,
): Promise<void> {
  const done = Promise.withResolvers<void>();
  // Heard where it is waited for; the stream may end before.
  done.promise.catch(() => undefined);
  const watch = () => setTimer(() => done.reject(stalled(pgAddr)), STALL_MS);
  let timer = watch();
  let stream: ReplicationStream | undefined;
  try {
    stream = await openReplication(
      {
        ...{ pgAddr, tenantId, timelineId, startLsn: begin },
        ...{ applicationName: "compute-old-wal", timeoutMs: CONNECT_TIMEOUT_MS },
      },
      {
        onWal: (lsn, bytes) => {
          timer.cancel();
          timer = watch();
          if (lsn < end) {
            onWal(lsn, bytes.subarray(0, Math.max(0, end - lsn)));
          }
          if (addLsn(lsn, bytes.length) >= end) {
            done.resolve();
          }
        },
        onClose: (error) => {
          const why = error === undefined ? "" : `: ${errorMessage(error)}`;
          const message = `safekeeper ${pgAddr} stopped sending WAL${why}`;
          done.reject(new StorageError("unavailable", "wal-ended", message));
        },
      },
    );
    await done.promise;
  } finally {
    timer.cancel();
    stream?.close();
  }
}

function stalled(pgAddr: string): StorageError {
  const message = `safekeeper ${pgAddr} has sent no WAL for ${STALL_MS} ms`;
  return new StorageError("unavailable", "wal-stalled", message);
}

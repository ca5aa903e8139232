// Whether a write comes to a majority of safekeepers: a transaction of one message that says nothing.

import { setTimer } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { maintenanceSession, type PostgresAddress, refuseReadOnly } from "./maintenance-session.ts";

const PATIENCE_MS = 10_000;

/** A commit waits for its majority and cannot be cancelled, nor can its session: so there is one at a time. */
export class WriteCheck {
  #waiting = false;

  /**
   * Resolves with true when a message of ours is on a majority. StorageError `unsupported` where Postgres only reads,
   * `unavailable` after 10 s, or at once where an earlier one still waits.
   */
  async run(address: PostgresAddress): Promise<true> {
    await refuseReadOnly(address, "a read-only endpoint takes no writes");
    if (this.#waiting) {
      throw late("an earlier check still waits");
    }
    this.#waiting = true;
    const done = write(address).finally(() => {
      this.#waiting = false;
    });
    done.catch(() => undefined);
    const { promise: tired, reject } = Promise.withResolvers<never>();
    const patience = `${PATIENCE_MS / 1000} s were not enough`;
    const timer = setTimer(() => reject(late(patience)), PATIENCE_MS);
    try {
      await Promise.race([done, tired]);
    } finally {
      timer.cancel();
    }
    return true;
  }
}

function late(why: string): StorageError {
  const message = `a write does not come to a majority of safekeepers: ${why}`;
  return new StorageError("unavailable", "not-writable", message);
}

async function write(address: PostgresAddress): Promise<void> {
  // For ever: an answer that we no longer wait for would still keep its session.
  const session = await maintenanceSession(address, SUPERUSER, 0);
  try {
    // Transactional, so that its commit is a record that is waited for; logical decoding hands it to nobody who did not ask for messages.
    await session.query("select pg_logical_emit_message(true, 'strata_check_writability', '')");
  } finally {
    session.close();
  }
}

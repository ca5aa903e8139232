// From the name of an endpoint to a connection of its Postgres: wakes it, and once more where it falls asleep at that very moment.

import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { ComputeConnection, isComputeAway, type LoginProof } from "./compute-connection.ts";
import { type ComputeAddress, type ControlPlaneClient, retryDelayMs } from "./control-plane.ts";
import { retry } from "./retry.ts";

export interface ComputeLogin {
  readonly endpoint: string;
  /** Of `parseClientOptions`. */
  readonly options: readonly (readonly [string, string])[];
  readonly parameters: ReadonlyMap<string, string>;
  readonly proof: LoginProof;
}

/** The part of the control plane that is needed here. */
export type Waker = Pick<ControlPlaneClient, "wakeCompute">;

export class Computes {
  readonly #controlPlane: Waker;
  readonly #timeoutMs: number;
  readonly #logger: Logger;
  /** Calls under way. Answers are not kept: another compute may get the port of one that was stopped. */
  readonly #waking = new Map<string, Promise<ComputeAddress>>();

  constructor(controlPlane: Waker, timeoutMs: number, logger: Logger) {
    this.#controlPlane = controlPlane;
    this.#timeoutMs = timeoutMs;
    this.#logger = logger;
  }

  /**
   * A connection that is logged in. Tries again until the time is over, whatever passes by itself: the
   * compute stops or starts, or the control plane is busy or starts again. Else what Postgres or the control plane said.
   */
  connect(login: ComputeLogin): Promise<ComputeConnection> {
    const { endpoint, parameters, proof } = login;
    return retry(
      async (leftMs) => {
        const address = await this.#wake(login);
        return ComputeConnection.login({ address, parameters, proof, timeoutMs: leftMs });
      },
      {
        timeoutMs: this.#timeoutMs,
        delayMs: (error) => (isComputeAway(error) ? 0 : retryDelayMs(error)),
        onRetry: (error) =>
          this.#logger.info({ endpoint, reason: errorMessage(error) }, "compute is not there yet"),
        tooLate: (error) => tooLate(error, this.#timeoutMs),
      },
    );
  }

  /** Many at once ask once. */
  #wake({ endpoint, options }: ComputeLogin): Promise<ComputeAddress> {
    const key = JSON.stringify([endpoint, options]);
    let waking = this.#waking.get(key);
    if (waking === undefined) {
      waking = this.#controlPlane
        .wakeCompute(endpoint, options)
        .finally(() => this.#waking.delete(key));
      this.#waking.set(key, waking);
    }
    return waking;
  }
}

function tooLate(cause: unknown, timeoutMs: number): StorageError {
  const message = `the endpoint did not come up in ${timeoutMs / 1000} s: ${errorMessage(cause)}`;
  return new StorageError("unavailable", "endpoint-not-up", message, {
    cause,
    fields: { sqlstate: "57P03", hint: "Try again; 'strata status' shows what runs." },
  });
}

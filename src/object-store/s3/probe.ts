// What a probe of an S3 service finds, and how many callers wait for one.

export interface S3Probe {
  /** Whether a second put of a key with `If-None-Match: *` is refused. */
  readonly conditionalPut: "honoured" | "ignored";
}

/** One for all who want to know; it ends when nobody waits for it any more. */
export interface RunningProbe {
  readonly result: Promise<S3Probe>;
  readonly stop: AbortController;
  waiting: number;
}

export function cannot(does: "ignores" | "refuses"): string {
  const remedy =
    does === "ignores"
      ? "; where no two processes ever write one key, conditional-writes=head-first takes it"
      : "";
  return `this store ${does} If-None-Match, so two safekeepers could replace each other's WAL: use another one${remedy}`;
}

/** The promise's result, or the signal's reason as soon as it is aborted. */
export async function orAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

// What a simulated process answers to a call: a value, or the error that a client would throw.

import { StorageError } from "../src/base/errors.ts";

export type Answer<T> = T | StorageError;

/** Undefined: no answer came. */
export function unwrapped<T>(answer: Answer<T> | undefined): Answer<T> {
  return answer ?? new StorageError("unavailable", "no-answer", "no answer");
}

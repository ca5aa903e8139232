// What the control plane said, kept for a moment: many connections that want to know the same ask once.

import { monotonicMs } from "../../base/clock.ts";
import { retryDelayMs } from "./control-plane.ts";
import { retry } from "./retry.ts";

const MAX_ENTRIES = 10_000;
/** For a control plane that is just being started again. */
const RETRY_TIMEOUT_MS = 10_000;

interface Entry<T> {
  readonly answer: Promise<T>;
  readonly sinceMs: number;
}

export class KeptAnswers<T> {
  readonly #keepMs: number;
  /** The oldest first. */
  readonly #entries = new Map<string, Entry<T>>();

  /** `keepMs`: so late a change may be seen. */
  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  /** Of `ask`, or of who asked for the same just before; what fails is not kept. */
  get(key: string, ask: () => Promise<T>): Promise<T> {
    const now = monotonicMs();
    const known = this.#entries.get(key);
    if (known !== undefined && now < known.sinceMs + this.#keepMs) {
      return known.answer;
    }
    const answer = retry(ask, { timeoutMs: RETRY_TIMEOUT_MS, delayMs: retryDelayMs });
    const entry = { answer, sinceMs: now };
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    answer.catch(() => {
      if (this.#entries.get(key) === entry) {
        this.#entries.delete(key);
      }
    });
    if (this.#entries.size > MAX_ENTRIES) {
      this.#entries.delete(this.#entries.keys().next().value!);
    }
    return answer;
  }

  /** The next one asks again: what we know did not fit. */
  forget(key: string): void {
    this.#entries.delete(key);
  }
}

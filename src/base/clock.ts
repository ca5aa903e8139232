// The only source of time: clocks, timers and waits, so that a simulation can replace all of them at once.

export interface Timer {
  /** It does not fire any more; nothing where it has. */
  cancel(): void;
  /** Its time counts from now on, also where it has fired already. */
  restart(): void;
}

export interface Clock {
  /** Milliseconds since the Unix epoch. */
  nowMs(): number;
  /** Milliseconds on a clock that never goes back. */
  monotonicMs(): number;
  /** Calls back once, not before `delayMs`. One that is `idle` does not keep the process alive. */
  setTimer(callback: () => void, delayMs: number, idle: boolean): Timer;
  /** Calls back when what has arrived by now has been handled. */
  atNextTurn(callback: () => void): void;
}

/** Global functions at each call, so that node:test's mock timers work too. */
export const REAL_CLOCK: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer: (callback, delayMs, idle) => {
    const timer = setTimeout(callback, delayMs);
    if (idle) {
      timer.unref();
    }
    return { cancel: () => clearTimeout(timer), restart: () => void timer.refresh() };
  },
  atNextTurn: (callback) => void setImmediate(callback),
};

let clock = REAL_CLOCK;

/** For simulations and tests: what everything below goes by from now on. */
export function replaceClock(replacement: Clock): void {
  clock = replacement;
}

/** Milliseconds since the Unix epoch. */
export function nowMs(): number {
  return clock.nowMs();
}

/** Milliseconds on a clock that never goes back; only differences mean something. */
export function monotonicMs(): number {
  return clock.monotonicMs();
}

/** Lets whatever has arrived be handled before work that keeps the thread busy goes on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => clock.atNextTurn(resolve));
}

/** As `turn`, for who has nothing to wait with. */
export function atNextTurn(callback: () => void): void {
  clock.atNextTurn(callback);
}

/** Calls back once, not before `delayMs`. */
export function setTimer(callback: () => void, delayMs: number): Timer {
  return clock.setTimer(callback, delayMs, false);
}

/** As `setTimer`, but it does not keep the process alive. */
export function setIdleTimer(callback: () => void, delayMs: number): Timer {
  return clock.setTimer(callback, delayMs, true);
}

/** Calls back every `intervalMs` until it is cancelled. */
export function setRepeatingTimer(callback: () => void, intervalMs: number): Timer {
  return repeat(callback, intervalMs, false);
}

/** As `setRepeatingTimer`, but it does not keep the process alive. */
export function setIdleRepeatingTimer(callback: () => void, intervalMs: number): Timer {
  return repeat(callback, intervalMs, true);
}

function repeat(callback: () => void, intervalMs: number, idle: boolean): Timer {
  let timer: Timer;
  const fire = () => {
    // First, so that the callback can cancel it, and one that throws does not end it.
    timer = clock.setTimer(fire, intervalMs, idle);
    callback();
  };
  timer = clock.setTimer(fire, intervalMs, idle);
  return { cancel: () => timer.cancel(), restart: () => timer.restart() };
}

/** Rejects with the signal's reason as soon as that is aborted. */
export function sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const aborted = () => {
      timer.cancel();
      reject(signal?.reason);
    };
    const done = () => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    };
    const timer = clock.setTimer(done, durationMs, false);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/** Aborted after so long; does not keep the process alive. */
export function abortAfter(durationMs: number): AbortSignal {
  const controller = new AbortController();
  setIdleTimer(() => {
    const message = `timeout after ${durationMs} ms`;
    controller.abort(new DOMException(message, "TimeoutError"));
  }, durationMs);
  return controller.signal;
}

// JSON log lines on stderr: fixed messages, data in fields.

import { type Logger, pino } from "pino";

export type { Logger } from "pino";

/** `level` from $STRATA_LOG (trace, debug, info, warn, error, silent); default info. */
export function createLogger(component: string): Logger {
  return pino(
    {
      level: process.env["STRATA_LOG"] ?? "info",
      base: { component, pid: process.pid },
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
      errorKey: "error",
    },
    // Synchronous: a crash must not lose the lines that explain it.
    pino.destination({ dest: 2, sync: true }),
  );
}

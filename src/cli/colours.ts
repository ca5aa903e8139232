// Colours for a person at a terminal; what goes into a pipe or a log, also of a CI, can be read by programs.

import pc from "picocolors";

/** Those of picocolors; its own rule would colour every output where `$CI` is set. */
export function coloursFor(
  stream: { readonly isTTY?: boolean },
  environment: Readonly<Record<string, string | undefined>> = process.env,
): ReturnType<typeof pc.createColors> {
  const { NO_COLOR, FORCE_COLOR, TERM } = environment;
  const wanted =
    FORCE_COLOR === undefined ? stream.isTTY === true && TERM !== "dumb" : FORCE_COLOR !== "0";
  return pc.createColors(wanted && (NO_COLOR ?? "") === "");
}

// In tests: answers are what the OpenAPI document says.

import { isDeepStrictEqual } from "node:util";
import { StorageError } from "../base/errors.ts";
import type { Route } from "./route.ts";

/** StorageError `internal` for an answer that its schema refuses, or has fields that it does not name. */
export async function checkAnswer(route: Route, answer: unknown): Promise<void> {
  const schema = (await route.schemas()).answer;
  const sent: unknown = answer === undefined ? undefined : JSON.parse(JSON.stringify(answer));
  const result = schema?.safeParse(sent);
  const matches =
    result === undefined
      ? sent === undefined
      : result.success && isDeepStrictEqual(result.data, sent);
  if (!matches) {
    const problem = result?.success === false ? result.error.message : "fields without a schema";
    const message = `answer of ${route.method} ${route.path}: ${problem}: ${JSON.stringify(sent)}`;
    throw new StorageError("internal", "undocumented-answer", message);
  }
}

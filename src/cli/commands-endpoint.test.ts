import assert from "node:assert/strict";
import { test } from "node:test";
import { splitPsqlWords } from "./commands-endpoint.ts";

test("splitPsqlWords: an endpoint, words for psql, both or neither", () => {
  const split = (first: string | undefined, rest: string[], ...words: string[]) =>
    splitPsqlWords(first, rest, ["node", "main.ts", "psql", ...words]);
  assert.deepEqual(split(undefined, []), { endpointId: undefined, psqlArgs: [] });
  assert.deepEqual(split("main", [], "main"), { endpointId: "main", psqlArgs: [] });
  assert.deepEqual(split("main", ["-l"], "main", "-l"), { endpointId: "main", psqlArgs: ["-l"] });
  assert.deepEqual(split("main", ["--", "-c", "x"], "main", "--", "-c", "x"), {
    endpointId: "main",
    psqlArgs: ["-c", "x"],
  });
  assert.deepEqual(split("-c", ["x"], "--", "-c", "x"), {
    endpointId: undefined,
    psqlArgs: ["-c", "x"],
  });
});

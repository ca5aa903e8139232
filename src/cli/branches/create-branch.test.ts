import assert from "node:assert/strict";
import { test } from "node:test";
import { strataCommand } from "../../local/strata-command.ts";
import { endpointHint } from "./create-branch.ts";

test("endpointHint: the command as it is typed here, words as a shell takes them, the tenant that was named", () => {
  const strata = strataCommand();
  assert.notEqual(strata, "strata");
  assert.deepEqual(endpointHint("dev", "dev"), [
    `Start Postgres on it: ${strata} endpoint create dev --branch-name dev`,
    `                      ${strata} endpoint start dev`,
  ]);
  const id = "a".repeat(32);
  assert.match(
    endpointHint("12-fix", "#12-fix", id)[0]!,
    new RegExp(` create 12-fix --branch-name '#12-fix' --tenant-id ${id}$`),
  );
});

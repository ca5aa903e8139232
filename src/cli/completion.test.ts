import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { Command } from "commander";
import { completionScript } from "./completion.ts";

test("completionScript: bash completes verbs, then options, of the command typed so far", () => {
  const program = new Command("strata");
  const timeline = program.command("timeline");
  timeline.command("list").option("--json").option("--tenant-id <id>");
  timeline.command("branch");
  program.command("storage-broker").alias("storage_broker").command("start");
  const script = completionScript(program, false);
  const complete = (...words: string[]) => {
    const line = ["strata", ...words].map((word) => `'${word}'`).join(" ");
    const asked = spawnSync(
      "bash",
      [
        "-c",
        `${script}\nCOMP_WORDS=(${line}); COMP_CWORD=${words.length}; _strata; echo "\${COMPREPLY[*]}"`,
      ],
      { encoding: "utf8" },
    );
    assert.equal(asked.stderr, "");
    return asked.stdout.trim();
  };
  assert.equal(complete("t"), "timeline");
  assert.equal(complete("timeline", ""), "list branch");
  assert.equal(complete("timeline", "list", "--"), "--json --tenant-id");
  assert.equal(complete("storage_broker", "s"), "start");
});

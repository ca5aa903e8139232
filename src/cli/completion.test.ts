import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Command } from "commander";
import { ROOT } from "../base/program-files.mjs";
import { completionScript } from "./completion.ts";
import { buildProgram, COMMAND_PARTS } from "./program.ts";

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

test("buildProgram: a verb loads the part that has it, which has no others", async () => {
  const words = ({ commands }: Command) =>
    commands.flatMap((command) => [command.name(), ...command.aliases()]).toSorted();
  const verbs = COMMAND_PARTS.flatMap((part) => part.verbs);
  assert.equal(new Set(verbs).size, verbs.length);
  for (const part of COMMAND_PARTS.filter((one) => one.verbs.length > 0)) {
    for (const verb of part.verbs) {
      assert.deepEqual(words(await buildProgram(verb)), part.verbs.toSorted(), verb);
    }
  }
  const all = await buildProgram();
  // scripts/strata.mjs tells what this file says.
  const about = readFileSync(join(ROOT, "package.json"), "utf8");
  assert.equal(all.version(), (JSON.parse(about) as { version: string }).version);
  assert.deepEqual(words(all), [...verbs, "completion"].toSorted());
  assert.deepEqual(words(await buildProgram("completion")), words(all));
  assert.deepEqual(words(await buildProgram("no-such-verb")), words(all));
});

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { LAUNCHER } from "./kills.ts";

/** Asked for a statement it reads its input, as some programs would, and fails twice; else it says what it was given. */
const PSQL = `#!/bin/sh
case " $* " in
  *" -c "*) cat >/dev/null; echo >>"$ASKED"; [ "$(wc -l <"$ASKED")" -gt 2 ] ;;
  *) echo "$*"; cat ;;
esac
`;

test("LAUNCHER: psql of a test starts when the server answers, with all of its input", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-launcher-"));
  try {
    const [launcher, psql, asked] = ["launcher", "psql", "asked"].map((name) =>
      join(directory, name),
    );
    writeFileSync(launcher!, LAUNCHER, { mode: 0o755 });
    writeFileSync(psql!, PSQL, { mode: 0o755 });
    const env = { PATH: process.env["PATH"], ASKED: asked };
    const said = execFileSync(launcher!, [psql!, "-X", "-d", "regression"], {
      env,
      input: "SELECT 1;\n",
      encoding: "utf8",
    });
    assert.equal(said, "-X -d regression\nSELECT 1;\n");
    assert.equal(readFileSync(asked!, "utf8").length, 3);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { SCRAM_SECRET, scramSecret } from "./scram.ts";

test("scramSecret: the keys of RFC 7677's example", () => {
  // Section 3: user "user", password "pencil", 4096 iterations. Its ServerSignature and ClientProof
  // follow from these keys.
  const salt = Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64");
  assert.equal(
    scramSecret("pencil", salt),
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
  );
});

test("SCRAM_SECRET: takes what scramSecret makes, and nothing that could leave a quoted string", () => {
  assert.match(scramSecret("x"), SCRAM_SECRET);
  assert.notEqual(scramSecret("x"), scramSecret("x"));
  for (const bad of ["", "x", "SCRAM-SHA-256$4096:aaaa$b:c", `${scramSecret("x")}'`, "md5abc"]) {
    assert.doesNotMatch(bad, SCRAM_SECRET);
  }
});

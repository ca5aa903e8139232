// Colours are for terminals.

import assert from "node:assert/strict";
import { test } from "node:test";
import { coloursFor } from "./colours.ts";

test("coloursFor: a terminal's output has them, a pipe's has not, in a CI neither", () => {
  const [terminal, pipe] = [{ isTTY: true }, {}];
  assert.ok(coloursFor(terminal, {}).isColorSupported);
  assert.ok(!coloursFor(terminal, { NO_COLOR: "1" }).isColorSupported);
  assert.ok(!coloursFor(terminal, { TERM: "dumb" }).isColorSupported);
  assert.ok(!coloursFor(pipe, { TERM: "xterm" }).isColorSupported);
  assert.equal(coloursFor(pipe, { CI: "true" }).bold("url"), "url");
  assert.ok(coloursFor(pipe, { FORCE_COLOR: "1" }).isColorSupported);
  assert.ok(!coloursFor(terminal, { FORCE_COLOR: "0" }).isColorSupported);
});

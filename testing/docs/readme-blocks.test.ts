// The reader of a page's commands takes and compares what it should.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fencedBlocks, matchesShown, shellCommands, transcript } from "./readme-blocks.ts";

const PAGE = `# A page

\`\`\`sh
npm start      # a comment
# nothing else

npx strata status
\`\`\`

\`\`\`console
$ npx strata init
Initializing

# what follows
$ npx strata stop
\`\`\`
`;

test("blocks: their language, commands and output", () => {
  const [shell, shown] = fencedBlocks(PAGE);
  assert.equal(shell!.language, "sh");
  assert.deepEqual(shellCommands(shell!), ["npm start", "npx strata status"]);
  assert.deepEqual(transcript(shown!), [
    { command: "npx strata init", output: ["Initializing"] },
    { command: "npx strata stop", output: [] },
  ]);
});

test("matchesShown: ids, LSNs, ports, times and paths may differ, nothing else", () => {
  const id = "de200bd42b49cc1814412c7e592dd6e9";
  const other = "b3b863fa45fa9e57e615f9f2d944e601";
  assert.ok(matchesShown(`main [${id}]`, `main [${other}]`));
  assert.ok(matchesShown("at Lsn 0/16F9A00 of", "at Lsn 1/A0 of"));
  assert.ok(matchesShown("on 127.0.0.1:64000 (0.2 s)", "on 127.0.0.1:9898 (13 ms)"));
  assert.ok(matchesShown(`in ".../.strata/pageserver_1"`, `in "/tmp/x/.strata/pageserver_1"`));
  assert.ok(
    matchesShown("postgresql://me:secret@127.0.0.1:5/x", "postgresql://me:other@127.0.0.1:6/x"),
  );
  assert.ok(matchesShown(" A      B", "A B"));
  assert.ok(!matchesShown(`main [${id}]`, `dev [${other}]`));
  assert.ok(!matchesShown("a.b", "axb"));
  assert.ok(!matchesShown("count 10", "count 11"));
});

// Broken rules of the shim: claims on blocks. A test that finds the source changed builds the library anew.

import type { MutantPart } from "./mutant.ts";

const BLOCKS = "src/compute/shim/library/blocks.c";
const HELD = "src/compute/shim/library/held.c";
const SCENES = "src/compute/shim/shim-scenes.test.ts";
const TABLESPACES = "test/compute/tablespaces.test.ts";
const STRESS = "src/compute/shim/shim-stress.test.ts";
const ALL_AT_ONCE = "claims: no write is lost and no zero is read, whatever runs at once";

export const SHIM_MUTANTS: MutantPart = {
  part: "shim",
  mutants: [
    {
      rule: "files of a tablespace are in its location",
      file: "src/compute/shim/library/tablespaces.c",
      search: "syscall(SYS_symlinkat, target, AT_FDCWD, link)",
      replace: "syscall(SYS_symlinkat, location, AT_FDCWD, link)",
      test: TABLESPACES,
      name: "tablespaces: made, filled and moved into; all of it after a start on an empty cache",
    },
    {
      rule: "a base backup looks for a tablespace where its location is",
      file: "src/compute/shim/library/tablespaces.c",
      search: "  if (oid == 0 || strlen(end) + MAX_PATH > MAX_LOCATION) {",
      replace: "  if (oid != 0 || strlen(end) + MAX_PATH > MAX_LOCATION) {",
      test: TABLESPACES,
      name: "tablespaces: a base backup has them, and stock Postgres goes on from it",
    },
    {
      rule: "relations of one number in two tablespaces are one",
      file: "src/compute/shim/library/files.c",
      search: "{KIND_DIR, key->db, 0, 0, key->spc}",
      replace: "{KIND_DIR, key->db, 0, 0, 0}",
      test: TABLESPACES,
      name: "tablespaces: emptied and dropped, and their names and locations used again",
    },
    {
      rule: "memory of pages serves for others before Postgres has them",
      file: "src/compute/shim/shim-server.ts",
      search:
        "      if (error === undefined || error === null) {\n        for (const piece of pieces) {\n          piece.release();\n        }\n      }\n    });",
      replace: "    });\n    for (const piece of pieces) {\n      piece.release();\n    }",
      test: "src/compute/shim/shim-server.test.ts",
      name: "ShimServer: pages are released when they have left, not before",
    },
    {
      rule: "a page that storage cannot give takes those along that were read ahead with it",
      file: "src/compute/pages/read-ahead.ts",
      search: "      return this.#fetch(from, to, fetch);\n    }\n    const at",
      replace: "      pages = await run.pages;\n    }\n    const at",
      test: "src/compute/pages/page-source.test.ts",
      name: "a page that storage cannot give fails alone, also where it was read ahead",
    },
    {
      rule: "memory of pages is used again while others of the run have not been read",
      file: "src/compute/pages/read-ahead.ts",
      search: "if (run.unreleased === 0) {",
      replace: "if (run.unreleased > 0) {",
      test: "src/compute/pages/read-ahead.test.ts",
      name: "ReadAhead: memory is given back once, when all that was fetched together has been released",
    },
    {
      rule: "a short write marks all its blocks present",
      file: BLOCKS,
      search: "((u64)block + 1) * BLOCK <= done; block++",
      replace: "done > (u64)at; block++",
      test: SCENES,
      name: "claims: a write that the disk took a part of leaves the rest absent",
    },
    {
      rule: "a block is there that was written in part",
      file: BLOCKS,
      search: "((u64)block + 1) * BLOCK <= done; block++",
      replace: "(u64)block * BLOCK <= done; block++",
      test: SCENES,
      name: "claims: a write that the disk took a part of leaves the rest absent",
    },
    {
      rule: "a short write tells of a part of a block",
      file: BLOCKS,
      search: "    written = (ssize_t)((u64)block * BLOCK - (u64)at);\n",
      replace: "",
      test: SCENES,
      name: "claims: what goes on after a short write takes nothing of it away",
    },
    {
      rule: "an exit keeps claims on blocks",
      file: HELD,
      search: "void give_back_all(void) {\n  give_back_blocks();",
      replace: "void give_back_all(void) {",
      test: SCENES,
      name: "claims: a process that exits out of a signal handler leaves no claim on a block",
    },
    {
      rule: "an exit keeps the lock of a path",
      file: HELD,
      search: "    settle(held_slots[held_slot_count].slot, held_slots[held_slot_count].was);\n  }",
      replace: "  }",
      test: SCENES,
      name: "claims: a process that exits out of a signal handler leaves no claim on a path",
    },
    {
      rule: "a signal handler waits for what its own process claimed",
      file: HELD,
      search: "  if (talking || held_blocks.file != NULL || held_slot_count > expected_slots) {",
      replace: "  if (talking && held_slot_count > expected_slots + 1000) {",
      test: SCENES,
      name: "claims: a signal handler on its way to exit may read what it interrupted",
    },
    {
      rule: "a truncation does not wait for the fetch of a block that it cuts off",
      file: BLOCKS,
      search: "wait_block(file, block); /* and look again */",
      replace: "block++;",
      test: SCENES,
      name: "claims: a truncation waits for the fetch of a block that it cuts off",
    },
    {
      rule: "a writer does not claim",
      file: BLOCKS,
      search: "(state == ABSENT && claim(file, block, 1, WRITING) == 1)",
      replace: "state == ABSENT",
      test: STRESS,
      name: ALL_AT_ONCE,
    },
    {
      rule: "a partial write does not fetch the rest",
      file: BLOCKS,
      search: "at % BLOCK != 0 && fault(file, fd, from, from + 1) != 0",
      replace: "at < 0 && fault(file, fd, from, from + 1) != 0",
      test: STRESS,
      name: ALL_AT_ONCE,
    },
    {
      rule: "a reader does not wait for another's fetch",
      file: BLOCKS,
      search:
        "      if (!wait_block(file, from)) {\n        return give_up();\n      }\n      continue;",
      replace: "      from++;\n      continue;",
      test: STRESS,
      name: ALL_AT_ONCE,
    },
  ],
};

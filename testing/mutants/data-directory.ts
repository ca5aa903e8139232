// Broken rules of what is read and written in a data directory whose Postgres has a superuser of its own.

import type { MutantPart } from "./mutant.ts";

const LEFT_FILES = "src/data-directory/left-files.ts";
const LEFT_FILES_TEST = "src/data-directory/left-files.test.ts";

export const DATA_DIRECTORY_MUTANTS: MutantPart = {
  part: "data-directory",
  mutants: [
    {
      rule: "what Postgres's superuser has linked into the data directory is read through the link",
      file: LEFT_FILES,
      search: "flags | O_NOFOLLOW | O_NONBLOCK",
      replace: "flags | O_NONBLOCK",
      test: "src/compute/pages/hot-blocks.test.ts",
      name: "keepHotBlocks: what is no list is left, and what a link leads to is not read",
    },
    {
      rule: "statistics are read through a link",
      file: LEFT_FILES,
      search: "flags | O_NOFOLLOW | O_NONBLOCK",
      replace: "flags | O_NONBLOCK",
      test: "src/data-directory/statistics-files.test.ts",
      name: "statistics files: there and back; nothing else of the directory",
    },
    {
      rule: "an agent waits for ever at a pipe in the data directory",
      file: LEFT_FILES,
      search: "flags | O_NOFOLLOW | O_NONBLOCK",
      replace: "flags | O_NOFOLLOW",
      test: LEFT_FILES_TEST,
      name: "openLeftFile, readLeftFile: files only",
    },
    {
      rule: "a file of somebody else's with another name in the data directory is read",
      file: LEFT_FILES,
      search: " && status.nlink === 1",
      replace: "",
      test: LEFT_FILES_TEST,
      name: "openLeftFile, readLeftFile: files only",
    },
    {
      rule: "a link to a directory leads to files of somebody else's",
      file: LEFT_FILES,
      search: " && status.uid === statSync(directory).uid",
      replace: "",
      test: LEFT_FILES_TEST,
      name: "openLeftFile: files of the directory's owner",
    },
    {
      rule: "what an agent makes in the data directory is its own user's",
      file: LEFT_FILES,
      search: "  fchownSync(fd, uid, gid);",
      replace: "  fchownSync(fd, uid - uid, gid);",
      test: LEFT_FILES_TEST,
      name: "openLeftFile: files of the directory's owner",
    },
    {
      rule: "WAL of before a start is written through a link",
      file: "src/compute/wal/old-wal.ts",
      search:
        '    rmSync(fresh, { force: true });\n    // What a superuser may have linked there is not written through.\n    const fd = openSync(fresh, "wx+", 0o600);',
      replace: '    const fd = openSync(fresh, "w+", 0o600);',
      test: "src/compute/wal/old-wal.test.ts",
      name: "OldWal: a link of a segment's name leads nowhere",
    },
  ],
};

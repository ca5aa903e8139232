import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { StorageError } from "../../base/errors.ts";
import { SeededRandom } from "../../base/random.ts";
import { findInstallation, SUPPORTED_MAJORS } from "../../postgres/installation.ts";
import {
  checkPostgresImports,
  type ElfImports,
  parseElfImports,
  readElfImports,
} from "./elf-imports.ts";
import { HARMLESS_IMPORTS, INTERCEPTED_IMPORTS, REFUSED_IMPORTS } from "./shim-imports.ts";
import { SHIM_PREBUILT_DIRECTORY } from "./shim-loader.ts";

const POSTGRES = join(findInstallation().binDir, "postgres");

function withImport(imports: ElfImports, name: string, library?: string): ElfImports {
  return { ...imports, functions: [...imports.functions, { name, library }] };
}

test("checkPostgresImports: the shipped Postgres of each major passes", () => {
  for (const major of SUPPORTED_MAJORS) {
    const program = join(findInstallation(major).binDir, "postgres");
    const imports = readElfImports(program);
    assert.ok(imports.functions.length > 300);
    const read = imports.functions.find(({ name }) => name === "pread" || name === "pread64");
    assert.match(read?.library ?? "", /^lib(c|pthread)\.so/);
    checkPostgresImports(program, imports);
  }
});

test("checkPostgresImports: refuses I/O that the shim does not see, and names it", () => {
  const imports = readElfImports(POSTGRES);
  const refused = (doctored: ElfImports, pattern: RegExp) =>
    assert.throws(
      () => checkPostgresImports("postgres", doctored),
      (error) =>
        error instanceof StorageError &&
        error.kind === "unsupported" &&
        pattern.test(error.message),
    );
  refused(withImport(imports, "preadv2", "libc.so.6"), /imports preadv2/);
  refused(withImport(imports, "brand_new_read", "libc.so.6"), /imports brand_new_read/);
  refused(withImport(imports, "openat"), /imports openat/);
  refused(withImport(imports, "io_uring_queue_init", "liburing.so.2"), /io_uring_queue_init/);
  refused(
    { ...imports, libraries: [...imports.libraries, "liburing.so.2"] },
    /linked with liburing/,
  );
  refused(
    { ...imports, functions: imports.functions.filter(({ name }) => name !== "fdatasync") },
    /does not import fdatasync/,
  );
});

test("shim imports: the three lists are apart", () => {
  for (const name of INTERCEPTED_IMPORTS) {
    assert.ok(!HARMLESS_IMPORTS.has(name) && !REFUSED_IMPORTS.has(name), name);
  }
  for (const name of REFUSED_IMPORTS) {
    assert.ok(!HARMLESS_IMPORTS.has(name), name);
  }
});

test("shim imports: what the table calls intercepted is what the library defines", () => {
  for (const arch of ["x64", "arm64"]) {
    const library = readFileSync(join(SHIM_PREBUILT_DIRECTORY, `strata_shim.linux-${arch}.so`));
    const { functions, definitions } = parseElfImports(arch, library);
    const defined = new Set(definitions);
    for (const name of INTERCEPTED_IMPORTS) {
      assert.ok(defined.delete(name), `${arch}: ${name}`);
    }
    assert.deepEqual(
      [...defined],
      ["strata_shim_waits"],
      "nothing is intercepted beyond the table",
    );
    // An old system must be able to load it: nothing of libc that it calls is newer than 2014.
    assert.doesNotMatch(library.toString("latin1"), /GLIBC_2\.(1[89]|[2-9]\d)/, arch);
    assert.ok(functions.some(({ name }) => name === "syscall"));
    assert.ok(!functions.some(({ name }) => INTERCEPTED_IMPORTS.has(name)), `${arch} calls itself`);
  }
});

test("parseElfImports: damaged programs are refused, never read past their end", () => {
  const program = readFileSync(join(SHIM_PREBUILT_DIRECTORY, "strata_shim.linux-x64.so"));
  const random = new SeededRandom(7);
  for (let round = 0; round < 3000; round++) {
    const damaged = new Uint8Array(
      program.subarray(0, round % 3 === 0 ? random.int(program.length) : program.length),
    );
    for (let i = random.int(6); i >= 0; i--) {
      // Mostly in the headers and tables, where it matters.
      const at = random.bool() ? random.int(1000) : random.int(8000);
      if (at < damaged.length) {
        damaged[at] = random.int(256);
      }
    }
    try {
      parseElfImports("damaged", damaged);
    } catch (error) {
      assert.ok(error instanceof StorageError && error.kind === "invalid", String(error));
    }
  }
});

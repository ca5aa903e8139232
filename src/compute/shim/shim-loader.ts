// Finds or builds the shim for this machine, and what Postgres's environment must say to load it.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { DISK_FULL } from "../../base/disk.ts";
import { errnoCode, errorMessage, StorageError, withContext } from "../../base/errors.ts";
import { ROOT } from "../../base/program-files.mjs";
import { randomBytes } from "../../base/random.ts";
import { type Installation, readableByPostgres } from "../../postgres/installation.ts";

const SHIM_DIRECTORY = join(ROOT, "src", "compute", "shim");
/** Its C files and headers, and nothing else. */
export const SHIM_SOURCE_DIRECTORY = join(SHIM_DIRECTORY, "library");
export const SHIM_PREBUILT_DIRECTORY = join(SHIM_DIRECTORY, "prebuilt");
/** What decides which library findShim() gives and which binaries checkPostgresBinary() accepts. */
export const SHIM_FILES: readonly string[] = [
  ...shimSources(),
  join(SHIM_PREBUILT_DIRECTORY, "manifest.json"),
  // What decides is in this file too, where it is a bundle.
  import.meta.filename,
  ...["elf-imports.ts", "shim-imports.ts", "shim-loader.ts"].map((name) =>
    join(SHIM_DIRECTORY, name),
  ),
];
/** What a compiler is given besides source and output; part of the hash in the manifest. */
export const SHIM_COMPILER_FLAGS: readonly string[] = [
  "-std=gnu11",
  "-O2",
  "-fPIC",
  "-shared",
  "-fvisibility=hidden",
  "-Wall",
  "-Wextra",
  "-Werror",
];

/** prebuilt/manifest.json: what the committed libraries were made from. */
export interface ShimManifest {
  /** shimSourceHash() at the time. */
  readonly sourceSha256: string;
  /** Platform (`linux-x64`) -> file name and the SHA-256 of its bytes. */
  readonly files: Readonly<Record<string, { readonly name: string; readonly sha256: string }>>;
}

/** Paths of all that the library is made from, in one order everywhere. */
function shimSources(directory = SHIM_SOURCE_DIRECTORY): string[] {
  return readdirSync(directory)
    .sort()
    .map((name) => join(directory, name));
}

/** Hex SHA-256 of the sources, their names and the compiler's flags. */
export function shimSourceHash(): string {
  const hash = sha256();
  for (const path of shimSources()) {
    hash
      .update(`${basename(path)}\0`)
      .update(readFileSync(path))
      .update("\0");
  }
  return hash.update(SHIM_COMPILER_FLAGS.join("\0")).digest("hex");
}

/** Not imported: loading it takes 10 ms, and a start finds its shim checked already. */
function sha256() {
  return process.getBuiltinModule("node:crypto").createHash("sha256");
}

/**
 * Compiles the shim with `compiler`, for a test from sources of its own; StorageError `unavailable` where
 * there is none or it fails.
 */
export function compileShim(
  compiler: string,
  output: string,
  directory = SHIM_SOURCE_DIRECTORY,
  flags = SHIM_COMPILER_FLAGS,
): void {
  const temporary = `${output}.tmp-${randomBytes(4).toString("hex")}`;
  const sources = shimSources(directory).filter((path) => path.endsWith(".c"));
  const result = spawnSync(compiler, [...flags, "-o", temporary, ...sources], {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C" },
  });
  if (result.status !== 0) {
    rmSync(temporary, { force: true });
    const why =
      result.error === undefined
        ? result.stderr.trim()
        : errnoCode(result.error) === "ENOENT"
          ? `no C compiler '${compiler}' ($CC names another)`
          : errorMessage(result.error);
    const isFull = /No space left on device|Disk quota exceeded/.test(why);
    const code = isFull ? DISK_FULL : "shim-not-built";
    throw new StorageError("unavailable", code, `compile the shim: ${why}`);
  }
  renameSync(temporary, output);
}

/**
 * Path of a shim made from exactly our source: the committed library, or one that is built once into
 * `workdir` with the machine's C compiler. The Postgres user can read it.
 * StorageError `unsupported` or `unavailable` where there is no way to get one.
 */
export function findShim(workdir: string): string {
  const platform = `${process.platform}-${process.arch}`;
  if (process.platform !== "linux") {
    throw new StorageError("unsupported", "no-shim", `computes run on Linux only, not ${platform}`);
  }
  const hash = shimSourceHash();
  const prebuilt = prebuiltShim(platform, hash);
  if (prebuilt !== undefined) {
    return readableByPostgres(prebuilt);
  }
  const built = join(workdir, `strata_shim-${hash.slice(0, 16)}.so`);
  if (!existsSync(built)) {
    mkdirSync(workdir, { recursive: true });
    try {
      compileShim(process.env["CC"] ?? "cc", built);
    } catch (error) {
      const missing = `there is no intact prebuilt shim for ${platform} in ${SHIM_PREBUILT_DIRECTORY}`;
      throw withContext(error, missing);
    }
  }
  return readableByPostgres(built);
}

function prebuiltShim(platform: string, hash: string): string | undefined {
  const manifestPath = join(SHIM_PREBUILT_DIRECTORY, "manifest.json");
  if (!existsSync(manifestPath)) {
    return undefined;
  }
  const manifest = JSON.parse(readFileSync(manifestPath, "utf8")) as ShimManifest;
  const file = manifest.files[platform];
  if (manifest.sourceSha256 !== hash || file === undefined) {
    return undefined;
  }
  const path = join(SHIM_PREBUILT_DIRECTORY, file.name);
  const intact =
    existsSync(path) && sha256().update(readFileSync(path)).digest("hex") === file.sha256;
  return intact ? path : undefined;
}

/**
 * Refuses a Postgres that could read or write files past the shim: StorageError `unsupported`, naming
 * the functions. Reads a few hundred kilobytes of the binary; a few milliseconds.
 */
export async function checkPostgresBinary(installation: Installation): Promise<void> {
  const { checkPostgresImports, readElfImports } = await import("./elf-imports.ts");
  const program = join(installation.binDir, "postgres");
  checkPostgresImports(program, readElfImports(program));
}

export interface ShimEnvironmentOptions {
  /** As findShim() gave it. */
  readonly shimPath: string;
  /** Absolute. */
  readonly dataDirectory: string;
  readonly socketPath: string;
  /** `none`: syncs of WAL do nothing, for endpoints that only read. */
  readonly wal: "quorum" | "none";
  readonly walSegmentSize: number;
  /** As tablespaceVersionDirectory() makes it. */
  readonly versionDirectory: string;
  /** How much of storage's files may stay in the data directory, where it can; absent: all. */
  readonly localCacheBytes?: number | undefined;
  /** As makeCacheCounters() has made it; absent: nobody hears what the cache holds. */
  readonly cacheCountersPath?: string | undefined;
  /** As makeReadCounts() has made it; absent: nobody hears what is read. */
  readonly readCountsPath?: string | undefined;
  /** Of the files of our extension; absent: there is none. */
  readonly extensionDirectory?: string | undefined;
}

/**
 * What to add to the environment in which this very process starts `postgres`; when this process
 * ends, so does that Postgres (SIGQUIT).
 */
export function shimEnvironment(options: ShimEnvironmentOptions): Record<string, string> {
  return {
    LD_PRELOAD: options.shimPath,
    STRATA_SHIM_DATA_DIR: options.dataDirectory,
    STRATA_SHIM_SOCKET: options.socketPath,
    STRATA_SHIM_WAL: options.wal,
    STRATA_SHIM_WAL_SEGMENT_SIZE: String(options.walSegmentSize),
    STRATA_SHIM_VERSION_DIRECTORY: options.versionDirectory,
    STRATA_SHIM_PARENT_PID: String(process.pid),
    ...(options.localCacheBytes === undefined
      ? {}
      : { STRATA_SHIM_CACHE_BYTES: String(options.localCacheBytes) }),
    ...(options.cacheCountersPath === undefined
      ? {}
      : { STRATA_SHIM_CACHE_COUNTERS: options.cacheCountersPath }),
    ...(options.readCountsPath === undefined
      ? {}
      : { STRATA_SHIM_READ_COUNTS: options.readCountsPath }),
    ...(options.extensionDirectory === undefined
      ? {}
      : { STRATA_SHIM_EXTENSION_DIR: options.extensionDirectory }),
  };
}

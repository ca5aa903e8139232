// A source tree of PostgreSQL, and the tools to build with: given, or for root on Debian fetched with apt.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";

export interface PostgresSource {
  /** Absolute; nothing is written there. */
  readonly directory: string;
  /** As `configure` says, for example `15.18`. */
  readonly version: string;
}

/** What a build runs, and Debian's package of it. */
const TOOLS: Readonly<Record<string, string>> = {
  gcc: "gcc libc6-dev",
  make: "make",
  bison: "bison",
  flex: "flex",
  perl: "perl",
  bzip2: "bzip2",
};
/** Debian's releases with the source of a major. */
const RELEASES: Readonly<Record<number, string>> = { 15: "bookworm", 17: "trixie", 18: "forky" };
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Throws with what a person can do where a tool is missing and cannot be installed. */
export function installTools(): void {
  const missing = () =>
    Object.keys(TOOLS).filter((tool) => spawnSync(tool, ["--version"]).error !== undefined);
  const packages = missing().flatMap((tool) => TOOLS[tool]!.split(" "));
  if (packages.length === 0) {
    return;
  }
  const what = `building Postgres's tests needs ${missing().join(", ")}`;
  if (process.getuid?.() !== 0) {
    throw new Error(`${what}; root can install them with: apt-get install ${packages.join(" ")}`);
  }
  run("apt-get", ["update"]);
  run("apt-get", ["install", "--yes", "--no-install-recommends", ...packages]);
  if (missing().length > 0) {
    throw new Error(`${what}, also after apt-get install ${packages.join(" ")}`);
  }
}

/**
 * The tree in `given`, else the one of `major` that was fetched into `cache` before, else Debian's, fetched now.
 * `wanted` is the version whose source is taken first where there are several.
 */
export function findSource(
  major: number,
  options: { given?: string | undefined; cache: string; wanted: string },
): PostgresSource {
  const source =
    options.given === undefined
      ? (fetchedBefore(major, options.cache) ?? fetch(major, options.cache, options.wanted))
      : readSource(resolve(options.given));
  if (Number.parseInt(source.version, 10) !== major) {
    throw new Error(`${source.directory} has PostgreSQL ${source.version}, not ${major}`);
  }
  return source;
}

function readSource(directory: string): PostgresSource {
  const configure = join(directory, "configure");
  const text = existsSync(configure) ? readFileSync(configure, "utf8") : "";
  const version = /^PACKAGE_VERSION='(\d+[^']*)'$/m.exec(text)?.[1];
  if (version === undefined || !existsSync(join(directory, "src", "test", "regress"))) {
    throw new Error(`${directory} is no source tree of PostgreSQL (unpack its tar file)`);
  }
  return { directory, version };
}

function fetchedBefore(major: number, cache: string): PostgresSource | undefined {
  const [first] = globSync(`postgresql-${major}.*/configure`, { cwd: cache });
  return first === undefined ? undefined : readSource(join(cache, first, ".."));
}

function fetch(major: number, cache: string, wanted: string): PostgresSource {
  const release = RELEASES[major];
  if (release === undefined || process.getuid?.() !== 0 || !existsSync(KEYRING)) {
    const debian = Object.entries(RELEASES).map(([one, name]) => `${one} (from ${name})`);
    throw new Error(
      `no source of PostgreSQL ${major} here: unpack https://ftp.postgresql.org/pub/source/v${wanted}/postgresql-${wanted}.tar.bz2 ` +
        `and name it with --source DIR; root on Debian fetches ${debian.join(" and ")} by itself`,
    );
  }
  const work = mkdtempSync(join(tmpdir(), "strata-pg-source-"));
  try {
    const archive = download(`postgresql-${major}`, release, wanted, work);
    mkdirSync(cache, { recursive: true });
    run("tar", ["--no-same-owner", "-xf", archive, "-C", work]);
    const [configure] = globSync("postgresql-*/configure", { cwd: work });
    const unpacked = readSource(join(work, configure ?? "", ".."));
    // Beside its place first: a tree in the cache is whole. With its times, or make would make its generated files anew.
    const target = join(cache, basename(unpacked.directory));
    rmSync(`${target}.tmp`, { recursive: true, force: true });
    run("cp", ["-a", "--no-preserve=ownership", unpacked.directory, `${target}.tmp`]);
    renameSync(`${target}.tmp`, target);
    return { ...unpacked, directory: target };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Debian's source package by apt, with lists of our own: those of the machine stay as they are. */
function download(name: string, release: string, wanted: string, work: string): string {
  const sources = [
    `deb-src [signed-by=${KEYRING}] http://deb.debian.org/debian ${release} main`,
    `deb-src [signed-by=${KEYRING}] http://deb.debian.org/debian-security ${release}-security main`,
  ];
  writeFileSync(join(work, "sources.list"), `${sources.join("\n")}\n`);
  mkdirSync(join(work, "lists", "partial"), { recursive: true });
  const own = [
    `Dir::Etc::sourcelist=${join(work, "sources.list")}`,
    "Dir::Etc::sourceparts=-",
    `Dir::State::lists=${join(work, "lists")}`,
    // The user that apt downloads as may not enter here.
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);
  run("apt-get", [...own, "update"]);
  const shown = run("apt-cache", [...own, "showsrc", name]);
  const versions = [...shown.matchAll(/^Version: (\S+)$/gm)].map((match) => match[1]!);
  const first = versions.filter((one) => one.startsWith(`${wanted}-`));
  let failure = `${release} has no source package ${name}`;
  // A mirror can list a version that it does not hold any more.
  for (const version of [...first, ...versions.filter((one) => !first.includes(one))]) {
    const args = [...own, "source", "--download-only", `${name}=${version}`];
    const result = spawnSync("apt-get", args, { cwd: work, encoding: "utf8" });
    const [archive] = globSync(`*_${version.split("-")[0]}.orig.tar.{bz2,gz,xz}`, { cwd: work });
    if (result.status === 0 && archive !== undefined) {
      return join(work, archive);
    }
    failure = `apt-get source ${name}=${version}: ${result.stderr.trim()}`;
  }
  throw new Error(failure);
}

/** To its end; what it wrote. */
function run(program: string, args: readonly string[]): string {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C" };
  const result = spawnSync(program, args, { encoding: "utf8", env, maxBuffer: 1 << 26 });
  if (result.status !== 0) {
    const why = result.error?.message ?? result.stderr.trim().split("\n").slice(-3).join(" | ");
    throw new Error(`${program} ${args.join(" ")}: ${why}`);
  }
  return result.stdout;
}

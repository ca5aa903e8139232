// `npm run test:fresh`: README's two commands on a bare Debian 12 and 13, as root and as an ordinary user.
//
// Each Debian is made by debootstrap and has nodejs and npm only; the checkout lies in a folder with a
// space. `--debian DIR` is a system made before, which stays; `--suite bookworm`, `--user root`, `--only start` and `--tests NAME` (of `npm test -- NAME`)
// pick. Needs root. Mirror, proxies and certificates are those that apt and npm have here. Everything
// runs in mount and process namespaces of its own: what is mounted or started there ends with them.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";

const ROOT = dirname(import.meta.dirname);
const SUITES: Readonly<Record<string, string>> = { bookworm: "Debian 12", trixie: "Debian 13" };
const USERS: Readonly<Record<string, string>> = { root: "/root", alice: "/home/alice" };
const PROJECT = "my project/strata";
const URL_MS = 10 * 60_000;
const NPM_SETTINGS = ["registry", "cafile", "proxy", "https-proxy", "noproxy"];

/** Starts npm in $1, ends it by SIGTERM when a line comes in, and says what is left a moment later. */
const START_SCRIPT = `
cd "$1"
exec 3<&0
npm start &
npm=$!
(read line; kill -TERM $npm) <&3 &
wait $npm
echo "npm start has ended, exit code $?"
kill $! 2> /dev/null
programs() {
  for process in /proc/[0-9]*; do
    case $(readlink $process/exe) in
      */node | */postgres) tr '\\0' ' ' < $process/cmdline; echo ;;
    esac
  done 2> /dev/null
}
for try in $(seq 100); do
  [ -z "$(programs)" ] && break
  sleep 0.1
done
echo "left running: $(programs | wc -l)"
programs
`;

const running = new Set<ChildProcess>();
let temporary: string | undefined;

function makeTemporary(): string {
  temporary = mkdtempSync(join(tmpdir(), "strata-fresh-"));
  chmodSync(temporary, 0o755);
  return temporary;
}

function cleanUp(): void {
  for (const child of running) {
    child.kill("SIGKILL");
  }
  if (temporary !== undefined) {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function run(command: string, args: readonly string[], input?: Buffer): string {
  const result = spawnSync(command, args, {
    encoding: "utf8",
    input,
    maxBuffer: 1e9,
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C" },
  });
  if (result.status !== 0) {
    const why =
      result.error?.message ?? `${result.stdout}${result.stderr}`.trim().split("\n").slice(-5);
    throw new Error(`${command} ${args.join(" ")}: ${why}`);
  }
  return result.stdout;
}

/** The mirror of Debian itself that apt uses here. */
function mirror(): string {
  const lines = run("apt-get", ["indextargets", "--format", "$(LABEL) $(REPO_URI)"]).split("\n");
  return (
    /^Debian (\S+)$/.exec(lines.find((line) => line.startsWith("Debian ")) ?? "")?.[1] ??
    "http://deb.debian.org/debian"
  );
}

/** What npm needs to reach the registry as this machine does, as environment variables. */
function npmEnvironment(): Record<string, string> {
  const env: Record<string, string> = {};
  for (const name of NPM_SETTINGS) {
    const value = run("npm", ["config", "get", name]).trim();
    if (value !== "" && value !== "null" && value !== "undefined") {
      env[`npm_config_${name.replaceAll("-", "_")}`] = value;
    }
  }
  if (env["npm_config_cafile"] !== undefined) {
    env["NODE_EXTRA_CA_CERTS"] = env["npm_config_cafile"];
  }
  return env;
}

/** A process inside the Debian at `root`, alone with its own processes and mounts. */
function inside(
  root: string,
  user: string,
  env: Record<string, string>,
  argv: string[],
): ChildProcess {
  // The shell stays, as process 1: it waits for orphans, which would else be zombies for ever. What it starts in the
  // background would have /dev/null as its input.
  const setUp = `
    mount --rbind /dev "$0/dev" && mount -t tmpfs shm "$0/dev/shm" && mount -t proc proc "$0/proc" ||
      exit 1
    exec 3<&0
    chroot "$0" "$@" <&3 3<&- &
    wait $!`;
  const settings = Object.entries({
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: USERS[user]!,
    DEBIAN_FRONTEND: "noninteractive",
    ...env,
  }).map(([name, value]) => `${name}=${value}`);
  const asUser = user === "root" ? [] : ["runuser", "-u", user, "--"];
  const child = spawn(
    "unshare",
    // biome-ignore format: one option a word
    ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", setUp, root,
      ...asUser, "env", "-i", ...settings, ...argv],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  return track(child);
}

function track(child: ChildProcess): ChildProcess {
  running.add(child);
  child.on("exit", () => running.delete(child));
  return child;
}

interface Talk {
  readonly child: ChildProcess;
  output(): string;
  readonly ended: Promise<number | null>;
}

function listen(child: ChildProcess): Talk {
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  return { child, output: () => output, ended };
}

async function succeed(what: string, talk: Talk): Promise<void> {
  const code = await talk.ended;
  if (code !== 0) {
    const failures = talk
      .output()
      .split("\n")
      .filter((line) => line.startsWith("✖ "));
    throw new Error(
      `${what} failed (${code}):\n${[...new Set(failures)].join("\n")}\n${talk.output().slice(-3000)}`,
    );
  }
}

async function makeDebian(suite: string, root: string): Promise<void> {
  // It mounts /proc there while it works.
  const alone = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const made = spawn(
    "unshare",
    [...alone, "debootstrap", "--variant=minbase", suite, root, mirror()],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  await succeed("debootstrap", listen(track(made)));
  const apt = run("apt-config", ["dump", "Acquire"]);
  writeFileSync(join(root, "etc/apt/apt.conf.d/90machine"), apt);
  // An installer writes it.
  writeFileSync(join(root, "etc/hosts"), "127.0.0.1 localhost\n");
  const script =
    "apt-get update && apt-get -o Dpkg::Options::=--force-unsafe-io install --yes --no-install-recommends nodejs npm && useradd --create-home --shell /bin/sh alice";
  await succeed("apt-get install", listen(inside(root, "root", {}, ["sh", "-ec", script])));
}

/** After the packages, of which one brings certificates of its own. */
function copyCertificates(root: string, npm: Record<string, string>): void {
  const { npm_config_cafile: certificates } = npm;
  if (certificates !== undefined) {
    mkdirSync(join(root, dirname(certificates)), { recursive: true });
    copyFileSync(certificates, join(root, certificates));
  }
}

/** The files of this checkout as they are, without what git does not know. */
function copyCheckout(root: string, user: string): string {
  const target = join(USERS[user]!, PROJECT);
  mkdirSync(join(root, target), { recursive: true });
  const files = run("git", ["-C", ROOT, "ls-files", "-z"]).split("\0");
  const present = files.filter((file) => file !== "" && existsSync(join(ROOT, file)));
  const tar = spawnSync("tar", ["-C", ROOT, "-cf", "-", "--null", "-T", "-"], {
    input: present.join("\0"),
    maxBuffer: 1e9,
  });
  run("tar", ["-C", join(root, target), "--no-same-owner", "-xf", "-"], tar.stdout);
  run("chroot", [root, "chown", "-R", `${user}:`, dirname(target)]);
  return target;
}

async function tryStart(
  root: string,
  user: string,
  npm: Record<string, string>,
): Promise<string[]> {
  const project = copyCheckout(root, user);
  const begin = performance.now();
  const talk = listen(inside(root, user, npm, ["sh", "-c", START_SCRIPT, "sh", project]));
  let url: string | undefined;
  while (url === undefined) {
    if (talk.child.exitCode !== null || performance.now() - begin > URL_MS) {
      talk.child.kill("SIGKILL");
      throw new Error(`no URL:\n${talk.output().slice(-3000)}`);
    }
    await sleep(100);
    url = /ready: .*?(postgresql:\/\/\S+)/.exec(talk.output())?.[1];
  }
  const seconds = ((performance.now() - begin) / 1000).toFixed(0);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query("select version()");
  await client.end();
  talk.child.stdin?.end("stop\n");
  await succeed("npm start", talk);
  const left = /left running: (\d+)/.exec(talk.output())?.[1];
  if (left !== "0") {
    throw new Error(`SIGTERM to npm start leaves processes:\n${talk.output().slice(-3000)}`);
  }
  return [
    ...talk.output().trim().split("\n"),
    `-- first URL after ${seconds} s; select version(): ${rows[0].version}`,
  ];
}

async function tryTests(
  root: string,
  user: string,
  npm: Record<string, string>,
  names: readonly string[],
): Promise<string[]> {
  const project = copyCheckout(root, user);
  const command = ["npm", "test", ...(names.length > 0 ? ["--", ...names] : [])];
  const script = 'cd "$1" && shift && exec "$@"';
  const begin = performance.now();
  const talk = listen(inside(root, user, npm, ["sh", "-c", script, "sh", project, ...command]));
  await succeed(command.join(" "), talk);
  const minutes = ((performance.now() - begin) / 60_000).toFixed(1);
  const kept = /^(== |ℹ (tests|pass|fail|skipped)|strata: )/;
  return [
    ...talk
      .output()
      .split("\n")
      .filter((line) => kept.test(line)),
    `-- ${command.join(" ")}: ${minutes} min`,
  ];
}

const { values: options } = parseArgs({
  options: {
    suite: { type: "string", multiple: true, default: Object.keys(SUITES) },
    user: { type: "string", multiple: true, default: Object.keys(USERS) },
    only: { type: "string" },
    debian: { type: "string" },
    tests: { type: "string", multiple: true, default: [] },
  },
});

if (process.getuid?.() !== 0) {
  console.error("test:fresh needs root: it makes whole systems with debootstrap");
  process.exit(1);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    cleanUp();
    process.exit(1);
  });
}
let failed = 0;
try {
  if (spawnSync("debootstrap", ["--version"]).status !== 0) {
    run("apt-get", ["update"]);
    run("apt-get", ["install", "--yes", "--no-install-recommends", "debootstrap"]);
  }
  const npm = npmEnvironment();
  for (const suite of options.suite) {
    const root = options.debian ?? join(makeTemporary(), "debian");
    if (options.debian === undefined) {
      await makeDebian(suite, root);
    }
    copyCertificates(root, npm);
    const node = run("chroot", [root, "node", "--version"]).trim();
    for (const user of options.user) {
      const attempts: [string, () => Promise<string[]>][] = [
        ["npm start", () => tryStart(root, user, npm)],
        ["npm test", () => tryTests(root, user, npm, options.tests)],
      ];
      for (const [name, attempt] of attempts) {
        if (options.only !== undefined && name !== `npm ${options.only}`) {
          continue;
        }
        const title = `${SUITES[suite] ?? suite}, its Node ${node}, as ${user}: ${name}`;
        console.log(`\n== ${title}`);
        try {
          console.log((await attempt()).join("\n"));
          console.log(`== ${title}: ok`);
        } catch (error) {
          failed++;
          console.log(error instanceof Error ? error.message : error);
          console.log(`== ${title}: FAILED`);
        }
      }
    }
    cleanUp();
  }
} finally {
  cleanUp();
}
console.log(failed === 0 ? "\nAll passed" : `\nFAILED: ${failed}`);
process.exitCode = failed === 0 ? 0 : 1;

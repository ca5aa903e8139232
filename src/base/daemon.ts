// What all our long-running processes share: options, the lock on their directory, pid file, signals, exit codes.

import { appendFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import { identifyBy, TokenVerifier } from "./auth/service-token.ts";
import { errorMessage, StorageError } from "./errors.ts";
import { FileLock, lockHolder } from "./file-lock.ts";
import { createLogger, type Logger } from "./log.ts";
import { boundOwnLog } from "./logs/log-rotation.ts";
import { isLoopback } from "./network/addresses.ts";
import { checkListenAddress } from "./network/listen-address.ts";
import { hostOf, trustServices } from "./network/service-tls.ts";
import type { CertificateFiles, TlsCertificates } from "./network/tls-certificates.ts";
import { raisePriority } from "./processes/cpu-priority.ts";

/** Exit codes; a process that a signal ended by itself has none. */
const EXIT_STOPPED = 0;
/** It did not start, could not go on, or did not stop in order. */
const EXIT_FAILED = 1;
/** SIGQUIT, or the second SIGTERM or SIGINT. */
const EXIT_QUIT = 3;

/** `fast`: in order, nothing is left to do at the next start. `immediate`: as after a crash. */
export type StopMode = "fast" | "immediate";

/** A daemon that has started. */
export interface RunningDaemon {
  /**
   * Only for one that can end by itself: resolves when it has, rejects with why it cannot go on. What is
   * told is the last line of the pid file, for who waits for a start.
   */
  run?(tell: (status: string) => void): Promise<void>;
  /** May be called again with `immediate` while a fast stop goes on. */
  stop(mode: StopMode): Promise<void>;
}

type Options = ParseArgsOptionsConfig;
type Values<T extends Options> = ReturnType<
  typeof parseArgs<{ options: T; strict: true; allowPositionals: false }>
>["values"];

export interface DaemonOptions<T extends Options> {
  /** Of the pid file, `<workdir>/<name>.pid`, which is written once `start` has resolved. */
  readonly name: string;
  /**
   * Of its command line; `--workdir DIR`, `--auth-keys DIR`, `--auth-token FILE`, `--service-cert FILE`, `--service-key FILE`,
   * `--service-ca FILE` and `--plaintext-network` are every daemon's. Those that begin with `listen` are addresses: HOST:PORT, which
   * others may reach only as checkListenAddress has it.
   */
  readonly options: T;
  /** What it listens on is for everybody, with TLS of its own. */
  readonly isPublic?: boolean;
  /** It asks who calls by itself, and does so always. */
  readonly hasOwnKeys?: boolean;
  /** Commits wait for it: it gets the CPU before sessions that compute, where the system lets us. */
  readonly isOnCommitPath?: boolean;
  /** Called when this is the only process in the directory. Resolves when it does its work. */
  start(context: {
    readonly values: Values<T>;
    readonly workdir: string;
    readonly logger: Logger;
    /** Who calls must show it a token (`--auth-keys`); undefined: everybody may. */
    readonly callers: TokenVerifier | undefined;
    /** For what it listens on that other machines can reach; undefined where that is nothing, or in plain text. */
    readonly certificates: TlsCertificates | undefined;
  }): Promise<RunningDaemon>;
}

/** In the working directory; see FileLock for what may not be done to it. */
const LOCK_FILE = "strata.lock";

/**
 * Makes this process the only one in `workdir`, whatever path leads there. StorageError `conflict` that
 * names the process that is there already.
 */
export function lockDirectory(workdir: string): FileLock {
  const path = join(workdir, LOCK_FILE);
  const lock = FileLock.take(path);
  if (lock !== undefined) {
    return lock;
  }
  const pid = lockHolder(path);
  const holder = pid === undefined ? "not to be seen from here: another container?" : `pid ${pid}`;
  throw new StorageError(
    "conflict",
    "directory-locked",
    `another process (${holder}) works in ${workdir}`,
    { fields: { pid } },
  );
}

/** The daemon that works in the directory; undefined where none does, or none that can be seen. */
export function directoryHolder(workdir: string): number | undefined {
  return lockHolder(join(workdir, LOCK_FILE));
}

/**
 * Runs until the daemon ends or is stopped, then ends the process: SIGTERM or SIGINT stop it in order
 * (exit code 0), once more or SIGQUIT at once (3). A failed start, or why it cannot go on, is one line
 * `fatal: ...` on stderr, and exit code 1. A pid file that is left tells of a process
 * that was killed or failed in a way that nobody foresaw.
 */
export async function runDaemon<const T extends Options>(options: DaemonOptions<T>): Promise<void> {
  const daemon = new DaemonProcess(options.name);
  process.on("uncaughtException", (error) => daemon.crash(error, "uncaught error"));
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const) {
    process.on(signal, () => daemon.onSignal(signal));
  }
  try {
    const { values, workdir, authKeys, authToken, tls } = parseOptions(options);
    identifyBy(authToken);
    trustServices(() => tls.trust);
    const callers = authKeys === undefined ? undefined : new TokenVerifier(authKeys);
    mkdirSync(workdir, { recursive: true, mode: 0o700 });
    daemon.lock(workdir);
    if (options.isOnCommitPath === true) {
      raisePriority();
    }
    const { logger } = daemon;
    const certificates = tls.files === undefined ? undefined : await load(tls.files, logger);
    await daemon.run(await options.start({ values, workdir, logger, callers, certificates }));
  } catch (error) {
    daemon.fail(error);
  }
}

/** An option that is a whole number; undefined where it is not given. StorageError `invalid`. */
export function wholeNumber<K extends string>(
  values: { readonly [key in K]?: string | undefined },
  name: K,
  { least = 0 } = {},
): number | undefined {
  const text = values[name];
  if (text === undefined) {
    return undefined;
  }
  if (!/^\d{1,15}$/.test(text) || Number(text) < least) {
    throw new StorageError(
      "invalid",
      "bad-option",
      `--${name} must be a whole number of at least ${least}, got '${text}'`,
    );
  }
  return Number(text);
}

const SHARED_OPTIONS = {
  workdir: { type: "string" },
  "auth-keys": { type: "string" },
  "auth-token": { type: "string" },
  "plaintext-network": { type: "boolean" },
  "service-cert": { type: "string" },
  "service-key": { type: "string" },
  "service-ca": { type: "string", multiple: true },
} as const;

type SharedValues = Values<typeof SHARED_OPTIONS>;

function parseOptions<T extends Options>({ options, isPublic, hasOwnKeys }: DaemonOptions<T>) {
  let parsed: SharedValues;
  try {
    const all = { ...options, ...SHARED_OPTIONS };
    parsed = parseArgs({ options: all, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new StorageError("invalid", "bad-option", errorMessage(error), { cause: error });
  }
  const {
    workdir,
    "auth-keys": authKeys,
    "auth-token": authToken,
    "plaintext-network": isPlaintext = false,
    "service-cert": cert,
    "service-key": key,
    "service-ca": authorities = [],
    ...values
  } = parsed;
  if (typeof workdir !== "string" || workdir === "") {
    throw new StorageError("invalid", "bad-option", "--workdir is required");
  }
  if ((cert === undefined) !== (key === undefined)) {
    const message = "--service-cert and --service-key need each other";
    throw new StorageError("invalid", "bad-option", message);
  }
  if (cert !== undefined && isPlaintext) {
    const message = "--plaintext-network and --service-cert: either the network is trusted, or not";
    throw new StorageError("invalid", "bad-option", message);
  }
  let isReached = false;
  for (const [name, value] of Object.entries<unknown>(values)) {
    if (isPublic !== true && name.startsWith("listen") && typeof value === "string") {
      const asksForTokens = authKeys !== undefined || hasOwnKeys === true;
      const hasCertificate = cert !== undefined;
      checkListenAddress(name, value, { isTrusted: isPlaintext, hasCertificate, asksForTokens });
      isReached ||= !isLoopback(hostOf(value));
    }
  }
  const files = isReached && cert && key ? { cert: resolve(cert), key: resolve(key) } : undefined;
  const caFiles = authorities.map((file) => resolve(file));
  return {
    values: values as Values<T>,
    workdir: resolve(workdir),
    authKeys: authKeys && resolve(authKeys),
    authToken: authToken && resolve(authToken),
    tls: { trust: { isPlaintext, caFiles }, files },
  };
}

/** Not imported: it loads node:tls, which takes longer than all that an agent loads. */
async function load(files: CertificateFiles, logger: Logger): Promise<TlsCertificates> {
  const { TlsCertificates } = await import("./network/tls-certificates.ts");
  return new TlsCertificates([files], logger);
}

class DaemonProcess {
  readonly logger: Logger;
  readonly #name: string;
  #lock: FileLock | undefined;
  #pidFile: string | undefined;
  #daemon: RunningDaemon | undefined;
  #stopping = false;
  /** What the last signal asked for. */
  #stopCode = EXIT_STOPPED;

  constructor(name: string) {
    this.#name = name;
    this.logger = createLogger(name);
  }

  lock(workdir: string): void {
    this.#lock = lockDirectory(workdir);
    this.#pidFile = join(workdir, `${this.#name}.pid`);
    // Of a process that was killed; its number may be another's by now.
    rmSync(this.#pidFile, { force: true });
  }

  async run(daemon: RunningDaemon): Promise<void> {
    this.#daemon = daemon;
    const pidFile = this.#pidFile!;
    writeFileSync(pidFile, `${process.pid}\n`);
    boundOwnLog(this.logger);
    if (daemon.run === undefined) {
      return;
    }
    await daemon.run((status) => appendFileSync(pidFile, `${status}\n`));
    // Whoever stops it says how the process ends.
    if (!this.#stopping) {
      this.#end(EXIT_STOPPED);
    }
  }

  onSignal(signal: NodeJS.Signals): void {
    const daemon = this.#daemon;
    const mode = signal === "SIGQUIT" || this.#stopping ? "immediate" : "fast";
    this.logger.info({ signal, mode }, "stopping");
    this.#stopCode = mode === "fast" ? EXIT_STOPPED : EXIT_QUIT;
    if (daemon === undefined) {
      this.#end(this.#stopCode);
    }
    this.#stopping = true;
    daemon.stop(mode).then(
      () => this.#end(this.#stopCode),
      (error: unknown) => this.crash(error, "stop failed"),
    );
  }

  /** Not by running dry: a forgotten timer or connection must not keep a process that has given up. */
  fail(error: unknown): never {
    this.#report(error, "cannot go on");
    this.#end(EXIT_FAILED);
  }

  /** Nobody foresaw it: the pid file stays and tells of that. */
  crash(error: unknown, message: string): never {
    this.#report(error, message);
    process.exit(EXIT_FAILED);
  }

  #report(error: unknown, message: string): void {
    this.logger.fatal({ error }, message);
    process.stderr.write(`fatal: ${errorMessage(error)}\n`);
  }

  /** The pid file goes while the lock is still held: it may be the next one's afterwards. */
  #end(code: number): never {
    if (this.#lock !== undefined && this.#pidFile !== undefined) {
      rmSync(this.#pidFile, { force: true });
    }
    process.exit(code);
  }
}

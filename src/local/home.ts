// The directory that holds everything of one local Strata: its settings, its state and where each daemon works.
//
// What a person may set is in config.json, what commands change is in home.db. A home of a version that had all of it in
// config.json (format 1) is taken over by the first change: home.db is written whole, then config.json without it. Until that
// second step is on disk config.json is what counts, so that a crash between the two loses nothing.

import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { identifyBy } from "../base/auth/service-token.ts";
import { nowMs } from "../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { errnoCode, StorageError, withContext } from "../base/errors.ts";
import { trustServices } from "../base/network/service-tls.ts";
import { enterableDirectory } from "../postgres/installation.ts";
import { KnownTimelines } from "../storage-controller/known-timelines.ts";
import {
  formatSettings,
  type HomeSettings,
  type InitSettings,
  parseConfig,
  type StrataConfig,
  withDefaults,
} from "./config.ts";
import { LOCKS_DIRECTORY, notWritable } from "./lock.ts";
import type { Addresses } from "./port-choice.ts";
import { adminTokenFile, hasServiceKeys } from "./service-keys.ts";
import { emptyState, type HomeState, type HomeStateDraft } from "./state/home-state.ts";
import { StateFile } from "./state/state-file.ts";
import { strataCommand } from "./strata-command.ts";
import { trustOf } from "./tls/service-certificates.ts";

/** Times of files are told in steps of a few milliseconds. */
const SETTLED_MS = 100;
/** SQLite has others beside it, called after it. */
const STATE_FILE = "home.db";

export type ForceInit = "must-not-exist" | "empty-dir-ok" | "remove-all-contents";

interface ParsedConfig {
  readonly settings: HomeSettings;
  /** Of format 1 only. */
  readonly state?: HomeState;
}

export class StrataHome {
  /** Absolute. */
  readonly path: string;
  readonly knownTimelines = new KnownTimelines();
  #state: StateFile | undefined;
  /** What config.json said when its file was this one. */
  #read: { readonly stamp: string; readonly config: ParsedConfig } | undefined;

  constructor(path: string) {
    this.path = realPath(resolve(path));
  }

  /** $STRATA_HOME, else `.strata` in the current directory. */
  static fromEnvironment(): StrataHome {
    return new StrataHome(process.env["STRATA_HOME"] || ".strata").identify();
  }

  /** From here on this process calls services as the owner of the home. */
  identify(): this {
    if (hasServiceKeys(this)) {
      identifyBy(adminTokenFile(this));
    }
    trustServices(() => trustOf(this, this.#settings().settings));
    return this;
  }

  get #configPath(): string {
    return join(this.path, "config.json");
  }

  isInitialized(): boolean {
    return existsSync(this.#configPath);
  }

  /** StorageError `not-found` before `init`, `invalid` or `corrupt` where its files are wrong. */
  config(): StrataConfig {
    const { settings, state } = this.#settings();
    return { ...settings, ...(state ?? this.#stateFile().read()) };
  }

  /** Without the state, which takes longer to read. Errors as `config()`. */
  settings(): HomeSettings {
    return this.#settings().settings;
  }

  /** Whether its files are this version's: then who shares the home's lock may change the state. */
  get isTakenOver(): boolean {
    return this.#settings().state === undefined;
  }

  /** Changes the state, all or nothing, durable when it returns. Call with the home locked, shared where it is taken over. */
  update(change: (draft: HomeStateDraft) => void): void {
    this.takeOver();
    this.#stateFile().update(change);
  }

  /** Changes the settings, all or nothing. Call with the home locked. */
  updateSettings(change: (draft: HomeSettings) => void): StrataConfig {
    this.takeOver();
    const settings = structuredClone(this.#settings().settings);
    change(settings);
    this.#write(settings);
    return this.config();
  }

  /** A home of format 1 gets this version's; call with the home locked. */
  takeOver(): void {
    const { settings, state } = this.#settings();
    if (state !== undefined) {
      this.#makeState(state);
      this.#write(settings);
    }
  }

  /** With the state where config.json has it; shared, so not to be changed. Others may write it at any time, and people. */
  #settings(): ParsedConfig {
    const status = statSync(this.#configPath, { bigint: true, throwIfNoEntry: false });
    // The time of change cannot be set back.
    const stamp = status && `${status.ino} ${status.size} ${status.ctimeNs}`;
    if (stamp !== undefined && this.#read?.stamp === stamp) {
      return this.#read.config;
    }
    const config = this.#parse();
    // What was written just now may be written again without another time.
    const isSettled = status !== undefined && nowMs() - Number(status.ctimeMs) > SETTLED_MS;
    this.#read = stamp === undefined || !isSettled ? undefined : { stamp, config };
    return config;
  }

  #parse(): ParsedConfig {
    const bytes = readFileIfExists(this.#configPath);
    if (bytes === undefined) {
      throw new StorageError(
        "not-found",
        "no-home",
        `'${this.path}' is not initialized: run '${strataCommand()} init' first`,
      );
    }
    return frozen(parseConfig(bytes.toString("utf8"), this.#configPath));
  }

  #write(settings: HomeSettings): void {
    writeFileDurably(this.#configPath, formatSettings(settings));
  }

  /** A home that was made anew at the same place has another one. */
  #stateFile(): StateFile {
    if (this.#state?.isCurrent() !== true) {
      this.#state?.close();
      this.#state = undefined;
      this.#state = StateFile.open(join(this.path, STATE_FILE));
    }
    return this.#state;
  }

  #makeState(state: HomeState): void {
    this.#state?.close();
    this.#state = undefined;
    this.#state = StateFile.create(join(this.path, STATE_FILE), state);
  }

  /** Writes the first configuration; the directory is left as it was when `force` forbids it. */
  create(settings: InitSettings, addresses: Addresses, force: ForceInit): StrataConfig {
    const config = {
      ...withDefaults(settings),
      remoteStorage: settings.remoteStorage ?? "object_store",
      ...addresses,
    };
    checkDistinct(config);
    this.#prepareDirectory(force);
    this.#makeState(emptyState());
    // With it the home is there.
    this.#write(config);
    this.makePrivate(config);
    return this.config();
  }

  #prepareDirectory(force: ForceInit): void {
    if (existsSync(this.path)) {
      // Whoever creates the home has locked it.
      const names = readdirSync(this.path).filter(
        (name) => name !== LOCKS_DIRECTORY && !this.#isBegun(name),
      );
      const isLocksOnly = names.length === 0 && existsSync(join(this.path, LOCKS_DIRECTORY));
      if (force === "must-not-exist" && !isLocksOnly) {
        throw new StorageError("conflict", "home-exists", `'${this.path}' already exists`);
      }
      if (force === "empty-dir-ok" && names.length > 0) {
        const what = this.isInitialized() ? "is already initialized" : "is not empty";
        throw new StorageError(
          "conflict",
          "home-exists",
          `'${this.path}' ${what}; --force remove-all-contents deletes all of it`,
        );
      }
      for (const name of names) {
        rmSync(join(this.path, name), { recursive: true, force: true });
      }
    }
    try {
      enterableDirectory(this.path);
      accessSync(this.path, constants.W_OK);
    } catch (error) {
      throw notWritable(this.path, error);
    }
  }

  /** A creation that was cut short has left it, and the next one writes it again. */
  #isBegun(name: string): boolean {
    return name.startsWith(STATE_FILE) && !this.isInitialized();
  }

  /**
   * Closes the home to other users, also one of an earlier version. Where Postgres runs as another
   * user, that one may pass through to its data directories, so what it has no business with is
   * closed by itself.
   */
  makePrivate(config: HomeSettings): void {
    enterableDirectory(this.path);
    const objectStore = this.remoteStorage(config);
    const closed = [
      this.brokerDirectory(),
      this.controlPlaneDirectory(),
      this.proxyDirectory(),
      join(this.path, "safekeepers"),
    ];
    for (const { id } of config.pageservers) {
      enterableDirectory(this.pageserverDirectory(id));
      closed.push(join(this.pageserverDirectory(id), "tenants"));
    }
    if (objectStore?.startsWith(`${this.path}/`) === true) {
      closed.push(objectStore);
    }
    for (const path of closed) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      chmodSync(path, 0o700);
    }
    for (const name of readdirSync(this.path)) {
      if (name === "config.json" || /^(?:superuser\.|home\.db)/.test(name)) {
        chmodSync(join(this.path, name), 0o600);
      }
    }
  }

  brokerDirectory(): string {
    return join(this.path, "storage_broker");
  }

  controlPlaneDirectory(): string {
    return join(this.path, "control_plane");
  }

  proxyDirectory(): string {
    return join(this.path, "proxy");
  }

  /** Of the key with which the proxy asks the control plane; it is good for nothing else. */
  proxyKeyFile(): string {
    return join(this.controlPlaneDirectory(), "proxy.key");
  }

  /** The owner's API key: for the command line. */
  controlPlaneKeyFile(): string {
    return join(this.controlPlaneDirectory(), "api.key");
  }

  pageserverDirectory(id: number): string {
    return join(this.path, `pageserver_${id}`);
  }

  safekeeperDirectory(id: number): string {
    return join(this.path, "safekeepers", `sk${id}`);
  }

  /** What a daemon's `--remote-storage` is; undefined in a home without an object store. */
  remoteStorage(config: HomeSettings): string | undefined {
    const { remoteStorage } = config;
    const isUrl = remoteStorage?.includes("://") === true;
    return remoteStorage === undefined || isUrl ? remoteStorage : resolve(this.path, remoteStorage);
  }

  endpointsDirectory(): string {
    return join(this.path, "endpoints");
  }
}

/**
 * The one name of a directory, whatever leads there, whether or not it exists yet: daemons and locks
 * are told apart by it, and it must not change when the directory is made.
 */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    const parent = dirname(path);
    if (errnoCode(error) !== "ENOENT" || parent === path) {
      throw withContext(error, `find the home '${path}'`);
    }
    const target = linkTarget(path);
    // A link that leads nowhere yet: its target is what will be made.
    return target === undefined ? join(realPath(parent), basename(path)) : realPath(target);
  }
}

function linkTarget(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true
    ? resolve(realPath(dirname(path)), readlinkSync(path))
    : undefined;
}

/** With all that is in it; a Map or a Set keeps what it holds. */
function frozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(frozen);
  }
  return value;
}

function checkDistinct(config: HomeSettings): void {
  const seen = new Set<string>();
  const claim = (what: string) => {
    if (seen.has(what)) {
      throw new StorageError("invalid", "bad-config", `configuration: ${what} is used twice`);
    }
    seen.add(what);
  };
  claim(config.broker.listenAddr);
  if (config.controlPlane !== undefined) {
    claim(config.controlPlane.listenAddr);
  }
  if (config.proxy !== undefined) {
    claim(config.proxy.listenPgAddr);
    claim(config.proxy.listenHttpAddr);
  }
  for (const [kind, nodes] of [
    ["pageserver", config.pageservers],
    ["safekeeper", config.safekeepers],
  ] as const) {
    for (const node of nodes) {
      claim(`${kind} id ${node.id}`);
      claim(node.listenPgAddr);
      claim(node.listenHttpAddr);
    }
  }
}

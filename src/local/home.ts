// The directory that holds everything of one local Strata: its configuration and where each daemon works.

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
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { identifyBy } from "../base/auth/service-token.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { errnoCode, StorageError, withContext } from "../base/errors.ts";
import { enterableDirectory } from "../postgres/installation.ts";
import {
  formatConfig,
  type InitSettings,
  parseConfig,
  type StrataConfig,
  withDefaults,
} from "./config.ts";
import { LOCKS_DIRECTORY, notWritable } from "./lock.ts";
import type { Addresses } from "./port-choice.ts";
import { adminTokenFile, hasServiceKeys } from "./service-keys.ts";
import { strataCommand } from "./strata-command.ts";

export type ForceInit = "must-not-exist" | "empty-dir-ok" | "remove-all-contents";

export class StrataHome {
  /** Absolute. */
  readonly path: string;

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
    return this;
  }

  get #configPath(): string {
    return join(this.path, "config.json");
  }

  isInitialized(): boolean {
    return existsSync(this.#configPath);
  }

  /** StorageError `not-found` before `init`, `invalid` where the file is wrong. */
  config(): StrataConfig {
    const bytes = readFileIfExists(this.#configPath);
    if (bytes === undefined) {
      throw new StorageError(
        "not-found",
        "no-home",
        `'${this.path}' is not initialized: run '${strataCommand()} init' first`,
      );
    }
    return parseConfig(bytes.toString("utf8"), this.#configPath);
  }

  /** Changes the configuration, all or nothing. Call with the home locked. */
  update(change: (config: StrataConfig) => void): StrataConfig {
    const config = this.config();
    change(config);
    this.#write(config);
    return config;
  }

  #write(config: StrataConfig): void {
    writeFileDurably(this.#configPath, formatConfig(config));
  }

  /** Writes the first configuration; the directory is left as it was when `force` forbids it. */
  create(settings: InitSettings, addresses: Addresses, force: ForceInit): StrataConfig {
    const config: StrataConfig = {
      ...withDefaults(settings),
      remoteStorage: settings.remoteStorage ?? "object_store",
      formatVersion: 1,
      ...addresses,
      branchNameMappings: new Map(),
      memberships: new Map(),
      unfinishedTimelines: new Map(),
      unfinishedTenants: new Set(),
      branchSwitches: new Map(),
    };
    checkDistinct(config);
    this.#prepareDirectory(force);
    this.#write(config);
    this.makePrivate(config);
    return config;
  }

  #prepareDirectory(force: ForceInit): void {
    if (existsSync(this.path)) {
      // Whoever creates the home has locked it.
      const names = readdirSync(this.path).filter((name) => name !== LOCKS_DIRECTORY);
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

  /**
   * Closes the home to other users, also one of an earlier version. Where Postgres runs as another
   * user, that one may pass through to its data directories, so what it has no business with is
   * closed by itself.
   */
  makePrivate(config: StrataConfig): void {
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
      if (name === "config.json" || name.startsWith("superuser.")) {
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

  /** The owner's API key: for the command line and the proxy. */
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
  remoteStorage(config: StrataConfig): string | undefined {
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

function checkDistinct(config: StrataConfig): void {
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

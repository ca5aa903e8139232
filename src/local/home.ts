// The directory that holds everything of one local Strata: its configuration and where each daemon works.

import { existsSync, mkdirSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import {
  type InitSettings,
  parseConfig,
  type StorageNode,
  type StrataConfig,
  withDefaults,
} from "./config.ts";

export type ForceInit = "must-not-exist" | "empty-dir-ok" | "remove-all-contents";

/** Neon's ports: pageserver 64000+i and 9898+i, safekeepers 5454+i and 7676+i. */
function defaultNode(id: number, pgPort: number, httpPort: number): StorageNode {
  return {
    id,
    listenPgAddr: `127.0.0.1:${pgPort + id - 1}`,
    listenHttpAddr: `127.0.0.1:${httpPort + id - 1}`,
  };
}

export class StrataHome {
  /** Absolute. */
  readonly path: string;

  constructor(path: string) {
    this.path = existsSync(path) ? realpathSync(path) : resolve(path);
  }

  /** $STRATA_HOME, else `.strata` in the current directory. */
  static fromEnvironment(): StrataHome {
    return new StrataHome(process.env["STRATA_HOME"] || ".strata");
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
        `'${this.path}' is not initialized: run 'strata init' first`,
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
    writeFileDurably(this.#configPath, `${JSON.stringify(config, undefined, 2)}\n`);
  }

  /** Writes the first configuration; the directory is left as it was when `force` forbids it. */
  create(settings: InitSettings, safekeeperCount: number, force: ForceInit): StrataConfig {
    const given = withDefaults(settings);
    const config: StrataConfig = {
      ...given,
      remoteStorage: given.remoteStorage ?? "object_store",
      formatVersion: 1,
      pageservers: given.pageservers ?? [defaultNode(1, 64_000, 9898)],
      safekeepers:
        given.safekeepers ??
        Array.from({ length: safekeeperCount }, (_, i) => defaultNode(i + 1, 5454, 7676)),
      branchNameMappings: {},
      unfinishedTimelines: {},
    };
    checkDistinct(config);
    this.#prepareDirectory(force);
    this.#write(config);
    return config;
  }

  #prepareDirectory(force: ForceInit): void {
    if (existsSync(this.path)) {
      const names = readdirSync(this.path);
      if (force === "must-not-exist") {
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
    mkdirSync(this.path, { recursive: true });
  }

  brokerDirectory(): string {
    return join(this.path, "storage_broker");
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

function checkDistinct(config: StrataConfig): void {
  const seen = new Set<string>();
  const claim = (what: string) => {
    if (seen.has(what)) {
      throw new StorageError("invalid", "bad-config", `configuration: ${what} is used twice`);
    }
    seen.add(what);
  };
  claim(config.broker.listenAddr);
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

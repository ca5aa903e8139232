// Which folder of src may import which: the table that the layout test holds and ARCHITECTURE's picture shows.

export interface ImportRule {
  /** What it is, in a few words: for the picture. */
  readonly job: string;
  /** Folders whose every file it may import. Itself goes without saying. */
  readonly libraries: readonly string[];
  /** Folders of which others may import `api.ts` and `client.ts` only: those that are running services. */
  readonly isService?: true;
}

/** One entry a folder of src, in order of what they stand on. */
export const IMPORT_TABLE: Readonly<Record<string, ImportRule>> = {
  base: { job: "LSNs, ids, errors, clock, disk", libraries: [] },
  http: { job: "HTTP served and called", libraries: ["base"] },
  postgres: { job: "Postgres's formats and binaries", libraries: ["base"] },
  "object-store": { job: "whole objects under keys", libraries: ["base"] },
  "wal-decoder": { job: "WAL into one delta a page", libraries: ["base", "postgres"] },
  "data-directory": {
    job: "stock data directories",
    libraries: ["base", "postgres", "wal-decoder"],
  },
  redo: { job: "a page and a delta into a page", libraries: ["base", "postgres", "wal-decoder"] },
  "wal-dump": { job: "pg_waldump, 14 to 18", libraries: ["base", "postgres", "wal-decoder"] },
  "wal-verify": {
    job: "our redo beside Postgres's",
    libraries: ["base", "postgres", "wal-decoder", "data-directory", "redo"],
  },
  "storage-broker": {
    job: "who has how much WAL",
    libraries: ["base", "http", "postgres"],
    isService: true,
  },
  "safekeeper-protocol": { job: "messages, terms, memberships", libraries: ["base"] },
  safekeeper: {
    job: "the WAL quorum",
    libraries: ["base", "http", "postgres", "wal-decoder", "object-store", "safekeeper-protocol"],
    isService: true,
  },
  walproposer: {
    job: "leads the safekeepers",
    libraries: ["base", "postgres", "safekeeper-protocol"],
  },
  pageserver: {
    job: "pages at any LSN",
    libraries: [
      "base",
      "http",
      "postgres",
      "wal-decoder",
      "data-directory",
      "redo",
      "object-store",
    ],
    isService: true,
  },
  compute: {
    job: "one Postgres's agent and shim",
    libraries: [
      "base",
      "http",
      "postgres",
      "wal-decoder",
      "data-directory",
      "safekeeper-protocol",
      "walproposer",
    ],
    isService: true,
  },
  proxy: {
    job: "one address for all endpoints",
    libraries: ["base", "http", "postgres"],
    isService: true,
  },
  "storage-controller": {
    job: "who holds which timeline",
    libraries: ["base", "postgres", "safekeeper-protocol"],
  },
  local: {
    job: "one machine's home, daemons",
    libraries: ["base", "http", "postgres", "data-directory", "storage-controller"],
  },
  "control-plane": {
    job: "what users name, API v2",
    libraries: ["base", "http", "postgres", "storage-controller", "local"],
    isService: true,
  },
  cli: {
    job: "the strata command",
    libraries: ["base", "postgres", "storage-controller", "local", "wal-dump", "wal-verify"],
  },
};

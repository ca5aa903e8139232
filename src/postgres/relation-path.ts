// File names in a data directory: which relation fork or SLRU segment a path is, and back.
//
// Source: common/relpath.c, storage/smgr/md.c, access/transam/slru.c, 14-18.
//   base/<dbOid>/<relNumber>[_fsm|_vm|_init][.<segment>]      tablespace pg_default
//   global/<relNumber>[_fsm|_vm|_init][.<segment>]            tablespace pg_global, database 0
//   pg_xact/<HEX>, pg_multixact/offsets/<HEX>, pg_multixact/members/<HEX>, pg_commit_ts/<HEX>
//   pg_tblspc/<spcOid>/PG_<major>_<catalog version>/<dbOid>/<relNumber>...       the user's tablespaces
// A segment number of an SLRU has at least 4 digits.
// A relation segment is 1 GiB (131072 blocks), an SLRU segment 32 pages. Temporary relations (t<backend>_<n>) are none of ours.

export const DEFAULT_TABLESPACE_OID = 1663;
export const GLOBAL_TABLESPACE_OID = 1664;
/** OIDs below are of what initdb makes (access/transam.h). */
export const FIRST_NORMAL_OBJECT_ID = 16384;
/** RELSEG_SIZE: blocks in a relation segment. */
export const RELATION_SEGMENT_BLOCKS = 131072;

export const MAIN_FORK = 0;
export const FSM_FORK = 1;
export const VM_FORK = 2;
export const INIT_FORK = 3;
const FORK_SUFFIXES = ["", "_fsm", "_vm", "_init"] as const;

export interface RelationPath {
  readonly kind: "relation";
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
  /** Blocks [segment * RELATION_SEGMENT_BLOCKS, ...). */
  readonly segment: number;
}

export interface SlruPath {
  readonly kind: "slru";
  /** Neon's numbering: 0 pg_xact, 1 multixact members, 2 multixact offsets; ours: 3 pg_commit_ts. */
  readonly slru: 0 | 1 | 2 | 3;
  readonly segment: number;
}

/** A file that storage may have. */
export type StorageFile = RelationPath | SlruPath;

/** A directory of such files: of a database, of the shared relations (database 0), or of an SLRU. */
export type StorageDirectory =
  | { readonly kind: "relation"; readonly spcOid: number; readonly dbOid: number }
  | { readonly kind: "slru"; readonly slru: SlruPath["slru"] };

const SLRU_DIRECTORIES = [
  "pg_xact",
  "pg_multixact/members",
  "pg_multixact/offsets",
  "pg_commit_ts",
] as const;
const RELATION_PATTERN =
  /^(?:base\/([1-9]\d{0,9})|pg_tblspc\/([1-9]\d{4,9})\/PG_[^/]+\/([1-9]\d{0,9})|global)\/([1-9]\d{0,9})(_fsm|_vm|_init)?(?:\.([1-9]\d{0,5}))?$/;
const SLRU_PATTERN = /^(pg_xact|pg_multixact\/(?:members|offsets)|pg_commit_ts)\/([0-9A-F]{4,7})$/;
const OID_LIMIT = 2 ** 32;

/** `path` is relative to the data directory. Undefined where it is neither. */
export function parseRelationPath(path: string): StorageFile | undefined {
  const relation = RELATION_PATTERN.exec(path);
  if (relation !== null) {
    const [, db, spc, spcDb, rel, suffix, segment] = relation;
    const dbOid = Number(db ?? spcDb ?? 0);
    const relNumber = Number(rel);
    const builtIn = db === undefined ? GLOBAL_TABLESPACE_OID : DEFAULT_TABLESPACE_OID;
    const spcOid = spc === undefined ? builtIn : Number(spc);
    if (dbOid >= OID_LIMIT || relNumber >= OID_LIMIT || !isTablespaceOf(spcOid, dbOid)) {
      return undefined;
    }
    return {
      kind: "relation",
      spcOid,
      dbOid,
      relNumber,
      fork: FORK_SUFFIXES.indexOf((suffix ?? "") as "" | "_fsm" | "_vm" | "_init"),
      segment: segment === undefined ? 0 : Number(segment),
    };
  }
  const slru = SLRU_PATTERN.exec(path);
  if (slru !== null) {
    const kind = SLRU_DIRECTORIES.indexOf(slru[1] as (typeof SLRU_DIRECTORIES)[number]);
    return { kind: "slru", slru: kind as SlruPath["slru"], segment: Number.parseInt(slru[2]!, 16) };
  }
  return undefined;
}

/** Whether a tablespace can hold relations of a database; 0: the shared ones. */
export function isTablespaceOf(spcOid: number, dbOid: number): boolean {
  return dbOid === 0
    ? spcOid === GLOBAL_TABLESPACE_OID
    : spcOid === DEFAULT_TABLESPACE_OID || (spcOid >= FIRST_NORMAL_OBJECT_ID && spcOid < OID_LIMIT);
}

/** TABLESPACE_VERSION_DIRECTORY: what a tablespace of the user's has all in. */
export function tablespaceVersionDirectory(major: number, catalogVersion: number): string {
  return `PG_${major}_${catalogVersion}`;
}

/**
 * Undefined for what cannot be. `versionDirectory`: of the user's tablespaces; without it such a path
 * is good for messages only.
 */
export function relationPath(
  rel: Omit<RelationPath, "kind">,
  versionDirectory = "PG_",
): string | undefined {
  const suffix = FORK_SUFFIXES[rel.fork];
  const segment = rel.segment === 0 ? "" : `.${rel.segment}`;
  if (suffix === undefined) {
    return undefined;
  }
  if (!isTablespaceOf(rel.spcOid, rel.dbOid)) {
    return undefined;
  }
  return `${databaseDirectoryPath(rel.spcOid, rel.dbOid, versionDirectory)}/${rel.relNumber}${suffix}${segment}`;
}

/** `versionDirectory`: as relationPath()'s. */
export function databaseDirectoryPath(
  spcOid: number,
  dbOid: number,
  versionDirectory: string,
): string {
  if (dbOid === 0) {
    return "global";
  }
  return spcOid === DEFAULT_TABLESPACE_OID
    ? `base/${dbOid}`
    : `pg_tblspc/${spcOid}/${versionDirectory}/${dbOid}`;
}

export function slruPath(slru: SlruPath["slru"], segment: number): string {
  return `${SLRU_DIRECTORIES[slru]}/${segment.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Relative to the data directory, for files that Postgres itself names so. `versionDirectory`: as relationPath()'s. */
export function storagePath(file: StorageFile, versionDirectory?: string): string {
  if (file.kind === "slru") {
    return slruPath(file.slru, file.segment);
  }
  const path = relationPath(file, versionDirectory);
  if (path === undefined) {
    // Not by node:assert, which a compute would load for this in its start.
    throw new Error("a relation that there cannot be has no path");
  }
  return path;
}

export function storageDirectoryPath(directory: StorageDirectory): string {
  if (directory.kind === "slru") {
    return SLRU_DIRECTORIES[directory.slru];
  }
  return databaseDirectoryPath(directory.spcOid, directory.dbOid, "PG_");
}

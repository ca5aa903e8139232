// The directories of the user's tablespaces in a data directory that is made from storage.

import { symlinkSync } from "node:fs";
import { join } from "node:path";
import { decodeControlFile } from "../postgres/control-file.ts";
import { tablespaceVersionDirectory } from "../postgres/relation-path.ts";
import { makeDirectory } from "./make-directory.ts";

/*
 * pg_tblspc/N is a directory, as of a tablespace in place, or a link into TABLESPACES, in which the
 * location is a link of its own: what the shim makes too, and why (compute/shim/library/tablespaces.c).
 */
const TABLESPACES = "pgsql_tmp_tablespaces";

export interface TablespaceState {
  readonly pgVersion: number;
  readonly controlFile: Uint8Array;
  readonly tablespaces: readonly { spcOid: number; location: string }[];
}

/** What all that is in a tablespace of the user's is below. */
export function versionDirectory(
  state: Pick<TablespaceState, "pgVersion" | "controlFile">,
): string {
  const { catalogVersion } = decodeControlFile(state.controlFile);
  return tablespaceVersionDirectory(state.pgVersion, catalogVersion);
}

/** Makes them, empty, in data directory `path`. `inPlace`: as if they all were. */
export function makeTablespaces(path: string, state: TablespaceState, inPlace: boolean): void {
  if (state.tablespaces.length === 0) {
    return;
  }
  const version = versionDirectory(state);
  const linked = state.tablespaces.some(({ location }) => location !== "") && !inPlace;
  if (linked) {
    makeDirectory(join(path, TABLESPACES));
  }
  for (const { spcOid, location } of state.tablespaces) {
    const directory = join(location === "" || inPlace ? "pg_tblspc" : TABLESPACES, `${spcOid}`);
    makeDirectory(join(path, directory));
    makeDirectory(join(path, directory, version));
    if (location !== "" && !inPlace) {
      // Links need no owner, and a change of owner would be one of the location's.
      symlinkSync(location, join(path, TABLESPACES, `${spcOid}.location`));
      symlinkSync(join("..", directory), join(path, "pg_tblspc", `${spcOid}`));
    }
  }
}

// Broken rules of import and export: what is refused, what is left out, what can be read; and of the layer map's listing.

import type { MutantPart } from "./mutant.ts";

const FILES = "src/pageserver/import/data-directory-import.ts";
const SOURCE = "src/pageserver/import/import-source.ts";
const IMPORT = "src/pageserver/import/import-timeline.ts";
const IMPORTS = "src/pageserver/import/timeline-imports.ts";
const IMPORT_TEST = "src/pageserver/import/import.pg.test.ts";
const REFUSALS_TEST = "src/pageserver/import/import-refusals.pg.test.ts";
const EXPORT = "src/compute/export/export-directory.ts";
const EXPORT_TEST = "test/local/export.test.ts";
const SAME_PAGES = "import: PostgreSQL 17";
const STOCK_STARTS = "export: stock PostgreSQL 17";

export const TRANSFER_MUTANTS: MutantPart = {
  part: "transfer",
  mutants: [
    {
      rule: "where an imported cluster begins is collected while its subscriptions are not detached: their workers start then",
      file: "src/pageserver/retention/collection.ts",
      search: "const oldest = (await isToDetach(timeline))",
      replace: "const oldest = ((await isToDetach(timeline)) && settings.gcHorizonBytes < 0)",
      test: "src/pageserver/retention/layer-upkeep.test.ts",
      name: "collectNow: where an imported cluster with subscriptions begins",
    },
    {
      rule: "nobody is told that subscriptions keep history from being collected",
      file: "src/pageserver/retention/collection.ts",
      search: "(await isToDetach(timeline)) ? [timeline.startLsn] : []",
      replace: "(await isToDetach(timeline)) && timeline.startLsn < 0 ? [timeline.startLsn] : []",
      test: "src/pageserver/retention/layer-upkeep.test.ts",
      name: "collectNow: where an imported cluster with subscriptions begins",
    },
    {
      rule: "history of an imported cluster with subscriptions is never collected",
      file: "src/pageserver/compute-state.ts",
      search: "  return timeline.readValue(detached.prefix, detached.index, lsn) === undefined;",
      replace: "  return detached !== undefined;",
      test: "src/pageserver/retention/layer-upkeep.test.ts",
      name: "collectNow: where an imported cluster with subscriptions begins",
    },
    {
      rule: "the tenant of an import that came to nothing stays",
      file: "src/local/transfer/import-branch.ts",
      search: "if (wanted.isNewTenant) {",
      replace: "if (wanted.isNewTenant && false) {",
      test: "test/failpoints/import.test.ts",
      name: "tenant import, and the pageserver is killed in it",
    },
    {
      rule: "the tenant of an import that was done goes with the next creation",
      file: "src/local/transfer/import-branch.ts",
      search: "        draft.unfinishedTenants.delete(tenantId);\n",
      replace: "",
      test: "test/failpoints/import.test.ts",
      name: "tenant import, and the pageserver is killed in it",
    },
    {
      rule: "rows of unlogged relations are imported",
      file: FILES,
      search: "if (relation.fork === INIT_FORK || !unlogged.has(relation.rel)) {",
      replace: "{",
      test: IMPORT_TEST,
      name: SAME_PAGES,
    },
    {
      rule: "a backup can be read before it is consistent",
      file: IMPORT,
      search: "gcCutoffLsn: wal.consistency.reached(wal.reader.end!) };",
      replace: "};",
      test: IMPORT_TEST,
      name: SAME_PAGES,
    },
    {
      rule: "records of the backup's WAL are not taken in",
      file: IMPORT,
      search: "      interpretRecord(record, ingest);\n",
      replace: "",
      test: IMPORT_TEST,
      name: SAME_PAGES,
    },
    {
      rule: "page checksums are not looked at",
      file: FILES,
      search: "  if (hasRightChecksum(page, index)) {",
      replace: "  if (index >= 0) {",
      test: REFUSALS_TEST,
      name: "damaged files",
    },
    {
      rule: "half a page of a stopped server is passed over",
      file: FILES,
      search: "(size % PAGE_SIZE !== 0 || (!full",
      replace: "((!full",
      test: REFUSALS_TEST,
      name: "damaged files",
    },
    {
      rule: "a segment behind one that is not full is passed over",
      file: FILES,
      search: "    full &&= blocks === fullBlocks;\n",
      replace: "",
      test: REFUSALS_TEST,
      name: "damaged files",
    },
    {
      rule: "a server that runs is not seen",
      file: SOURCE,
      search: "  refuseRunningServer(directory);\n",
      replace: "",
      test: REFUSALS_TEST,
      name: "a running server",
    },
    {
      rule: "tablespaces are left out without a word",
      file: SOURCE,
      search: "  refuseTablespaces(directory);\n  refuseOtherBuild",
      replace: "  refuseOtherBuild",
      test: REFUSALS_TEST,
      name: "tablespaces are named",
    },
    {
      rule: "a crashed server's files are taken for a stopped one's",
      file: SOURCE,
      search: "if (!hasLabel && control.state !== DB_SHUTDOWNED) {",
      replace: "if (!hasLabel && control.state > 6) {",
      test: REFUSALS_TEST,
      name: "a running server",
    },
    {
      rule: "an import goes on though nobody asks for it",
      file: IMPORTS,
      search: "setIdleTimer(() => void this.#end(key, begun), this.#leaseMs)",
      replace: "setIdleTimer(() => undefined, this.#leaseMs)",
      test: REFUSALS_TEST,
      name: "broken off",
    },
    {
      rule: "what is being imported can be deleted",
      file: IMPORTS,
      search: "  requireReleased(tenantId: TenantId, timelineId: TimelineId): void {\n",
      replace:
        "  requireReleased(tenantId: TenantId, timelineId: TimelineId): void {\n    if (this.#imports.size > 0) return;\n",
      test: REFUSALS_TEST,
      name: "broken off",
    },
    {
      rule: "a cluster's import is taken for another's",
      file: IMPORTS,
      search: " && timeline.systemId === control.systemId;",
      replace: ";",
      test: REFUSALS_TEST,
      name: "broken off",
    },
    {
      rule: "a layer's footer is put into a buffer that was left",
      file: "src/pageserver/layers/layer-writer.ts",
      search: "this.#out.set(footer, footerAt);",
      replace: "this.#spareOut.set(footer, footerAt);",
      test: "src/pageserver/layers/layer-file.test.ts",
      name: "LayerWriter: a footer",
    },
    {
      rule: "an exported cluster goes by the branch's system identifier",
      file: EXPORT,
      search: "systemId: newSystemId() }",
      replace: "systemId: state.systemId }",
      test: EXPORT_TEST,
      name: STOCK_STARTS,
    },
    {
      rule: "an exported cluster has no files of unlogged relations",
      file: EXPORT,
      search: "        files.push({ file: main, bytes });\n",
      replace: "",
      test: EXPORT_TEST,
      name: STOCK_STARTS,
    },
    {
      rule: "an export goes into a directory that has files",
      file: EXPORT,
      search: "(!status.isDirectory() || readdirSync(directory).length > 0)",
      replace: "!status.isDirectory()",
      test: EXPORT_TEST,
      name: "export: refused",
    },
    {
      rule: "layers of an ancestor are listed beyond the branch point",
      file: "src/storage-controller/layers/layer-map.ts",
      search: 'cap = minLsn(cap, lsnOf(info.ancestor_lsn ?? ""));',
      replace: "cap = MAX_LSN;",
      test: "src/storage-controller/layers/layer-map.test.ts",
      name: "readBranchLayers",
    },
  ],
};

// Broken rules of the pageserver: what a read sees, what a flush keeps, what a start removes.

import type { MutantPart } from "./mutant.ts";

const TIMELINE = "src/pageserver/storage/timeline.ts";
const TIMELINE_TEST = "src/pageserver/storage/timeline.test.ts";
const TENANT = "src/pageserver/storage/tenant.ts";
const TENANT_TEST = "src/pageserver/storage/tenant.test.ts";
const LAYER_FILE = "src/pageserver/layers/layer-file.ts";
const LAYER_FILE_TEST = "src/pageserver/layers/layer-file.test.ts";
const INGEST = "src/pageserver/ingest/walingest.ts";
const INGEST_TEST = "src/pageserver/ingest/walingest.test.ts";
const ANY_HISTORY = "Timeline: any history reads like its model";

export const PAGESERVER_MUTANTS: MutantPart = {
  part: "pageserver",
  mutants: [
    {
      rule: "a page is kept whose record is not complete",
      file: TIMELINE,
      search: " && newest <= owner.lastRecordLsn) {",
      replace: ") {",
      test: TIMELINE_TEST,
      name: "readPage: a page whose record is not yet complete is not kept",
    },
    {
      rule: "a branch sees what its ancestor wrote after the branch point",
      file: TIMELINE,
      search: "const maxVersion = step.capLsn < lsn ? step.capLsn : lsn;",
      replace: "const maxVersion = lsn;",
      test: TIMELINE_TEST,
      name: ANY_HISTORY,
    },
    {
      rule: "a layer that begins at the branch point is left out",
      file: "src/pageserver/storage/layer-map.ts",
      search: "if (layer.lsnStart <= capLsn) {",
      replace: "if (layer.lsnStart < capLsn - 64) {",
      test: TIMELINE_TEST,
      name: ANY_HISTORY,
    },
    {
      rule: "the oldest LSN that is kept is refused",
      file: TIMELINE,
      search: "if (lsn < this.minReadableLsn) {",
      replace: "if (lsn <= this.minReadableLsn) {",
      test: TIMELINE_TEST,
      name: "readPage: below the first LSN is invalid",
    },
    {
      rule: "a read gives away the store's own memory",
      file: TIMELINE,
      search: "return base === undefined ? undefined : this.#resources.pageSlab.copy(base);",
      replace: "return base;",
      test: TIMELINE_TEST,
      name: "readPage: the page is the caller's own",
    },
    {
      rule: "the index does not name the layer that was just written",
      file: TIMELINE,
      search: "const layers = [...added, ...this.#layerDescriptions()];",
      replace: "const layers = this.#layerDescriptions();",
      test: TIMELINE_TEST,
      name: ANY_HISTORY,
    },
    {
      rule: "the index claims one record more than is on disk",
      file: TIMELINE,
      search: "const lsn = (layer.lsnEnd - 1) as Lsn;\n    // The index",
      replace: "const lsn = layer.lsnEnd;\n    // The index",
      test: TIMELINE_TEST,
      name: "checkpoint: with no pages in the WAL, only the index moves on",
    },
    {
      rule: "branches do not learn that a layer moved from memory to a file",
      file: "src/pageserver/storage/layer-map.ts",
      search:
        "this.#files.push(...files);\n    this.#files.sort(newestFirst);\n    this.invalidate();",
      replace: "this.#files.push(...files);\n    this.#files.sort(newestFirst);",
      test: TIMELINE_TEST,
      name: "flush: readers of a branch see the ancestor's versions move",
    },
    {
      rule: "who waits for exactly the LSN that was reached goes on waiting",
      file: "src/pageserver/storage/lsn-waiters.ts",
      search: "if (lsn >= this.#lowest) {",
      replace: "if (lsn > this.#lowest) {",
      test: "src/pageserver/storage/lsn-waiters.test.ts",
      name: "LsnWaiters: the LSN itself is enough",
    },
    {
      rule: "a layer that no index names stays",
      file: TENANT,
      search: "await this.#removeUnindexed(directory, part);",
      replace: "",
      test: TIMELINE_TEST,
      name: "load: what a crash leaves beside the index is removed",
    },
    {
      rule: "a timeline with branches is deleted",
      file: TENANT,
      search: "if (this.#pins.has(timelineId) || this.#hasChildren(timelineId)) {",
      replace: "if (this.#pins.has(timelineId)) {",
      test: TENANT_TEST,
      name: "deleteTimeline: refused with branches",
    },
    {
      rule: "a damaged index is read as it is",
      file: "src/pageserver/storage/index-part.ts",
      search: "if (checksum !== checksumOf(body)) {",
      replace: 'if (checksum === "") {',
      test: TENANT_TEST,
      name: "load: a damaged index breaks its timeline and its branches",
    },
    {
      rule: "a branch begins in a page header",
      file: TENANT,
      search: "return pageOffset(aligned) < headerBytes ? pageStart(aligned) : aligned;",
      replace: "return aligned;",
      test: TENANT_TEST,
      name: "recordBoundary: cuts to 8 bytes and out of page headers",
    },
    {
      rule: "a key that an image layer lacks is looked for below it",
      file: LAYER_FILE,
      search: "chain.add(VALUE_TOMBSTONE, this.lsnStart, EMPTY, 0, 0);",
      replace: "return false;",
      test: LAYER_FILE_TEST,
      name: "LayerFile: an image layer says of every key whether it exists",
    },
    {
      rule: "a block's checksum is not looked at",
      file: LAYER_FILE,
      search: "if (words[0] !== layerChecksum(bytes, 4, length)) {",
      replace: "if (words.length === 0) {",
      test: LAYER_FILE_TEST,
      name: "LayerFile: any flipped bit or cut is found or harmless",
    },
    {
      rule: "a layer's file may be another's",
      file: LAYER_FILE,
      search: "if (view.getUint32(32, true) !== layerNameChecksum(this.name)) {",
      replace: "if (size < 0) {",
      test: LAYER_FILE_TEST,
      name: "LayerFile: a file under another layer's name is refused",
    },
    {
      rule: "the delta at an image layer's LSN is applied once more",
      file: "src/pageserver/layers/version-chain.ts",
      search: "while (this.deltaCount > 0 && this.lsns[this.deltaCount - 1]! <= lsn) {",
      replace: "while (this.deltaCount > 0 && this.lsns[this.deltaCount - 1]! < lsn) {",
      test: LAYER_FILE_TEST,
      name: "VersionChain: an image layer's LSN takes the deltas that it contains out again",
    },
    {
      rule: "the map's bits past a truncation stay",
      file: INGEST,
      search: "if (partial && lastPage < head.blocks) {",
      replace: "if (partial && lastPage < 0) {",
      test: INGEST_TEST,
      name: "visibility map: cleared where it exists, truncated with its heap",
    },
    {
      rule: "a block past the end does not make the relation longer",
      file: INGEST,
      search:
        "this.#heads.extendOver(head, blkno, this.#lsn);\n    }\n    this.#storage.putDelta(head.blockPrefix",
      replace: "}\n    this.#storage.putDelta(head.blockPrefix",
      test: INGEST_TEST,
      name: "a block past the end extends the relation",
    },
    {
      rule: "a layer file is renamed before it is on disk",
      file: "src/pageserver/layers/layer-writer.ts",
      search: "      await this.#disk.fsync(this.#file!);\n",
      replace: "",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "the index names a layer whose directory entry may vanish",
      file: "src/pageserver/layers/layer-writer.ts",
      search: "      await this.#disk.fsyncDirectory(this.#directory);\n",
      replace: "",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "an index is renamed before it is on disk",
      file: "src/base/disk.ts",
      search: "      await background.fsync(fd);\n",
      replace: "",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "a new index may vanish",
      file: "src/base/disk.ts",
      search: "    await background.fsyncDirectory(dirname(path));\n",
      replace: "",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "a created branch may vanish",
      file: "src/pageserver/storage/tenant.ts",
      search:
        "      made = this.#directoryOf(timelineId);\n      await this.#disk.fsyncDirectory(this.#timelinesDirectory);\n",
      replace: "      made = this.#directoryOf(timelineId);\n",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "a deleted timeline may come back",
      file: "src/pageserver/storage/tenant.ts",
      search:
        "      await this.#disk.fsyncDirectory(this.#timelinesDirectory);\n      this.#broken.delete(timelineId);",
      replace: "      this.#broken.delete(timelineId);",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "an index says more than its layers have",
      file: "src/pageserver/storage/timeline.ts",
      search: "const lsn = (layer.lsnEnd - 1) as Lsn;",
      replace: "const lsn = this.lastRecordLsn;",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "storage keeps what it owes through power cuts and kills at any operation",
    },
    {
      rule: "a flush that a killed process did not sync is told of",
      file: TENANT,
      search: "await this.#disk.fsyncDirectory(directory);\n      const part = readIndexPart(",
      replace: "const part = readIndexPart(",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "a flush that a killed process did not sync is durable before anybody is told",
    },
    {
      rule: "a branch that a killed process did not sync is told of",
      file: TENANT,
      search: "await tenant.#disk.fsyncDirectory(tenant.#timelinesDirectory);",
      replace: "",
      test: "src/pageserver/storage/timeline.crash.test.ts",
      name: "a branch that a killed process did not sync is durable before anybody is told",
    },
  ],
};

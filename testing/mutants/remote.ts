// Broken rules of the pageserver's object store: the order of uploads and deletions, whose generation counts.

import type { MutantPart } from "./mutant.ts";

const UPLOADS = "src/pageserver/remote/layer-uploads.ts";
const QUEUE = "src/pageserver/remote/upload-queue.ts";
const QUEUE_TEST = "src/pageserver/remote/upload-queue.test.ts";
const DELETIONS = "src/pageserver/remote/deletion-queue.ts";
const DELETIONS_TEST = "src/pageserver/remote/deletion-queue.test.ts";
const DOWNLOAD = "src/pageserver/remote/layer-download.ts";
const DOWNLOAD_TEST = "src/pageserver/remote/layer-download.test.ts";
const SCRUB = "src/pageserver/remote/scrub.ts";
const SCRUB_TEST = "src/pageserver/remote/scrub.test.ts";
const CRASH_TEST = "src/pageserver/remote/remote.crash.test.ts";
const ANY_LIFE = "remote storage: whatever ends or takes over when";

export const REMOTE_MUTANTS: MutantPart = {
  part: "remote",
  mutants: [
    {
      rule: "an index does not wait for its layers",
      file: QUEUE,
      search: "index.waitsFor.add(key);",
      replace: "",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "an index waits only for the layers of its own timeline",
      file: QUEUE,
      search: "if (upload !== undefined) {",
      replace: "if (upload !== undefined && this.#layers.has(key)) {",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "of several indexes the oldest is put, in the place of all",
      file: QUEUE,
      search: "const index = this.#current.at(-1)!;",
      replace: "const index = this.#current[0]!;",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "indexes that wait for layers hold up those that do not",
      file: QUEUE,
      search: "const newest = this.#queued.findLastIndex(({ waitsFor }) => waitsFor.size === 0);",
      replace:
        "const newest = this.#queued.every(({ waitsFor }) => waitsFor.size === 0) ? this.#queued.length - 1 : -1;",
      test: QUEUE_TEST,
      name: "UploadQueue: an index that waits for its layers does not hold up the one before it",
    },
    {
      rule: "remote_consistent_lsn moves when an index is queued",
      file: QUEUE,
      search: "    this.#lastLsn = lsn;\n",
      replace: "    this.#lastLsn = lsn;\n    this.#remoteConsistentLsn = lsn;\n",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "an index is told to be durable although its layer is not",
      file: UPLOADS,
      search: "        running.failed = true;\n",
      replace: "        this.#running.delete(layer.key);\n",
      test: QUEUE_TEST,
      name: "UploadQueue: an object of other content is never written over, nor named",
    },
    {
      rule: "a layer is written over whatever is there",
      file: UPLOADS,
      search: "{ ifAbsent: true, signal: callSignal }",
      replace: "{ signal: callSignal }",
      test: QUEUE_TEST,
      name: "UploadQueue: an object of other content is never written over, nor named",
    },
    {
      rule: "whatever object is there already counts as the layer",
      file: UPLOADS,
      search: "if (!(await isSameContent(store, key, source, signal))) {",
      replace: "if (source.sizeBytes < 0) {",
      test: QUEUE_TEST,
      name: "UploadQueue: an object of other content is never written over, nor named",
    },
    {
      rule: "an upload keeps its place while it waits for its next attempt",
      file: UPLOADS,
      search: "slots.run(slot, () => withDeadline(doing, layerCallMs(sizeBytes), signal, work));",
      replace:
        "slots.run(slot, () => retrying({ doing, logger, signal, randomInt }, () => withDeadline(doing, layerCallMs(sizeBytes), signal, work)));",
      test: QUEUE_TEST,
      name: "UploadQueue: one that waits for its next attempt leaves its place to others",
    },
    {
      rule: "a tenant with much to upload goes first",
      file: "src/pageserver/remote/transfer-slots.ts",
      search: "const rank = waiter.isUrgent() ? running : running + this.#limit;",
      replace: "const rank = waiter.isUrgent() ? 0 : 1 + 0 * running;",
      test: "src/pageserver/remote/transfer-slots.test.ts",
      name: "TransferSlots: a tenant with little does not wait for one with much",
    },
    {
      rule: "objects are deleted before the index that drops them is durable",
      file: DELETIONS,
      search: "const listed = indexDurable\n",
      replace: "indexDurable.catch(() => undefined);\n    const listed = Promise.resolve()\n",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "an object is deleted while it is being uploaded",
      file: DELETIONS,
      search: ".then(() => this.#options.uploads.settled(keys))",
      replace: "",
      test: DELETIONS_TEST,
      name: "DeletionQueue: what is still being uploaded is deleted afterwards",
    },
    {
      rule: "a deleted timeline's newest index goes before the others",
      file: DELETIONS,
      search: "return [keys.filter((key) => !newest.has(key)), [...newest]];",
      replace: "return [[...newest], keys.filter((key) => !newest.has(key))];",
      test: DELETIONS_TEST,
      name: "DeletionQueue: a timeline's newest index goes last",
    },
    {
      rule: "a manifest is put before the indexes of its generation",
      file: "src/pageserver/remote/settle-generation.ts",
      search: "  await Promise.all(indexes);\n",
      replace: "  void Promise.allSettled(indexes);\n",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "an index that came too late counts",
      file: "src/pageserver/remote/remote-paths.ts",
      search: "index.generation >= settled)",
      replace: "index.generation >= Math.min(0, settled))",
      test: "src/pageserver/remote/remote-paths.test.ts",
      name: "newestIndexes: an index from before the newest manifest came too late",
    },
    {
      rule: "orphans are deleted although lower indexes may still come",
      file: SCRUB,
      search: "if (orphans.length > 0 && !objects.has(manifestKey(tenantId, generation))) {",
      replace: "if (manifestKey(tenantId, generation) === tenantId) {",
      test: SCRUB_TEST,
      name: "scrubTenant: in a generation that is not settled",
    },
    {
      rule: "objects are deleted whatever their generation is",
      file: DELETIONS,
      search: "const valid = deletions.filter((one) => holds.get(claimName(one)) === true);",
      replace: "const valid = deletions.filter((one) => holds.has(claimName(one)));",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "a list of any earlier generation counts as one of this generation",
      file: DELETIONS,
      search: "return generation === deletions.generation + 1 ?",
      replace: "return generation !== undefined && generation > deletions.generation ?",
      test: CRASH_TEST,
      name: ANY_LIFE,
    },
    {
      rule: "a list of the generation before is forgotten",
      file: DELETIONS,
      search: "return generation === deletions.generation + 1 ?",
      replace: "return generation === deletions.generation + 0 ?",
      test: DELETIONS_TEST,
      name: "DeletionQueue: what was accepted survives a power cut",
    },
    {
      rule: "an adopted list is not written again",
      file: DELETIONS,
      search: "await lists.replace(list, list.tenants);",
      replace: "",
      test: DELETIONS_TEST,
      name: "DeletionQueue: a list that one life has adopted",
    },
    {
      rule: "what comes while a list is written is taken for written",
      file: DELETIONS,
      search: "const batch = [...this.#incoming];",
      replace: "const batch = this.#incoming;",
      test: DELETIONS_TEST,
      name: "DeletionQueue: what comes while a list is written",
    },
    {
      rule: "a list is removed before its objects are",
      file: DELETIONS,
      search:
        "const { valid, leaked } = await this.#validate(lists.flatMap(({ tenants }) => tenants));\n",
      replace:
        "const { valid, leaked } = await this.#validate(lists.flatMap(({ tenants }) => tenants));\n    for (const list of lists) {\n      await this.#lists.remove(list);\n    }\n",
      test: DELETIONS_TEST,
      name: "DeletionQueue: stop ends everything, the list stays",
    },
    {
      rule: "an index of a higher generation is passed over",
      file: "src/pageserver/remote/remote-paths.ts",
      search: "if (object.generation > generation) {",
      replace: "if (object.generation > generation + 100) {",
      test: "src/pageserver/remote/load-tenant.test.ts",
      name: "loadTenant: an index of a higher generation is a conflict",
    },
    {
      rule: "a layer gets its name before it is synced",
      file: DOWNLOAD,
      search: "      await disk.background.fsync(fd);\n",
      replace: "",
      test: DOWNLOAD_TEST,
      name: "LayerDownloads: a crash at any operation leaves the whole layer or none",
    },
    {
      rule: "a transfer that ended early counts as whole",
      file: DOWNLOAD,
      search: "if (done !== lengthBytes) {",
      replace: "if (done > lengthBytes) {",
      test: DOWNLOAD_TEST,
      name: "LayerDownloads: a store that fails and tears transfers",
    },
    {
      rule: "everybody who waits for a layer has a transfer of his own",
      file: DOWNLOAD,
      search: "if (before !== undefined) {",
      replace: "if (before !== undefined && before.isUrgent !== isUrgent) {",
      test: DOWNLOAD_TEST,
      name: "LayerDownloads: one transfer for all who wait",
    },
    {
      rule: "whoever comes to wait for a download does not hurry it",
      file: DOWNLOAD,
      search: "before.isUrgent ||= isUrgent;",
      replace: "",
      test: DOWNLOAD_TEST,
      name: "LayerDownloads: who waits goes before what is done ahead of time",
    },
    {
      rule: "layers that wait for their index are orphans",
      file: SCRUB,
      search: "object === undefined || object.generation >= generation;",
      replace: "object === undefined;",
      test: SCRUB_TEST,
      name: "scrubTenant: finds what is missing",
    },
    {
      rule: "a damaged index names nothing",
      file: SCRUB,
      search: "damaged.size > 0 ? [] : ",
      replace: "",
      test: SCRUB_TEST,
      name: "scrubTenant: where an index is damaged nothing is an orphan",
    },
    {
      rule: "a stale generation's scrub deletes",
      file: SCRUB,
      search: "if (!(await fix.validate())) {",
      replace: "if (fix.validate === undefined) {",
      test: SCRUB_TEST,
      name: "scrubTenant: in a generation that is not current",
    },
    {
      rule: "indexes are read at different moments",
      file: SCRUB,
      search: "if (identity(before) === identity(after)) {",
      replace: "if (before.length > 0 || after.length > 0) {",
      test: SCRUB_TEST,
      name: "scrubTenant: indexes that change while they are read",
    },
  ],
};

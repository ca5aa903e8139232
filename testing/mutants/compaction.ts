// Broken rules of compaction: what it keeps, in what order it reads, and where its files end.

import type { MutantPart } from "./mutant.ts";

const RULE = "src/pageserver/compaction/retained-versions.ts";
const RULE_TEST = "src/pageserver/compaction/retained-versions.test.ts";
const EVERY_RETAINED = "VersionPlan: every retained LSN";
const MERGE = "src/pageserver/compaction/merge-cursor.ts";
const CURSOR = "src/pageserver/compaction/layer-cursor.ts";
const MERGE_TEST = "src/pageserver/compaction/merge-cursor.test.ts";
const ANY_LAYERS = "MergeCursor: any layers come out";
const COMPACT = "src/pageserver/compaction/compact-layers.ts";
const KEY_WRITER = "src/pageserver/compaction/key-writer.ts";
const OUTPUT = "src/pageserver/compaction/output-layers.ts";
const COMPACT_TEST = "src/pageserver/compaction/compact-layers.test.ts";
const WITH_CUTOFF = "compactLayers: with a cutoff";
const IMAGE_LAYERS = "compactLayers: image layers cover";
const PLAN = "src/pageserver/compaction/compaction-plan.ts";
const PLAN_TEST = "src/pageserver/compaction/compaction-plan.test.ts";
const LEVELS = "src/pageserver/compaction/level-merge.ts";
const LEVELS_MERGED = "level: so many levels of about one size";
const LEVELS_APART = "level: no levels are merged across";
const WORKER = "src/pageserver/flush/background-worker.ts";
const WORKER_TEST = "src/pageserver/flush/background-compaction.test.ts";

export const COMPACTION_MUTANTS: MutantPart = {
  part: "compaction",
  mutants: [
    {
      rule: "a page that has a state at each of many branch points has a file for each",
      file: "src/pageserver/compaction/compact-layers.ts",
      search: "Math.max(BATCH_BYTES, cutPoints * CUT_BYTES)",
      replace: "BATCH_BYTES",
      test: "src/pageserver/compaction/compact-layers.test.ts",
      name: "compactLayers: pages with a state at each of many branch points",
    },
    {
      rule: "levels of any size are merged, the large ones again and again",
      file: LEVELS,
      search: "one.segment === segment && sizeClass(one.bytes) === sizeClass(bytes),",
      replace: "one.segment === segment,",
      test: PLAN_TEST,
      name: LEVELS_MERGED,
    },
    {
      rule: "levels on both sides of a branch point are merged, again and again",
      file: LEVELS,
      search: "one.segment === segment && sizeClass",
      replace: "sizeClass",
      test: PLAN_TEST,
      name: LEVELS_APART,
    },
    {
      rule: "a level across a branch point is merged with others",
      file: LEVELS,
      search: "lastLsnOf(layer)) ? below : undefined;",
      replace: "lastLsnOf(layer)) ? below : below;",
      test: PLAN_TEST,
      name: LEVELS_APART,
    },
    {
      rule: "a merged level reaches over other deltas",
      file: LEVELS,
      search: "!hasOthersBetween(merge.layers, found)",
      replace: "found.length > 0",
      test: PLAN_TEST,
      name: LEVELS_APART,
    },
    {
      rule: "each timeline counts its memory for itself",
      file: "src/pageserver/flush/layer-memory.ts",
      search: "while (this.#openBytes > this.#maxBytes) {",
      replace: "while (open.sizeBytes > this.#maxBytes && this.#held.get(holder)!.openBytes > 0) {",
      test: "src/pageserver/flush/layer-memory.test.ts",
      name: "LayerMemory: above the budget",
    },
    {
      rule: "a version at a retained LSN counts as one after it",
      file: RULE,
      search: "while (at < end && this.#lsns[at]! <= lsn) {",
      replace: "while (at < end && this.#lsns[at]! < lsn) {",
      test: RULE_TEST,
      name: EVERY_RETAINED,
    },
    {
      rule: "a tombstone that hides an older state goes",
      file: RULE,
      search: "kind === VALUE_IMAGE || this.#state ? ACTION_KEEP",
      replace: "kind === VALUE_IMAGE ? ACTION_KEEP",
      test: RULE_TEST,
      name: EVERY_RETAINED,
    },
    {
      rule: "a chain is counted anew at each retained LSN",
      file: RULE,
      search: "kind === VALUE_DELTA ? this.#chain + end - from : end - from",
      replace: "end - from",
      test: RULE_TEST,
      name: "VersionPlan: the chain is counted",
    },
    {
      rule: "images above the cutoff are forgotten",
      file: RULE,
      search: "if (!situation.addImages) {",
      replace: "if (situation.addImages || true) {",
      test: RULE_TEST,
      name: "VersionPlan: above the cutoff images",
    },
    {
      rule: "a layer's versions are taken past those of another layer",
      file: MERGE,
      search: "return head.rank < second.rank ? second.lsn : second.lsn - 1;",
      replace: "return Number.POSITIVE_INFINITY;",
      test: MERGE_TEST,
      name: "MergeCursor: layers over the same LSNs",
    },
    {
      rule: "an image layer comes before delta layers of its LSN",
      file: MERGE,
      search: "isImage(a) - isImage(b) ||",
      replace: "isImage(b) - isImage(a) ||",
      test: MERGE_TEST,
      name: ANY_LAYERS,
    },
    {
      rule: "a key that an image layer lacks lives on",
      file: MERGE,
      search: "this.#absences.push(lsnStart);",
      replace: "",
      test: MERGE_TEST,
      name: ANY_LAYERS,
    },
    {
      rule: "versions above an input's cap are seen",
      file: CURSOR,
      search: "entryLsn(block, this.#end - 1) > this.input.maxLsn",
      replace: "entryLsn(block, this.#end - 1) > this.input.maxLsn + 50",
      test: MERGE_TEST,
      name: "MergeCursor: a key range",
    },
    {
      rule: "a part of a key is planned as if nothing came before",
      file: KEY_WRITER,
      search:
        'const stateBelow = continued ? this.#carried === "there" : this.#settings.moreBelow;',
      replace: "const stateBelow = !continued && this.#settings.moreBelow;",
      test: COMPACT_TEST,
      name: WITH_CUTOFF,
    },
    {
      rule: "a page is built from zeros, though a layer below has its base",
      file: KEY_WRITER,
      search: "this.#redo.load(reply.page);",
      replace: "this.#redo.loadZero();",
      test: COMPACT_TEST,
      name: "compactLayers: an image is built on the page",
    },
    {
      rule: "versions go although the image in their place could not be built",
      file: KEY_WRITER,
      search: "this.#copyReplaced(at, i);",
      replace: "",
      test: COMPACT_TEST,
      name: "compactLayers: a base that cannot be read",
    },
    {
      rule: "an image layer has no image of a key whose last part lies above it",
      file: KEY_WRITER,
      search: "return continued ? this.#carriedValue : undefined;",
      replace: "return continued ? undefined : undefined;",
      test: COMPACT_TEST,
      name: IMAGE_LAYERS,
    },
    {
      rule: "a delta layer lies across the image layer that holds what it lacks",
      file: COMPACT,
      search: "imageLayerLsn === undefined ? cutPoints : [...cutPoints, imageLayerLsn]",
      replace: "cutPoints",
      test: COMPACT_TEST,
      name: IMAGE_LAYERS,
    },
    {
      rule: "a layer has blocks and metadata",
      file: COMPACT,
      search: "if (this.#inMetadata) {",
      replace: "if (this.#inMetadata || true) {",
      test: COMPACT_TEST,
      name: "compactLayers: with nothing dropped",
    },
    {
      rule: "an image layer has nothing of a page that could not be built",
      file: COMPACT,
      search: "await this.#images!.leaveHole({ prefix, index });",
      replace: "",
      test: COMPACT_TEST,
      name: "compactLayers: a page that cannot be built",
    },
    {
      rule: "blocks of relations that were dropped live on in image layers",
      file: KEY_WRITER,
      search: "if (this.#ends?.has(at.prefix, at.index) === false) {",
      replace: "if (this.#ends?.has(at.prefix, at.index) === undefined && false) {",
      test: COMPACT_TEST,
      name: "compactLayers: an image layer has no blocks past",
    },
    {
      rule: "a layer goes although a retained LSN reads it",
      file: PLAN,
      search: ".filter(({ layer, high }) => !this.#isRetained(layer, high))",
      replace: "",
      test: PLAN_TEST,
      name: "collect: what a retained LSN reads",
    },
    {
      rule: "a layer goes when some of its keys have an image above it",
      file: PLAN,
      search: "return lastLsnOf(layer) <= low && !this.#base",
      replace: "return lastLsnOf(layer) <= high && !this.#base",
      test: PLAN_TEST,
      name: "collect: a layer goes when the images",
    },
    {
      rule: "a collection writes a layer across an image's LSN",
      file: PLAN,
      search: "cutPoints: sorted([...needed, ...lsns])",
      replace: "cutPoints: needed",
      test: PLAN_TEST,
      name: "collect: a layer goes when the images",
    },
    {
      rule: "a level has a file across an image's LSN",
      file: PLAN,
      search: "return sorted([...branchPoints, ...images.map(({ file }) => file.lsnStart)]);",
      replace: "return sorted(branchPoints);",
      test: PLAN_TEST,
      name: "level: of much",
    },
    {
      rule: "images are made without the deltas of a key whose last image failed",
      file: PLAN,
      search: "this.#above = layers.filter((layer) => this.#isAbove(layer, () => true));",
      replace:
        "this.#above = layers.filter((layer) => this.#isAbove(layer, (tile) => !situation.isSetAside(tile)));",
      test: PLAN_TEST,
      name: "images: where a page cannot be built",
    },
    {
      rule: "a delta layer is cut before a cut point",
      file: COMPACT,
      search: "const cuts = cutPoints.map((lsn) => lsn + 1)",
      replace: "const cuts = cutPoints.map((lsn) => lsn + 0)",
      test: COMPACT_TEST,
      name: "compactLayers: with nothing dropped",
    },
    {
      rule: "outputs that were finished stay behind a compaction that failed",
      file: OUTPUT,
      search: "await disk.background.removeTree(join(directory, fileName)).catch(() => undefined);",
      replace: "join(directory, fileName, disk.exists.name);",
      test: COMPACT_TEST,
      name: "compactLayers: cancelled",
    },
    {
      rule: "a compaction goes on while there is something to flush",
      file: WORKER,
      search: "while (flushing > 0 && monotonicMs()",
      replace: "while (flushing > 1000 && monotonicMs()",
      test: WORKER_TEST,
      name: "BackgroundThread: a flush does not wait",
    },
  ],
};

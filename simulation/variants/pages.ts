// Variants of the pageserver's storage that lack a rule of its disk, its object store or its history.

import type { Variant } from "./variant.ts";

const STORAGE = "src/pageserver/storage/";
const REMOTE = "src/pageserver/remote/";
const TRANSFERS = "src/pageserver/transfers/";

/** A variant of one change. */
function without(
  name: string,
  rule: string,
  file: string,
  find: string,
  replace: string,
  seed = 1,
): Variant {
  return { name, rule, seed, changes: [{ file, find, replace }] };
}

const uploads: readonly Variant[] = [
  without(
    "index-before-layer",
    "an index is put when the layers that it names are in the store",
    `${TRANSFERS}upload-queue.ts`,
    "      if (upload !== undefined) {",
    "      if (upload !== undefined && index === undefined) {",
  ),
  without(
    "oldest-index-put",
    "of the indexes that may be put the newest is",
    `${TRANSFERS}upload-queue.ts`,
    "const index = this.#current.at(-1)!;",
    "const index = this.#current.at(0)!;",
  ),
  without(
    "told-without-validation",
    "remote_consistent_lsn is told in a generation that was current after the put",
    `${REMOTE}timeline-remote.ts`,
    "isNews && (await this.#tenant.storage.isCurrent())",
    "isNews",
  ),
  without(
    "told-above-what-is-here",
    "an index of a replaced pageserver that does not count says nothing of how far the store is",
    `${REMOTE}timeline-remote.ts`,
    `minLsn(
      index?.diskConsistentLsn ?? INVALID,
      this.#timeline.index.diskConsistentLsn,
    )`,
    "[index?.diskConsistentLsn ?? INVALID, minLsn][0] as Lsn",
  ),
  without(
    "creation-not-in-the-store",
    "a creation is answered when the store has it",
    `${REMOTE}timeline-remote.ts`,
    "const durable = this.putInGeneration()",
    "const durable = Promise.resolve()",
  ),
  without(
    "stale-creation-answered",
    "a creation is answered in a generation that was current after it was durable",
    `${REMOTE}timeline-remote.ts`,
    `.then(() => this.#expectCurrent("is made"))`,
    "",
  ),
  without(
    "stale-deletion-answered",
    "a deletion is answered in a generation that was current after it was durable",
    `${REMOTE}timeline-remote.ts`,
    `this.#expectCurrent("is deleted")`,
    "undefined",
  ),
  without(
    "absent-layer-uploaded",
    "a layer that an index names and the disk does not have is in the store",
    `${STORAGE}tenant-layers.ts`,
    "file.isResident = !file.isStored;",
    "file.isResident = !file.isStored;\n    file.isStored = false;",
    1066,
  ),
];

const deletions: readonly Variant[] = [
  without(
    "delete-without-validation",
    "objects are deleted in a generation that is current",
    `${REMOTE}deletion-queue.ts`,
    "holds.get(claimName(one)) === true",
    "holds.get(claimName(one)) !== undefined",
  ),
  without(
    "delete-before-the-index",
    "objects are deleted when no index in the store names them",
    `${REMOTE}tenant-remote.ts`,
    "    await Promise.all(this.#underWay);\n",
    "",
  ),
  without(
    "lists-of-any-generation",
    "only lists of the generation right before are adopted",
    `${REMOTE}deletion-queue.ts`,
    "return generation === deletions.generation + 1 ?",
    "return generation !== undefined ?",
  ),
  without(
    "settle-skipped",
    "before layers of a lower generation are deleted, indexes of lower generations count no more",
    `${REMOTE}tenant-remote.ts`,
    "keys.some(mayComeBack) ? this.settle() : undefined",
    "keys.some(mayComeBack) ? undefined : undefined",
  ),
  without(
    "late-index-counts",
    "indexes below the newest manifest's generation do not count",
    `${REMOTE}remote-paths.ts`,
    "index.generation >= settled)",
    "index.generation >= 0 * settled)",
  ),
  without(
    "deletion-takes-used-layers",
    "a deleted timeline's layers stay while another one reads them",
    `${REMOTE}tenant-remote.ts`,
    "!isUsed(object.timelineId, object.fileName)",
    "isUsed !== undefined",
  ),
  without(
    "removed-while-uploaded",
    "a file is not removed while it is uploaded",
    `${STORAGE}tenant-layers.ts`,
    "    await this.#remote?.uploadEnded(layer);\n",
    "",
  ),
  without(
    "tenant-deleted-without-a-mark",
    "the store says that a tenant is deleted before anything of it goes",
    `${STORAGE}tenant-manager.ts`,
    "      await this.#deleted.add(tenantId);\n",
    "",
  ),
  without(
    "deleted-tenant-left",
    "a start goes on with deletions of tenants that a killed process began",
    `${STORAGE}tenant-manager.ts`,
    "    void manager.#removeDeleted(stored);\n",
    "",
  ),
];

const loading: readonly Variant[] = [
  without(
    "older-index-counts",
    "of disk and store the index of the later generation counts",
    `${REMOTE}take-stored.ts`,
    "generation > (parts.get(timelineId)?.generation ?? 0)",
    "!parts.has(timelineId) && generation > 0",
  ),
  without(
    "deleted-index-loaded",
    "a timeline that the store calls deleted is not loaded",
    `${REMOTE}take-stored.ts`,
    "    if (index.deleted) {",
    "    if (index.deleted && index.layers.length > 0) {",
  ),
  without(
    "forgotten-timeline-comes-back",
    "a timeline that only an old disk has was deleted",
    `${REMOTE}take-stored.ts`,
    "!listing.indexes.has(timelineId) && generation < listing.settled",
    "!listing.indexes.has(timelineId) && generation < listing.settled * 0",
  ),
  without(
    "ancestor-not-awaited",
    "a branch is read when its ancestors have taken in what it sees",
    `${STORAGE}timeline.ts`,
    "if (!this.#ancestorReady && !this.#checkAncestorReady()) {",
    "if (this.#ancestor === null && !this.#checkAncestorReady()) {",
  ),
];

const residency: readonly Variant[] = [
  without(
    "eviction-under-compaction",
    "what a compaction reads is not evicted",
    "src/pageserver/layer-eviction.ts",
    "file.pins === 0 && ",
    "",
    200_670,
  ),
  without(
    "eviction-before-upload",
    "only what the store has is evicted",
    "src/pageserver/layer-eviction.ts",
    "file.isResident && file.isStored && ",
    "file.isResident && ",
  ),
  without(
    "download-not-synced",
    "a download gets its name when it is synced",
    `${TRANSFERS}layer-download.ts`,
    "      await disk.background.fsync(fd);\n",
    "",
  ),
  without(
    "short-download-counts",
    "a transfer that ended early is tried again",
    `${TRANSFERS}layer-download.ts`,
    "if (done !== lengthBytes) {",
    "if (done > lengthBytes) {",
  ),
  without(
    "image-from-nothing",
    "a flush makes no image of a page whose layers are not here",
    "src/pageserver/flush/layer-flush.ts",
    `if (reply?.state === "unwanted") {`,
    `if (reply?.state === "unwanted" && key < 0) {`,
  ),
];

const history: readonly Variant[] = [
  without(
    "gc-ignores-leases",
    "what a lease holds stays",
    `${STORAGE}timeline.ts`,
    "return retainedLsns(cutoff, this.branchPoints.lsns, leased, this.leases.replicaStarts);",
    "return retainedLsns(cutoff, this.branchPoints.lsns, [leased].slice(1).flatMap((one) => [...one]));",
  ),
  without(
    "gc-ignores-branch-points",
    "what a branch sees stays",
    `${STORAGE}timeline.ts`,
    "return retainedLsns(cutoff, this.branchPoints.lsns, leased, this.leases.replicaStarts);",
    "return retainedLsns(cutoff, leased);",
  ),
  without(
    "leases-forgotten",
    "leases outlive the process",
    `${STORAGE}timeline.ts`,
    "for (const lsn of this.#storedLeases) {",
    "for (const lsn of [] as Lsn[]) {",
  ),
  without(
    "retained-off-by-one",
    "every LSN below the cutoff that is held is retained",
    `${STORAGE}retention.ts`,
    "[...some].filter((lsn) => lsn < cutoff)",
    "[...some].filter((lsn) => lsn + 8 < cutoff)",
  ),
  without(
    "cutoff-not-durable",
    "the cutoff is in the index before anything below it goes",
    `${STORAGE}timeline.ts`,
    "      gcCutoffLsn: this.#gcCutoffLsn,\n      leases",
    "      gcCutoffLsn: this.startLsn,\n      leases",
  ),
  without(
    "reads-below-the-cutoff",
    "what is below the cutoff is refused",
    `${STORAGE}retention.ts`,
    "const isAbove = isOwn && lsn >= at.gcCutoffLsn;",
    "const isAbove = isOwn;",
  ),
  without(
    "cap-off-by-one",
    "a detached branch sees its ancestors' versions up to the branch point",
    `${STORAGE}tenant-layers.ts`,
    "capLsn: minLsn(capLsn, cap) });",
    "capLsn: (minLsn(capLsn, cap) - 1) as Lsn });",
  ),
  without(
    "branch-sees-too-much",
    "a branch sees nothing of its ancestor above the branch point",
    `${STORAGE}timeline.ts`,
    "capLsn: this.ancestorLsn },",
    "capLsn: (this.ancestorLsn + 8) as Lsn },",
  ),
  without(
    "compaction-forgets-the-cap",
    "a compaction takes no versions above a layer's cap",
    `${STORAGE}timeline-compaction.ts`,
    "maxLsn: minLsn(capLsn, maxLsn),",
    "maxLsn: [maxLsn, capLsn, minLsn][0] as Lsn,",
  ),
  without(
    "detached-without-memory",
    "what of the ancestors is in memory is flushed before a branch takes their layers over",
    `${STORAGE}timeline.ts`,
    "        await next.timeline.checkpoint();\n",
    "",
  ),
];

const disk: readonly Variant[] = [
  without(
    "layer-not-synced",
    "a layer is synced before an index names it",
    "src/pageserver/layers/layer-writer.ts",
    "      await this.#disk.fsync(this.#file!);\n",
    "",
  ),
  without(
    "index-not-synced",
    "an index is synced before it takes the old one's place",
    "src/base/disk.ts",
    "      await background.write(fd, data, 0);\n      await background.fsync(fd);\n",
    "      await background.write(fd, data, 0);\n",
  ),
  without(
    "flushed-too-far",
    "disk_consistent_lsn is that of what was flushed",
    "src/pageserver/flush/timeline-flush.ts",
    "const lsn = layer.consistentLsn;",
    "const lsn = this.#timeline.map.lastRecordLsn;",
  ),
];

const ARCHIVED = "src/pageserver/archive/archived-timelines.ts";

const archive: readonly Variant[] = [
  without(
    "archiving-answered-too-early",
    "archiving is answered when the store has it, and that counts",
    ARCHIVED,
    '    await timeline.makeDurable();\n    this.#options.logger.info({ timeline: timelineId }, "timeline archived");',
    '    this.#options.logger.info({ timeline: timelineId }, "timeline archived");',
    10,
  ),
  without(
    "archived-branch-point-let-go",
    "an ancestor keeps the branch point of an archived branch",
    ARCHIVED,
    "const heldIn = line.ancestor && this.#loaded(line.ancestor.timelineId);",
    "const heldIn = line.ancestor && this.#loaded(line.timelineId);",
    823,
  ),
  without(
    "archived-layers-deleted",
    "layers that an archived timeline names stay in the store, whoever made them",
    `${STORAGE}tenant-layers.ts`,
    "return this.#borrowed.has(",
    "return !this.#offloaded && this.#borrowed.has(",
    177,
  ),
  without(
    "archived-not-held",
    "before lower generations cease to count, an archived timeline has an index of this one",
    `${REMOTE}tenant-remote.ts`,
    "    indexes.push(this.holdOffloaded());\n",
    "",
    4,
  ),
  without(
    "archived-line-of-before",
    "no line says anything of a timeline whose index is used",
    ARCHIVED,
    "    await this.list.forget();\n",
    "",
    115,
  ),
];

export const pageVariants: readonly Variant[] = [
  ...archive,
  ...uploads,
  ...deletions,
  ...loading,
  ...residency,
  ...history,
  ...disk,
];

// Broken rules of archived timelines: nobody gets one, and nothing is lost of it.

import type { MutantPart } from "./mutant.ts";

const ARCHIVED = "src/pageserver/archive/archived-timelines.ts";
const LAYERS = "src/pageserver/storage/tenant-layers.ts";
const REMOVALS = "src/pageserver/transfers/disk-removals.ts";
const REMOVALS_TEST = "src/pageserver/transfers/disk-removals.test.ts";
const TENANT = "src/pageserver/storage/tenant.ts";
const TEST = "src/pageserver/archive/archived-timelines.test.ts";
const AS_IT_WAS = "archive: nobody gets it, its files go, and unarchive brings it back as it was";
const LEAVING = "unarchive: a layer whose file is just leaving the disk comes from the store";
const REPLACED = "archive: a pageserver that was replaced cannot bring it back";
const KEPT_LAYERS = "an archived timeline keeps its layers in the store";

export const ARCHIVE_MUTANTS: MutantPart = {
  part: "archive",
  mutants: [
    {
      rule: "a timeline that was deleted meanwhile is brought back from the archive",
      file: ARCHIVED,
      search: "if (this.opened(timelineId) !== timeline) {",
      replace: "if (timelineId.length === 0) {",
      test: TEST,
      name: "deleteTimeline: an unarchiving that is under way does not bring it back",
    },
    {
      rule: "a timeline that was offloaded meanwhile is deleted as if it were loaded",
      file: TENANT,
      search: " || loaded() !== timeline",
      replace: "",
      test: TEST,
      name: "deleteTimeline: one that is archived and offloaded meanwhile is refused",
    },
    {
      rule: "a file that is leaving the disk is taken for being there",
      file: LAYERS,
      search: "!this.#removals.isLeaving(path) && ",
      replace: "",
      test: TEST,
      name: LEAVING,
    },
    {
      rule: "a layer is fetched while its file is leaving the disk",
      file: REMOVALS,
      search: "      await this.#whenLeft(path);\n      return",
      replace: "      return",
      test: REMOVALS_TEST,
      name: "remove: the file counts as gone at once",
    },
    {
      rule: "a directory goes in which a layer is being written",
      file: REMOVALS,
      search: "!this.#written.has(directory) &&\n",
      replace: "",
      test: REMOVALS_TEST,
      name: "removeEmptied: what lies in a directory that is leaving is leaving",
    },
    {
      rule: "a directory goes in which a layer is about to be written",
      file: REMOVALS,
      search: "    return this.#leaving.has(path) || this.#leaving.has(dirname(path));",
      replace: "    return this.#leaving.has(path);",
      test: REMOVALS_TEST,
      name: "removeEmptied: what lies in a directory that is leaving is leaving",
    },
    {
      rule: "an index that the store may have counts for nothing until it has answered",
      file: ARCHIVED,
      search: "    this.#unanswered.set(timelineId, held);\n",
      replace: "",
      test: TEST,
      name: "an archived timeline whose index was put without an answer",
    },
    {
      rule: "an archived timeline is not there, for whoever asks",
      file: TENANT,
      search: "    this.#archived.refuse(timelineId);\n    const timeline = this.#timelines",
      replace: "    const timeline = this.#timelines",
      test: TEST,
      name: AS_IT_WAS,
    },
    {
      rule: "what is in memory of a timeline that is archived is lost until the safekeepers send it again",
      file: "src/pageserver/storage/timeline.ts",
      search: "    if (atMs !== undefined) {\n      await this.checkpoint();\n    }\n",
      replace: "",
      test: TEST,
      name: AS_IT_WAS,
    },
    {
      rule: "a timeline is archived while a replaced pageserver may make branches of it that count",
      file: ARCHIVED,
      search: "    await this.#options.timelines.get(timelineId)?.settle();\n",
      replace: "",
      test: TEST,
      name: "archive: a branch that a replaced pageserver makes of it",
    },
    {
      rule: "a timeline is archived before its branches",
      file: ARCHIVED,
      search: "    refuseUnarchivedChildren(timelineId, timelines.values());\n",
      replace: "",
      test: TEST,
      name: "archive: branches of it first",
    },
    {
      rule: "a branch comes back before what it begins in",
      file: ARCHIVED,
      search: "    if (ancestorId !== undefined && this.has(ancestorId)) {",
      replace: "    if (ancestorId !== undefined && !this.has(timelineId)) {",
      test: TEST,
      name: "archive: branches of it first",
    },
    {
      rule: "archiving is answered before the store has it",
      file: ARCHIVED,
      search:
        '    await timeline.makeDurable();\n    this.#options.logger.info({ timeline: timelineId }, "timeline archived");',
      replace: '    this.#options.logger.info({ timeline: timelineId }, "timeline archived");',
      test: TEST,
      name: REPLACED,
    },
    {
      rule: "that it is archived is said again without an index of this generation",
      file: ARCHIVED,
      search: "      await this.#holdSome([timelineId]);\n",
      replace: "",
      test: TEST,
      name: REPLACED,
    },
    {
      rule: "a pageserver that was replaced archives the parent of a branch that was unarchived",
      file: ARCHIVED,
      search:
        "    await timeline.holdInStore();\n    await timeline.makeDurable();\n    if (archived",
      replace: "    await timeline.makeDurable();\n    if (archived",
      test: TEST,
      name: "unarchive: what a replaced pageserver puts",
    },
    {
      rule: "an ancestor lets go of the branch point of an archived branch",
      file: ARCHIVED,
      search: "const heldIn = line.ancestor && this.#loaded(line.ancestor.timelineId);",
      replace: "const heldIn = line.ancestor && this.#loaded(line.timelineId);",
      test: TEST,
      name: "an ancestor keeps what an archived branch reads",
    },
    {
      rule: "layers that others made and an archived timeline reads are deleted",
      file: LAYERS,
      search: "return this.#borrowed.has(",
      replace: "return !this.#offloaded && this.#borrowed.has(",
      test: TEST,
      name: KEPT_LAYERS,
    },
    {
      rule: "layers that an archived timeline made go with the last other one that reads them",
      file: LAYERS,
      search: "      !this.#offloaded.has(maker) && ",
      replace: "      ",
      test: TEST,
      name: KEPT_LAYERS,
    },
    {
      rule: "a start believes the line of a timeline that was used since",
      file: ARCHIVED,
      search: "    await this.list.forget();\n",
      replace: "",
      test: TEST,
      name: "deleteTimeline: its archived branches are detached",
    },
    {
      rule: "a start reads the index of each archived timeline",
      file: "src/pageserver/remote/take-stored.ts",
      search: "known?.generation === generation && !parts.has(timelineId)",
      replace: "known !== undefined && generation === 0",
      test: TEST,
      name: "archived timelines cost a start their lines",
    },
    {
      rule: "archived timelines are gone when lower generations cease to count",
      file: "src/pageserver/remote/tenant-remote.ts",
      search: "    indexes.push(this.holdOffloaded());\n",
      replace: "",
      test: TEST,
      name: "archived timelines outlive the end of lower generations",
    },
  ],
};

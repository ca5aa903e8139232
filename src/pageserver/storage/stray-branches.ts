// Branches that a replaced pageserver made of what others were deleting.

import type { TimelineId } from "../../base/ids.ts";
import type { IndexPart } from "./index-part.ts";

type Branch = Pick<IndexPart, "timelineId" | "ancestor" | "generation">;

/**
 * Of `parts`, branches of a timeline that a later generation has deleted, and branches of these: whoever deleted it kept all
 * branches that anybody was told of. With the deletion's end a manifest comes, under which they do not count.
 * `deleted`: the generation of each deletion.
 */
export function strayBranches(
  parts: Iterable<Branch>,
  deleted: ReadonlyMap<TimelineId, number>,
): TimelineId[] {
  const strays = new Map<TimelineId, number>();
  const left = new Set<Branch>(deleted.size === 0 ? [] : parts);
  for (let before = -1; before !== strays.size; ) {
    before = strays.size;
    for (const part of left) {
      const parent = part.ancestor?.timelineId;
      const deletedIn = parent && (deleted.get(parent) ?? strays.get(parent));
      if (deletedIn !== undefined && part.generation < deletedIn) {
        left.delete(part);
        strays.set(part.timelineId, deletedIn);
      }
    }
  }
  return [...strays.keys()];
}

// Chooses the branch that a page is about.

import { useBranch, useChooseBranch, useTree } from "./use-branch.ts";

export function BranchSelect() {
  const tree = useTree() ?? [];
  const branch = useBranch();
  const choose = useChooseBranch();
  return (
    <label className="inline-field">
      <span>Branch</span>
      <select value={branch?.branch.id ?? ""} onChange={(event) => choose(event.target.value)}>
        {tree
          .toSorted((a, b) => a.branch.name.localeCompare(b.branch.name))
          .map(({ branch: { id, name } }) => (
            <option key={id} value={id}>
              {name}
            </option>
          ))}
      </select>
    </label>
  );
}

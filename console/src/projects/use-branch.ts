// The branch that a page is about: the one in the address, else the project's default one.

import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { treeQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";

export function useProjectId(): string {
  return useParams({ from: "/projects/$projectId" }).projectId;
}

export function useTree(): readonly TreeBranch[] | undefined {
  return useQuery(treeQuery(useProjectId())).data?.branches;
}

export function useBranch(): TreeBranch | undefined {
  const { branch } = useSearch({ from: "/projects/$projectId" });
  const tree = useTree();
  return tree?.find((one) => one.branch.id === branch) ?? tree?.find((one) => one.branch.default);
}

/** Stays on the page. */
export function useChooseBranch(): (id: string) => void {
  const navigate = useNavigate();
  return (branch) => void navigate({ to: ".", search: { branch } });
}

// What pages read of the control plane, each under a key that a change of its project makes stale.

import { keepPreviousData, QueryClient, queryOptions } from "@tanstack/react-query";
import { ApiError, api, isUnauthorized, request, SESSION_PATH, whenSessionEnds } from "./http.ts";
import type {
  ApiDatabase,
  ApiKey,
  ApiOperation,
  ApiProject,
  ApiRole,
  ConsoleCosts,
  ConsoleLayers,
  ConsoleSession,
  ConsoleTree,
} from "./types.ts";

const PAGE = 400;

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 30_000,
      retry: (count, error) => count < 2 && error instanceof ApiError && error.status === 0,
      refetchOnWindowFocus: false,
    },
  },
});

/** Null: nobody is logged in. */
export const sessionQuery = queryOptions<ConsoleSession | null>({
  queryKey: ["session"],
  queryFn: async () => {
    try {
      return await request<ConsoleSession>("GET", SESSION_PATH);
    } catch (error) {
      if (isUnauthorized(error)) {
        return null;
      }
      throw error;
    }
  },
  staleTime: Number.POSITIVE_INFINITY,
});

// Whatever page it happens on, the log-in comes.
whenSessionEnds(() => queryClient.setQueryData(sessionQuery.queryKey, null));

export const projectsQuery = queryOptions({
  queryKey: ["projects"],
  queryFn: async () => {
    const found: ApiProject[] = [];
    for (let cursor = ""; ; ) {
      const query = `limit=${PAGE}${cursor === "" ? "" : `&cursor=${encodeURIComponent(cursor)}`}`;
      const page = await api<{ projects: ApiProject[]; pagination: { cursor: string } }>(
        "GET",
        `/projects?${query}`,
      );
      found.push(...page.projects);
      if (page.projects.length < PAGE) {
        return found;
      }
      cursor = page.pagination.cursor;
    }
  },
});

export const treeQuery = (projectId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "tree"],
    queryFn: () => request<ConsoleTree>("GET", `/console/projects/${projectId}/tree`),
  });

/** Layers come and go without anybody's doing: read again while somebody looks. */
const LAYERS_INTERVAL_MS = 10_000;
/** Sizes are counted, and a collection is planned, for each look. */
const COSTS_INTERVAL_MS = 30_000;

export const layersQuery = (projectId: string, branchId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "layers", branchId],
    queryFn: () =>
      request<ConsoleLayers>("GET", `/console/projects/${projectId}/branches/${branchId}/layers`),
    refetchInterval: LAYERS_INTERVAL_MS,
  });

/** `historySeconds`: what the window would be; undefined: as the project has it. */
export const costsQuery = (projectId: string, branchId: string, historySeconds?: number) =>
  queryOptions({
    queryKey: ["project", projectId, "costs", branchId, historySeconds],
    queryFn: () => {
      const query = historySeconds === undefined ? "" : `?history_seconds=${historySeconds}`;
      return request<ConsoleCosts>(
        "GET",
        `/console/projects/${projectId}/branches/${branchId}/costs${query}`,
      );
    },
    refetchInterval: COSTS_INTERVAL_MS,
    placeholderData: keepPreviousData,
  });

export const operationsQuery = (projectId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "operations"],
    queryFn: async () =>
      (
        await api<{ operations: ApiOperation[] }>(
          "GET",
          `/projects/${projectId}/operations?limit=200`,
        )
      ).operations,
  });

export const rolesQuery = (projectId: string, branchId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "roles", branchId],
    queryFn: async () =>
      (await api<{ roles: ApiRole[] }>("GET", `/projects/${projectId}/branches/${branchId}/roles`))
        .roles,
  });

export const databasesQuery = (projectId: string, branchId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "databases", branchId],
    queryFn: async () =>
      (
        await api<{ databases: ApiDatabase[] }>(
          "GET",
          `/projects/${projectId}/branches/${branchId}/databases`,
        )
      ).databases,
  });

export const keysQuery = queryOptions({
  queryKey: ["keys"],
  queryFn: () => api<ApiKey[]>("GET", "/api_keys"),
});

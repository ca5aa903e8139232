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
  ConsoleStart,
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
  queryFn: () => readProjects({}),
});

/** Those that were deleted and can be recovered. Under the key of all: whatever makes those stale makes these. */
export const deletedProjectsQuery = queryOptions({
  queryKey: ["projects", "deleted"],
  queryFn: () => readProjects({ recoverable: "true" }),
});

async function readProjects(choice: Readonly<Record<string, string>>): Promise<ApiProject[]> {
  const found: ApiProject[] = [];
  for (let cursor = ""; ; ) {
    const query = new URLSearchParams({
      ...{ ...choice, limit: `${PAGE}` },
      ...(cursor === "" ? {} : { cursor }),
    });
    const page = await api<{ projects: ApiProject[]; pagination?: { cursor: string } }>(
      "GET",
      `/projects?${query}`,
    );
    found.push(...page.projects);
    if (page.projects.length < PAGE || page.pagination === undefined) {
      return found;
    }
    cursor = page.pagination.cursor;
  }
}

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

export const lastStartQuery = (projectId: string, endpointId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "start", endpointId],
    queryFn: () =>
      request<ConsoleStart>(
        "GET",
        `/console/projects/${projectId}/endpoints/${encodeURIComponent(endpointId)}/last_start`,
      ),
  });

export const operationsQuery = (projectId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "operations"],
    queryFn: () => readOperations(projectId, 200),
  });

/** What a project does now is among these: it does one thing at a time. */
export const newestOperationsQuery = (projectId: string) =>
  queryOptions({
    queryKey: ["project", projectId, "newest operations"],
    queryFn: () => readOperations(projectId, 20),
  });

async function readOperations(projectId: string, limit: number): Promise<ApiOperation[]> {
  const path = `/projects/${projectId}/operations?limit=${limit}`;
  return (await api<{ operations: ApiOperation[] }>("GET", path)).operations;
}

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

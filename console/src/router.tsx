// Which page is at which address. Addresses are behind the `#`: the server has one page.

import {
  createHashHistory,
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  redirect,
} from "@tanstack/react-router";
import { BranchesPage } from "./branches/branches-page.tsx";
import { EndpointsPage } from "./endpoints/endpoints-page.tsx";
import { OperationsPage } from "./operations/operations-page.tsx";
import { asError, ErrorNotice } from "./parts/notice.tsx";
import { ProjectLayout } from "./projects/project-layout.tsx";
import { ProjectsPage } from "./projects/projects-page.tsx";
import { Shell } from "./projects/shell.tsx";
import { RolesPage } from "./roles/roles-page.tsx";
import { ProjectSettingsPage } from "./settings/project-settings-page.tsx";
import { SettingsPage } from "./settings/settings-page.tsx";

/** Which branch a page is about; absent: the project's default one. */
export interface ProjectSearch {
  readonly branch?: string;
}

/** Which table is looked at. */
export interface TableSearch {
  readonly schema?: string;
  readonly table?: string;
}

const root = createRootRoute({ component: Shell });
const projects = createRoute({
  getParentRoute: () => root,
  path: "/",
  component: ProjectsPage,
});
const settings = createRoute({
  getParentRoute: () => root,
  path: "/settings",
  component: SettingsPage,
});
const project = createRoute({
  getParentRoute: () => root,
  path: "/projects/$projectId",
  component: ProjectLayout,
  validateSearch: (search: Record<string, unknown>): ProjectSearch =>
    typeof search["branch"] === "string" ? { branch: search["branch"] } : {},
});
const start = createRoute({
  getParentRoute: () => project,
  path: "/",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/projects/$projectId/branches", params });
  },
});
const branches = createRoute({
  getParentRoute: () => project,
  path: "/branches",
  component: BranchesPage,
});
const sql = createRoute({
  getParentRoute: () => project,
  path: "/sql",
  component: lazyRouteComponent(() => import("./sql/sql-page.tsx"), "SqlPage"),
});
const tables = createRoute({
  getParentRoute: () => project,
  path: "/tables",
  component: lazyRouteComponent(() => import("./tables/tables-page.tsx"), "TablesPage"),
  validateSearch: ({ schema, table }: Record<string, unknown>): TableSearch =>
    typeof schema === "string" && typeof table === "string" ? { schema, table } : {},
});
const monitoring = createRoute({
  getParentRoute: () => project,
  path: "/monitoring",
  component: lazyRouteComponent(() => import("./monitoring/monitoring-page.tsx"), "MonitoringPage"),
});
const storage = createRoute({
  getParentRoute: () => project,
  path: "/storage",
  component: lazyRouteComponent(() => import("./storage/storage-page.tsx"), "StoragePage"),
});
const endpoints = createRoute({
  getParentRoute: () => project,
  path: "/endpoints",
  component: EndpointsPage,
});
const endpoint = createRoute({
  getParentRoute: () => project,
  path: "/endpoints/$endpointId",
  component: lazyRouteComponent(() => import("./endpoints/endpoint-page.tsx"), "EndpointPage"),
});
const roles = createRoute({
  getParentRoute: () => project,
  path: "/roles",
  component: RolesPage,
});
const operations = createRoute({
  getParentRoute: () => project,
  path: "/operations",
  component: OperationsPage,
});
const projectSettings = createRoute({
  getParentRoute: () => project,
  path: "/settings",
  component: ProjectSettingsPage,
});

export const router = createRouter({
  routeTree: root.addChildren([
    projects,
    settings,
    project.addChildren([
      start,
      branches,
      sql,
      tables,
      monitoring,
      storage,
      endpoints,
      endpoint,
      roles,
      operations,
      projectSettings,
    ]),
  ]),
  history: createHashHistory(),
  defaultErrorComponent: ({ error }) => <ErrorNotice error={asError(error)} />,
  defaultNotFoundComponent: () => <p className="empty">There is no such page.</p>,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

// The pages that a project has, in the order in which they are offered.

export const PROJECT_PAGES = [
  ["/projects/$projectId/branches", "Branches"],
  ["/projects/$projectId/sql", "SQL"],
  ["/projects/$projectId/tables", "Tables"],
  ["/projects/$projectId/monitoring", "Monitoring"],
  ["/projects/$projectId/storage", "Storage"],
  ["/projects/$projectId/endpoints", "Endpoints"],
  ["/projects/$projectId/roles", "Roles and databases"],
  ["/projects/$projectId/operations", "Operations"],
  ["/projects/$projectId/settings", "Project settings"],
] as const;

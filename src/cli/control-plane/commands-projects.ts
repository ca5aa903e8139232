// projects, operations, api-key: clients of the control plane.

import { type Command, Option } from "commander";
import { StorageError } from "../../base/errors.ts";
import type { ApiProject, CreatedApiKey } from "../../control-plane/api.ts";
import { strataCommand } from "../../local/strata-command.ts";
import { group, jsonOption, parseCount, print, printJson } from "../cli.ts";
import { formatBytes, formatTable } from "../output.ts";
import { controlPlaneClient, type ProjectOptions, projectOf, projectOption } from "./session.ts";

export function addProjectCommands(program: Command): void {
  addProjects(program);
  const operations = group(program, "operations", "what the control plane has done");
  operations
    .command("list")
    .addOption(projectOption())
    .addOption(jsonOption())
    .action(async (options: ProjectOptions & { json?: boolean }) => {
      const client = controlPlaneClient();
      const rows = await client.operations(await projectOf(client, options));
      if (options.json === true) {
        printJson(rows);
        return;
      }
      const header = ["OPERATION", "ACTION", "STATUS", "CREATED AT", "MS"];
      const cells = rows.map((row) => [
        ...[row.id, row.action, row.status, row.created_at],
        `${row.total_duration_ms}`,
      ]);
      print(formatTable(header, cells));
    });
  addKeys(program);
}

interface ProjectCreateOptions {
  name?: string;
  pgVersion?: number;
  json?: boolean;
}

interface CreatedProject {
  readonly project: ApiProject;
  readonly connection_uris: readonly { readonly connection_uri: string }[];
}

function addProjects(program: Command): void {
  const projects = group(program, "projects", "tenants with a name, as the API has them");
  projects
    .command("list")
    .alias("ls")
    .option("--recoverable", "those that were deleted and can be recovered")
    .addOption(jsonOption())
    .action(async (options: { recoverable?: boolean; json?: boolean }) => {
      const isRecoverable = options.recoverable === true;
      const rows = await controlPlaneClient().projects({ isRecoverable });
      if (options.json === true) {
        printJson(rows);
        return;
      }
      if (isRecoverable) {
        const cells = rows.map((row) => [row.id, row.name, row.deleted_at, row.recoverable_until]);
        print(formatTable(["PROJECT", "NAME", "DELETED AT", "RECOVERABLE UNTIL"], textOf(cells)));
        return;
      }
      const cells = rows.map((row) => [row.id, row.name, `${row.pg_version}`, row.created_at]);
      print(formatTable(["PROJECT", "NAME", "PG", "CREATED AT"], cells));
    });
  projects
    .command("create")
    .description("a tenant with branch main, an endpoint, a role and a database")
    .option("--name <name>", "its name (default: its id)")
    .option("--pg-version <major>", "PostgreSQL 14 to 18 (default: the home's)", parseCount)
    .addOption(jsonOption())
    .action(async ({ name, pgVersion, json }: ProjectCreateOptions) => {
      const project = {
        ...(name === undefined ? {} : { name }),
        ...(pgVersion === undefined ? {} : { pg_version: pgVersion }),
      };
      const client = controlPlaneClient();
      const created = await client.call<CreatedProject>("POST", "/projects", { project });
      if (json === true) {
        printJson(created);
        return;
      }
      print(`Created project '${created.project.name}' [${created.project.id}]`);
      print(created.connection_uris[0]?.connection_uri ?? "");
    });
  addDeletion(projects);
}

interface ProjectDeleteOptions {
  readonly yes?: boolean;
  readonly now?: boolean;
  readonly json?: boolean;
}

function addDeletion(projects: Command): void {
  const pathOf = (id: string) => `/projects/${encodeURIComponent(id)}`;
  projects
    .command("delete")
    .argument("<id>")
    .description("all its branches and their history; 'recover' brings it back for a time")
    .option("-y, --yes", "it is meant")
    .option("--now", "for good at once, which frees its storage; also one that is deleted already")
    .addOption(jsonOption())
    .action(async (id: string, options: ProjectDeleteOptions) => {
      if (options.yes !== true) {
        const message =
          options.now === true
            ? `project ${id} goes with all that is in it; --yes deletes it for good`
            : `project ${id} goes with all that is in it; --yes deletes it`;
        throw new StorageError("invalid", "not-confirmed", message);
      }
      const query = options.now === true ? "?hard_delete=true" : "";
      const { project } = await controlPlaneClient().call<DeletedProject>(
        "DELETE",
        `${pathOf(id)}${query}`,
      );
      if (options.json === true) {
        printJson(project);
        return;
      }
      const size = project.synthetic_storage_size;
      const bytes = size === undefined ? "its storage" : `about ${formatBytes(size)} of storage`;
      const until = project.recoverable_until;
      if (until === undefined) {
        print(`Deleted project ${id} for good: ${bytes} is freed`);
        return;
      }
      print(`Deleted project ${id}`);
      print(`Until ${until} '${strataCommand()} projects recover ${id}' brings it back;`);
      print(`'${strataCommand()} projects delete ${id} --now --yes' frees ${bytes} at once`);
    });
  projects
    .command("recover")
    .argument("<id>")
    .description("brings a deleted project back, whole; its endpoints start when they are used")
    .addOption(jsonOption())
    .action(async (id: string, options: { json?: boolean }) => {
      const path = `${pathOf(id)}/recover`;
      const { project } = await controlPlaneClient().call<{ project: ApiProject }>("POST", path);
      options.json === true ? printJson(project) : print(`Recovered project ${id}`);
    });
}

interface DeletedProject {
  readonly project: {
    readonly recoverable_until?: string;
    readonly synthetic_storage_size?: number;
  };
}

function textOf(cells: readonly (readonly (string | undefined)[])[]): string[][] {
  return cells.map((row) => row.map((cell) => cell ?? "---"));
}

function addKeys(program: Command): void {
  const keys = group(program, "api-key", "keys of the control plane's API");
  keys
    .command("create")
    .argument("<name>", "for your list")
    .addOption(
      new Option("--scope <what>", "what it is for (default: all, or project)").choices([
        ...["all", "project", "read_only"],
      ]),
    )
    .option("--project-id <id>", "the only project that it sees")
    .addOption(jsonOption())
    .description("prints the key, this once")
    .action(async (name: string, options: ProjectOptions & { scope?: string; json?: boolean }) => {
      const created = await controlPlaneClient().call<CreatedApiKey>("POST", "/api_keys", {
        key_name: name,
        ...(options.scope === undefined ? {} : { scope: options.scope }),
        ...(options.projectId === undefined ? {} : { project_id: options.projectId }),
      });
      options.json === true ? printJson(created) : print(created.key);
    });
  keys
    .command("list")
    .alias("ls")
    .addOption(jsonOption())
    .action(async (options: { json?: boolean }) => {
      const rows = await controlPlaneClient().apiKeys();
      if (options.json === true) {
        printJson(rows);
        return;
      }
      const header = ["KEY", "NAME", "SCOPE", "PROJECT", "CREATED AT", "LAST USED AT"];
      const cells = rows.map((row) => [
        ...[`${row.id}`, row.name, row.scope, row.project_id ?? "---"],
        ...[row.created_at, row.last_used_at ?? "---"],
      ]);
      print(formatTable(header, cells));
    });
  keys
    .command("revoke")
    .argument("<id>", "as in the list")
    .addOption(jsonOption())
    .action(async (id: string, options: { json?: boolean }) => {
      const path = `/api_keys/${encodeURIComponent(id)}`;
      const revoked = await controlPlaneClient().call<object>("DELETE", path);
      options.json === true ? printJson(revoked) : print(`Revoked API key ${id}`);
    });
}

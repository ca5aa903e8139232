// roles, databases, connection-string: clients of the control plane.

import type { Command } from "commander";
import { StorageError } from "../../base/errors.ts";
import type { ApiDatabase, ApiRole } from "../../control-plane/api.ts";
import type { ControlPlaneClient } from "../../control-plane/client.ts";
import { group, jsonOption, print, printJson } from "../cli.ts";
import { formatTable } from "../output.ts";
import { type BranchOptions, branchOf, controlPlaneClient, onBranch } from "./session.ts";

type Options = BranchOptions & { json?: boolean };

export function addRoleCommands(program: Command): void {
  addRoles(program);
  addDatabases(program);
  addConnectionString(program);
}

function addRoles(program: Command): void {
  const roles = group(program, "roles", "roles of a branch");
  onBranch(roles.command("list").alias("ls"))
    .addOption(jsonOption())
    .action(async (options: Options) => {
      const client = controlPlaneClient();
      const { projectId, branch } = await branchOf(client, options);
      const rows = await client.roles(projectId, branch.id);
      const cells = rows.map((row) => [row.name, row.created_at]);
      options.json === true ? printJson(rows) : print(formatTable(["ROLE", "CREATED AT"], cells));
    });
  onBranch(roles.command("create").argument("<name>"))
    .description("prints its password")
    .option("--no-login", "it is for others to be members of")
    .addOption(jsonOption())
    .action(async (name: string, options: Options & { login: boolean }) => {
      const role = { name, ...(options.login ? {} : { no_login: true }) };
      await changeRole(options, (path) => ["POST", path, { role }]);
    });
  onBranch(roles.command("reset-password").argument("<name>"))
    .description("prints the new one")
    .addOption(jsonOption())
    .action(async (name: string, options: Options) => {
      await changeRole(options, (path) => ["POST", `${path}/${word(name)}/reset_password`]);
    });
  onBranch(roles.command("delete").alias("rm").argument("<name>"))
    .addOption(jsonOption())
    .action(async (name: string, options: Options) => {
      const client = controlPlaneClient();
      const path = `${await branchPath(client, options)}/roles/${word(name)}`;
      const { role } = await client.call<{ role: ApiRole }>("DELETE", path);
      options.json === true ? printJson(role) : print(`Deleted role ${name}`);
    });
}

async function changeRole(
  options: Options,
  request: (path: string) => ["POST", string, unknown?],
): Promise<void> {
  const client = controlPlaneClient();
  const [method, path, body] = request(`${await branchPath(client, options)}/roles`);
  const { role } = await client.call<{ role: ApiRole }>(method, path, body);
  if (options.json === true) {
    printJson(role);
  } else if (role.password !== undefined) {
    print(role.password);
  }
}

function addDatabases(program: Command): void {
  const databases = group(program, "databases", "databases of a branch");
  onBranch(databases.command("list").alias("ls"))
    .addOption(jsonOption())
    .action(async (options: Options) => {
      const client = controlPlaneClient();
      const { projectId, branch } = await branchOf(client, options);
      const rows = await client.databases(projectId, branch.id);
      const cells = rows.map((row) => [row.name, row.owner_name, row.created_at]);
      options.json === true
        ? printJson(rows)
        : print(formatTable(["DATABASE", "OWNER", "CREATED AT"], cells));
    });
  onBranch(databases.command("create").argument("<name>"))
    .requiredOption("--owner <role>", "whose it is")
    .addOption(jsonOption())
    .action(async (name: string, options: Options & { owner: string }) => {
      const client = controlPlaneClient();
      const path = `${await branchPath(client, options)}/databases`;
      const body = { database: { name, owner_name: options.owner } };
      const { database } = await client.call<{ database: ApiDatabase }>("POST", path, body);
      options.json === true
        ? printJson(database)
        : print(`Created database ${name} of ${options.owner}`);
    });
  onBranch(databases.command("delete").alias("rm").argument("<name>"))
    .addOption(jsonOption())
    .action(async (name: string, options: Options) => {
      const client = controlPlaneClient();
      const path = `${await branchPath(client, options)}/databases/${word(name)}`;
      const { database } = await client.call<{ database: ApiDatabase }>("DELETE", path);
      options.json === true ? printJson(database) : print(`Deleted database ${name}`);
    });
}

interface ConnectionOptions extends Options {
  readonly role?: string;
  readonly database?: string;
  readonly pooled?: boolean;
}

function addConnectionString(program: Command): void {
  onBranch(program.command("connection-string"))
    .argument("[branch]", "the same as --branch")
    .description("what a Postgres client needs to come through the proxy, with the password")
    .option("--role <name>", "whose (default: the only one with a known password)")
    .option("-d, --database <name>", "which (default: the role's, or the first)")
    .option("--pooled", "through the transaction pooler")
    .addOption(jsonOption())
    .action(async (named: string | undefined, options: ConnectionOptions) => {
      if (named !== undefined && options.branch !== undefined) {
        const message = "BRANCH and --branch exclude each other";
        throw new StorageError("invalid", "branch-twice", message);
      }
      const branch = named ?? options.branch;
      const uri = await connectionString(controlPlaneClient(), {
        ...options,
        ...(branch === undefined ? {} : { branch }),
      });
      options.json === true ? printJson({ uri }) : print(uri);
    });
}

export async function connectionString(
  client: ControlPlaneClient,
  options: ConnectionOptions,
): Promise<string> {
  const { projectId, branch } = await branchOf(client, options);
  const databases = await client.databases(projectId, branch.id);
  const roles = await client.roles(projectId, branch.id);
  const role = options.role ?? databases[0]?.owner_name ?? roles[0]?.name;
  const database =
    options.database ??
    databases.find(({ owner_name }) => owner_name === role)?.name ??
    databases[0]?.name ??
    "postgres";
  if (role === undefined) {
    const message = `branch ${branch.name} has no roles of users: 'roles create' makes one`;
    throw new StorageError("not-found", "no-role", message);
  }
  const query = new URLSearchParams({
    ...{ branch_id: branch.id, role_name: role, database_name: database },
    ...(options.pooled === true ? { pooled: "true" } : {}),
  });
  const path = `/projects/${projectId}/connection_uri?${query}`;
  return (await client.call<{ uri: string }>("GET", path)).uri;
}

async function branchPath(client: ControlPlaneClient, options: BranchOptions): Promise<string> {
  const { projectId, branch } = await branchOf(client, options);
  return `/projects/${projectId}/branches/${branch.id}`;
}

function word(name: string): string {
  return encodeURIComponent(name);
}

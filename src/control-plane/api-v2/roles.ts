// Roles and databases of a branch: brought into its Postgres, which is woken for that.

import { StorageError } from "../../base/errors.ts";
import { type Route, route } from "../../http/route.ts";
import type { ApplyArgs } from "../operations/compute-kinds.ts";
import { planned } from "../operations/state-machine.ts";
import type { DatabaseRow, RoleRow } from "../state/tables.ts";
import {
  findBranch,
  notFound,
  operationsOf,
  type Parts,
  type ProjectBranch,
  writerOf,
} from "./lookup.ts";
import { checkName, newPassword, opened, sealed } from "./names.ts";
import { seeObjects, seeRole } from "./objects-seen.ts";
import {
  branchParams,
  databaseAnswer,
  databaseCreateBody,
  databaseOperationsAnswer,
  databaseParams,
  databasesAnswer,
  databaseUpdateBody,
  passwordAnswer,
  roleAnswer,
  roleCreateBody,
  roleOperationsAnswer,
  roleParams,
  rolesAnswer,
} from "./schemas.ts";
import { databaseView, roleView } from "./views.ts";

const BRANCH = "/api/v2/projects/{project_id}/branches/{branch_id}";
const ROLES = `${BRANCH}/roles`;
const ROLE = `${ROLES}/{role_name}`;
const DATABASES = `${BRANCH}/databases`;
const DATABASE = `${DATABASES}/{database_name}`;

export function roleRoutes(parts: Parts): Route[] {
  return [
    ...roleReads(parts),
    ...roleChanges(parts),
    ...databaseReads(parts),
    ...databaseChanges(parts),
  ];
}

function roleReads(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: ROLES,
        summary: "Roles of a branch, also those that SQL made.",
        scope: "tenant",
        params: branchParams,
        answer: rolesAnswer,
      },
      async ({ params }) => {
        const { branch } = await findBranch(parts, params);
        await seeObjects(parts, branch);
        const rows = await parts.db
          .selectFrom("roles")
          .selectAll()
          .where("branch_id", "=", branch.id)
          .orderBy("created_at")
          .orderBy("name")
          .execute();
        return { roles: rows.map((row) => roleView(row)) };
      },
    ),
    route(
      {
        method: "GET",
        path: ROLE,
        summary: "One role.",
        scope: "tenant",
        params: roleParams,
        answer: roleAnswer,
      },
      async ({ params }) => ({ role: roleView((await findRole(parts, params)).role) }),
    ),
    route(
      {
        method: "GET",
        path: `${ROLE}/reveal_password`,
        summary: "Its password, where the control plane gave it.",
        scope: "tenant",
        params: roleParams,
        answer: passwordAnswer,
      },
      async ({ params }) => {
        const { branch, role: known } = await findRole(parts, params);
        const role = await seeRole(parts, branch, known);
        const password = opened(parts, role);
        if (password === undefined) {
          const message = `the password of role ${role.name} is not known here: reset_password gives a new one`;
          throw new StorageError("invalid", "no-password-stored", message);
        }
        return { password };
      },
    ),
  ];
}

function roleChanges(parts: Parts): Route[] {
  const done = async (
    found: ProjectBranch,
    args: Partial<ApplyArgs>,
    name: string,
    password?: string,
  ) => {
    const operations = await apply(parts, found, args);
    const role = await roleOf(parts, found, name);
    return { role: roleView(role ?? goneRole(found, name), password), operations };
  };
  return [
    route(
      {
        method: "POST",
        path: ROLES,
        summary: "A role with a password of its own.",
        scope: "tenant",
        status: 201,
        params: branchParams,
        body: roleCreateBody,
        answer: roleOperationsAnswer,
      },
      async ({ params, body }) => {
        const found = await findBranch(parts, params);
        const name = checkName("role", body.role.name);
        const noLogin = body.role.no_login === true;
        await seeObjects(parts, found.branch);
        if ((await roleOf(parts, found, name)) !== undefined) {
          throw new StorageError("conflict", "role-exists", `role ${name} already exists`);
        }
        if (noLogin) {
          const role = { name, sealedPassword: null, verifier: null, noLogin };
          return done(found, { role }, name);
        }
        const password = newPassword();
        const role = { name, ...sealed(parts, name, password), noLogin };
        return done(found, { role }, name, password);
      },
    ),
    route(
      {
        method: "POST",
        path: `${ROLE}/reset_password`,
        summary: "A new password.",
        scope: "tenant",
        params: roleParams,
        answer: roleOperationsAnswer,
      },
      async ({ params }) => {
        const { role, ...found } = await findRole(parts, params);
        const password = newPassword();
        const changed = { name: role.name, ...sealed(parts, role.name, password), noLogin: false };
        return done(found, { role: changed }, role.name, password);
      },
    ),
    route(
      {
        method: "DELETE",
        path: ROLE,
        summary: "Drops it; what it owned stays, as the system's.",
        scope: "tenant",
        params: roleParams,
        answer: roleOperationsAnswer,
      },
      async ({ params }) => {
        const { role, ...found } = await findRole(parts, params);
        const owned = await parts.db
          .selectFrom("databases")
          .select("name")
          .where("branch_id", "=", found.branch.id)
          .where("owner_name", "=", role.name)
          .executeTakeFirst();
        if (owned !== undefined) {
          const message = `role ${role.name} owns database ${owned.name}: delete it or give it another owner first`;
          throw new StorageError("invalid", "role-owns-database", message);
        }
        const answer = await done(found, { droppedRole: role.name }, role.name);
        return { ...answer, role: roleView(role) };
      },
    ),
  ];
}

function databaseReads(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: DATABASES,
        summary: "Databases of a branch, also those that SQL made.",
        scope: "tenant",
        params: branchParams,
        answer: databasesAnswer,
      },
      async ({ params }) => {
        const { branch } = await findBranch(parts, params);
        await seeObjects(parts, branch);
        const rows = await parts.db
          .selectFrom("databases")
          .selectAll()
          .where("branch_id", "=", branch.id)
          .orderBy("created_at")
          .orderBy("name")
          .execute();
        return { databases: rows.map(databaseView) };
      },
    ),
    route(
      {
        method: "GET",
        path: DATABASE,
        summary: "One database.",
        scope: "tenant",
        params: databaseParams,
        answer: databaseAnswer,
      },
      async ({ params }) => ({
        database: databaseView((await findDatabase(parts, params)).database),
      }),
    ),
  ];
}

function databaseChanges(parts: Parts): Route[] {
  return [
    route(
      {
        method: "POST",
        path: DATABASES,
        summary: "A database with an owner.",
        scope: "tenant",
        status: 201,
        params: branchParams,
        body: databaseCreateBody,
        answer: databaseOperationsAnswer,
      },
      async ({ params, body }) => {
        const found = await findBranch(parts, params);
        const name = checkName("database", body.database.name);
        await seeObjects(parts, found.branch);
        if ((await databaseOf(parts, found, name)) !== undefined) {
          throw new StorageError("conflict", "database-exists", `database ${name} already exists`);
        }
        const owner = await ownerOf(parts, found, body.database.owner_name);
        const operations = await apply(parts, found, { database: { name, owner } });
        return { database: databaseView((await databaseOf(parts, found, name))!), operations };
      },
    ),
    route(
      {
        method: "PATCH",
        path: DATABASE,
        summary: "Another name or owner.",
        scope: "tenant",
        params: databaseParams,
        body: databaseUpdateBody,
        answer: databaseOperationsAnswer,
      },
      async ({ params, body }) => {
        const { database, ...found } = await findDatabase(parts, params);
        const name = checkName("database", body.database.name ?? database.name);
        const owner = await ownerOf(parts, found, body.database.owner_name ?? database.owner_name);
        const isRenamed = name !== database.name;
        if (isRenamed && (await databaseOf(parts, found, name)) !== undefined) {
          throw new StorageError("conflict", "database-exists", `database ${name} already exists`);
        }
        const operations = await apply(parts, found, {
          ...(isRenamed ? { renamedDatabase: { from: database.name, to: name } } : {}),
          database: { name, owner },
        });
        return { database: databaseView((await databaseOf(parts, found, name))!), operations };
      },
    ),
    route(
      {
        method: "DELETE",
        path: DATABASE,
        summary: "Drops it, whoever is connected.",
        scope: "tenant",
        params: databaseParams,
        answer: databaseOperationsAnswer,
      },
      async ({ params }) => {
        const { database, ...found } = await findDatabase(parts, params);
        const operations = await apply(parts, found, { droppedDatabase: database.name });
        return { database: databaseView(database), operations };
      },
    ),
  ];
}

async function apply(parts: Parts, { project, branch }: ProjectBranch, args: Partial<ApplyArgs>) {
  const endpoint = await writerOf(parts, branch);
  if (endpoint === undefined) {
    const message = `branch ${branch.name} has no read-write endpoint to do it on`;
    throw new StorageError("invalid", "no-endpoint", message);
  }
  const operation = planned(parts.kinds.apply, {
    action: "apply_config",
    branchId: branch.id,
    endpointId: endpoint.id,
    args: { ...args, endpointId: endpoint.id, branchId: branch.id },
  });
  return await operationsOf(parts, await parts.operations.submit(project.id, [operation]));
}

async function ownerOf(parts: Parts, found: ProjectBranch, name: string): Promise<string> {
  if ((await roleOf(parts, found, name)) === undefined) {
    throw new StorageError("invalid", "no-role", `owner ${name} is no role of the branch`);
  }
  return name;
}

async function findRole(
  parts: Parts,
  params: { readonly project_id: string; readonly branch_id: string; readonly role_name: string },
): Promise<ProjectBranch & { readonly role: RoleRow }> {
  const found = await findBranch(parts, params);
  await seeObjects(parts, found.branch);
  const role = await roleOf(parts, found, params.role_name);
  if (role === undefined) {
    throw notFound("role", params.role_name);
  }
  return { ...found, role };
}

async function findDatabase(
  parts: Parts,
  params: {
    readonly project_id: string;
    readonly branch_id: string;
    readonly database_name: string;
  },
): Promise<ProjectBranch & { readonly database: DatabaseRow }> {
  const found = await findBranch(parts, params);
  await seeObjects(parts, found.branch);
  const database = await databaseOf(parts, found, params.database_name);
  if (database === undefined) {
    throw notFound("database", params.database_name);
  }
  return { ...found, database };
}

function roleOf({ db }: Parts, { branch }: ProjectBranch, name: string) {
  return db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .where("name", "=", name)
    .executeTakeFirst();
}

function databaseOf({ db }: Parts, { branch }: ProjectBranch, name: string) {
  return db
    .selectFrom("databases")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .where("name", "=", name)
    .executeTakeFirst();
}

function goneRole({ branch }: ProjectBranch, name: string) {
  const { created_at, updated_at } = branch;
  return { branch_id: branch.id, name, no_login: 0, created_at, updated_at };
}

// Checks the body of POST /configure by hand: loading zod costs each endpoint 18 MB and 45 ms (http.ts).

import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { SCRAM_SECRET } from "../../postgres/scram.ts";
import type {
  DatabaseSpec,
  DeltaOperation,
  ExtensionSpec,
  GenericOption,
  RoleSpec,
} from "../api.ts";
import { checkName } from "./sql-text.ts";

/** Neon's name of the role that the roles of users belong to: what a superuser may, where stock Postgres can give it. */
export const USERS_GROUP = "neon_superuser";

/** More would be one transaction and one answer for too long. */
const MAX_ENTRIES = 10_000;
const ACTIONS = new Set(["delete_role", "rename_role", "delete_db", "rename_db"]);
const OUR_ROLES = new Set([SUPERUSER, USERS_GROUP]);
const TEMPLATES = new Set(["template0", "template1"]);

export interface Configuration {
  readonly roles: readonly RoleSpec[];
  readonly databases: readonly DatabaseSpec[];
  readonly extensions: readonly ExtensionSpec[];
  readonly operations: readonly DeltaOperation[];
  /** Undefined: they stay as they are. */
  readonly settings: Readonly<Record<string, string>> | undefined;
}

/** StorageError `invalid` names the field that is wrong, and shows no secret. */
export function parseConfiguration(body: unknown): Configuration {
  const spec = fields(fields(body, "body")["spec"], "spec");
  const cluster = fields(spec["cluster"] ?? {}, "cluster");
  const settings = cluster["settings"] ?? undefined;
  return {
    roles: list(cluster["roles"], "roles", role),
    databases: list(cluster["databases"], "databases", database),
    extensions: list(cluster["extensions"], "extensions", extension),
    operations: list(spec["delta_operations"], "delta_operations", operation),
    settings:
      settings === undefined
        ? undefined
        : Object.fromEntries(
            list(settings, "settings", option).map(({ name, value }) => [name, value ?? ""]),
          ),
  };
}

function role(value: unknown, where: string): RoleSpec {
  const { name, encrypted_password: secret, options } = fields(value, where);
  if (secret !== undefined && secret !== null) {
    if (typeof secret !== "string" || !SCRAM_SECRET.test(secret)) {
      throw wrong(`${where}.encrypted_password`, "expected a SCRAM-SHA-256 secret or null");
    }
  }
  return {
    name: userRole(name, `${where}.name`),
    encrypted_password: secret as string | null | undefined,
    options: list(options, `${where}.options`, option),
  };
}

function database(value: unknown, where: string): DatabaseSpec {
  const { name, owner, options } = fields(value, where);
  if (list(options, `${where}.options`, option).length > 0) {
    throw wrong(`${where}.options`, "databases are made without options");
  }
  return {
    name: userDatabase(name, `${where}.name`),
    owner: checkName(owner, `${where}.owner`),
  };
}

function extension(value: unknown, where: string): ExtensionSpec {
  const { name, database: into, schema, version } = fields(value, where);
  return {
    name: checkName(name, `${where}.name`),
    database: checkName(into, `${where}.database`),
    schema: schema === undefined ? undefined : checkName(schema, `${where}.schema`),
    version: version === undefined ? undefined : checkName(version, `${where}.version`),
  };
}

function operation(value: unknown, where: string): DeltaOperation {
  const { action, name, new_name: newName } = fields(value, where);
  if (typeof action !== "string" || !ACTIONS.has(action)) {
    throw wrong(`${where}.action`, `expected one of ${[...ACTIONS].join(", ")}`);
  }
  const check = action.endsWith("_role") ? userRole : userDatabase;
  return {
    action: action as DeltaOperation["action"],
    name: check(name, `${where}.name`),
    new_name: action.startsWith("rename_") ? check(newName, `${where}.new_name`) : undefined,
  };
}

function option(value: unknown, where: string): GenericOption {
  const { name, value: chosen = null } = fields(value, where);
  if (typeof name !== "string" || (chosen !== null && typeof chosen !== "string")) {
    throw wrong(where, "expected {name, value}");
  }
  return { name, value: chosen };
}

function userRole(value: unknown, where: string): string {
  const name = checkName(value, where);
  if (OUR_ROLES.has(name)) {
    throw wrong(where, `role '${name}' is not to be changed`);
  }
  return name;
}

function userDatabase(value: unknown, where: string): string {
  const name = checkName(value, where);
  if (TEMPLATES.has(name)) {
    throw wrong(where, `database '${name}' is a template of Postgres's own`);
  }
  return name;
}

function list<T>(value: unknown, where: string, parse: (entry: unknown, where: string) => T): T[] {
  if (value === undefined || value === null) {
    return [];
  }
  if (!Array.isArray(value) || value.length > MAX_ENTRIES) {
    throw wrong(where, `expected a list of at most ${MAX_ENTRIES}`);
  }
  return value.map((entry: unknown, i) => parse(entry, `${where}.${i}`));
}

function fields(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrong(where, "expected an object");
  }
  return value as Record<string, unknown>;
}

function wrong(where: string, problem: string): StorageError {
  return new StorageError("invalid", "bad-configuration", `${where}: ${problem}`);
}

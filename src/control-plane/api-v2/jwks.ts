// /projects/{project_id}/jwks: URLs of public keys whose tokens (JWTs) let users in, and as which roles.
//
// Roles are not made for them, other than at Neon: a role that the API makes is a member of neon_superuser, which nobody
// means who lets the users of a web page in.

import { StorageError } from "../../base/errors.ts";
import { type Route, route } from "../../http/route.ts";
import { accessHolds } from "../access-answers.ts";
import { newUuid } from "../context.ts";
import { nowText } from "../inventory.ts";
import { serialized } from "../state/database.ts";
import type { JwksRow } from "../state/tables.ts";
import { findBranch, findProject, notFound, type Parts } from "./lookup.ts";
import { checkName } from "./names.ts";
import {
  createdJwksAnswer,
  jwksAnswer,
  jwksCreateBody,
  jwksListAnswer,
  jwksParams,
  projectParams,
} from "./schemas.ts";
import { jwksView } from "./views.ts";

const BASE = "/api/v2/projects/{project_id}/jwks";
/** Neon's, where none are named. */
const DEFAULT_ROLES = ["authenticator", "authenticated", "anonymous"];
/** Each is tried for a token. */
const MAX_OF_PROJECT = 20;

export function jwksRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: BASE,
        summary: "Whose tokens let users in.",
        scope: "tenant",
        params: projectParams,
        answer: jwksListAnswer,
      },
      async ({ params }) => {
        const project = await findProject(parts, params.project_id);
        return { jwks: (await jwksOf(parts, project.id)).map(jwksView) };
      },
    ),
    route(
      {
        method: "POST",
        path: BASE,
        summary: "Tokens that this URL's keys have signed let users in, as these roles.",
        scope: "tenant",
        status: 201,
        params: projectParams,
        body: jwksCreateBody,
        answer: createdJwksAnswer,
      },
      async ({ params, body }) => {
        const project = await findProject(parts, params.project_id);
        if (body.branch_id !== undefined) {
          await findBranch(parts, { project_id: project.id, branch_id: body.branch_id });
        }
        const row = newRow(project.id, body);
        await insert(parts, row);
        await accessHolds(parts, { projectId: project.id });
        return { jwks: jwksView(row), operations: [] };
      },
    ),
    route(
      {
        method: "DELETE",
        path: `${BASE}/{jwks_id}`,
        summary: "Its tokens let nobody in any more.",
        scope: "tenant",
        params: jwksParams,
        answer: jwksAnswer,
      },
      async ({ params }) => {
        const project = await findProject(parts, params.project_id);
        const row = (await jwksOf(parts, project.id)).find(({ id }) => id === params.jwks_id);
        if (row === undefined) {
          throw notFound("jwks", params.jwks_id);
        }
        await parts.db.deleteFrom("jwks").where("id", "=", row.id).execute();
        await accessHolds(parts, { projectId: project.id });
        return jwksView(row);
      },
    ),
  ];
}

/** Of a project, or those of them that are for a branch. */
export async function jwksOf(
  { db }: Pick<Parts, "db">,
  projectId: string,
  branchId?: string,
): Promise<JwksRow[]> {
  const rows = await db
    .selectFrom("jwks")
    .selectAll()
    .where("project_id", "=", projectId)
    .orderBy("created_at")
    .orderBy("id")
    .execute();
  return rows.filter(
    (row) => branchId === undefined || row.branch_id === null || row.branch_id === branchId,
  );
}

function newRow(
  projectId: string,
  wanted: {
    readonly jwks_url: string;
    readonly provider_name: string;
    readonly branch_id?: string | undefined;
    readonly jwt_audience?: string | undefined;
    readonly role_names?: readonly string[] | undefined;
  },
): JwksRow {
  const now = nowText();
  const roles = wanted.role_names?.length ? wanted.role_names : DEFAULT_ROLES;
  return {
    id: newUuid(),
    project_id: projectId,
    branch_id: wanted.branch_id ?? null,
    jwks_url: checkUrl(wanted.jwks_url),
    provider_name: wanted.provider_name,
    jwt_audience: wanted.jwt_audience ?? null,
    role_names: JSON.stringify(roles.map((name) => checkName("role", name))),
    created_at: now,
    updated_at: now,
  };
}

/** Who can change an answer on its way can let anybody in: https, but on this machine. */
function checkUrl(text: string): string {
  const url = URL.parse(text);
  const isHere = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url?.hostname ?? "");
  const isSafe = url?.protocol === "https:" || (url?.protocol === "http:" && isHere);
  if (url === null || !isSafe || url.username !== "" || url.password !== "" || url.hash !== "") {
    const message = `jwks_url '${text}' must be an https URL (http only on this machine), without a password or a fragment`;
    throw new StorageError("invalid", "bad-jwks-url", message);
  }
  return url.href;
}

async function insert({ db }: Parts, row: JwksRow): Promise<void> {
  await serialized(db, async (transaction) => {
    const known = await jwksOf({ db: transaction }, row.project_id);
    if (known.some((one) => one.jwks_url === row.jwks_url && one.branch_id === row.branch_id)) {
      throw new StorageError("conflict", "jwks-exists", `${row.jwks_url} is there already`);
    }
    if (known.length >= MAX_OF_PROJECT) {
      const message = `a project has at most ${MAX_OF_PROJECT} JWKS URLs`;
      throw new StorageError("invalid", "too-many-jwks", message);
    }
    await transaction.insertInto("jwks").values(row).execute();
  });
}

// What Neon publishes and this version does not do: it says so, with a status of its own (501).

import { StorageError } from "../../base/errors.ts";
import { type Method, type Route, route } from "../../http/route.ts";

/** Methods and path, as in the published document. docs/api-coverage.md has the whole table. */
const UNSUPPORTED = [
  "GET /projects/{project_id}/advisors",
  "GET,POST /projects/{project_id}/permissions",
  "DELETE /projects/{project_id}/permissions/{permission_id}",
  "GET /projects/{project_id}/available_preload_libraries",
  "POST /projects/{project_id}/transfer_requests",
  "PUT /projects/{project_id}/transfer_requests/{request_id}",
  "POST,PATCH,DELETE,GET /projects/{project_id}/branches/{branch_id}/data-api/{database_name}",
  "POST /projects/auth/create",
  "GET,POST,DELETE /projects/{project_id}/branches/{branch_id}/auth",
  "GET,POST,DELETE /projects/{project_id}/auth/domains",
  "GET,POST,DELETE /projects/{project_id}/branches/{branch_id}/auth/domains",
  "POST /projects/auth/keys",
  "POST /projects/auth/user",
  "POST /projects/{project_id}/branches/{branch_id}/auth/users",
  "DELETE /projects/{project_id}/branches/{branch_id}/auth/users/{auth_user_id}",
  "PUT /projects/{project_id}/branches/{branch_id}/auth/users/{auth_user_id}/role",
  "DELETE /projects/{project_id}/auth/users/{auth_user_id}",
  "POST /projects/auth/transfer_ownership",
  "GET /projects/{project_id}/auth/integrations",
  "GET,POST /projects/{project_id}/auth/oauth_providers",
  "GET,POST /projects/{project_id}/branches/{branch_id}/auth/oauth_providers",
  "PATCH,DELETE /projects/{project_id}/auth/oauth_providers/{oauth_provider_id}",
  "PATCH,DELETE /projects/{project_id}/branches/{branch_id}/auth/oauth_providers/{oauth_provider_id}",
  "GET,PATCH /projects/{project_id}/auth/email_server",
  "POST /projects/{project_id}/branches/{branch_id}/auth/send_test_email",
  "GET,PATCH /projects/{project_id}/branches/{branch_id}/auth/email_and_password",
  "GET,PATCH /projects/{project_id}/branches/{branch_id}/auth/email_provider",
  "DELETE /projects/{project_id}/auth/integration/{auth_provider}",
  "GET,PATCH /projects/{project_id}/branches/{branch_id}/auth/allow_localhost",
  "GET /projects/{project_id}/branches/{branch_id}/auth/plugins",
  "PATCH /projects/{project_id}/branches/{branch_id}/auth/plugins/organization",
  "PATCH /projects/{project_id}/branches/{branch_id}/auth/config",
  "PATCH /projects/{project_id}/branches/{branch_id}/auth/plugins/magic-link",
  "GET,PATCH /projects/{project_id}/branches/{branch_id}/auth/plugins/phone-number",
  "GET,PUT /projects/{project_id}/branches/{branch_id}/auth/webhooks",
  "POST /projects/{project_id}/branch_anonymized",
  "GET,PATCH /projects/{project_id}/branches/{branch_id}/masking_rules",
  "GET /projects/{project_id}/branches/{branch_id}/anonymized_status",
  "POST /projects/{project_id}/branches/{branch_id}/anonymize",
  "POST /projects/{project_id}/branches/{branch_id}/recover",
  "POST /projects/{project_id}/branches/{branch_id}/finalize_restore",
  "GET /projects/{project_id}/vpc_endpoints",
  "POST,DELETE /projects/{project_id}/vpc_endpoints/{vpc_endpoint_id}",
  "GET /consumption_history/v2/projects",
  "GET /consumption_history/v2/branches",
  "GET /organizations/{org_id}",
  "GET,POST /organizations/{org_id}/api_keys",
  "DELETE /organizations/{org_id}/api_keys/{key_id}",
  "GET,PUT,DELETE /organizations/{org_id}/billing/spending_limit",
  "GET /organizations/{org_id}/members",
  "GET,PATCH,DELETE /organizations/{org_id}/members/{member_id}",
  "GET,POST /organizations/{org_id}/invitations",
  "POST /organizations/{source_org_id}/projects/transfer",
  "GET /organizations/{org_id}/vpc/vpc_endpoints",
  "GET /organizations/{org_id}/vpc/region/{region_id}/vpc_endpoints",
  "GET,POST,DELETE /organizations/{org_id}/vpc/region/{region_id}/vpc_endpoints/{vpc_endpoint_id}",
  "POST /users/me/projects/transfer",
  "POST /projects/{project_id}/branches/{branch_id}/snapshot",
  "GET /projects/{project_id}/snapshots",
  "DELETE,PATCH /projects/{project_id}/snapshots/{snapshot_id}",
  "POST /projects/{project_id}/snapshots/{snapshot_id}/restore",
  "GET,PUT /projects/{project_id}/branches/{branch_id}/backup_schedule",
  "POST,GET /projects/{project_id}/branches/{branch_id}/buckets",
  "DELETE /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}",
  "GET /projects/{project_id}/branches/{branch_id}/storage",
  "GET /projects/{project_id}/branches/{branch_id}/ai_gateway",
  "GET /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}/objects",
  "DELETE /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}/objects/{object_key}",
  "GET /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}/objects/{object_key}/download",
  "DELETE /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}/objects-by-prefix",
  "POST /projects/{project_id}/branches/{branch_id}/buckets/{bucket_name}/objects/{object_key}/presign",
  "POST,GET /projects/{project_id}/branches/{branch_id}/credentials",
  "DELETE /projects/{project_id}/branches/{branch_id}/credentials/{token_id}",
  "GET /projects/{project_id}/branches/{branch_id}/functions",
  "GET,PATCH,DELETE /projects/{project_id}/branches/{branch_id}/functions/{slug}",
  "POST /projects/{project_id}/branches/{branch_id}/functions/{slug}/deployments",
];

export function unsupportedRoutes(): Route[] {
  return UNSUPPORTED.flatMap((line) => {
    const [methods = "", path = ""] = line.split(" ");
    return methods.split(",").map((method) =>
      route(
        {
          method: method as Method,
          path: `/api/v2${path}`,
          summary: "Not in this version.",
          scope: path.startsWith("/projects/{project_id}") ? "tenant" : "admin",
        },
        () => {
          const message = `${method} ${path} is not supported by this version of Strata`;
          throw new StorageError("unsupported", "not-supported", message);
        },
      ),
    );
  });
}

/** Of these the published document tells, and nothing else. */
export function isUnsupported(method: string, path: string): boolean {
  return UNSUPPORTED.some((line) => {
    const [methods = "", template = ""] = line.split(" ");
    return path === `/api/v2${template}` && methods.split(",").includes(method);
  });
}

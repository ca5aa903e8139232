// Talks to the control plane's API v2, for the command line: light, and only what its verbs need.

import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { serviceUrl } from "../base/network/service-tls.ts";
import { HttpClient } from "../http/client.ts";
import type { Method } from "../http/route.ts";
import type {
  ApiBranch,
  ApiDatabase,
  ApiEndpoint,
  ApiKey,
  ApiOperation,
  ApiProject,
  ApiRole,
  NewHomeBranch,
  NewHomeBranchRequest,
} from "./api.ts";

/** Operations that make a cluster take some seconds. */
const TIMEOUT_MS = 60_000;
/** Waiting for the home's lock, and for the start of an endpoint. */
const HOME_TIMEOUT_MS = 300_000;
/** One that runs says at once that it wants a request. */
const PATIENCE_MS = 2000;
const BUSY_RETRIES = 20;
const BUSY_WAIT_MS = 500;
const PAGE = 400;

/** Every call throws StorageError: `unavailable` where nobody answers, else what it said. */
export class ControlPlaneClient {
  readonly #http: HttpClient;
  readonly #address: string;

  /** `address`: `host:port`. `key`: an API key. */
  constructor(address: string, key: string) {
    this.#address = address;
    this.#http = new HttpClient({
      component: "control plane",
      address,
      timeoutMs: TIMEOUT_MS,
      isOnlyOne: true,
      bearer: () => key,
    });
  }

  /** Waits while another operation of the project goes on. */
  async call<T>(method: Method, path: string, body?: unknown): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#http.call<T>(method, `/api/v2${path}`, {
          ...(body === undefined ? {} : { body }),
        });
      } catch (error) {
        const isBusy = error instanceof StorageError && error.fields["status"] === 423;
        if (!isBusy || attempt >= BUSY_RETRIES) {
          throw error;
        }
        await sleep(BUSY_WAIT_MS);
      }
    }
  }

  /** All of them, or the one of a tenant; `isRecoverable`: those that are deleted and can be recovered instead. */
  async projects(
    of: { readonly tenantId?: string | undefined; readonly isRecoverable?: boolean } = {},
  ): Promise<ApiProject[]> {
    const { tenantId, isRecoverable = false } = of;
    const found: ApiProject[] = [];
    for (let cursor = ""; ; ) {
      const query = new URLSearchParams({ limit: `${PAGE}`, ...(cursor ? { cursor } : {}) });
      if (tenantId !== undefined) {
        query.set("tenant_id", tenantId);
      }
      if (isRecoverable) {
        query.set("recoverable", "true");
      }
      const page = await this.call<{ projects: ApiProject[]; pagination: { cursor: string } }>(
        "GET",
        `/projects?${query}`,
      );
      found.push(...page.projects);
      if (page.projects.length < PAGE) {
        return found;
      }
      cursor = page.pagination.cursor;
    }
  }

  async branches(projectId: string): Promise<ApiBranch[]> {
    const path = `/projects/${projectId}/branches`;
    return (await this.call<{ branches: ApiBranch[] }>("GET", path)).branches;
  }

  async endpoints(projectId: string, branchId: string): Promise<ApiEndpoint[]> {
    const path = `/projects/${projectId}/branches/${branchId}/endpoints`;
    return (await this.call<{ endpoints: ApiEndpoint[] }>("GET", path)).endpoints;
  }

  async operations(projectId: string): Promise<ApiOperation[]> {
    const path = `/projects/${projectId}/operations`;
    return (await this.call<{ operations: ApiOperation[] }>("GET", path)).operations;
  }

  async roles(projectId: string, branchId: string): Promise<ApiRole[]> {
    const path = `/projects/${projectId}/branches/${branchId}/roles`;
    return (await this.call<{ roles: ApiRole[] }>("GET", path)).roles;
  }

  async databases(projectId: string, branchId: string): Promise<ApiDatabase[]> {
    const path = `/projects/${projectId}/branches/${branchId}/databases`;
    return (await this.call<{ databases: ApiDatabase[] }>("GET", path)).databases;
  }

  /**
   * A URL that logs a browser in to the console, once. What is behind the `#` no browser sends: the page gives it in
   * the body of a request, so that it stands in no log.
   */
  async loginLink(): Promise<string> {
    const { token } = await this.#http.call<{ token: string }>("POST", "/console/login_links");
    return `${serviceUrl(this.#address)}/#token=${token}`;
  }

  /** With `start` an endpoint runs on it. What is known of its end where nobody answers any more: nothing. */
  makeHomeBranch(request: NewHomeBranchRequest): Promise<NewHomeBranch> {
    return this.#http.call("POST", "/home/branches", {
      body: request,
      timeoutMs: HOME_TIMEOUT_MS,
      patienceMs: PATIENCE_MS,
    });
  }

  apiKeys(): Promise<ApiKey[]> {
    return this.call("GET", "/api_keys");
  }
}

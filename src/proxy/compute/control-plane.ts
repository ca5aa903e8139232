// What the proxy asks the control plane, with the calls and the JSON of Neon's proxy.
//
// Source: neondatabase/neon, proxy/src/control_plane/client/cplane_proxy_v1.rs and messages.rs. Errors are
//   {error, status: {code, message, details: {error_info: {reason}, retry_info: {retry_delay_ms}, user_facing_message: {message}}}}

import { StorageError } from "../../base/errors.ts";
import { randomBytes } from "../../base/random.ts";
import { type CallOptions, HttpClient } from "../../http/client.ts";
import { parseScramSecret, type ScramSecret } from "../../postgres/scram.ts";
import { parseHostPort } from "../../postgres/wire/wire-client.ts";
import type { TransferReport } from "../api.ts";
import type { TokenRule } from "../client/token-keys.ts";

const PREFIX = "/proxy/api/v1";
const ACCESS_TIMEOUT_MS = 10_000;
/** It comes again; a stop waits for the last one. */
const REPORT_TIMEOUT_MS = 2000;
/** Answers when Postgres takes connections. */
const WAKE_TIMEOUT_MS = 60_000;
const DEFAULT_RETRY_MS = 100;
/** Reasons that go away by themselves. */
const PASSING = new Set(["RUNNING_OPERATIONS", "CONCURRENCY_LIMIT_REACHED", "LOCK_ALREADY_TAKEN"]);

/** Who may come to an endpoint. */
export interface AccessControl {
  /** Undefined: there is no such role, or none that has a SCRAM password. */
  readonly secret: ScramSecret | undefined;
  /** Addresses, ranges `a-b` and networks `a/n`; empty: from everywhere. */
  readonly allowedIps: readonly string[];
}

export interface ComputeAddress {
  readonly host: string;
  readonly port: number;
  /** Of its unix socket, where that is on this machine: whoever may open it needs no password. */
  readonly socketPath?: string | undefined;
}

/** Of a call that failed: after how long to try again; undefined where that is pointless. */
export function retryDelayMs(error: unknown): number | undefined {
  const delay = error instanceof StorageError ? error.fields["retryDelayMs"] : undefined;
  return typeof delay === "number" ? delay : undefined;
}

export class ControlPlaneClient {
  readonly #http: HttpClient;

  /** `host:port` or a URL of its HTTP port; `bearer` gives what proves to it who asks. */
  constructor(address: string, bearer?: () => string | undefined) {
    this.#http = new HttpClient({
      component: "control-plane",
      address,
      timeoutMs: ACCESS_TIMEOUT_MS,
      isOnlyOne: true,
      bearer,
    });
  }

  async accessControl(
    endpoint: string,
    role: string,
    applicationName = "",
  ): Promise<AccessControl> {
    const answer = await this.#get("/get_endpoint_access_control", {
      application_name: applicationName,
      endpointish: endpoint,
      role,
    });
    const secret = answer["role_secret"];
    const ips = answer["allowed_ips"];
    return {
      secret: typeof secret === "string" ? parseScramSecret(secret) : undefined,
      allowedIps: Array.isArray(ips) ? ips.map(String) : [],
    };
  }

  /** `options`: as of `parseClientOptions`. Resolves when Postgres takes connections there. */
  async wakeCompute(
    endpoint: string,
    options: readonly (readonly [string, string])[],
    applicationName = "",
  ): Promise<ComputeAddress> {
    const answer = await this.#get(
      "/wake_compute",
      {
        application_name: applicationName,
        endpointish: endpoint,
        ...Object.fromEntries(options.map(([key, value]) => [`options[${key}]`, value])),
      },
      { timeoutMs: WAKE_TIMEOUT_MS },
    );
    const { unix_socket: socket } = (answer["aux"] ?? {}) as { unix_socket?: unknown };
    return {
      ...parseHostPort(String(answer["address"])),
      socketPath: typeof socket === "string" ? socket : undefined,
    };
  }

  /** Whose tokens are good at an endpoint. */
  async tokenRules(endpoint: string): Promise<readonly TokenRule[]> {
    const { jwks } = await this.#get(`/endpoints/${encodeURIComponent(endpoint)}/jwks`, {});
    return (Array.isArray(jwks) ? jwks : []).map(tokenRule);
  }

  /** A report that has arrived already may come again. */
  async reportTransfer(report: TransferReport): Promise<void> {
    const options = { body: report, timeoutMs: REPORT_TIMEOUT_MS };
    await this.#http.call("POST", `${PREFIX}/transfer`, options);
  }

  async #get(
    path: string,
    query: Readonly<Record<string, string>>,
    options: CallOptions = {},
  ): Promise<Record<string, unknown>> {
    const search = new URLSearchParams({ session_id: sessionId(), ...query });
    try {
      const answer = await this.#http.call("GET", `${PREFIX}${path}?${search}`, options);
      return (answer ?? {}) as Record<string, unknown>;
    } catch (error) {
      throw readableError(error);
    }
  }
}

/** As Neon's proxy reads it; one without names of roles lets nobody in. */
function tokenRule(entry: Record<string, unknown>): TokenRule {
  const { jwks_url: url, jwt_audience: audience, role_names: roles } = entry;
  return {
    jwksUrl: String(url),
    audience: typeof audience === "string" ? audience : undefined,
    roles: Array.isArray(roles) ? roles.map(String) : [],
  };
}

/** A UUID, by which both sides' logs can be put together. */
function sessionId(): string {
  const hex = randomBytes(16).toString("hex");
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-8$4-$5");
}

interface NeonError {
  readonly error?: string;
  readonly status?: {
    readonly details?: {
      readonly error_info?: { readonly reason?: string } | null;
      readonly retry_info?: { readonly retry_delay_ms?: number } | null;
      readonly user_facing_message?: { readonly message?: string } | null;
    };
  } | null;
}

/** The kind stays; the message becomes what is meant for users, and `retryDelayMs` comes where there is a use in it. */
function readableError(error: unknown): unknown {
  if (!(error instanceof StorageError)) {
    return error;
  }
  const body = (error.fields["body"] ?? {}) as NeonError;
  const details = body.status?.details;
  const reason = details?.error_info?.reason;
  const status = error.fields["status"];
  const given = details?.retry_info?.retry_delay_ms;
  const retryDelayMs =
    given ??
    // Nobody there, or busy: it may be starting again.
    (status === undefined || status === 503 || (reason !== undefined && PASSING.has(reason))
      ? DEFAULT_RETRY_MS
      : undefined);
  const message = details?.user_facing_message?.message ?? body.error ?? error.message;
  return new StorageError(error.kind, error.code, message, {
    cause: error,
    fields: { status, reason, ...(retryDelayMs === undefined ? {} : { retryDelayMs }) },
  });
}

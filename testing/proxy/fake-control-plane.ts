// A control plane that answers the proxy's calls from a table, for tests of the proxy alone.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface FakeEndpoint {
  /** `host:port`, of the moment. */
  address: string;
  /** Role to its SCRAM secret. */
  readonly secrets: Map<string, string>;
  allowedIps?: string[];
  /** Path of Postgres's; absent: it is on another machine. */
  socket?: string;
  /** As the control plane lists them. */
  jwks?: readonly object[];
  /** Called before each answer to a wake; what it gives is sent in place of the address. */
  onWake?: (wake: {
    options: Map<string, string>;
    count: number;
  }) => Promise<FakeRefusal | undefined>;
}

export interface FakeRefusal {
  readonly status: number;
  readonly body: object;
}

export class FakeControlPlane {
  readonly endpoints = new Map<string, FakeEndpoint>();
  /** As they came: `wake_compute ep-x`. */
  readonly calls: string[] = [];
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  /** Resolves to `host:port`. */
  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  countOf(call: string): number {
    return this.calls.filter((one) => one === call).length;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", "http://x");
    const name = url.pathname.split("/").at(-1) ?? "";
    const id = url.searchParams.get("endpointish") ?? url.pathname.split("/").at(-2) ?? "";
    this.calls.push(`${name} ${id}`);
    const endpoint = this.endpoints.get(id);
    const answer = endpoint === undefined ? unknown(id) : await describe(name, url, endpoint, this);
    response.statusCode = answer.status;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(answer.body));
  }
}

function unknown(id: string): FakeRefusal {
  const status = {
    code: "not_found",
    message: `no endpoint ${id}`,
    details: { error_info: { reason: "ENDPOINT_NOT_FOUND" } },
  };
  return { status: 404, body: { error: `no endpoint ${id}`, status } };
}

async function describe(
  name: string,
  url: URL,
  endpoint: FakeEndpoint,
  { calls }: FakeControlPlane,
): Promise<FakeRefusal> {
  const id = url.searchParams.get("endpointish") ?? "";
  switch (name) {
    case "get_endpoint_access_control":
      return {
        status: 200,
        body: {
          role_secret: endpoint.secrets.get(url.searchParams.get("role") ?? "") ?? "",
          project_id: "p",
          branch_id: "br",
          allowed_ips: endpoint.allowedIps ?? [],
        },
      };
    case "jwks":
      return { status: 200, body: { jwks: endpoint.jwks ?? [] } };
    case "wake_compute": {
      const options = new Map(
        [...url.searchParams].flatMap(([key, value]) => {
          const match = /^options\[(\w+)\]$/.exec(key);
          return match === null ? [] : [[match[1]!, value] as const];
        }),
      );
      const count = calls.filter((one) => one === `wake_compute ${id}`).length;
      const refusal = await endpoint.onWake?.({ options, count });
      return (
        refusal ?? {
          status: 200,
          body: {
            address: endpoint.address,
            server_name: null,
            aux: {
              ...{ endpoint_id: id, project_id: "p", branch_id: "br", cold_start_info: "warm" },
              ...(endpoint.socket === undefined ? {} : { unix_socket: endpoint.socket }),
            },
          },
        }
      );
    }
    default:
      return unknown(id);
  }
}

// Which endpoint a client means: by the name of the server, the start-up option `options`, or Neon's prefix of the password.

import { clientError, protocolViolation } from "./postgres-errors.ts";

/** Neon's: a host name that ends in it is of the same endpoint, with transaction pooling. */
const POOLER = "-pooler";
/** A DNS label, and what the names of local endpoints may have beside. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;
/** Sent to the control plane: a point in time, for a read-only endpoint there. */
const COMPUTE_OPTION = /^neon_(\w{1,30}):(\S{1,100})$/;
const MAX_COMPUTE_OPTIONS = 10;

export interface EndpointName {
  readonly id: string;
  readonly isPooled: boolean;
}

export interface ClientOptions {
  /** Of `endpoint=x` or `project=x`. */
  readonly endpoint: string | undefined;
  /** Of `neon_lsn:0/16B3748`: `["lsn", "0/16B3748"]`. */
  readonly compute: readonly (readonly [string, string])[];
  /** What is for Postgres, as it was. */
  readonly rest: string;
}

/** Takes ours out of the start-up parameter `options`. */
export function parseClientOptions(options: string): ClientOptions {
  let endpoint: string | undefined;
  const compute: (readonly [string, string])[] = [];
  const rest = options.replaceAll(/\S+/g, (word) => {
    const named = /^(?:endpoint|project)(?:=|%3[Dd])(.*)$/.exec(word);
    const option = COMPUTE_OPTION.exec(word);
    if (named !== null) {
      endpoint ??= named[1]!;
      return "";
    }
    if (option !== null) {
      compute.push([option[1]!, option[2]!]);
      return "";
    }
    return word;
  });
  if (compute.length > MAX_COMPUTE_OPTIONS) {
    throw protocolViolation(`${compute.length} neon_ options`);
  }
  return { endpoint, compute, rest: rest.trim() };
}

/** Neon's `endpoint=x;password` and `endpoint=x$password`; undefined where it is a password only. */
export function splitPassword(
  password: Buffer,
): { readonly endpoint: string; readonly password: Buffer } | undefined {
  // latin1: one letter a byte.
  const match = /^(?:endpoint|project)=([^;$]{1,100})[;$]/.exec(password.toString("latin1"));
  return match === null
    ? undefined
    : { endpoint: match[1]!, password: password.subarray(match[0].length) };
}

/** The label below one of our domains; undefined where the name is another. */
export function endpointOfHost(
  serverName: string | undefined,
  domains: readonly string[],
): string | undefined {
  const name = serverName?.toLowerCase().replace(/\.$/, "");
  const dot = name?.indexOf(".") ?? -1;
  return name !== undefined && dot > 0 && domains.includes(name.slice(dot + 1))
    ? name.slice(0, dot)
    : undefined;
}

/** Undefined where neither names one. StorageError with SQLSTATE 28000 where they contradict each other. */
export function chooseEndpoint(
  byHost: string | undefined,
  byOption: string | undefined,
): EndpointName | undefined {
  if (byHost !== undefined && byOption !== undefined && byHost !== byOption) {
    throw clientError(
      "28000",
      "endpoint-contradiction",
      `the host name says endpoint '${byHost}', the option says '${byOption}'`,
      { hint: "Name it once." },
    );
  }
  const name = byHost ?? byOption;
  return name === undefined ? undefined : parseEndpointName(name);
}

export function parseEndpointName(name: string): EndpointName {
  if (!NAME.test(name)) {
    throw clientError("28000", "bad-endpoint-name", "this is not the name of an endpoint", {
      hint: "It is the first part of the host name: letters, digits, '-', '_' and '.'.",
    });
  }
  const isPooled = name.endsWith(POOLER);
  return { id: isPooled ? name.slice(0, -POOLER.length) : name, isPooled };
}

/** What to do where nothing names an endpoint. */
export function noEndpointNamed(serverName: string | undefined, domain: string) {
  const because =
    serverName === undefined
      ? "the client did not send the name of the host (an address, or no TLS)"
      : `the host name '${serverName}' is not ENDPOINT.${domain}`;
  return clientError("28000", "no-endpoint", `no endpoint named: ${because}`, {
    hint:
      `Connect to ENDPOINT.${domain} with TLS, or add options=endpoint%3DENDPOINT to the URL, ` +
      "or put 'endpoint=ENDPOINT;' in front of the password.",
  });
}

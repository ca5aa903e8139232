// From `s3://bucket/prefix?...` and the environment to what a store needs to know.

import { StorageError } from "../../base/errors.ts";
import { checkObjectKey } from "../object-store.ts";
import { type Environment, findCredentials, findProfile, given } from "./credentials.ts";
import type { S3Credentials } from "./signing.ts";

/**
 * `required`: a store that ignores `If-None-Match: *` is refused. `head-first`: it is taken, and asked
 * before each such put whether there is an object; safe only where one process writes a key.
 */
export type ConditionalWrites = "required" | "head-first";

export interface S3Configuration {
  readonly bucket: string;
  /** Empty, or ends with a slash. */
  readonly prefix: string;
  /** Without user, query and closing slash. */
  readonly endpoint: URL;
  readonly region: string;
  /** `endpoint/bucket/key` instead of `bucket.endpoint/key`. */
  readonly pathStyle: boolean;
  readonly credentials: S3Credentials;
  readonly conditionalWrites: ConditionalWrites;
}

const PARAMETERS = ["endpoint", "region", "profile", "path-style", "conditional-writes"];
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$/;
const REGION = /^[a-z0-9-]{1,50}$/;

/** StorageError `invalid` that says what is wrong or missing. */
export function s3Configuration(location: string, env: Environment): S3Configuration {
  const url = URL.parse(location);
  if (url === null || url.protocol !== "s3:" || url.hash !== "") {
    throw bad("expected s3://bucket/prefix?endpoint=URL&region=REGION");
  }
  if (url.username !== "" || url.password !== "") {
    throw bad("credentials do not belong into an object store's location: set AWS_ACCESS_KEY_ID");
  }
  const bucket = url.hostname;
  if (!BUCKET.test(bucket) || url.port !== "") {
    throw bad(`'${url.host}' is not a bucket's name`);
  }
  const parameters = parametersOf(url);
  const profileName = parameters.get("profile");
  const profile =
    findProfile(env, profileName ?? given(env, "AWS_PROFILE") ?? "default") ?? ({} as const);
  const custom =
    parameters.get("endpoint") ??
    given(env, "AWS_ENDPOINT_URL_S3") ??
    given(env, "AWS_ENDPOINT_URL") ??
    profile["endpoint_url"];
  const region =
    parameters.get("region") ??
    given(env, "AWS_REGION") ??
    given(env, "AWS_DEFAULT_REGION") ??
    profile["region"] ??
    (custom === undefined ? undefined : "us-east-1");
  if (region === undefined) {
    throw bad(`no region for bucket ${bucket}: add ?region=REGION or set AWS_REGION`);
  }
  if (!REGION.test(region)) {
    throw bad(`'${region.slice(0, 60)}' is not a region`);
  }
  const pathStyle = choice(parameters, "path-style", ["true", "false"] as const);
  return {
    bucket,
    prefix: prefixOf(url),
    endpoint: custom === undefined ? awsEndpoint(region) : customEndpoint(custom),
    region,
    // A bucket with dots has no certificate of AWS's as a host.
    pathStyle:
      pathStyle === undefined ? custom !== undefined || bucket.includes(".") : pathStyle === "true",
    credentials: findCredentials(env, profileName),
    conditionalWrites:
      choice(parameters, "conditional-writes", ["required", "head-first"] as const) ?? "required",
  };
}

function parametersOf(url: URL): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (const [name, value] of url.searchParams) {
    if (!PARAMETERS.includes(name) || parameters.has(name) || value === "") {
      throw bad(
        `'${name}' in its query is unknown, empty or twice; known: ${PARAMETERS.join(", ")}`,
      );
    }
    parameters.set(name, value);
  }
  return parameters;
}

function choice<T extends string>(
  parameters: ReadonlyMap<string, string>,
  name: string,
  values: readonly T[],
): T | undefined {
  const value = parameters.get(name);
  const found = values.find((one) => one === value);
  if (value !== undefined && found === undefined) {
    throw bad(`${name} must be ${values.join(" or ")}`);
  }
  return found;
}

/** As an object's key, so that no signature and no listing meets a character that needs care. */
function prefixOf(url: URL): string {
  const prefix = url.pathname.replaceAll(/^\/+|\/+$/g, "");
  if (prefix === "") {
    return "";
  }
  checkObjectKey(prefix);
  return `${prefix}/`;
}

function awsEndpoint(region: string): URL {
  const domain = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
  return new URL(`https://s3.${region}.${domain}`);
}

function customEndpoint(text: string): URL {
  const url = URL.parse(text);
  if (url === null || !["http:", "https:"].includes(url.protocol)) {
    throw bad("its endpoint is not an http or https URL");
  }
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    throw bad(`its endpoint ${url.origin} has more than scheme, host, port and path`);
  }
  return url;
}

function bad(why: string): StorageError {
  return new StorageError("invalid", "bad-object-store", `S3 object store: ${why}`);
}

// What the environment and AWS's two files say of credentials, region and endpoint.

import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { errnoCode, errorMessage, StorageError } from "../../base/errors.ts";
import type { S3Credentials } from "./signing.ts";

/*
 * The order is that of AWS's own tools: a profile that the location names; keys in the environment; the
 * profile of AWS_PROFILE, or `default`. Keys in a profile only: no roles, no single sign-on, no
 * metadata service of a machine in the cloud. Files are read when a store is opened.
 */

export type Environment = Readonly<Record<string, string | undefined>>;
export type Profile = Readonly<Record<string, string>>;

/** Ways to credentials that a profile can name and that are not taken here. */
const OTHER_WAYS = [
  "role_arn",
  "sso_session",
  "sso_start_url",
  "credential_process",
  "web_identity_token_file",
  "credential_source",
];
const MAX_FILE_CHARACTERS = 1024 * 1024;

/** StorageError `invalid` that says what is missing. */
export function findCredentials(env: Environment, profileName: string | undefined): S3Credentials {
  if (profileName === undefined) {
    const fromEnvironment = environmentCredentials(env);
    if (fromEnvironment !== undefined) {
      return fromEnvironment;
    }
  }
  const name = profileName ?? given(env, "AWS_PROFILE") ?? "default";
  const isAskedFor = name !== "default" || profileName !== undefined;
  const profile = findProfile(env, name);
  if (profile === undefined && isAskedFor) {
    const message = `no profile '${name}' in ${configFiles(env).join(" or ")}`;
    throw new StorageError("invalid", "no-credentials", message);
  }
  const accessKeyId = profile?.["aws_access_key_id"];
  const secretAccessKey = profile?.["aws_secret_access_key"];
  if (accessKeyId !== undefined && secretAccessKey !== undefined) {
    return { accessKeyId, secretAccessKey, sessionToken: profile?.["aws_session_token"] };
  }
  const other = OTHER_WAYS.find((way) => profile?.[way] !== undefined);
  const why =
    other === undefined
      ? "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put " +
        `aws_access_key_id and aws_secret_access_key below [${name}] in ${configFiles(env)[0]}`
      : `profile '${name}' gets its credentials by ${other}, which is not supported: it needs ` +
        "aws_access_key_id and aws_secret_access_key";
  throw new StorageError("invalid", "no-credentials", why);
}

/** Both files' settings, the credentials file's first; undefined where neither has the profile. */
export function findProfile(env: Environment, name: string): Profile | undefined {
  const [credentialsFile, configFile] = configFiles(env);
  const inCredentials = readIni(credentialsFile).get(name);
  const config = readIni(configFile);
  const inConfig =
    config.get(`profile ${name}`) ?? (name === "default" ? config.get(name) : undefined);
  if (inCredentials === undefined && inConfig === undefined) {
    return undefined;
  }
  return { ...inConfig, ...inCredentials };
}

/** A variable that is set to something. */
export function given(env: Environment, name: string): string | undefined {
  const value = env[name]?.trim();
  return value === "" ? undefined : value;
}

function environmentCredentials(env: Environment): S3Credentials | undefined {
  const accessKeyId = given(env, "AWS_ACCESS_KEY_ID");
  const secretAccessKey = given(env, "AWS_SECRET_ACCESS_KEY");
  if (accessKeyId !== undefined && secretAccessKey !== undefined) {
    return { accessKeyId, secretAccessKey, sessionToken: given(env, "AWS_SESSION_TOKEN") };
  }
  if (accessKeyId === undefined && secretAccessKey === undefined) {
    return undefined;
  }
  const [there, missing] =
    accessKeyId === undefined
      ? ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"]
      : ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
  const message = `${there} is set, but ${missing} is not`;
  throw new StorageError("invalid", "no-credentials", message);
}

function configFiles(env: Environment): [string, string] {
  const directory = join(given(env, "HOME") ?? homedir(), ".aws");
  return [
    given(env, "AWS_SHARED_CREDENTIALS_FILE") ?? join(directory, "credentials"),
    given(env, "AWS_CONFIG_FILE") ?? join(directory, "config"),
  ];
}

function readIni(path: string): Map<string, Record<string, string>> {
  let text: string;
  try {
    text = readFileSync(path, "utf8").slice(0, MAX_FILE_CHARACTERS);
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(errnoCode(error) ?? "")) {
      return new Map();
    }
    const message = `read ${path}: ${errorMessage(error)}`;
    throw new StorageError("invalid", "no-credentials", message, { cause: error });
  }
  return parseIni(text);
}

/** Sections and their settings; lines that are indented belong to a setting above, which is not ours. */
export function parseIni(text: string): Map<string, Record<string, string>> {
  const sections = new Map<string, Record<string, string>>();
  let section: Record<string, string> | undefined;
  for (const line of text.split(/\r?\n/)) {
    const title = /^\s*\[([^\]]*)\]/.exec(line)?.[1];
    if (title !== undefined) {
      const name = title.trim().replaceAll(/\s+/g, " ");
      section = sections.get(name) ?? {};
      sections.set(name, section);
      continue;
    }
    const equals = line.indexOf("=");
    if (section !== undefined && equals > 0 && !/^[\s#;]/.test(line)) {
      const value = line
        .slice(equals + 1)
        .replace(/\s[#;].*$/, "")
        .trim();
      section[line.slice(0, equals).trim().toLowerCase()] = value;
    }
  }
  return sections;
}

// Damages stored files of a running Strata, and puts them back.

import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseLsn } from "../src/base/lsn.ts";
import type { TimelineInfo } from "../src/pageserver/api.ts";
import type { TestCluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";

/** Files of a timeline below one of the home's directories, sorted. */
export function timelineFiles(
  cluster: TestCluster,
  component: string,
  timelineId: string,
  name: RegExp,
): string[] {
  return readdirSync(join(cluster.home, component), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && name.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => path.includes(`/${timelineId}/`))
    .sort();
}

/**
 * Overwrites the file, in place, by what `change` makes of it. The result undoes that, and nothing
 * else: bytes that others wrote into the file since stay.
 */
export function damage(path: string, change: (bytes: Buffer) => Buffer): () => void {
  const before = readFileSync(path);
  const after = change(Buffer.from(before));
  assert.ok(!before.equals(after), `${path} was not changed`);
  const from = before.findIndex((byte, i) => byte !== after[i]);
  const restored =
    before.length === after.length
      ? before.subarray(from, before.findLastIndex((byte, i) => byte !== after[i]) + 1)
      : before.subarray(from);
  overwrite(path, from, after.subarray(from));
  truncateSync(path, after.length);
  return () => overwrite(path, from, restored);
}

/** In place: whoever has the file open sees it. */
function overwrite(path: string, position: number, bytes: Buffer): void {
  const fd = openSync(path, "r+");
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
  closeSync(fd);
}

export function flipByte(path: string, offset: number): () => void {
  return damage(path, (bytes) => {
    bytes[offset]! ^= 0x55;
    return bytes;
  });
}

export interface HttpAnswer {
  readonly status: number;
  readonly msg: string;
}

/** One request to the pageserver's or a safekeeper's HTTP API; the message of its error. */
export async function request(
  address: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<HttpAnswer> {
  const response = await fetch(`http://${address}${path}`, {
    method,
    signal: AbortSignal.timeout(60_000),
    headers: { "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  const answer = text.startsWith("{") ? (JSON.parse(text) as { msg?: string }) : {};
  return { status: response.status, msg: answer.msg ?? "" };
}

export async function timelineInfo(
  cluster: TestCluster,
  tenantId: string,
  timelineId: string,
): Promise<TimelineInfo> {
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const response = await fetch(`http://${http}/v1/tenant/${tenantId}/timeline/${timelineId}`);
  return (await response.json()) as TimelineInfo;
}

export interface OwnBranch {
  readonly name: string;
  readonly tenantId: string;
  readonly timelineId: string;
}

const ROWS = 4000;

/** A branch of main with an endpoint of its name, running, and rows of its own. */
export async function ownBranch(cluster: TestCluster, name: string): Promise<OwnBranch> {
  await cluster.ok("timeline", "branch", "--branch-name", name);
  await cluster.startEndpoint(name, name);
  await cluster.query(
    name,
    `create table own as select i, repeat(md5(i::text), 8) pad from generate_series(1, ${ROWS}) i`,
  );
  const { tenantId, timelineId } = cluster.endpointSpec(name);
  return { name, tenantId, timelineId };
}

/** Stops its endpoint, waits until the pageserver has all WAL. */
export async function stopBranch(cluster: TestCluster, branch: OwnBranch): Promise<void> {
  const end = parseLsn((await cluster.ok("endpoint", "stop", branch.name)).trim());
  assert.ok(end !== undefined, "stop told no LSN");
  await eventually("ingest", async () => {
    const info = await timelineInfo(cluster, branch.tenantId, branch.timelineId);
    return (parseLsn(info.last_record_lsn) ?? 0) >= end;
  });
}

/** Reads every row of the branch; its endpoint runs. */
export async function checkOwnRows(cluster: TestCluster, name: string): Promise<void> {
  const rows = await cluster.query(
    name,
    "select count(*)::int as n, sum(i)::int as s, bool_and(pad = repeat(md5(i::text), 8)) as ok from own",
  );
  assert.deepEqual(rows, [{ n: ROWS, s: (ROWS * (ROWS + 1)) / 2, ok: true }]);
}

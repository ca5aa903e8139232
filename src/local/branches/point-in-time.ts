// What `--at` names: an LSN, or a time, which the pageserver knows the LSN of.

import { monotonicMs, nowMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../../base/lsn.ts";
import { formatTimestamp, POSTGRES_EPOCH_MS, parseTimestamp } from "../../base/timestamp.ts";
import { branchNames } from "../branches.ts";
import { controllerOf } from "../controller.ts";
import type { Print } from "../daemon.ts";
import type { StrataHome } from "../home.ts";

/** What is written is on a quorum within milliseconds, where there is one. */
const COMMIT_WAIT_MS = 2_000;
const COMMIT_POLL_MS = 20;

export interface NamedBranch {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly name: string;
}

/**
 * The LSN that `text` names on a branch: at most its newest. A time without a zone is local, which `say`
 * is told. StorageError `invalid` where it is neither LSN nor time, or nothing is known of that time.
 */
export async function resolvePoint(
  home: StrataHome,
  branch: NamedBranch,
  text: string,
  say: Print,
): Promise<Lsn> {
  const lsn = parseLsn(text);
  if (lsn !== undefined && lsn !== 0) {
    return await committedLsn(home, branch, lsn);
  }
  const parsed = parseTimestamp(text);
  if (parsed === undefined) {
    throw new StorageError(
      "invalid",
      "bad-point-in-time",
      `'${text}' is no LSN, such as 0/16F9A00, and no time, such as 2026-11-28T10:38:10Z`,
    );
  }
  if (!parsed.hasZone) {
    say(`'${text}' has no time zone and is taken as local time: ${formatTimestamp(parsed.timeUs)}`);
  }
  return await lsnOfTime(home, branch, parsed.timeUs);
}

/** The newest LSN of a branch that is committed. */
export async function newestLsn(home: StrataHome, branch: NamedBranch): Promise<Lsn> {
  return (await controllerOf(home).newestLsn(branch.tenantId, branch.timelineId)).lsn;
}

/**
 * An LSN as Postgres tells it, `wanted`, that is committed, or the end of the last record before it: what
 * Postgres has written and flushed ends with a page, often in the middle of a record. StorageError
 * `invalid` where there is nothing up to it yet.
 */
async function committedLsn(home: StrataHome, branch: NamedBranch, wanted: Lsn): Promise<Lsn> {
  const deadlineMs = monotonicMs() + COMMIT_WAIT_MS;
  for (;;) {
    const { tenantId, timelineId } = branch;
    const newest = await controllerOf(home).newestLsn(tenantId, timelineId);
    if (wanted <= newest.lsn) {
      return wanted;
    }
    if (wanted <= newest.insideLsn && newest.flushLsn === newest.lsn) {
      return newest.lsn;
    }
    if (wanted > newest.insideLsn || monotonicMs() > deadlineMs) {
      throw new StorageError(
        "invalid",
        "lsn-in-future",
        `LSN ${formatLsn(wanted)} is in the future: the newest of branch '${branch.name}' is ${formatLsn(newest.lsn)}`,
      );
    }
    await sleep(COMMIT_POLL_MS);
  }
}

async function lsnOfTime(home: StrataHome, branch: NamedBranch, timeUs: number): Promise<Lsn> {
  const { tenantId, timelineId, name } = branch;
  const controller = controllerOf(home);
  // What was committed by now, the pageserver has to know.
  const newest = await newestLsn(home, branch);
  const time = formatTimestamp(timeUs);
  const answer = await controller.lsnByTimestamp(tenantId, timelineId, { time, waitLsn: newest });
  const refuse = (why: string) => new StorageError("invalid", "time-not-known", why);
  if (answer.kind === "nodata") {
    throw refuse(`no commit on branch '${name}' has a time that is known: give an LSN`);
  }
  if (answer.kind === "past") {
    const last = await controller.timestampOfLsn(tenantId, timelineId, newest);
    throw refuse(
      `${time} is before the first commit on branch '${name}' that is known: ` +
        `give a time from ${answer.commit_timestamp} to now; its last commit was at ${last}`,
    );
  }
  if (answer.kind === "future" && timeUs > (nowMs() - POSTGRES_EPOCH_MS) * 1000) {
    throw refuse(
      `${time} is in the future: the last commit on branch '${name}' was at ${answer.commit_timestamp}`,
    );
  }
  return parseLsn(answer.lsn)!;
}

/** StorageError `invalid` where the branch begins after `lsn`, so that no branch of it can begin there. */
export async function requireOnBranch(
  home: StrataHome,
  branch: NamedBranch,
  lsn: Lsn,
  text: string,
): Promise<void> {
  const { tenantId, timelineId, name } = branch;
  const info = await controllerOf(home).timeline(tenantId, timelineId);
  // An imported root has history from before its own WAL.
  const isOlder =
    info.ancestor_timeline_id === null && lsnOf(info.min_readable_lsn) < lsnOf(info.start_lsn);
  const begin = isOlder ? info.min_readable_lsn : info.start_lsn;
  if (lsn >= lsnOf(begin)) {
    return;
  }
  const point = parseLsn(text) === undefined ? `${text}, LSN ${formatLsn(lsn)},` : `LSN ${text}`;
  const ancestor = branchNames(home.config(), tenantId).get(info.ancestor_timeline_id ?? "");
  const hint = ancestor === undefined ? "" : `; before that its history is that of '${ancestor}'`;
  throw new StorageError(
    "invalid",
    "lsn-before-branch",
    `${point} is before branch '${name}' begins, at ${begin}${hint}`,
  );
}

function lsnOf(text: string): number {
  return parseLsn(text) ?? 0;
}

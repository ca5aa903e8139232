// Runs of SQL, one a branch at a time: they go on while another page is looked at, and are found again.

import { useSyncExternalStore } from "react";
import type { ConsoleSqlRequest } from "../api/types.ts";
import { runSql, type SqlResult } from "./sql-stream.ts";

export interface RunningSql {
  readonly projectId: string;
  readonly branchId: string;
  /** Unix milliseconds. */
  readonly begunAt: number;
  readonly controller: AbortController;
}

export interface KeptRun {
  /** As of when; undefined: now. */
  readonly at: string | undefined;
  readonly result: SqlResult;
}

const NOTHING: SqlResult = {
  statements: [],
  notices: [],
  error: undefined,
  cut: undefined,
  ms: undefined,
  isRunning: true,
};

/** By branch. Of those that have ended only the newest is kept: one can be of 64 MB. */
const kept = new Map<string, KeptRun>();
let running: readonly RunningSql[] = [];
const listeners = new Set<() => void>();

/** Resolves with the result when it has ended. Undefined, and nothing is run, where one of the branch goes on. */
export async function startRun(
  projectId: string,
  body: ConsoleSqlRequest,
): Promise<SqlResult | undefined> {
  const branchId = body.branch_id;
  if (running.some((one) => one.branchId === branchId)) {
    return undefined;
  }
  const run = { projectId, branchId, begunAt: Date.now(), controller: new AbortController() };
  running = [...running, run];
  for (const id of kept.keys()) {
    if (!running.some((one) => one.branchId === id)) {
      kept.delete(id);
    }
  }
  const tell = (result: SqlResult) => {
    // Whoever has logged out meanwhile wants nothing of it.
    if (running.includes(run)) {
      kept.set(branchId, { at: body.at, result });
      changed();
    }
  };
  tell(NOTHING);
  const done = await runSql(projectId, body, run.controller.signal, tell);
  running = running.filter((one) => one !== run);
  changed();
  return done;
}

/** Nothing where none of the branch goes on. */
export function cancelRun(branchId: string): void {
  running.find((one) => one.branchId === branchId)?.controller.abort();
}

/** For whoever logs in next there has been nothing. */
export function forgetRuns(): void {
  const ended = running;
  running = [];
  kept.clear();
  for (const { controller } of ended) {
    controller.abort();
  }
  changed();
}

/** The last run of a branch, as far as it has come; undefined: there was none. */
export function useRun(branchId: string): KeptRun | undefined {
  return useSyncExternalStore(listen, () => kept.get(branchId));
}

export function useRunning(): readonly RunningSql[] {
  return useSyncExternalStore(listen, () => running);
}

function listen(onChange: () => void): () => void {
  listeners.add(onChange);
  return () => listeners.delete(onChange);
}

function changed(): void {
  for (const listener of listeners) {
    listener();
  }
}

// A run of statements: reads the lines of JSON that come, and tells what there is so far.

import { ApiError, send } from "../api/http.ts";
import type { ConsoleSqlRequest } from "../api/types.ts";
import { Turns } from "../parts/turns.ts";

export interface Column {
  readonly name: string;
  /** OID of pg_type. */
  readonly type: number;
}

/** The last: cut, with the length of the whole. */
export type Cell = string | null | { readonly text: string; readonly bytes: number };

export interface SqlWords {
  readonly severity: string;
  readonly code?: string;
  readonly message: string;
  readonly detail?: string;
  readonly hint?: string;
  /** In letters of the statement, from 1. */
  readonly position?: string;
  readonly where?: string;
}

export interface StatementResult {
  readonly columns: readonly Column[];
  readonly rows: Cell[][];
  tag: string | undefined;
  ms: number;
}

export interface SqlResult {
  readonly statements: readonly StatementResult[];
  readonly notices: readonly SqlWords[];
  readonly error: SqlWords | undefined;
  /** More than is shown: `rows` or `bytes`. */
  readonly cut: string | undefined;
  readonly ms: number | undefined;
  readonly isRunning: boolean;
}

type Line =
  | { readonly t: "columns"; readonly columns: Column[] }
  | { readonly t: "rows"; readonly rows: Cell[][] }
  | { readonly t: "done"; readonly tag: string; readonly ms: number }
  | ({ readonly t: "notice" | "error" } & SqlWords)
  | { readonly t: "cut"; readonly why: string }
  | { readonly t: "end"; readonly ms: number };

const MAX_NOTICES = 200;
const QUERY_CANCELED = "57014";

/** Where statements run, and as whom. */
export interface SqlPlace {
  readonly projectId: string;
  readonly branchId: string;
  readonly database: string;
  readonly role: string;
}

/** Calls back with what there is, at most once a frame. Aborting the signal cancels what runs. Never rejects. */
export async function runSql(
  projectId: string,
  body: ConsoleSqlRequest,
  signal: AbortSignal,
  onResult: (result: SqlResult) => void,
): Promise<SqlResult> {
  const gathered = new Gathered();
  let frame: number | undefined;
  const tell = () => {
    frame ??= requestAnimationFrame(() => {
      frame = undefined;
      onResult(gathered.result(true));
    });
  };
  try {
    await gather(gathered, projectId, body, signal, tell);
  } catch (error) {
    gathered.error = signal.aborted
      ? { severity: "ERROR", code: QUERY_CANCELED, message: "cancelled" }
      : wordsOf(error);
  }
  if (frame !== undefined) {
    cancelAnimationFrame(frame);
  }
  const result = gathered.result(false);
  onResult(result);
  return result;
}

/** For pages that run statements of their own. Rejects with ApiError, or Postgres's words where one fails. */
export async function readSql(
  { projectId, branchId, database, role }: SqlPlace,
  query: string,
  signal?: AbortSignal,
): Promise<SqlResult> {
  const gathered = new Gathered();
  const body = { branch_id: branchId, database, role, query };
  await gather(gathered, projectId, body, signal, () => {});
  const { error } = gathered;
  if (error !== undefined) {
    const more = [error.message, error.detail, error.hint].filter((text) => text !== undefined);
    throw new Error(`${more.join(" · ")} (${error.code ?? error.severity})`);
  }
  return gathered.result(false);
}

/** Under a key that no change of the project makes stale: to read again wakes the branch. */
export function sqlKey(place: SqlPlace | undefined, ...what: readonly string[]) {
  return {
    queryKey: ["sql", place?.projectId, place?.branchId, place?.database, place?.role, ...what],
    enabled: place !== undefined,
    staleTime: Number.POSITIVE_INFINITY,
  };
}

async function gather(
  gathered: Gathered,
  projectId: string,
  body: ConsoleSqlRequest,
  signal: AbortSignal | undefined,
  onLine: () => void,
): Promise<void> {
  const response = await send("POST", `/console/projects/${projectId}/sql`, body, signal);
  for await (const line of linesOf(response)) {
    gathered.take(line);
    onLine();
  }
  if (gathered.ms === undefined && gathered.error === undefined) {
    gathered.error = { severity: "ERROR", message: "the connection broke before the end" };
  }
}

function wordsOf(error: unknown): SqlWords {
  const code = error instanceof ApiError ? error.code : undefined;
  return {
    severity: "ERROR",
    message: error instanceof Error ? error.message : `${error}`,
    ...(code === undefined ? {} : { code }),
  };
}

async function* linesOf(response: Response): AsyncGenerator<Line> {
  const decoder = new TextDecoder();
  const turns = new Turns();
  let rest = "";
  for await (const chunk of streamOf(response)) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line !== "") {
        yield JSON.parse(line) as Line;
        await turns.next();
      }
    }
  }
}

/** Not every browser can iterate a stream. */
async function* streamOf(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    yield value;
  }
}

class Gathered {
  readonly #statements: StatementResult[] = [];
  readonly #notices: SqlWords[] = [];
  #open: StatementResult | undefined;
  error: SqlWords | undefined;
  ms: number | undefined;
  #cut: string | undefined;

  take(line: Line): void {
    switch (line.t) {
      case "columns":
        this.#begin(line.columns);
        return;
      case "rows":
        for (const row of line.rows) {
          this.#open?.rows.push(row);
        }
        return;
      case "done": {
        const open = this.#open ?? this.#begin([]);
        open.tag = line.tag;
        open.ms = line.ms;
        this.#open = undefined;
        return;
      }
      case "notice":
        if (this.#notices.length < MAX_NOTICES) {
          this.#notices.push(line);
        }
        return;
      case "cut":
        this.#cut = line.why;
        return;
      case "error":
        // That it was cancelled is because it was cut.
        if (this.#cut === undefined || line.code !== QUERY_CANCELED) {
          this.error = line;
        }
        return;
      case "end":
        this.ms = line.ms;
    }
  }

  #begin(columns: readonly Column[]): StatementResult {
    this.#open = { columns, rows: [], tag: undefined, ms: 0 };
    this.#statements.push(this.#open);
    return this.#open;
  }

  result(isRunning: boolean): SqlResult {
    return {
      statements: [...this.#statements],
      notices: [...this.#notices],
      error: this.error,
      cut: this.#cut,
      ms: this.ms,
      isRunning,
    };
  }
}

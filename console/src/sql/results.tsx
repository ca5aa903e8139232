// What came of a run: a tab for each statement that gave rows, messages, the error.

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { Empty } from "../parts/notice.tsx";
import { msText } from "../parts/words.ts";
import { cellText, csvOf } from "./cells.ts";
import { Grid } from "./grid.tsx";
import { PlanTree, parsePlan } from "./plan-tree.tsx";
import type { SqlResult, SqlWords, StatementResult } from "./sql-stream.ts";

/** So long it says that all was copied. */
const COPIED_MS = 1500;

export function Results({ result }: { readonly result: SqlResult }) {
  const { statements, notices, error, cut } = result;
  const [chosen, setChosen] = useState(0);
  const at = Math.min(chosen, Math.max(0, statements.length - 1));
  const statement = statements[at];
  return (
    <section className="results" aria-label="Results">
      {statements.length > 1 && (
        <div className="tabs" role="tablist" aria-label="Statements">
          {statements.map((one, i) => (
            <button
              key={i}
              type="button"
              role="tab"
              aria-selected={i === at}
              onClick={() => setChosen(i)}
            >
              {i + 1} {one.tag?.split(" ")[0] ?? "…"}
            </button>
          ))}
        </div>
      )}
      <p className="result-line" role="status">
        {lineOf(result, statement)}
        {statement !== undefined && statement.columns.length > 0 && !result.isRunning && (
          <Export key={at} statement={statement} />
        )}
      </p>
      {cut !== undefined && (
        <p className="notice">
          More than is shown here ({cut === "rows" ? "100,000 rows" : "64 MB"}); the rest was
          cancelled.
        </p>
      )}
      {error !== undefined && <Words words={error} />}
      {notices.map((words, i) => (
        <Words key={i} words={words} />
      ))}
      {statement !== undefined && (
        <Rows key={at} statement={statement} isRunning={result.isRunning} />
      )}
    </section>
  );
}

function Rows({
  statement,
  isRunning,
}: {
  readonly statement: StatementResult;
  readonly isRunning: boolean;
}) {
  const { columns, rows } = statement;
  if (columns.length === 0) {
    return null;
  }
  const plan =
    columns.length === 1 && columns[0]!.name === "QUERY PLAN" && !isRunning
      ? parsePlan(rows.map(([cell]) => cellText(cell ?? null)).join("\n"))
      : undefined;
  if (plan !== undefined) {
    return <PlanTree plan={plan} />;
  }
  return rows.length === 0 && !isRunning ? <Empty>No rows.</Empty> : <Grid result={statement} />;
}

function lineOf(
  { isRunning, ms, error }: SqlResult,
  statement: StatementResult | undefined,
): string {
  if (isRunning) {
    const count = statement?.rows.length ?? 0;
    return count === 0 ? "Running…" : `Running… ${count.toLocaleString("en")} rows so far`;
  }
  if (statement?.tag === undefined) {
    return error === undefined ? "Done" : "Failed";
  }
  const time = ms === undefined ? "" : ` · all in ${msText(ms)}`;
  return `${statement.tag} · ${msText(statement.ms)}${time}`;
}

function Words({ words }: { readonly words: SqlWords }) {
  const { severity, code, message, detail, hint, where } = words;
  const isError = severity === "ERROR" || severity === "FATAL" || severity === "PANIC";
  return (
    <div className={isError ? "notice error" : "notice"} role={isError ? "alert" : undefined}>
      <b>{severity}</b> <bdi>{message}</bdi>
      {code !== undefined && <small className="code">{code}</small>}
      {detail !== undefined && <div>{detail}</div>}
      {hint !== undefined && <div>Hint: {hint}</div>}
      {where !== undefined && <pre>{where}</pre>}
    </div>
  );
}

/** A hundred thousand rows take a second or two to be written. */
function Export({ statement }: { readonly statement: StatementResult }) {
  const save = useMutation({ mutationFn: () => saveCsv(statement) });
  const copy = useMutation({
    // The text is promised: only a click may ask for the clipboard, and it is over when the text is there.
    mutationFn: () =>
      navigator.clipboard.write([
        new ClipboardItem({
          "text/plain": csvOf(statement).then((csv) => csv.slice(0, csv.size, "text/plain")),
        }),
      ]),
    onSuccess: (): void => {
      setTimeout(() => copy.reset(), COPIED_MS);
    },
  });
  const error = save.error ?? copy.error;
  return (
    <>
      <button
        type="button"
        className="small"
        disabled={save.isPending}
        onClick={() => save.mutate()}
      >
        {save.isPending ? "Writing…" : "CSV"}
      </button>
      <button
        type="button"
        className="small"
        disabled={copy.isPending}
        onClick={() => copy.mutate()}
      >
        {copy.isPending ? "Copying…" : copy.isSuccess ? "Copied" : "Copy all"}
      </button>
      {error !== null && <span className="error-text">{error.message}</span>}
    </>
  );
}

async function saveCsv(statement: StatementResult): Promise<void> {
  const url = URL.createObjectURL(await csvOf(statement));
  const link = document.createElement("a");
  link.href = url;
  link.download = "result.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

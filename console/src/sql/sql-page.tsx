// SQL on a branch, now or at a point of its past.

import { useRef, useState } from "react";
import { queryClient } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { PointField } from "../branches/point-field.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { timeText } from "../parts/words.ts";
import { Editor, type EditorHandle } from "./editor.tsx";
import { usePastRuns } from "./history.ts";
import { OnBranch, PlaceHead, usePlace } from "./place.tsx";
import { Results } from "./results.tsx";
import { SavedQueries } from "./saved-queries.tsx";
import { cancelRun, startRun, useRun } from "./sql-runs.ts";
import type { SqlResult } from "./sql-stream.ts";
import { useSchema } from "./use-schema.ts";

const TEXT_KEY = "strata.sql-text";
const FIRST_TEXT = "select version();\n";

export function SqlPage() {
  return <OnBranch Page={SqlOnBranch} refused="it runs no SQL" />;
}

function SqlOnBranch({ branch }: { readonly branch: TreeBranch }) {
  const { id, project_id: projectId } = branch.branch;
  const where = usePlace(branch);
  const kept = useRun(id);
  const result = kept?.result;
  const [at, setAt] = useState(kept?.at);
  const [isChoosing, setIsChoosing] = useState(false);
  const [isSaving, setIsSaving] = useState(false);
  const [text, setText] = useState(() => localStorage.getItem(TEXT_KEY) ?? FIRST_TEXT);
  const [past, addPast] = usePastRuns();
  const editor = useRef<EditorHandle>(null);
  const { place } = where;
  const schema = useSchema(result === undefined ? undefined : place);

  const run = async (wrap: (statement: string) => string = (statement) => statement) => {
    if (place === undefined) {
      return;
    }
    const { text: picked, offset } = editor.current!.picked();
    const query = wrap(picked);
    const { database, role } = place;
    const body = { branch_id: id, database, role, query, ...(at === undefined ? {} : { at }) };
    const done = await startRun(projectId, body);
    if (done === undefined) {
      return;
    }
    addPast({ text: picked, at: Date.now(), isFailed: done.error !== undefined });
    const wrong = errorOffset(done, query, picked, offset);
    if (wrong !== undefined) {
      editor.current?.mark(wrong);
    }
    if (/\b(create|drop|alter|grant)\b/i.test(query)) {
      void queryClient.invalidateQueries({ queryKey: ["project", projectId] });
      void queryClient.invalidateQueries({ queryKey: ["sql", projectId] });
    }
  };
  const explain = (options: string) =>
    void run((statement) => `EXPLAIN (${options}FORMAT JSON) ${statement}`);
  const isRunning = result?.isRunning === true;

  return (
    <div className="sql">
      <PlaceHead title="SQL" of={where}>
        <button
          type="button"
          className={at === undefined ? "quiet" : "past"}
          onClick={() => setIsChoosing(true)}
        >
          {at === undefined ? "As of now" : `As of ${/\//.test(at) ? at : timeText(at)}`}
        </button>
      </PlaceHead>
      <Editor
        handle={editor}
        initial={text}
        schema={schema}
        onRun={() => void run()}
        onChange={(changed) => {
          setText(changed);
          localStorage.setItem(TEXT_KEY, changed);
        }}
      />
      <div className="row actions">
        {isRunning ? (
          <button type="button" className="danger" onClick={() => cancelRun(id)}>
            Cancel
          </button>
        ) : (
          <button
            type="button"
            className="primary"
            disabled={place === undefined}
            onClick={() => void run()}
          >
            Run <kbd>Ctrl Enter</kbd>
          </button>
        )}
        <button
          type="button"
          disabled={isRunning || place === undefined}
          onClick={() => explain("")}
        >
          Explain
        </button>
        <button
          type="button"
          disabled={isRunning || place === undefined}
          title="Runs the statement, and tells what it cost"
          onClick={() => explain("ANALYZE, BUFFERS, ")}
        >
          Explain analyze
        </button>
        <button type="button" className="quiet saved" onClick={() => setIsSaving(true)}>
          Saved…
        </button>
        <select
          aria-label="History"
          className="history"
          value=""
          onChange={(event) =>
            editor.current?.replace(past[Number(event.target.value)]?.text ?? "")
          }
        >
          <option value="">History</option>
          {past.map((one, i) => (
            <option key={one.at} value={i}>
              {one.isFailed ? "✗ " : ""}
              {one.text.replaceAll(/\s+/g, " ").trim().slice(0, 80)}
            </option>
          ))}
        </select>
      </div>
      {result !== undefined && <Results result={result} />}
      {isSaving && (
        <SavedQueries
          text={text}
          onOpen={(saved) => editor.current?.replace(saved)}
          onClose={() => setIsSaving(false)}
        />
      )}
      {isChoosing && (
        <AsOfDialog
          branch={branch}
          value={at}
          onChange={setAt}
          onClose={() => setIsChoosing(false)}
        />
      )}
    </div>
  );
}

/** Of the text in the editor: Postgres counts letters of what it got, from 1. */
function errorOffset(
  { error }: SqlResult,
  query: string,
  picked: string,
  offset: number,
): number | undefined {
  if (error?.position === undefined) {
    return undefined;
  }
  const units = [...query].slice(0, Number(error.position) - 1).join("").length;
  return offset + Math.max(0, units - (query.length - picked.length));
}

interface AsOfProps {
  readonly branch: TreeBranch;
  readonly value: string | undefined;
  readonly onChange: (value: string | undefined) => void;
  readonly onClose: () => void;
}

function AsOfDialog({ branch, value, onChange, onClose }: AsOfProps) {
  const [point, setPoint] = useState(value ?? new Date(Date.now() - 60_000).toISOString());
  const [isNow, setIsNow] = useState(false);
  return (
    <FormDialog
      title="As of when?"
      action="Use it"
      isPending={false}
      error={null}
      onClose={onClose}
      onSubmit={() => {
        onChange(isNow ? undefined : point);
        onClose();
      }}
    >
      <p>Statements run on a read-only Postgres of their own, on the branch as it was then.</p>
      <PointField
        value={isNow ? undefined : point}
        now="Now"
        of={branch}
        onChange={(chosen) => {
          setIsNow(chosen === undefined);
          setPoint(chosen ?? point);
        }}
      />
    </FormDialog>
  );
}

// Changing, adding and deleting a row: the statement is shown before it runs, and must hit the one row that was seen.

import { type Query, useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { queryClient } from "../api/queries.ts";
import { CodeBlock } from "../parts/copy.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { type Cell, readSql, type SqlPlace } from "../sql/sql-stream.ts";
import type { ColumnFacts, TableFacts } from "./catalog.ts";
import {
  type Change,
  deleteRow,
  insertRow,
  type NewValue,
  type RowKey,
  type TableName,
  updateRow,
} from "./statements.ts";

/** Of one row; rejects where none was hit. */
function useStatement(place: SqlPlace, table: TableName, onClose: () => void) {
  return useMutation({
    mutationFn: async (statement: string) => {
      const { statements } = await readSql(place, statement);
      if (!/ 1$/.test(statements[0]?.tag ?? "")) {
        throw new Error(
          "Nothing was changed: somebody else has changed or deleted the row since it was read, or a trigger or policy keeps it.",
        );
      }
    },
    onSuccess: onClose,
    onSettled: async () => {
      const isOfTable = ({ queryKey }: Query) => {
        const [kind, , branchId, , , , schema, name] = queryKey;
        const isHere = kind === "sql" && branchId === place.branchId;
        return isHere && schema === table.schema && name === table.name;
      };
      await queryClient.invalidateQueries({ predicate: isOfTable });
      // A count is not read again by itself: better none than a wrong one.
      await queryClient.resetQueries({
        predicate: (query) => query.queryKey[5] === "count" && isOfTable(query),
      });
    },
  });
}

interface RowFormProps {
  readonly place: SqlPlace;
  readonly facts: TableFacts;
  readonly onClose: () => void;
  /** Absent: a new one. */
  readonly row?: readonly Cell[];
  readonly rowKey?: RowKey;
  /** Index of the column that is asked for first. */
  readonly focus?: number;
}

export function RowForm({ place, facts, onClose, row, rowKey, focus = 0 }: RowFormProps) {
  const { table, columns } = facts;
  // What the row was when the form was opened: what is read meanwhile changes nothing in it.
  const [before] = useState(row);
  const [key] = useState(rowKey);
  const [values, setValues] = useState<readonly NewValue[]>(() =>
    columns.map((_, i) => (before === undefined ? undefined : (wholeValue(before[i]) ?? null))),
  );
  const run = useStatement(place, table, onClose);
  const changes: Change[] = columns.flatMap(({ name, isMade }, i) => {
    const value = values[i];
    const was = before === undefined ? undefined : (wholeValue(before[i]) ?? null);
    return isMade || value === was || isCut(before?.[i]) ? [] : [{ column: name, value }];
  });
  const isNew = key === undefined;
  const isSame = !isNew && changes.length === 0;
  const statement = isNew ? insertRow(table, changes) : updateRow(table, changes, key);
  return (
    <FormDialog
      title={isNew ? "New row" : "Change row"}
      action="Run it"
      isWide
      isPending={run.isPending}
      isDisabled={isSame}
      error={run.error}
      onSubmit={() => run.mutate(statement)}
      onClose={onClose}
    >
      {columns.map((column, i) => (
        <ValueField
          key={column.name}
          column={column}
          value={values[i]}
          isNew={isNew}
          isCut={isCut(before?.[i])}
          hasFocus={i === focus}
          onChange={(value) => setValues(values.with(i, value))}
        />
      ))}
      {isSame ? (
        <p className="muted">Nothing is changed yet.</p>
      ) : (
        <CodeBlock text={statement} label="Statement" />
      )}
    </FormDialog>
  );
}

interface ValueFieldProps {
  readonly column: ColumnFacts;
  readonly value: NewValue;
  readonly isNew: boolean;
  readonly isCut: boolean;
  readonly hasFocus: boolean;
  readonly onChange: (value: NewValue) => void;
}

function ValueField({ column, value, isNew, isCut: cut, hasFocus, onChange }: ValueFieldProps) {
  const kind = value === undefined ? "default" : value === null ? "null" : "value";
  const isFixed = column.isMade || cut;
  const pick = (next: string) =>
    onChange(next === "default" ? undefined : next === "null" ? null : (value ?? ""));
  return (
    <div className="value-field">
      <label className="field">
        <span>
          <bdi>{column.name}</bdi> <small className="muted">{column.type}</small>
        </span>
        <textarea
          ref={(element) => {
            // Which of its fields a dialog begins at, the attribute says; React does not write it.
            element?.toggleAttribute("autofocus", hasFocus);
          }}
          rows={(value ?? "").length > 60 || (value ?? "").includes("\n") ? 5 : 1}
          value={value ?? ""}
          placeholder={kind === "default" ? column.defaultText || "null" : kind}
          disabled={isFixed}
          spellCheck={false}
          onChange={(event) => onChange(event.target.value)}
        />
        {cut && <small>Too long to be changed here.</small>}
        {column.isMade && <small>Made by Postgres.</small>}
      </label>
      <select
        aria-label={`What ${column.name} is`}
        value={kind}
        disabled={isFixed}
        onChange={(event) => pick(event.target.value)}
      >
        <option value="value">a value</option>
        {(column.isNullable || kind === "null") && <option value="null">null</option>}
        {(isNew || column.defaultText !== "" || kind === "default") && (
          <option value="default">default</option>
        )}
      </select>
    </div>
  );
}

interface DeleteRowProps {
  readonly place: SqlPlace;
  readonly table: TableName;
  readonly rowKey: RowKey;
  readonly onClose: () => void;
}

export function DeleteRow({ place, table, rowKey, onClose }: DeleteRowProps) {
  const [statement] = useState(() => deleteRow(table, rowKey));
  const run = useStatement(place, table, onClose);
  return (
    <FormDialog
      title="Delete row"
      action="Delete it"
      isDanger
      isPending={run.isPending}
      error={run.error}
      onSubmit={() => run.mutate(statement)}
      onClose={onClose}
    >
      <p>What refers to it may go with it, if its constraints say so.</p>
      <CodeBlock text={statement} label="Statement" />
    </FormDialog>
  );
}

function isCut(cell: Cell | undefined): boolean {
  return typeof cell === "object" && cell !== null;
}

function wholeValue(cell: Cell | undefined): string | undefined {
  return typeof cell === "string" ? cell : undefined;
}

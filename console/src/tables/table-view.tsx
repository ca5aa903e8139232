// One table: its rows, its columns, its indexes and constraints.

import { type ReactNode, useState } from "react";
import { ErrorNotice } from "../parts/notice.tsx";
import { ScrollPlace } from "../parts/scroll-place.tsx";
import { bytesText } from "../parts/words.ts";
import type { SqlPlace } from "../sql/sql-stream.ts";
import { KINDS, type TableFacts, useTableFacts } from "./catalog.ts";
import { Rows } from "./rows.tsx";
import type { TableName } from "./statements.ts";

const TABS = { rows: "Rows", columns: "Columns", indexes: "Indexes and constraints" } as const;

interface TableViewProps {
  readonly place: SqlPlace;
  readonly table: TableName;
}

export function TableView({ place, table }: TableViewProps) {
  const facts = useTableFacts(place, table);
  const [tab, setTab] = useState<keyof typeof TABS>("rows");
  return (
    <section className="table-view" aria-label="Table">
      <header className="table-head">
        <h2>
          <bdi>{table.schema}</bdi>.<bdi>{table.name}</bdi>
        </h2>
        {facts.data !== undefined && <span className="muted">{lineOf(facts.data)}</span>}
      </header>
      {facts.error && <ErrorNotice error={facts.error} />}
      {facts.data !== undefined && (
        <>
          <div className="tabs" role="tablist" aria-label="Of the table">
            {Object.entries(TABS).map(([key, title]) => (
              <button
                key={key}
                type="button"
                role="tab"
                aria-selected={key === tab}
                onClick={() => setTab(key as keyof typeof TABS)}
              >
                {title}
              </button>
            ))}
          </div>
          {tab === "rows" && <Rows place={place} facts={facts.data} />}
          {tab === "columns" && <Columns facts={facts.data} />}
          {tab === "indexes" && <Indexes facts={facts.data} />}
        </>
      )}
    </section>
  );
}

function lineOf({ kind, rows, bytes }: TableFacts): string {
  const words: string[] = [KINDS[kind]];
  if (rows >= 0 && kind !== "v") {
    words.push(`about ${rows.toLocaleString("en")} rows`);
  }
  if (bytes > 0) {
    words.push(`${bytesText(bytes)} with its indexes`);
  }
  return words.join(" · ");
}

function Columns({ facts: { columns } }: { readonly facts: TableFacts }) {
  return (
    <FactsTable label="Columns" heads={["Column", "Type", "Null", "Default", "Key"]}>
      {columns.map((column) => (
        <tr key={column.name}>
          <td>
            <bdi>{column.name}</bdi>
          </td>
          <td>
            <code>{column.type}</code>
          </td>
          <td>{column.isNullable ? "may be" : "never"}</td>
          <td>
            {column.defaultText !== "" && <code>{column.defaultText}</code>}
            {column.isMade && <span className="badge">made by Postgres</span>}
          </td>
          <td>{column.keyPlace > 0 && `primary ${column.keyPlace}`}</td>
        </tr>
      ))}
    </FactsTable>
  );
}

function Indexes({ facts: { indexes, constraints } }: { readonly facts: TableFacts }) {
  return (
    <>
      <FactsTable label="Indexes" heads={["Index", "Size", "Definition"]}>
        {indexes.map(({ name, definition, bytes, isValid }) => (
          <tr key={name}>
            <td>
              <bdi>{name}</bdi> {!isValid && <span className="badge warning">not valid</span>}
            </td>
            <td>{bytesText(bytes)}</td>
            <td>
              <code>{definition}</code>
            </td>
          </tr>
        ))}
      </FactsTable>
      <FactsTable label="Constraints" heads={["Constraint", "Definition"]}>
        {constraints.map(({ name, definition }) => (
          <tr key={name}>
            <td>
              <bdi>{name}</bdi>
            </td>
            <td>
              <code>{definition}</code>
            </td>
          </tr>
        ))}
      </FactsTable>
    </>
  );
}

interface FactsTableProps {
  readonly label: string;
  readonly heads: readonly string[];
  /** Its rows. */
  readonly children: ReactNode;
}

function FactsTable({ label, heads, children }: FactsTableProps) {
  return (
    <ScrollPlace label={label}>
      <table>
        <thead>
          <tr>
            {heads.map((head) => (
              <th key={head}>{head}</th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </ScrollPlace>
  );
}

// The rows of a table, a page at a time, filtered and sorted; changed, added and deleted where there is a primary key.

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { Grid } from "../sql/grid.tsx";
import { type Cell, readSql, type SqlPlace, sqlKey } from "../sql/sql-stream.ts";
import type { TableFacts } from "./catalog.ts";
import { FilterBar } from "./filter-bar.tsx";
import { DeleteRow, RowForm } from "./row-dialogs.tsx";
import { countRows, type Filter, type RowKey, selectRows } from "./statements.ts";

const PAGE_ROWS = 100;

interface RowsProps {
  readonly place: SqlPlace;
  readonly facts: TableFacts;
}

type Open =
  | { readonly what: "edit"; readonly row: number; readonly column: number }
  | { readonly what: "insert" }
  | { readonly what: "delete"; readonly row: number };

/** By the primary key, where nobody wants another order; that last, so that pages do not overlap. */
function orderOf({ columns }: TableFacts, sort: Sort | undefined) {
  const key = columns
    .filter(({ keyPlace }) => keyPlace > 0)
    .toSorted((a, b) => a.keyPlace - b.keyPlace)
    .map(({ name }) => ({ column: name, isDescending: false }));
  return sort === undefined ? key : [sort, ...key.filter(({ column }) => column !== sort.column)];
}

export interface Sort {
  readonly column: string;
  readonly isDescending: boolean;
}

export function Rows({ place, facts }: RowsProps) {
  const { table, columns, whyNoChange } = facts;
  const [filters, setFilters] = useState<readonly Filter[]>([]);
  const [sort, setSort] = useState<Sort>();
  /** Where this page begins, and those before it. */
  const [offsets, setOffsets] = useState<readonly number[]>([0]);
  const [active, setActive] = useState(0);
  const [open, setOpen] = useState<Open>();
  const offset = offsets.at(-1) ?? 0;
  const canChange = whyNoChange === undefined;
  const query = selectRows({
    ...{ table, columns: columns.map(({ name }) => name), filters, order: orderOf(facts, sort) },
    ...{ limit: PAGE_ROWS + 1, offset, withXmin: canChange },
  });
  const page = useQuery({
    ...sqlKey(place, "rows", table.schema, table.name, query),
    queryFn: ({ signal }) => readSql(place, query, signal),
  });
  const result = page.data?.statements[0];
  const all = result?.rows ?? [];
  const shown = all.slice(0, PAGE_ROWS);
  const isMore = all.length > PAGE_ROWS || page.data?.cut !== undefined;
  const grid = result && {
    ...result,
    columns: result.columns.slice(0, columns.length),
    rows: shown.map((row) => row.slice(0, columns.length)),
  };
  const begin = (next: () => void) => {
    next();
    setOffsets([0]);
    setActive(0);
  };
  const turn = (to: readonly number[]) => {
    setOffsets(to);
    setActive(0);
  };
  const at = Math.min(active, shown.length - 1);
  const row = open !== undefined && open.what !== "insert" ? shown[open.row] : undefined;
  return (
    <>
      <FilterBar
        columns={columns}
        filters={filters}
        sort={sort}
        onFilters={(next) => begin(() => setFilters(next))}
        onSort={(next) => begin(() => setSort(next))}
      />
      <div className="row actions">
        <button type="button" disabled={!canChange} onClick={() => setOpen({ what: "insert" })}>
          New row…
        </button>
        <button
          type="button"
          disabled={!canChange || shown.length === 0}
          onClick={() => setOpen({ what: "edit", row: at, column: 0 })}
        >
          Change row…
        </button>
        <button
          type="button"
          disabled={!canChange || shown.length === 0}
          onClick={() => setOpen({ what: "delete", row: at })}
        >
          Delete row…
        </button>
        {!canChange && <span className="muted">Rows are not changed here: {whyNoChange}.</span>}
      </div>
      {page.error && <ErrorNotice error={page.error} />}
      {page.data?.cut !== undefined && (
        <p className="notice">Values here are long: only {shown.length} rows are shown at once.</p>
      )}
      {grid !== undefined && shown.length > 0 && (
        <Grid
          key={query}
          result={grid}
          onActive={setActive}
          onOpen={
            canChange
              ? ({ row: index, column }) => setOpen({ what: "edit", row: index, column })
              : undefined
          }
        />
      )}
      {grid !== undefined && shown.length === 0 && <Empty>No rows.</Empty>}
      <div className="row pager">
        <button
          type="button"
          className="small"
          disabled={offsets.length === 1}
          onClick={() => turn(offsets.slice(0, -1))}
        >
          Previous
        </button>
        <span role="status">
          {page.isFetching
            ? "Reading…"
            : shown.length > 0 && `rows ${offset + 1} to ${offset + shown.length}`}
        </span>
        <button
          type="button"
          className="small"
          disabled={!isMore || shown.length === 0}
          onClick={() => turn([...offsets, offset + shown.length])}
        >
          Next
        </button>
        <Count key={JSON.stringify(filters)} place={place} facts={facts} filters={filters} />
      </div>
      {open?.what === "insert" && (
        <RowForm place={place} facts={facts} onClose={() => setOpen(undefined)} />
      )}
      {open?.what === "edit" && row !== undefined && (
        <RowForm
          place={place}
          facts={facts}
          row={row}
          rowKey={keyOf(facts, row)}
          focus={open.column}
          onClose={() => setOpen(undefined)}
        />
      )}
      {open?.what === "delete" && row !== undefined && (
        <DeleteRow
          place={place}
          table={table}
          rowKey={keyOf(facts, row)}
          onClose={() => setOpen(undefined)}
        />
      )}
    </>
  );
}

/** Counting reads the whole table: only when somebody wants it. */
function Count({ place, facts, filters }: RowsProps & { readonly filters: readonly Filter[] }) {
  const { table } = facts;
  const query = countRows(table, filters);
  const count = useQuery({
    ...sqlKey(place, "count", table.schema, table.name, query),
    enabled: false,
    queryFn: async ({ signal }) => {
      const { statements } = await readSql(place, query, signal);
      return `${statements[0]?.rows[0]?.[0]}`;
    },
  });
  return (
    <>
      <button
        type="button"
        className="small"
        disabled={count.isFetching}
        onClick={() => void count.refetch()}
      >
        Count
      </button>
      <span className="muted" role="status">
        {count.error?.message ??
          (count.data !== undefined && `${Number(count.data).toLocaleString("en")} in all`)}
      </span>
    </>
  );
}

/** Of a page read with `withXmin`. Values of a primary key fit into an index page: they are whole. */
function keyOf({ columns }: TableFacts, row: readonly Cell[]): RowKey {
  const key = columns.flatMap(({ name, bareType, keyPlace }, i) =>
    keyPlace > 0 ? [{ name, type: bareType, value: wholeText(row[i]) }] : [],
  );
  return { columns: key, xmin: wholeText(row[columns.length]) };
}

function wholeText(cell: Cell | undefined): string {
  if (typeof cell !== "string") {
    throw new Error("a value of the primary key is not whole");
  }
  return cell;
}

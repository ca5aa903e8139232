// The tables of a database: which there are, by schema, and the one that is looked at.

import { Link, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { queryClient } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { OnBranch, PlaceHead, usePlace } from "../sql/place.tsx";
import { KINDS, MAX_TABLES, type TableSummary, useTables } from "./catalog.ts";
import { TableView } from "./table-view.tsx";
import "../styles/tables.css";

/** Of a schema, until more of its name is typed. */
const SHOWN = 200;

export function TablesPage() {
  return <OnBranch Page={TablesOfBranch} refused="it runs no SQL, by which tables are read" />;
}

function TablesOfBranch({ branch }: { readonly branch: TreeBranch }) {
  const where = usePlace(branch);
  const { place } = where;
  const tables = useTables(place);
  const { schema, table } = useSearch({ from: "/projects/$projectId/tables" });
  const chosen = schema === undefined || table === undefined ? undefined : { schema, name: table };
  return (
    <div className="tables">
      <PlaceHead title="Tables" of={where}>
        <button
          type="button"
          className="quiet"
          disabled={place === undefined}
          onClick={() =>
            void queryClient.invalidateQueries({ queryKey: ["sql", place?.projectId] })
          }
        >
          Refresh
        </button>
      </PlaceHead>
      {tables.error && <ErrorNotice error={tables.error} />}
      {tables.isFetching && tables.data === undefined && (
        <Empty>The branch is asked for its tables, and wakes for it.</Empty>
      )}
      {tables.data !== undefined && place !== undefined && (
        <div className="tables-split">
          <TableList {...tables.data} />
          {chosen === undefined ? (
            <Empty>Choose a table.</Empty>
          ) : (
            <TableView
              key={JSON.stringify([place.database, place.role, schema, table])}
              place={place}
              table={chosen}
            />
          )}
        </div>
      )}
    </div>
  );
}

interface TableListProps {
  readonly schemas: ReadonlyMap<string, readonly TableSummary[]>;
  readonly isCut: boolean;
}

function TableList({ schemas, isCut }: TableListProps) {
  const [typed, setTyped] = useState("");
  const wanted = typed.toLowerCase();
  return (
    <nav className="table-list" aria-label="Tables">
      <input
        type="search"
        aria-label="Find a table"
        placeholder="Find a table"
        value={typed}
        onChange={(event) => setTyped(event.target.value)}
      />
      {[...schemas].map(([schema, tables]) => {
        const found = tables.filter(({ name }) => name.toLowerCase().includes(wanted));
        return (
          <section key={schema}>
            <h2>
              <bdi>{schema}</bdi>
            </h2>
            <ul>
              {found.slice(0, SHOWN).map(({ name, kind }) => (
                <li key={name}>
                  <Link
                    from="/projects/$projectId/tables"
                    to="."
                    search={(now) => ({ ...now, schema, table: name })}
                    title={name}
                  >
                    <bdi>{name}</bdi>
                    {kind !== "r" && <small> {KINDS[kind]}</small>}
                  </Link>
                </li>
              ))}
            </ul>
            {found.length === 0 && <p className="hint muted">none</p>}
            {found.length > SHOWN && (
              <p className="hint muted">and {found.length - SHOWN}: type more of the name</p>
            )}
          </section>
        );
      })}
      {isCut && <p className="hint muted">Only the first {MAX_TABLES} are listed.</p>}
    </nav>
  );
}

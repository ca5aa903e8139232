// Which rows of a table are shown, and in what order.

import { type FormEvent, useState } from "react";
import type { ColumnFacts } from "./catalog.ts";
import type { Sort } from "./rows.tsx";
import { type Filter, OPERATORS, type Operator } from "./statements.ts";

interface FilterBarProps {
  readonly columns: readonly ColumnFacts[];
  readonly filters: readonly Filter[];
  readonly sort: Sort | undefined;
  readonly onFilters: (filters: readonly Filter[]) => void;
  readonly onSort: (sort: Sort | undefined) => void;
}

export function FilterBar({ columns, filters, sort, onFilters, onSort }: FilterBarProps) {
  const [at, setAt] = useState(0);
  const [operator, setOperator] = useState<Operator>("=");
  const [value, setValue] = useState("");
  const needsValue = operator !== "null" && operator !== "not null";
  const add = (event: FormEvent) => {
    event.preventDefault();
    const column = columns[at];
    if (column !== undefined) {
      const { name, bareType } = column;
      onFilters([...filters, { column: name, type: bareType, operator, value }]);
      setValue("");
    }
  };
  const sortAt = columns.findIndex(({ name }) => name === sort?.column);
  return (
    <div className="filter-bar">
      <form className="row" onSubmit={add} aria-label="Filter">
        <select
          aria-label="Column"
          value={at}
          onChange={(event) => setAt(Number(event.target.value))}
        >
          {columns.map(({ name }, i) => (
            <option key={name} value={i}>
              {name}
            </option>
          ))}
        </select>
        <select
          aria-label="Comparison"
          value={operator}
          onChange={(event) => setOperator(event.target.value as Operator)}
        >
          {Object.entries(OPERATORS).map(([key, title]) => (
            <option key={key} value={key}>
              {title}
            </option>
          ))}
        </select>
        {needsValue && (
          <input
            aria-label="Value"
            value={value}
            onChange={(event) => setValue(event.target.value)}
          />
        )}
        <button type="submit">Filter</button>
        <label className="inline-field">
          <span>Sorted by</span>
          <select
            value={sort === undefined ? "" : `${sortAt} ${sort.isDescending ? 1 : 0}`}
            onChange={({ target }) => {
              const [index = "", isDescending] = target.value.split(" ");
              const column = target.value === "" ? undefined : columns[Number(index)];
              onSort(column && { column: column.name, isDescending: isDescending === "1" });
            }}
          >
            <option value="">the primary key</option>
            {columns.flatMap(({ name }, i) => [
              <option key={`${name} up`} value={`${i} 0`}>
                {name} ↑
              </option>,
              <option key={`${name} down`} value={`${i} 1`}>
                {name} ↓
              </option>,
            ])}
          </select>
        </label>
      </form>
      {filters.length > 0 && (
        <ul className="row" aria-label="Filters">
          {filters.map((filter, i) => (
            <li key={i} className="badge filter">
              <bdi>{filter.column}</bdi> {OPERATORS[filter.operator]} <bdi>{filter.value}</bdi>
              <button
                type="button"
                className="quiet icon"
                aria-label={`Without the filter of ${filter.column}`}
                onClick={() => onFilters(filters.filter((_, other) => other !== i))}
              >
                ✕
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

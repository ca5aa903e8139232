// Rows of a result: only those in sight are in the page; moved through by keys, copied, shown whole.

import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, memo, useCallback, useMemo, useRef, useState } from "react";
import { CodeBlock } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { bytesText } from "../parts/words.ts";
import { cellText, isNumeric, typeName } from "./cells.ts";
import type { Cell, Column, StatementResult } from "./sql-stream.ts";

const ROW_HEIGHT = 26;
const LETTER_WIDTH = 7.4;
const MIN_WIDTH = 56;
const MAX_WIDTH = 360;
/** A column is as wide as the widest of these. */
const LOOKED_AT = 100;
const SHOWN_LETTERS = 300;

export interface Place {
  readonly row: number;
  readonly column: number;
}

interface GridProps {
  readonly result: StatementResult;
  /** Of the cell that keys and clicks are at. */
  readonly onActive?: (row: number) => void;
  /** Instead of showing a value whole. */
  readonly onOpen?: ((place: Place) => void) | undefined;
}

export function Grid({ result, onActive, onOpen }: GridProps) {
  const { columns, rows } = result;
  const scroller = useRef<HTMLDivElement>(null);
  const [active, moveTo] = useState<Place>({ row: 0, column: 0 });
  const [shown, setShown] = useState<Place>();
  const callbacks = useRef({ onActive, onOpen });
  callbacks.current = { onActive, onOpen };
  const open = useCallback((place: Place) => {
    (callbacks.current.onOpen ?? setShown)(place);
  }, []);
  const setActive = useCallback((place: Place) => {
    moveTo(place);
    callbacks.current.onActive?.(place.row);
  }, []);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_HEIGHT,
    overscan: 6,
  });
  const looked = Math.min(rows.length, LOOKED_AT);
  // biome-ignore lint/correctness/useExhaustiveDependencies: rows grow in place
  const widths = useMemo(() => widthsOf(result, looked), [columns, looked]);
  const total = widths.reduce((sum, width) => sum + width, 0);
  const move = (event: KeyboardEvent) => {
    const to = moved(event, active, rows.length, columns.length);
    if (to !== undefined) {
      event.preventDefault();
      setActive(to);
      virtual.scrollToIndex(to.row);
    } else if (event.key === "Enter") {
      // Nor does what opens get it, as a new line.
      event.preventDefault();
      open(active);
    } else if (
      event.key === "c" &&
      (event.ctrlKey || event.metaKey) &&
      `${getSelection()}` === ""
    ) {
      void navigator.clipboard.writeText(cellText(rows[active.row]?.[active.column] ?? null));
    }
  };
  return (
    <>
      <div
        ref={scroller}
        className="grid"
        role="grid"
        tabIndex={0}
        aria-label="Rows"
        aria-rowcount={rows.length + 1}
        aria-colcount={columns.length}
        aria-activedescendant={`cell-${active.row}-${active.column}`}
        onKeyDown={move}
      >
        <div className="grid-head" role="row" style={{ width: total }}>
          {columns.map(({ name, type }, i) => (
            <div
              key={i}
              role="columnheader"
              style={{ width: widths[i] }}
              title={`${name}\n${typeName(type)}`}
            >
              <bdi>{name}</bdi>
              <small>{typeName(type)}</small>
            </div>
          ))}
        </div>
        <div
          className="grid-body"
          role="rowgroup"
          style={{ height: virtual.getTotalSize(), width: total }}
        >
          {virtual.getVirtualItems().map(({ index, start }) => (
            <GridRow
              key={index}
              row={rows[index]!}
              index={index}
              start={start}
              columns={columns}
              widths={widths}
              active={active.row === index ? active.column : undefined}
              onActive={setActive}
              onShow={open}
            />
          ))}
        </div>
      </div>
      {shown !== undefined && (
        <Dialog
          title={columns[shown.column]?.name ?? ""}
          onClose={() => setShown(undefined)}
          isWide
        >
          <div className="dialog-body">
            <WholeValue cell={rows[shown.row]?.[shown.column] ?? null} />
          </div>
        </Dialog>
      )}
    </>
  );
}

interface GridRowProps {
  readonly row: readonly Cell[];
  readonly index: number;
  /** In pixels, from the top of the first one. */
  readonly start: number;
  readonly columns: readonly Column[];
  readonly widths: readonly number[];
  /** The column that keys are at; undefined: they are in another row. */
  readonly active: number | undefined;
  readonly onActive: (place: Place) => void;
  readonly onShow: (place: Place) => void;
}

/** Rendered again only where it changes: each step of scrolling renders the grid. */
const GridRow = memo(function GridRow(props: GridRowProps) {
  const { row, index, start, columns, widths, active, onActive, onShow } = props;
  return (
    <div
      role="row"
      aria-rowindex={index + 2}
      className="grid-row"
      style={{ transform: `translateY(${start}px)`, height: ROW_HEIGHT }}
    >
      {row.map((cell, column) => (
        // biome-ignore lint/a11y/useKeyWithClickEvents: keys are the grid's
        <div
          key={column}
          id={`cell-${index}-${column}`}
          role="gridcell"
          aria-selected={active === column}
          className={isNumeric(columns[column]?.type ?? 0) ? "number" : ""}
          style={{ width: widths[column] }}
          onClick={() => onActive({ row: index, column })}
          onDoubleClick={() => onShow({ row: index, column })}
        >
          {cell === null ? <i>null</i> : <bdi>{cellText(cell).slice(0, SHOWN_LETTERS)}</bdi>}
        </div>
      ))}
    </div>
  );
});

function WholeValue({ cell }: { readonly cell: Cell }) {
  if (cell === null) {
    return <p>null</p>;
  }
  return (
    <>
      {typeof cell === "object" && (
        <p className="notice">
          Only the beginning: the whole value has {bytesText(cell.bytes)}. Ask for parts of it with
          substr().
        </p>
      )}
      <CodeBlock text={cellText(cell)} label="Value" />
    </>
  );
}

function widthsOf({ columns, rows }: StatementResult, looked: number): readonly number[] {
  return columns.map(({ name, type }, i) => {
    // Names are set in bold.
    let letters = Math.max(name.length * 1.2, typeName(type).length);
    for (let row = 0; row < looked; row++) {
      letters = Math.max(letters, cellText(rows[row]![i] ?? null).length);
    }
    return Math.min(MAX_WIDTH, Math.max(MIN_WIDTH, Math.ceil(letters * LETTER_WIDTH) + 20));
  });
}

function moved(event: KeyboardEvent, { row, column }: Place, rows: number, columns: number) {
  const page = 20;
  const to = {
    ArrowDown: { row: row + 1, column },
    ArrowUp: { row: row - 1, column },
    ArrowRight: { row, column: column + 1 },
    ArrowLeft: { row, column: column - 1 },
    PageDown: { row: row + page, column },
    PageUp: { row: row - page, column },
    Home: { row: event.ctrlKey ? 0 : row, column: 0 },
    End: { row: event.ctrlKey ? rows - 1 : row, column: columns - 1 },
  }[event.key];
  return (
    to && {
      row: Math.max(0, Math.min(rows - 1, to.row)),
      column: Math.max(0, Math.min(columns - 1, to.column)),
    }
  );
}

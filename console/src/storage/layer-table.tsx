// The layers as a table: what the picture shows, in words, for keys and screen readers as well.

import { memo, useEffect, useRef, useState } from "react";
import { ScrollPlace } from "../parts/scroll-place.tsx";
import { bytesText } from "../parts/words.ts";
import { lsnsText } from "./layer-picture.tsx";
import { kindText, type Layer, whereText } from "./shapes.ts";

/** More at once make a slow page. */
const STEP = 200;

interface LayerTableProps {
  readonly layers: readonly Layer[];
  /** Another one each time that somebody chooses. */
  readonly choice: ReadonlySet<string>;
  /** Where what is chosen stands in the list. */
  readonly chosen: ReadonlySet<number>;
  readonly onChoose: (layers: readonly number[]) => void;
}

export function LayerTable({ layers, choice, chosen, onChoose }: LayerTableProps) {
  const [shown, setShown] = useState(STEP);
  const body = useRef<HTMLTableSectionElement>(null);
  const first = Math.min(...chosen);
  const needed = Number.isFinite(first) ? Math.max(shown, first + 1) : shown;
  // biome-ignore lint/correctness/useExhaustiveDependencies: a list that is read again does not scroll
  useEffect(() => {
    if (Number.isFinite(first)) {
      body.current?.rows[first]?.scrollIntoView({ block: "nearest" });
    }
  }, [choice]);
  return (
    <>
      <ScrollPlace label="Layers">
        <table className="layer-table">
          <thead>
            <tr>
              <th>Kind</th>
              <th className="number">Files</th>
              <th className="number">Size</th>
              <th>LSN</th>
              <th>Of</th>
              <th>Where</th>
              <th>Keys</th>
            </tr>
          </thead>
          <tbody ref={body}>
            {layers.slice(0, needed).map((layer, i) => (
              <Row key={i} layer={layer} index={i} isChosen={chosen.has(i)} onChoose={onChoose} />
            ))}
          </tbody>
        </table>
      </ScrollPlace>
      {needed < layers.length && (
        <div className="row">
          <button type="button" onClick={() => setShown(needed + STEP)}>
            {Math.min(STEP, layers.length - needed)} more of {layers.length - needed}
          </button>
        </div>
      )}
    </>
  );
}

interface RowProps {
  readonly layer: Layer;
  readonly index: number;
  readonly isChosen: boolean;
  readonly onChoose: (layers: readonly number[]) => void;
}

const Row = memo(function Row({ layer, index, isChosen, onChoose }: RowProps) {
  return (
    <tr className={isChosen ? "chosen" : ""}>
      <td>
        <button
          type="button"
          className="quiet small"
          aria-pressed={isChosen}
          title="Mark it in the picture"
          onClick={() => onChoose(isChosen ? [] : [index])}
        >
          {kindText(layer)}
        </button>
      </td>
      <td className="number">{layer.count}</td>
      <td className="number">{bytesText(layer.bytes)}</td>
      <td>
        <code>{lsnsText(layer)}</code>
      </td>
      <td dir="auto">{layer.branch}</td>
      <td>{whereText(layer)}</td>
      <td>{layer.key_range}</td>
    </tr>
  );
});

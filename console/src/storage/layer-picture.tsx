// The layer map drawn: keys to the right, LSNs upwards; deltas are boxes, images lines. The table beside it has all in words.

import { memo, type PointerEvent, useLayoutEffect, useMemo, useRef, useState } from "react";
import type { ConsoleLayers } from "../api/types.ts";
import { ticks } from "../branches/tree-layout.ts";
import { bytesText, lsnNumber, lsnText } from "../parts/words.ts";
import {
  type Frame,
  kindText,
  type Layer,
  type Scale,
  type Shape,
  scaleOf,
  shapesOf,
} from "./shapes.ts";

const HEIGHT = 400;
const FOOT = 26;
const WIDE = 700;

interface LayerPictureProps {
  readonly map: ConsoleLayers;
  /** The LSN at the bottom; undefined: the oldest there is. */
  readonly from: number | undefined;
  /** Layers that are pointed out. */
  readonly chosen: ReadonlySet<number>;
  readonly onChoose: (layers: readonly number[]) => void;
}

export function LayerPicture({ map, from, chosen, onChoose }: LayerPictureProps) {
  const holder = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(600);
  const [pointed, setPointed] = useState<Shape>();
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry!.contentRect.width));
    observer.observe(holder.current!);
    return () => observer.disconnect();
  }, []);
  const frame: Frame = useMemo(
    () => ({ left: width < WIDE ? 70 : 96, right: width - 10, top: 12, bottom: HEIGHT - FOOT }),
    [width],
  );
  const scale = useMemo(() => scaleOf(map, frame, from), [map, frame, from]);
  const shapes = useMemo(() => shapesOf(map.layers, scale), [map, scale]);
  const shapeAt = (event: PointerEvent<SVGElement>) => {
    const index = (event.target as SVGElement).dataset["shape"];
    return index === undefined ? undefined : shapes[Number(index)];
  };
  const isChosen = (shape: Shape) => shape.members.some((member) => chosen.has(member));
  return (
    <div ref={holder} className="layer-picture">
      <svg
        width={width}
        height={HEIGHT}
        aria-hidden="true"
        onPointerMove={(event) => setPointed(shapeAt(event))}
        onPointerLeave={() => setPointed(undefined)}
        onPointerUp={(event) => onChoose(shapeAt(event)?.members ?? [])}
      >
        <Grid map={map} scale={scale} frame={frame} width={width} />
        <Shapes shapes={shapes} />
        <Marks map={map} scale={scale} frame={frame} />
        <g pointerEvents="none">
          {shapes.filter((one) => one === pointed || isChosen(one)).map(outline)}
        </g>
      </svg>
      <p className="hint muted" aria-hidden="true">
        {pointed === undefined
          ? "Point at a layer to see what it is; a click marks it in the table."
          : pointedText(pointed.members.map((member) => map.layers[member]!))}
      </p>
    </div>
  );
}

function outline({ x, y, width, height }: Shape, key: number) {
  return (
    <rect key={key} className="chosen" x={x - 1} y={y - 1} width={width + 2} height={height + 2} />
  );
}

function pointedText(layers: readonly Layer[]): string {
  const [first] = layers;
  if (first === undefined) {
    return "";
  }
  const count = layers.reduce((sum, one) => sum + one.count, 0);
  const bytes = layers.reduce((sum, one) => sum + one.bytes, 0);
  const what = count === 1 ? kindText(first) : `${count} layers (${kindText(first)})`;
  return `${what} of ${first.branch}, ${bytesText(bytes)} · ${lsnsText(first)} · ${first.key_range}`;
}

/** Of a delta the LSNs that it has, the last one included; of an image the one it is of. */
export function lsnsText({ kind, lsn_start, lsn_end }: Layer): string {
  return kind === "image" ? lsn_start : `${lsn_start} to ${lsnText(lsnNumber(lsn_end) - 1)}`;
}

/** As many as there are: drawn anew only where they change. */
const Shapes = memo(function Shapes({ shapes }: { readonly shapes: readonly Shape[] }) {
  return (
    <g className="layers">
      {shapes.map(({ x, y, width, height, className }, i) => (
        <rect
          key={i}
          data-shape={i}
          className={className}
          x={x}
          y={y}
          width={width}
          height={height}
        />
      ))}
    </g>
  );
});

interface GridProps {
  readonly map: ConsoleLayers;
  readonly scale: Scale;
  readonly frame: Frame;
  readonly width: number;
}

function Grid({ map, scale, frame, width }: GridProps) {
  const { left, right, bottom } = frame;
  const last = map.keys.length - 1;
  const places = width < WIDE || last < 2 ? [0, last] : [0, Math.round(last / 2), last];
  const middle = (left + right) / 2;
  return (
    <g className="grid">
      {ticks("lsn", scale.low, scale.high, 6).map((lsn) => (
        <g key={lsn}>
          <line x1={left} x2={right} y1={scale.y(lsn)} y2={scale.y(lsn)} />
          <text x={left - 6} y={scale.y(lsn) + 4} textAnchor="end">
            {lsnText(lsn)}
          </text>
        </g>
      ))}
      {last > 0 &&
        places.map((place, i) => (
          <text
            key={i}
            x={i === 0 ? left : i === places.length - 1 ? right : middle}
            y={bottom + 18}
            textAnchor={i === 0 ? "start" : i === places.length - 1 ? "end" : "middle"}
          >
            {map.keys[place]}
          </text>
        ))}
    </g>
  );
}

type MarksProps = Omit<GridProps, "width">;

/** What they are stands beside the picture, in their colours. */
function Marks({ map, scale, frame }: MarksProps) {
  const lines: readonly (readonly [string, string | null])[] = [
    ...map.branch_points.map(({ lsn }) => ["branch", lsn] as const),
    ["memory", map.memory_lsn],
    ["begin", map.begin_lsn],
    ["readable", map.readable_lsn],
    ["head", map.head_lsn],
  ];
  return (
    <g className="marks" pointerEvents="none">
      {lines.map(([kind, lsn], i) => {
        const at = lsn === null ? -1 : lsnNumber(lsn);
        return at < scale.low ? null : (
          <line
            key={i}
            className={kind}
            x1={frame.left}
            x2={frame.right}
            y1={scale.y(at)}
            y2={scale.y(at)}
          />
        );
      })}
    </g>
  );
}

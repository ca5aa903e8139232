// The lines of the branches, over time or LSN; a click on one is a point to branch from.

import { type PointerEvent, useLayoutEffect, useRef, useState } from "react";
import type { RowRange } from "../parts/rows-in-sight.ts";
import { lsnText, timeText } from "../parts/words.ts";
import { type Axis, clamp, type Lane, type TreeLayout, ticks } from "./tree-layout.ts";

export const LANE_HEIGHT = 40;
export const AXIS_HEIGHT = 28;
const PAD = 14;
const CORNER = 9;
/** Colours of lanes, by depth. */
const HUES = 4;

export interface TreePoint {
  readonly lane: Lane;
  /** On the axis. */
  readonly at: number;
  /** Behind the last commit: the branch as it is. */
  readonly isHead: boolean;
}

export interface TreePictureProps {
  readonly layout: TreeLayout;
  /** Of the lanes that are drawn. */
  readonly range: RowRange;
  readonly axis: Axis;
  readonly onPoint: (point: TreePoint) => void;
}

export function TreePicture({ layout, range, axis, onPoint }: TreePictureProps) {
  const holder = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(600);
  const [hover, setHover] = useState<TreePoint>();
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry!.contentRect.width));
    observer.observe(holder.current!);
    return () => observer.disconnect();
  }, []);
  const { lanes, from, to } = layout;
  const span = Math.max(1, to - from);
  const x = (value: number) => PAD + ((clamp(value, from, to) - from) / span) * (width - 2 * PAD);
  const pointAt = (lane: Lane, event: PointerEvent<SVGElement>): TreePoint => {
    const left = holder.current!.getBoundingClientRect().left;
    const value = from + ((event.clientX - left - PAD) / (width - 2 * PAD)) * span;
    const at = clamp(value, lane.begin, lane.end);
    return { lane, at, isHead: at >= lane.head };
  };
  const height = AXIS_HEIGHT + lanes.length * LANE_HEIGHT;
  return (
    <div ref={holder} className="tree-picture">
      <svg
        width={width}
        height={height}
        aria-hidden="true"
        onPointerLeave={() => setHover(undefined)}
      >
        <AxisTicks {...{ axis, from, to, x, width, height }} />
        <PassingStems lanes={lanes} range={range} x={x} />
        {lanes.slice(range.from, range.to).map((lane) => (
          <LaneLine
            key={lane.branch.branch.id}
            lane={lane}
            x={x}
            onHover={(event) => setHover(pointAt(lane, event))}
            onChoose={(event) => onPoint(pointAt(lane, event))}
          />
        ))}
        {hover !== undefined && <HoverMark point={hover} axis={axis} x={x} width={width} />}
      </svg>
    </div>
  );
}

function AxisTicks({
  axis,
  from,
  to,
  x,
  width,
  height,
}: {
  readonly axis: Axis;
  readonly from: number;
  readonly to: number;
  readonly x: (value: number) => number;
  readonly width: number;
  readonly height: number;
}) {
  const isDays = axis === "time" && to - from > 3 * 86_400_000;
  const text = (value: number) =>
    axis === "lsn"
      ? lsnText(value)
      : isDays
        ? timeText(value).slice(5, 10)
        : timeText(value).slice(11, to - from < 600_000 ? 19 : 16);
  return ticks(axis, from, to, Math.max(2, Math.floor(width / 110))).map((value) => (
    <g key={value} className="tick">
      <line x1={x(value)} x2={x(value)} y1={AXIS_HEIGHT - 6} y2={height} />
      <text x={clamp(x(value), 26, width - 30)} y={AXIS_HEIGHT - 12} textAnchor="middle">
        {text(value)}
      </text>
    </g>
  ));
}

function laneY({ lane }: Lane): number {
  return AXIS_HEIGHT + lane * LANE_HEIGHT + LANE_HEIGHT / 2;
}

interface LaneLineProps {
  readonly lane: Lane;
  readonly x: (value: number) => number;
  readonly onHover: (event: PointerEvent<SVGElement>) => void;
  readonly onChoose: (event: PointerEvent<SVGElement>) => void;
}

function LaneLine({ lane, x, onHover, onChoose }: LaneLineProps) {
  const y = laneY(lane);
  const top = y - LANE_HEIGHT / 2 + 0.5;
  const [begin, head, end] = [x(lane.begin), x(lane.head), x(lane.end)];
  const isAwake = lane.branch.endpoints.some((one) => one.current_state === "active");
  const isArchived = lane.branch.branch.current_state === "archived";
  const kind = isAwake ? "awake" : isArchived ? "archived" : "asleep";
  return (
    <g className={`lane ${kind} hue-${lane.depth % HUES}`}>
      <line className="shelf" x1="0" x2="100%" y1={top} y2={top} />
      {lane.parent !== undefined && (
        <path
          className="stem"
          d={`M${begin} ${laneY(lane.parent)}V${y - CORNER}Q${begin} ${y} ${begin + CORNER} ${y}`}
        />
      )}
      <line
        className="own"
        x1={begin + (lane.parent ? CORNER : 0)}
        x2={Math.max(head, begin + CORNER)}
        y1={y}
        y2={y}
      />
      <line className="still" x1={head} x2={end} y1={y} y2={y} />
      {lane.parent !== undefined && (
        <circle className="origin" cx={begin} cy={laneY(lane.parent)} r="3.5" />
      )}
      <circle className="head" cx={Math.max(head, begin + CORNER)} cy={y} r="5" />
      {!isArchived && (
        <rect
          className="hit"
          data-branch={lane.branch.branch.id}
          x={begin}
          y={y - LANE_HEIGHT / 2 + 4}
          width={Math.max(12, end - begin + PAD)}
          height={LANE_HEIGHT - 8}
          onPointerMove={onHover}
          onPointerUp={onChoose}
        />
      )}
    </g>
  );
}

interface PassingStemsProps {
  readonly lanes: readonly Lane[];
  readonly range: RowRange;
  readonly x: (value: number) => number;
}

/** Of lanes below those that are drawn, whose parents are drawn or above: one path a colour, whatever their number. */
function PassingStems({ lanes, range: { from, to }, x }: PassingStemsProps) {
  const top = AXIS_HEIGHT + from * LANE_HEIGHT;
  const bottom = AXIS_HEIGHT + to * LANE_HEIGHT;
  const hues = new Map<number, { stems: string; origins: string }>();
  for (const { depth, parent, begin } of lanes.slice(to)) {
    if (parent !== undefined && parent.lane < to) {
      const hue = hues.get(depth % HUES) ?? { stems: "", origins: "" };
      hue.stems += `M${x(begin)} ${Math.max(top, laneY(parent))}V${bottom}`;
      if (parent.lane >= from) {
        // A line of no length, with round ends, is a dot.
        hue.origins += `M${x(begin)} ${laneY(parent)}h0`;
      }
      hues.set(depth % HUES, hue);
    }
  }
  return [...hues].map(([hue, { stems, origins }]) => (
    <g key={hue} className={`lane hue-${hue}`}>
      <path className="stem" d={stems} />
      <path className="stem origins" d={origins} />
    </g>
  ));
}

interface HoverMarkProps {
  readonly point: TreePoint;
  readonly axis: Axis;
  readonly x: (value: number) => number;
  readonly width: number;
}

function HoverMark({ point: { lane, at, isHead }, axis, x, width }: HoverMarkProps) {
  const y = laneY(lane);
  const place = isHead ? "as it is now" : axis === "lsn" ? lsnText(at) : timeText(at);
  const widthOf = (text: string) => text.length * 6.6 + 16;
  const long = `branch ${place}`;
  const where = widthOf(long) < width ? long : place;
  const labelWidth = widthOf(where);
  const left = Math.max(2, Math.min(x(at) - labelWidth / 2, width - labelWidth - 2));
  const top = lane.lane === 0 ? y + 12 : y - 34;
  return (
    <g className="hover" pointerEvents="none">
      <circle cx={x(at)} cy={y} r="6" />
      <rect x={left} y={top} width={labelWidth} height="22" rx="5" />
      <text x={left + labelWidth / 2} y={top + 15} textAnchor="middle">
        {where}
      </text>
    </g>
  );
}

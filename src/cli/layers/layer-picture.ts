// The layer map drawn: keys to the right, LSNs upwards; deltas are boxes, images lines.

import { formatLsn, type Lsn } from "../../base/lsn.ts";
import { Picture } from "../../base/text/svg.ts";
import { keyWords } from "../../storage-controller/layers/key-words.ts";
import {
  type BranchLayer,
  type BranchLayers,
  END_KEY,
  type KeyAxis,
  keyAxis,
  lsnRange,
} from "../../storage-controller/layers/layer-map.ts";

const WIDTH = 1200;
const HEIGHT = 760;
const LEFT = 40;
const RIGHT = 940;
const TOP = 60;
const BOTTOM = 640;
/** A layer over few LSNs is seen all the same. */
const MIN_PIXELS = 3;
const MAX_LABELS = 24;
const LABEL_HEIGHT = 15;
const TICKS = 5;

const DELTA = { own: "#bfdbfe", inherited: "#e5e7eb" };
const IMAGE = { own: "#d97706", inherited: "#9ca3af" };
const HEAD = "#111827";
const CUTOFF = "#dc2626";
const BRANCH = "#2563eb";

interface Shape {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly first: BranchLayer;
  count: number;
  sizeBytes: number;
}

interface Mark {
  readonly lsn: Lsn;
  readonly text: string;
  readonly colour: string;
}

/**
 * An SVG. Keys have the distances of the layers' bounds, not of their numbers, since nearly all of the key space is empty.
 * Layers that would lie on the same pixels are one shape, so the picture stays as large as it is however many there are.
 */
export function drawLayers(
  map: BranchLayers,
  branchName: string,
  nameOf: (timelineId: string) => string,
): string {
  const { layers } = map;
  const axis = keyAxis(layers);
  const { bounds } = axis;
  const x = (place: number) =>
    Math.round(LEFT + (place / Math.max(1, bounds.length - 1)) * (RIGHT - LEFT));
  const lsns = [map.headLsn, map.minReadableLsn, ...layers.map(({ lsnStart }) => lsnStart)];
  const low = lsns.reduce((least, lsn) => Math.min(least, lsn), map.headLsn as number);
  const high = Math.max(low + 1, map.headLsn);
  const y = (lsn: number) => Math.round(BOTTOM - ((lsn - low) / (high - low)) * (BOTTOM - TOP));
  const picture = new Picture(`Layers of branch ${branchName}`, WIDTH, HEIGHT);
  const bytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  picture.text([LEFT, 32], `Layers of branch ${branchName}`, { bold: true, anchor: "start" });
  picture.text([RIGHT, 32], `${layers.length} layers, ${sizeWords(bytes)}`, {
    small: true,
    anchor: "end",
  });
  for (const shape of shapesOf(layers, axis, x, y)) {
    drawShape(picture, shape, nameOf);
  }
  drawMarks(picture, marksOf(map, nameOf), y);
  drawKeys(picture, bounds);
  drawLegend(picture);
  return picture.toString();
}

/** Deltas first: images lie on top. */
function shapesOf(
  layers: readonly BranchLayer[],
  axis: KeyAxis,
  x: (place: number) => number,
  y: (lsn: number) => number,
): Shape[] {
  const shapes = new Map<string, Shape>();
  for (const layer of layers) {
    const { from, to } = axis.placeOf(layer);
    const left = x(from);
    const width = Math.max(MIN_PIXELS, x(to) - left);
    const top = y(layer.lsnEnd - 1);
    const height = layer.kind === "Image" ? 0 : Math.max(MIN_PIXELS, y(layer.lsnStart) - top);
    const key = `${layer.kind} ${layer.isOwn} ${left} ${top} ${width} ${height}`;
    const shape = shapes.get(key);
    if (shape === undefined) {
      const { sizeBytes } = layer;
      shapes.set(key, { x: left, y: top, width, height, first: layer, count: 1, sizeBytes });
    } else {
      shape.count++;
      shape.sizeBytes += layer.sizeBytes;
    }
  }
  const order = ({ first }: Shape) => (first.kind === "Image" ? 1 : 0);
  return [...shapes.values()].sort((a, b) => order(a) - order(b));
}

function drawShape(picture: Picture, shape: Shape, nameOf: (id: string) => string): void {
  const { x, y, width, height, first, count, sizeBytes } = shape;
  const colours = first.kind === "Image" ? IMAGE : DELTA;
  const colour = first.isOwn ? colours.own : colours.inherited;
  const hint = [
    `${count === 1 ? first.kind : `${count} ${first.kind} layers`} of ${nameOf(first.timelineId)}, ${sizeWords(sizeBytes)}`,
    lsnRange(first),
    `${keyWords(first.keyStart)} to ${keyWords(first.keyEnd)}`,
  ].join("\n");
  const isImage = first.kind === "Image";
  picture.rectangle(
    { x, y: isImage ? y - 1 : y, width, height: isImage ? 2 : height },
    { fill: colour, stroke: isImage ? colour : "#6b7280", plain: true, hint },
  );
}

function marksOf(map: BranchLayers, nameOf: (id: string) => string): Mark[] {
  const marks: Mark[] = [{ lsn: map.headLsn, text: "head", colour: HEAD }];
  if (map.memoryFrom !== undefined) {
    marks.push({ lsn: map.memoryFrom, text: "in memory from here on", colour: HEAD });
  }
  if (map.minReadableLsn > 0) {
    marks.push({ lsn: map.minReadableLsn, text: "oldest readable", colour: CUTOFF });
  }
  if (map.beginLsn !== undefined) {
    marks.push({ lsn: map.beginLsn, text: "the branch begins", colour: BRANCH });
  }
  for (const { timelineId, lsn } of map.branchPoints) {
    marks.push({ lsn, text: `branch ${nameOf(timelineId)}`, colour: BRANCH });
  }
  return marks.sort((a, b) => b.lsn - a.lsn);
}

/** Lines where they are, labels beside them, moved down where they would lie on each other. */
function drawMarks(picture: Picture, marks: readonly Mark[], y: (lsn: number) => number): void {
  let labelY = TOP - LABEL_HEIGHT;
  for (const [i, { lsn, text, colour }] of marks.entries()) {
    picture.line([LEFT, y(lsn)], [RIGHT, y(lsn)], { dashed: true, colour });
    labelY = Math.max(labelY + LABEL_HEIGHT, y(lsn));
    if (i < MAX_LABELS) {
      picture.line([RIGHT, y(lsn)], [RIGHT + 12, labelY], { colour });
      picture.text([RIGHT + 16, labelY + 4], `${formatLsn(lsn)} ${text}`, {
        small: true,
        anchor: "start",
      });
    }
  }
  if (marks.length > MAX_LABELS) {
    const more = `and ${marks.length - MAX_LABELS} more`;
    picture.text([RIGHT + 16, labelY + LABEL_HEIGHT], more, { small: true, anchor: "start" });
  }
}

function drawKeys(picture: Picture, bounds: readonly string[]): void {
  for (let tick = 0; tick < TICKS && bounds.length > 0; tick++) {
    const share = tick / (TICKS - 1);
    const key = bounds[Math.round(share * (bounds.length - 1))]!;
    const at = LEFT + share * (RIGHT - LEFT);
    picture.line([at, BOTTOM + 6], [at, BOTTOM + 12]);
    const words = key === END_KEY ? "the last key" : keyWords(key);
    picture.text([at, BOTTOM + 28 + (tick % 2) * 16], words, {
      small: true,
      anchor: tick === 0 ? "start" : tick === TICKS - 1 ? "end" : "middle",
    });
  }
}

function drawLegend(picture: Picture): void {
  const legend = [
    ["deltas", DELTA.own],
    ["images", IMAGE.own],
    ["inherited deltas", DELTA.inherited],
    ["inherited images", IMAGE.inherited],
  ] as const;
  for (const [i, [text, fill]] of legend.entries()) {
    const at = LEFT + i * 180;
    picture.rectangle({ x: at, y: HEIGHT - 40, width: 16, height: 12 }, { fill, plain: true });
    picture.text([at + 24, HEIGHT - 29], text, { small: true, anchor: "start" });
  }
}

/** `1.5 MiB`. */
export function sizeWords(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

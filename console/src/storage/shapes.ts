// Where layers lie in the picture: keys to the right, LSNs upwards. Those on the same pixels are one shape.

import type { ConsoleLayers } from "../api/types.ts";
import { lsnNumber } from "../parts/words.ts";

export type Layer = ConsoleLayers["layers"][number];

/** A layer over few LSNs is seen all the same. */
const MIN_PIXELS = 3;

export interface Frame {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

export interface Scale {
  readonly low: number;
  readonly high: number;
  /** Of a bound of keys, by its place among them. */
  readonly x: (place: number) => number;
  readonly y: (lsn: number) => number;
}

export interface Shape {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly className: string;
  /** Which of the answer's layers. */
  readonly members: number[];
}

/** `from`: the LSN at the bottom; undefined: the oldest layer's. */
export function scaleOf(map: ConsoleLayers, frame: Frame, from: number | undefined): Scale {
  const head = lsnNumber(map.head_lsn);
  const starts = map.layers.map(({ lsn_start }) => lsnNumber(lsn_start));
  const low =
    from ?? starts.reduce((least, lsn) => Math.min(least, lsn), lsnNumber(map.readable_lsn));
  const high = Math.max(low + 1, head);
  const { left, right, top, bottom } = frame;
  const places = Math.max(1, map.keys.length - 1);
  return {
    low,
    high,
    x: (place) => Math.round(left + (place / places) * (right - left)),
    y: (lsn) => Math.round(bottom - ((lsn - low) / (high - low)) * (bottom - top)),
  };
}

/** Deltas first: images lie on top. What ends below the picture is not in it. */
export function shapesOf(layers: readonly Layer[], { low, high, x, y }: Scale): readonly Shape[] {
  const shapes = new Map<string, Shape>();
  for (const [i, layer] of layers.entries()) {
    const [start, end] = [lsnNumber(layer.lsn_start), lsnNumber(layer.lsn_end)];
    if (end <= low) {
      continue;
    }
    const left = x(layer.key_from);
    const width = Math.max(MIN_PIXELS, x(layer.key_to) - left);
    const top = y(Math.min(end, high));
    const isImage = layer.kind === "image";
    const height = isImage ? MIN_PIXELS : Math.max(MIN_PIXELS, y(Math.max(start, low)) - top);
    const className = classOf(layer);
    const key = `${className} ${left} ${top} ${width} ${height}`;
    const shape = shapes.get(key);
    if (shape === undefined) {
      shapes.set(key, { x: left, y: top, width, height, className, members: [i] });
    } else {
      shape.members.push(i);
    }
  }
  const order = ({ className }: Shape) => (className.includes("image") ? 1 : 0);
  return [...shapes.values()].sort((a, b) => order(a) - order(b));
}

export function classOf({ kind, is_l0, is_own, remote, count }: Layer): string {
  const words = [is_l0 ? "l0" : kind, is_own ? "own" : "inherited"];
  return [...words, ...(remote === count ? ["remote"] : [])].join(" ");
}

/** The same one in a later answer, where it may have another place. */
export function identityOf({ kind, branch, lsn_start, lsn_end, key_range }: Layer): string {
  return `${kind} ${branch} ${lsn_start} ${lsn_end} ${key_range}`;
}

export const kindText = ({ kind, is_l0 }: Pick<Layer, "kind" | "is_l0">): string =>
  is_l0 ? "delta, L0" : kind;

export function whereText({ remote, count }: Pick<Layer, "remote" | "count">): string {
  return remote === 0 ? "disk" : remote === count ? "store only" : `${remote} in the store only`;
}

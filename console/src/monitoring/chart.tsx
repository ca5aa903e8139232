// Lines over time, drawn by uPlot in the page's colours; what they are now stands beside them as text.

import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { SeriesOf } from "./series.ts";

const HEIGHT = 130;
const HUES = ["--hue-0", "--hue-1"] as const;

interface ChartProps {
  readonly title: string;
  /** A name for each line. */
  readonly names: readonly string[];
  readonly series: SeriesOf;
  readonly text: (value: number) => string;
}

export function Chart({ title, names, series, text }: ChartProps) {
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const data = [series.times, ...series.values] as unknown as uPlot.AlignedData;
  // biome-ignore lint/correctness/useExhaustiveDependencies: made once; data come by the effect below
  useEffect(() => {
    const element = holder.current!;
    plot.current = new uPlot(optionsOf(element, names, text), data, element);
    const fit = () => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT });
    const observer = new ResizeObserver(fit);
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(data));
  return (
    <figure className="card chart">
      <figcaption>
        <strong>{title}</strong>
        {names.map((name, i) => {
          const value = series.values[i]?.findLast((one) => one !== null);
          return (
            <span key={name} className={`hue-${i}`}>
              {name} <b>{value == null ? "—" : text(value)}</b>
            </span>
          );
        })}
      </figcaption>
      <div ref={holder} aria-hidden="true" />
    </figure>
  );
}

function optionsOf(
  element: HTMLElement,
  names: readonly string[],
  text: (value: number) => string,
): uPlot.Options {
  // Asked for at each drawing: light and dark may change meanwhile.
  const ink = (name: string) => () => {
    element.style.color = `var(${name})`;
    return getComputedStyle(element).color;
  };
  const axis = { stroke: ink("--muted"), font: "11px system-ui, sans-serif" };
  const lines = { stroke: ink("--line"), width: 1 };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, ticks: lines, size: 24 },
      {
        ...axis,
        grid: lines,
        ticks: { show: false },
        size: 66,
        values: (_, values) => values.map(text),
      },
    ],
    series: [
      {},
      ...names.map((label, i) => ({
        label,
        stroke: ink(HUES[i] ?? HUES[0]),
        width: 1.5,
        points: { show: false },
      })),
    ],
  };
}

// What a branch is doing: sessions, transactions, rows, WAL and storage, as they change.

import { useMemo } from "react";
import type { TreeBranch } from "../api/types.ts";
import { bytesText } from "../parts/words.ts";
import { BranchSelect } from "../projects/branch-select.tsx";
import { useBranch } from "../projects/use-branch.ts";
import { Chart } from "./chart.tsx";
import { useSamples } from "./samples.ts";
import { cacheHits, type Measure, rateOf, seriesOf, walRate } from "./series.ts";
import "../styles/monitoring.css";

interface ChartSpec {
  readonly title: string;
  readonly names: readonly string[];
  readonly measures: readonly Measure[];
  readonly text: (value: number) => string;
}

const CHARTS: readonly ChartSpec[] = [
  {
    title: "Connections",
    names: ["all", "at work"],
    measures: [
      ({ postgres }) => postgres?.connections ?? null,
      ({ postgres }) => postgres?.active ?? null,
    ],
    text: numberText,
  },
  {
    title: "Transactions a second",
    names: ["committed", "rolled back"],
    measures: [rateOf("commits"), rateOf("rollbacks")],
    text: numberText,
  },
  {
    title: "Rows a second",
    names: ["read", "written"],
    measures: [rateOf("rowsRead"), rateOf("rowsWritten")],
    text: numberText,
  },
  {
    title: "Found in shared buffers",
    names: ["of the blocks that were asked for"],
    measures: [cacheHits],
    text: (value) => `${value.toFixed(value < 99.95 && value > 0 ? 1 : 0)} %`,
  },
  {
    title: "WAL a second",
    names: ["written"],
    measures: [walRate],
    text: bytesText,
  },
  {
    title: "Storage",
    names: ["layers that the branch made"],
    measures: [({ layers_bytes }) => layers_bytes ?? null],
    text: bytesText,
  },
];

export function MonitoringPage() {
  const branch = useBranch();
  return branch === undefined ? (
    <p className="empty" aria-busy="true" />
  ) : (
    <MonitoringOf key={branch.branch.id} branch={branch} />
  );
}

function MonitoringOf({ branch: { branch } }: { readonly branch: TreeBranch }) {
  const { samples, isAway } = useSamples(branch.project_id, branch.id);
  const last = samples.at(-1);
  const charts = useMemo(
    () => CHARTS.map((spec) => ({ spec, series: seriesOf(samples, spec.measures) })),
    [samples],
  );
  return (
    <>
      <header className="page-head">
        <h1 className="hidden">Monitoring</h1>
        <BranchSelect />
        <span role="status">
          {last !== undefined && (
            <>
              <span className={`dot ${last.is_awake ? "awake" : "asleep"}`} />{" "}
              {last.is_awake ? "awake" : "asleep"}
              {last.postgres !== undefined &&
                ` · at most ${last.postgres.maxConnections} connections`}
            </>
          )}
        </span>
      </header>
      {isAway && <p className="notice">Nothing is heard of the branch at the moment.</p>}
      <div className="charts">
        {charts.map(({ spec, series }) => (
          <Chart
            key={spec.title}
            title={spec.title}
            names={spec.names}
            series={series}
            text={spec.text}
          />
        ))}
      </div>
      <p className="hint muted">
        Every two seconds, while somebody looks; up to half an hour is kept. Looking neither wakes
        the branch nor keeps it awake. Transactions, rows and blocks are those of all databases but{" "}
        <code>postgres</code>.
      </p>
    </>
  );
}

function numberText(value: number): string {
  return value >= 100 || Number.isInteger(value)
    ? Math.round(value).toLocaleString("en")
    : value.toFixed(1);
}

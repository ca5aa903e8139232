// What a branch costs, and what its deletion or a shorter history would free: only what can be told for sure.

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { costsQuery } from "../api/queries.ts";
import type { ConsoleCosts } from "../api/types.ts";
import { ErrorNotice } from "../parts/notice.tsx";
import { bytesText, timeText } from "../parts/words.ts";

const HOUR = 3600;
/** How far back history may be tried to go, in seconds. */
const WINDOWS: readonly (readonly [string, number])[] = [
  ["7 days", 168 * HOUR],
  ["1 day", 24 * HOUR],
  ["6 hours", 6 * HOUR],
  ["1 hour", HOUR],
  ["1 minute", 60],
];

interface CostsProps {
  readonly projectId: string;
  readonly branchId: string;
}

export function Costs({ projectId, branchId }: CostsProps) {
  const [seconds, setSeconds] = useState<number>();
  const costs = useQuery(costsQuery(projectId, branchId, seconds));
  const { data } = costs;
  return (
    <section className="costs" aria-labelledby="costs-title">
      <h2 id="costs-title">What it costs</h2>
      {costs.error && <ErrorNotice error={costs.error} />}
      {data !== undefined && (
        <>
          <dl className="card">
            <Sizes costs={data} />
          </dl>
          <div className="card">
            <label className="inline-field">
              <span>If history went back</span>
              <select
                value={seconds ?? ""}
                onChange={({ target: { value } }) =>
                  setSeconds(value === "" ? undefined : Number(value))
                }
              >
                <option value="">{secondsText(data.kept_seconds)}, as it does</option>
                {WINDOWS.filter(([, one]) => one < data.kept_seconds).map(([title, one]) => (
                  <option key={one} value={one}>
                    {title} only
                  </option>
                ))}
              </select>
            </label>
            <Window window={data.window} isOld={costs.isPlaceholderData} />
          </div>
        </>
      )}
    </section>
  );
}

function Sizes({ costs }: { readonly costs: ConsoleCosts }) {
  const since = costs.readable_time === null ? "" : `since ${timeText(costs.readable_time)}, `;
  return (
    <>
      <Fact title="Logical size" bytes={costs.logical_bytes}>
        all tables and indexes, as Postgres counts
      </Fact>
      <Fact title="History that can be read" bytes={costs.history_wal_bytes}>
        of WAL, {since}from <code>{costs.readable_lsn}</code> on
      </Fact>
      {costs.own_wal_bytes !== null && (
        <Fact title="Written since it left its parent" bytes={costs.own_wal_bytes}>
          of WAL
        </Fact>
      )}
      <Fact title="In memory only" bytes={costs.unflushed_wal_bytes}>
        of WAL that is in no layer yet; the safekeepers have it
      </Fact>
      <Fact title="Its deletion would free" bytes={costs.delete_frees_bytes}>
        of layers that no other branch can read; its WAL is not counted
      </Fact>
    </>
  );
}

interface FactProps {
  readonly title: string;
  readonly bytes: number | null;
  readonly children: ReactNode;
}

function Fact({ title, bytes, children }: FactProps) {
  return (
    <div>
      <dt>{title}</dt>
      <dd>
        <b>{bytes === null ? "not known yet" : bytesText(bytes)}</b>
        <span className="hint">{children}</span>
      </dd>
    </div>
  );
}

interface WindowProps {
  readonly window: ConsoleCosts["window"];
  /** Of another choice: the new one is on its way. */
  readonly isOld: boolean;
}

function Window({ window: { frees, rewritten, held_by, ...cutoff }, isOld }: WindowProps) {
  const time = cutoff.cutoff_time === null ? "" : `, of ${timeText(cutoff.cutoff_time)}`;
  return (
    <p role="status" aria-busy={isOld}>
      {isOld ? (
        "Looking…"
      ) : (
        <>
          The next collection would free at least <b>{bytesText(frees.bytes)}</b> of this branch:{" "}
          {frees.layers} {frees.layers === 1 ? "layer" : "layers"} go
          {rewritten.layers > 0 &&
            `, and ${rewritten.layers} (${bytesText(rewritten.bytes)}) are rewritten with what is still needed of them`}
          . It would go up to <code>{cutoff.cutoff_lsn}</code>
          {time}.
          {held_by.length > 0 && (
            <>
              {" "}
              What is older is held by <bdi>{held_by.slice(0, 5).join(", ")}</bdi>
              {held_by.length > 5 && ` and ${held_by.length - 5} more`}.
            </>
          )}{" "}
          The window is the project's: its other branches change with it.
        </>
      )}
    </p>
  );
}

function secondsText(seconds: number): string {
  const [size, unit] =
    seconds % (24 * HOUR) === 0 && seconds > 0
      ? [24 * HOUR, "day"]
      : seconds % HOUR === 0 && seconds > 0
        ? [HOUR, "hour"]
        : [1, "second"];
  const count = seconds / size;
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

// A point of a branch's history: its head, a time, or an LSN.

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { projectsQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { timeText } from "../parts/words.ts";

const LSN = /^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/i;

/** `prefix`: `parent` or `source`, as the API names the fields. Undefined is the head. */
export function pointBody(point: string | undefined, prefix: "parent" | "source") {
  return point === undefined
    ? {}
    : { [`${prefix}_${LSN.test(point) ? "lsn" : "timestamp"}`]: point };
}

interface PointFieldProps {
  /** An LSN, or RFC 3339; undefined: the head. */
  readonly value: string | undefined;
  readonly onChange: (value: string | undefined) => void;
  /** What the head is called; absent: it cannot be chosen. */
  readonly now?: string;
  /** Whose history it is: how far back the slider goes. */
  readonly of: TreeBranch;
}

export function PointField({ value, onChange, now, of }: PointFieldProps) {
  const kind = value === undefined ? "head" : LSN.test(value) ? "lsn" : "time";
  const choose = (chosen: string) => {
    const defaults = { head: undefined, time: new Date().toISOString(), lsn: "0/0" };
    onChange(defaults[chosen as "head" | "time" | "lsn"]);
  };
  return (
    <fieldset className="field point">
      <legend>At</legend>
      <div className="row">
        <select
          aria-label="Kind of point"
          value={kind}
          onChange={(event) => choose(event.target.value)}
        >
          {now !== undefined && <option value="head">{now}</option>}
          <option value="time">A time</option>
          <option value="lsn">An LSN</option>
        </select>
        {kind === "time" && (
          <input
            type="datetime-local"
            aria-label="Time"
            step="0.001"
            required
            value={localText(value!)}
            onChange={(event) => {
              const time = new Date(event.target.value);
              onChange(Number.isNaN(time.getTime()) ? value : time.toISOString());
            }}
          />
        )}
        {kind === "lsn" && (
          <input
            aria-label="LSN"
            required
            pattern={LSN.source.replace("^", "").replace("$", "").replaceAll("A-F", "A-Fa-f")}
            defaultValue={value}
            onChange={(event) => LSN.test(event.target.value) && onChange(event.target.value)}
          />
        )}
      </div>
      {kind !== "lsn" && (
        <TimeSlider value={value} onChange={onChange} hasNow={now !== undefined} of={of} />
      )}
      {kind === "time" && <small>Everything that was committed by then is in it.</small>}
    </fieldset>
  );
}

const SLIDER_STEPS = 500;

interface TimeSliderProps extends Pick<PointFieldProps, "value" | "onChange" | "of"> {
  /** Its end is the head. */
  readonly hasNow: boolean;
}

/** From where the branch's history begins until now, in as many steps as a hand can tell apart. */
function TimeSlider({ value, onChange, hasNow, of: { branch, begin_time } }: TimeSliderProps) {
  const projects = useQuery(projectsQuery);
  const [end] = useState(Date.now);
  const retention = projects.data?.find(({ id }) => id === branch.project_id);
  const kept = end - (retention?.history_retention_seconds ?? 0) * 1000;
  const begin = Math.min(end - 1000, Math.max(kept, Date.parse(begin_time ?? branch.created_at)));
  const stepMs = (end - begin) / SLIDER_STEPS;
  const at = value === undefined ? end : Date.parse(value);
  return (
    <input
      type="range"
      aria-label="How far back"
      aria-valuetext={value === undefined ? "now" : timeText(value)}
      min={0}
      max={SLIDER_STEPS}
      value={Math.round((at - begin) / stepMs)}
      onChange={(event) => {
        const step = Number(event.target.value);
        const isEnd = step === SLIDER_STEPS;
        onChange(isEnd && hasNow ? undefined : new Date(begin + step * stepMs).toISOString());
      }}
    />
  );
}

/** As the browser's field wants it: local, without a zone. */
function localText(time: string): string {
  const millis = `${new Date(time).getMilliseconds()}`.padStart(3, "0");
  return `${timeText(time).replace(" ", "T")}.${millis}`;
}

// A point of a branch's history: its head, a time, or an LSN.

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
}

export function PointField({ value, onChange, now }: PointFieldProps) {
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
      {kind === "time" && <small>Everything that was committed by then is in it.</small>}
    </fieldset>
  );
}

/** As the browser's field wants it: local, without a zone. */
function localText(time: string): string {
  const millis = `${new Date(time).getMilliseconds()}`.padStart(3, "0");
  return `${timeText(time).replace(" ", "T")}.${millis}`;
}

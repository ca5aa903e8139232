// How long the parts of an endpoint's last start took: a bar, and the same in numbers.

import { useQuery } from "@tanstack/react-query";
import { lastStartQuery } from "../api/queries.ts";
import type { ApiEndpoint, ConsoleStart } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { ErrorNotice } from "../parts/notice.tsx";
import { ScrollPlace } from "../parts/scroll-place.tsx";
import { msText } from "../parts/words.ts";

type StartMetrics = NonNullable<ConsoleStart["last"]>["metrics"];

const PARTS = [
  ["process_ms", "Agent", "its process begins; one that waited for work only hears whose it is"],
  [
    "sync_safekeepers_ms",
    "Election",
    "wins a term at the safekeepers, and learns where the WAL ends",
  ],
  ["basebackup_ms", "State", "the pageserver reaches that LSN, and tells what was there"],
  ["data_directory_ms", "Data directory", "is written; during the election, as a rule"],
  ["start_postgres_ms", "Postgres", "until it takes connections, once all else is there"],
] as const satisfies readonly (readonly [keyof StartMetrics, string, string])[];
const REST = ["rest_ms", "Rest", "what is between them; all WAL is on a majority"] as const;

interface Part {
  readonly key: string;
  readonly title: string;
  readonly what: string;
  readonly ms: number;
}

export function LastStart({ endpoint }: { readonly endpoint: ApiEndpoint }) {
  const { data, error } = useQuery(lastStartQuery(endpoint.project_id, endpoint.id));
  return (
    <section className="last-start" aria-labelledby="last-start-title">
      <header className="section-head">
        <h2 id="last-start-title">Last start</h2>
        {data?.last?.at && (
          <span className="muted">
            <Ago time={data.last.at} />
          </span>
        )}
      </header>
      {error && <ErrorNotice error={error} />}
      {data?.last === null && (
        <p className="muted">
          Nothing is known of one: it has not started yet, or its log does not go so far back.
        </p>
      )}
      {data?.last && <Parts metrics={data.last.metrics} />}
    </section>
  );
}

function Parts({ metrics }: { readonly metrics: StartMetrics }) {
  const parts = partsOf(metrics);
  const sum = parts.reduce((all, { ms }) => all + ms, 0) || 1;
  return (
    <>
      <div className="start-bar" aria-hidden="true">
        {parts.map(({ key, title, ms }) => (
          <span
            key={key}
            className={`start-part ${key}`}
            style={{ width: `${(100 * ms) / sum}%` }}
            title={`${title}: ${msText(ms)}`}
          />
        ))}
      </div>
      <ScrollPlace label="Parts of the last start">
        <table>
          <tbody>
            {parts.map(({ key, title, what, ms }) => (
              <tr key={key}>
                <th scope="row">
                  <span className={`start-sign ${key}`} /> {title}
                </th>
                <td className="number">{msText(ms)}</td>
                <td className="muted what">{what}</td>
              </tr>
            ))}
            <tr>
              <th scope="row">All</th>
              <td className="number">{msText(metrics.total_startup_ms)}</td>
              <td className="muted what">until Postgres takes connections</td>
            </tr>
          </tbody>
        </table>
      </ScrollPlace>
    </>
  );
}

/** Parts that overlap are longer together than the whole: then there is no rest. */
function partsOf(metrics: StartMetrics): readonly Part[] {
  const parts = PARTS.map(([key, title, what]) => ({ key, title, what, ms: metrics[key] }));
  const known = parts.reduce((all, { ms }) => all + ms, 0);
  const [key, title, what] = REST;
  return [...parts, { key, title, what, ms: Math.max(0, metrics.total_startup_ms - known) }];
}

// The logs of an endpoint: their end and what comes to it as server-sent events, and to be kept as a file.
//
// They are read where they are, so an endpoint that sleeps tells as much as one that is awake, and is not woken. Who
// reads slowly is waited for: what comes meanwhile stays in the file.

import type { z } from "zod";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { AnswerWithHeaders, mediaRoute, type Route } from "../../http/route.ts";
import { type LogFollower, readLogTail, readLogText } from "../../local/logs/log-file.ts";
import { findEndpointRow, notFound, type Parts } from "../api-v2/lookup.ts";
import { endpointParams } from "../api-v2/schemas.ts";
import { type EventStream, Listeners } from "./event-stream.ts";
import { type LogEvent, logDownloadQuery, logQuery } from "./schemas.ts";

const LOOK_INTERVAL_MS = 500;
const MAX_LISTENERS = 50;
const DEFAULT_ENTRIES = 200;

interface Reader {
  readonly id: string;
  readonly follower: LogFollower;
}

export class Logs {
  readonly #parts: Parts;
  readonly #listeners = new Listeners<Reader>(async (readers) => {
    await Promise.all([...readers].map(([stream, reader]) => this.#look(stream, reader)));
  }, LOOK_INTERVAL_MS);

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  routes(): Route[] {
    const path = "/console/projects/{project_id}/endpoints/{endpoint_id}/logs";
    return [
      mediaRoute(
        {
          method: "GET",
          path,
          summary:
            "Server-sent events: entries of an endpoint's log, first those of before. Passwords in statements are taken out.",
          scope: "tenant",
          mediaType: "text/event-stream",
          params: endpointParams,
          query: logQuery,
        },
        ({ params, query }) => this.#listen(params, query),
      ),
      mediaRoute(
        {
          method: "GET",
          path: `${path}/download`,
          summary: "The end of an endpoint's log, at most 16 MB, as a file.",
          scope: "tenant",
          mediaType: "text/plain; charset=utf-8",
          params: endpointParams,
          query: logDownloadQuery,
        },
        async ({ params, query: { source } }) => {
          const { endpoint } = await findEndpointRow(this.#parts, params);
          const name = `${endpoint.id}-${source}.log`;
          return new AnswerWithHeaders(
            { "content-disposition": `attachment; filename="${name}"` },
            readLogText(this.#fileOf(endpoint.id, source), source),
          );
        },
      ),
    ];
  }

  /** Ends all streams: a stop does not wait for them. */
  close(): void {
    this.#listeners.end();
  }

  #fileOf(id: string, source: z.infer<typeof logQuery>["source"]): string {
    const path = this.#parts.computes.provider.logFile(id, source);
    if (path === undefined) {
      throw notFound("endpoint", id);
    }
    return path;
  }

  async #listen(
    ids: { readonly project_id: string; readonly endpoint_id: string },
    { source, level, lines = DEFAULT_ENTRIES }: z.infer<typeof logQuery>,
  ): Promise<EventStream> {
    const { endpoint } = await findEndpointRow(this.#parts, ids);
    const path = this.#fileOf(endpoint.id, source);
    if (this.#listeners.size >= MAX_LISTENERS) {
      throw new StorageError("unavailable", "too-many-listeners", "too many browsers read logs");
    }
    const { entries, follower } = await readLogTail(path, { source, level }, lines);
    const stream = this.#listeners.add({ id: endpoint.id, follower });
    stream.send({ entries } satisfies LogEvent);
    return stream;
  }

  async #look(stream: EventStream, { id, follower }: Reader): Promise<void> {
    if (stream.isBehind) {
      return;
    }
    try {
      const entries = await follower.poll();
      if (entries.length > 0) {
        stream.send({ entries } satisfies LogEvent);
      } else if (!this.#parts.computes.provider.exists(id)) {
        // Whoever opens the stream again is told that it is gone.
        stream.end();
      }
    } catch (error) {
      const fields = { endpoint: id, reason: errorMessage(error) };
      this.#parts.logger.info(fields, "a log could not be read");
      stream.end();
    }
  }
}

// Tells browsers that something changed, as server-sent events: they ask for it then, and need not ask over and over.
//
// What the command line changes in the home is told of as well, so the home is looked at, while anybody listens.

import { errorMessage } from "../../base/errors.ts";
import type { Route } from "../../http/route.ts";
import { callerOf, type Parts } from "../api-v2/lookup.ts";
import { type EventStream, eventRoute, Listeners } from "./event-stream.ts";

const LOOK_INTERVAL_MS = 1000;
/** Browsers open again what has ended. */
const MAX_LISTENERS = 200;

export class Changes {
  readonly #parts: Parts;
  /** With the only project that each hears of; null: all. */
  readonly #listeners: Listeners<string | null>;
  /** By project: what it looked like. Empty at first: whoever comes has all read again that was read before. */
  #seen: ReadonlyMap<string, string> = new Map();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#listeners = new Listeners(
      (listeners) => this.#look(listeners),
      LOOK_INTERVAL_MS,
      () => {
        this.#seen = new Map();
      },
    );
  }

  routes(): Route[] {
    return [
      eventRoute(
        {
          path: "/console/changes",
          summary: "Server-sent events: ids of projects in which something changed.",
        },
        (request) => {
          this.#listeners.endOldest(MAX_LISTENERS);
          return this.#listeners.add(callerOf(request).projectId);
        },
      ),
    ];
  }

  close(): void {
    this.#listeners.end();
  }

  async #look(listeners: ReadonlyMap<EventStream, string | null>): Promise<void> {
    try {
      const now = await this.#picture();
      const changed = [...new Set([...now.keys(), ...this.#seen.keys()])].filter(
        (id) => now.get(id) !== this.#seen.get(id),
      );
      this.#seen = now;
      for (const [listener, projectId] of listeners) {
        const heard = changed.filter((id) => projectId === null || projectId === id);
        if (heard.length > 0) {
          listener.send(heard);
        }
      }
    } catch (error) {
      this.#parts.logger.info({ reason: errorMessage(error) }, "the home could not be looked at");
    }
  }

  async #picture(): Promise<Map<string, string>> {
    const { db, inventory, computes } = this.#parts;
    await inventory.refresh();
    const parts = new Map<string, string[]>();
    const add = (project: string, text: string) => {
      parts.set(project, [...(parts.get(project) ?? []), text]);
    };
    for (const row of await db
      .selectFrom("projects")
      .select(["id", "name", "updated_at"])
      .execute()) {
      add(row.id, `${row.name} ${row.updated_at}`);
    }
    for (const row of await db.selectFrom("branches").selectAll().execute()) {
      add(
        row.project_id,
        `${row.id} ${row.name} ${row.timeline_id} ${row.creating} ${row.updated_at}`,
      );
    }
    for (const row of await db.selectFrom("endpoints").selectAll().execute()) {
      const { isRunning } = computes.stateOf(row.id);
      add(row.project_id, `${row.id} ${isRunning} ${row.creating} ${row.updated_at}`);
    }
    const operations = await db
      .selectFrom("operations")
      .select((of) => ["project_id", of.fn.max("updated_at").as("last")])
      .groupBy("project_id")
      .execute();
    for (const row of operations) {
      add(row.project_id, `operations ${row.last}`);
    }
    return new Map([...parts].map(([id, texts]) => [id, texts.join("\n")]));
  }
}

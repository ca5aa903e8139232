// What goes on in a branch, told to browsers every two seconds as server-sent events.
//
// A branch is looked at while anybody listens, once for all of them, and is neither woken nor kept awake by it. What was
// seen is kept for who comes later, as long as this process lives.

import { nowMs } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import type { Route } from "../../http/route.ts";
import { controllerOf } from "../../local/controller.ts";
import { findBranch, type Parts, writerOf } from "../api-v2/lookup.ts";
import { branchParams } from "../api-v2/schemas.ts";
import { type EventStream, eventRoute, Listeners } from "./event-stream.ts";
import type { MonitoringSample } from "./schemas.ts";

const LOOK_INTERVAL_MS = 2000;
/** Of one branch: half an hour. */
const MAX_SAMPLES = 900;
const MAX_BRANCHES = 100;
const MAX_LISTENERS = 100;

interface BranchIds {
  readonly project_id: string;
  readonly branch_id: string;
}

export class Monitoring {
  readonly #parts: Parts;
  /** By branch; the one that was asked for last is the last. */
  readonly #watches = new Map<string, Watch>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  routes(): Route[] {
    return [
      eventRoute(
        {
          path: "/console/projects/{project_id}/branches/{branch_id}/monitoring",
          summary:
            "Server-sent events: lists of samples of a branch's Postgres and storage, first those of before. Wakes nothing.",
          params: branchParams,
        },
        ({ params }) => this.#listen(params),
      ),
    ];
  }

  close(): void {
    for (const { listeners } of this.#watches.values()) {
      listeners.end();
    }
  }

  async #listen(ids: BranchIds): Promise<EventStream> {
    const { branch } = await findBranch(this.#parts, ids);
    const watch = this.#watches.get(branch.id) ?? new Watch(this.#parts, ids);
    this.#watches.delete(branch.id);
    this.#watches.set(branch.id, watch);
    for (const [id, { listeners }] of this.#watches) {
      if (this.#watches.size > MAX_BRANCHES && listeners.size === 0) {
        this.#watches.delete(id);
      }
    }
    const count = [...this.#watches.values()].reduce((sum, one) => sum + one.listeners.size, 0);
    if (count >= MAX_LISTENERS) {
      throw new StorageError("unavailable", "too-many-listeners", "too many browsers watch");
    }
    return watch.listen();
  }
}

/** One branch that somebody watches, or has watched. */
class Watch {
  readonly listeners: Listeners;
  readonly #parts: Parts;
  readonly #ids: BranchIds;
  #samples: MonitoringSample[] = [];

  constructor(parts: Parts, ids: BranchIds) {
    this.#parts = parts;
    this.#ids = ids;
    this.listeners = new Listeners((streams) => this.#look(streams.keys()), LOOK_INTERVAL_MS);
  }

  listen(): EventStream {
    const stream = this.listeners.add(undefined);
    stream.send(this.#samples);
    return stream;
  }

  async #look(streams: Iterable<EventStream>): Promise<void> {
    try {
      const sample = await takeSample(this.#parts, this.#ids);
      this.#samples.push(sample);
      this.#samples = this.#samples.slice(-MAX_SAMPLES);
      for (const stream of streams) {
        stream.send([sample]);
      }
    } catch (error) {
      if (errorKind(error) === "not-found") {
        // The branch is gone: so whoever opens the stream again is told.
        this.listeners.end();
      }
      const fields = { branch: this.#ids.branch_id, reason: errorMessage(error) };
      this.#parts.logger.info(fields, "a branch could not be looked at");
    }
  }
}

/** StorageError `not-found` where the branch is no more. What does not answer is left out. */
export async function takeSample(parts: Parts, ids: BranchIds): Promise<MonitoringSample> {
  const { project, branch } = await findBranch(parts, ids);
  const endpoint = await writerOf(parts, branch);
  const isAwake = endpoint !== undefined && parts.computes.provider.isRunning(endpoint.id);
  const [storage, postgres] = await Promise.all([
    ifThere(() =>
      controllerOf(parts.home).timeline(
        parseTenantId(project.tenant_id),
        parseTimelineId(branch.timeline_id),
      ),
    ),
    isAwake ? ifThere(() => parts.computes.provider.agent(endpoint.id).statistics()) : undefined,
  ]);
  return {
    at: nowMs(),
    is_awake: isAwake,
    ...(storage === undefined
      ? {}
      : {
          last_record_lsn: storage.last_record_lsn,
          layers_bytes: storage.current_physical_size,
        }),
    ...(postgres === undefined ? {} : { postgres }),
  };
}

/** Also where whom to ask is not known: one whose endpoint.json is damaged may run. */
async function ifThere<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch {
    return undefined;
  }
}

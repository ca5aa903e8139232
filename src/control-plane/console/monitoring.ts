// What goes on in a branch, told to browsers every two seconds as server-sent events.
//
// A branch is looked at while anybody listens, once for all of them, and is neither woken nor kept awake by it. What was
// seen is kept for who comes later, as long as this process lives.

import { nowMs, setRepeatingTimer, type Timer } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { mediaRoute, type Route } from "../../http/route.ts";
import { controllerOf } from "../../local/controller.ts";
import { findBranch, type Parts, writerOf } from "../api-v2/lookup.ts";
import { branchParams } from "../api-v2/schemas.ts";
import { EventStream } from "./event-stream.ts";
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
      mediaRoute(
        {
          method: "GET",
          path: "/console/projects/{project_id}/branches/{branch_id}/monitoring",
          summary:
            "Server-sent events: lists of samples of a branch's Postgres and storage, first those of before. Wakes nothing.",
          scope: "tenant",
          mediaType: "text/event-stream",
          params: branchParams,
        },
        ({ params }) => this.#listen(params),
      ),
    ];
  }

  /** Ends all streams: a stop does not wait for them. */
  close(): void {
    for (const watch of this.#watches.values()) {
      watch.close();
    }
  }

  async #listen(ids: BranchIds): Promise<EventStream> {
    const { branch } = await findBranch(this.#parts, ids);
    const watch = this.#watches.get(branch.id) ?? new Watch(this.#parts, ids);
    this.#watches.delete(branch.id);
    this.#watches.set(branch.id, watch);
    for (const [id, { listeners }] of this.#watches) {
      if (this.#watches.size > MAX_BRANCHES && listeners === 0) {
        this.#watches.delete(id);
      }
    }
    const listeners = [...this.#watches.values()].reduce((sum, one) => sum + one.listeners, 0);
    if (listeners >= MAX_LISTENERS) {
      throw new StorageError("unavailable", "too-many-listeners", "too many browsers watch");
    }
    return watch.listen();
  }
}

/** One branch that somebody watches, or has watched. */
class Watch {
  readonly #parts: Parts;
  readonly #ids: BranchIds;
  readonly #streams = new Set<EventStream>();
  #samples: MonitoringSample[] = [];
  #timer: Timer | undefined;
  #isLooking = false;

  constructor(parts: Parts, ids: BranchIds) {
    this.#parts = parts;
    this.#ids = ids;
  }

  get listeners(): number {
    return this.#streams.size;
  }

  listen(): EventStream {
    const stream = new EventStream(() => {
      this.#streams.delete(stream);
      if (this.#streams.size === 0) {
        this.#timer?.cancel();
        this.#timer = undefined;
      }
    });
    this.#streams.add(stream);
    stream.send(this.#samples);
    if (this.#timer === undefined) {
      this.#timer = setRepeatingTimer(() => void this.#look(), LOOK_INTERVAL_MS);
      void this.#look();
    }
    return stream;
  }

  close(): void {
    for (const stream of this.#streams) {
      stream.end();
    }
  }

  async #look(): Promise<void> {
    if (this.#isLooking) {
      return;
    }
    this.#isLooking = true;
    try {
      const sample = await takeSample(this.#parts, this.#ids);
      this.#samples.push(sample);
      this.#samples = this.#samples.slice(-MAX_SAMPLES);
      for (const stream of this.#streams) {
        stream.send([sample]);
      }
    } catch (error) {
      if (errorKind(error) === "not-found") {
        // The branch is gone: so whoever opens the stream again is told.
        this.close();
      }
      const fields = { branch: this.#ids.branch_id, reason: errorMessage(error) };
      this.#parts.logger.info(fields, "a branch could not be looked at");
    } finally {
      this.#isLooking = false;
    }
  }
}

/** StorageError `not-found` where the branch is no more. What does not answer is left out. */
async function takeSample(parts: Parts, ids: BranchIds): Promise<MonitoringSample> {
  const { project, branch } = await findBranch(parts, ids);
  const endpoint = await writerOf(parts, branch);
  const isAwake = endpoint !== undefined && parts.computes.provider.isRunning(endpoint.id);
  const [storage, postgres] = await Promise.all([
    ifThere(
      controllerOf(parts.home).timeline(
        parseTenantId(project.tenant_id),
        parseTimelineId(branch.timeline_id),
      ),
    ),
    isAwake ? ifThere(parts.computes.provider.agent(endpoint.id).statistics()) : undefined,
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

async function ifThere<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch {
    return undefined;
  }
}

// The storage controller of a home: its state is the home's, its computes are the home's endpoints.

import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { Computes, RunningCompute } from "../storage-controller/computes.ts";
import type {
  ControllerState,
  ControllerStore,
  MembershipRecord,
} from "../storage-controller/controller-state.ts";
import {
  StorageController,
  type TimelinePlacement,
} from "../storage-controller/storage-controller.ts";
import { clientOf, type Endpoint, endpointState, listEndpoints } from "./endpoints.ts";
import type { StrataHome } from "./home.ts";
import { withLock } from "./lock.ts";
import { type HomeState, recordMembership } from "./state/home-state.ts";

type LockHome = <T>(body: () => Promise<T>) => Promise<T>;

/** `lockHome`: for whoever changes something without holding the home's lock already. */
export function controllerOf(home: StrataHome, lockHome?: LockHome): StorageController {
  const computes: Computes = {
    runningPrimaries: (tenantId, timelineId) =>
      runningComputes(home, "primary", tenantId, timelineId),
    runningReplicas: (tenantId, timelineId) =>
      runningComputes(home, "replica", tenantId, timelineId),
  };
  return new StorageController(
    new HomeControllerStore(home, lockHome),
    computes,
    home.knownTimelines,
  );
}

/** What the endpoint is to talk to now. */
export function placementOf(home: StrataHome, { spec }: Endpoint): TimelinePlacement {
  return controllerOf(home).placementOf(
    parseTenantId(spec.tenantId),
    parseTimelineId(spec.timelineId),
  );
}

class HomeControllerStore implements ControllerStore {
  readonly #home: StrataHome;
  readonly #lockHome: LockHome;

  constructor(home: StrataHome, lockHome: LockHome = (body) => body()) {
    this.#home = home;
    this.#lockHome = lockHome;
  }

  read(): ControllerState {
    return this.#home.config();
  }

  /** StorageError `not-found` for a timeline that is deleted: a change can go on meanwhile. */
  async setMembership(
    tenantId: string,
    timelineId: string,
    record: MembershipRecord | undefined,
  ): Promise<void> {
    await this.#lockHome(async () =>
      this.#home.update((draft) => {
        if (record !== undefined && !isKnown(draft, tenantId, timelineId)) {
          const message = `timeline ${timelineId} of tenant ${tenantId} was deleted`;
          throw new StorageError("not-found", "no-timeline", message);
        }
        recordMembership(draft, tenantId, timelineId, record);
      }),
    );
  }

  exclusively<T>(name: string, body: () => Promise<T>): Promise<T> {
    return withLock(this.#home.path, name, body);
  }
}

/** It has a name, or is on its way to one or to its end. */
function isKnown(config: HomeState, tenantId: string, timelineId: string): boolean {
  const names = config.branchNameMappings.get(tenantId)?.values().toArray() ?? [];
  return (
    names.includes(timelineId) || config.unfinishedTimelines.get(tenantId)?.has(timelineId) === true
  );
}

function runningComputes(
  home: StrataHome,
  mode: "primary" | "replica",
  tenantId: TenantId,
  timelineId: TimelineId,
): RunningCompute[] {
  return listEndpoints(home)
    .filter(
      (endpoint) =>
        endpoint.spec.tenantId === tenantId &&
        endpoint.spec.timelineId === timelineId &&
        endpoint.spec.mode === mode &&
        endpointState(endpoint).state === "running",
    )
    .map((endpoint) => ({ id: endpoint.id, status: () => clientOf(endpoint).standing() }));
}

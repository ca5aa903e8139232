// The storage controller of a home: its state is config.json, its computes are the home's endpoints.

import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { RunningCompute } from "../storage-controller/computes.ts";
import type {
  ControllerState,
  ControllerStore,
  MembershipRecord,
} from "../storage-controller/controller-state.ts";
import {
  StorageController,
  type TimelinePlacement,
} from "../storage-controller/storage-controller.ts";
import { recordMembership } from "./config.ts";
import { clientOf, type Endpoint, endpointState, listEndpoints } from "./endpoints.ts";
import type { StrataHome } from "./home.ts";
import { withLock } from "./lock.ts";

type LockHome = <T>(body: () => Promise<T>) => Promise<T>;

/** `lockHome`: for whoever changes something without holding the home's lock already. */
export function controllerOf(home: StrataHome, lockHome?: LockHome): StorageController {
  return new StorageController(new HomeControllerStore(home, lockHome), {
    runningPrimaries: (tenantId, timelineId) => runningPrimaries(home, tenantId, timelineId),
  });
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

  async setMembership(
    tenantId: string,
    timelineId: string,
    record: MembershipRecord | undefined,
  ): Promise<void> {
    await this.#lockHome(async () =>
      this.#home.update((draft) => recordMembership(draft, tenantId, timelineId, record)),
    );
  }

  exclusively<T>(name: string, body: () => Promise<T>): Promise<T> {
    return withLock(this.#home.path, name, body);
  }
}

function runningPrimaries(
  home: StrataHome,
  tenantId: TenantId,
  timelineId: TimelineId,
): RunningCompute[] {
  return listEndpoints(home)
    .filter(
      (endpoint) =>
        endpoint.spec.tenantId === tenantId &&
        endpoint.spec.timelineId === timelineId &&
        endpoint.spec.mode === "primary" &&
        endpointState(endpoint).state === "running",
    )
    .map((endpoint) => ({ id: endpoint.id, status: () => clientOf(endpoint).status() }));
}

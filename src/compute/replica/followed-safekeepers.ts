// Whom a replica asks for WAL: the safekeepers of its specification, then the members that these tell of.
//
// Whoever proposes is told of other members by each answer. A replica only reads, so it asks, often enough to hear of a change
// before the members that leave are gone: who changes them waits for that.

import { sleep } from "../../base/clock.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { walStatus } from "../../safekeeper/client.ts";
import {
  allMembers,
  type MembershipConfiguration,
  NO_MEMBERSHIP,
} from "../../safekeeper-protocol/membership.ts";
import { endpointAddress } from "../../walproposer/safekeeper-peer.ts";

const ASK_MS = 3000;
const TIMEOUT_MS = 2000;

export interface FollowedSafekeepersOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** `HOST:PORT` of each, until a membership is known. */
  readonly first: readonly string[];
  /** Where it is known already. */
  readonly membership: MembershipConfiguration | undefined;
}

export class FollowedSafekeepers {
  readonly #options: FollowedSafekeepersOptions;
  #membership: MembershipConfiguration;

  constructor(options: FollowedSafekeepersOptions) {
    this.#options = options;
    this.#membership = options.membership ?? NO_MEMBERSHIP;
  }

  /** Generation 0 while it is not known. */
  get membership(): MembershipConfiguration {
    return this.#membership;
  }

  /** `HOST:PORT` of each, old and new ones while they change. */
  get addresses(): readonly string[] {
    return this.#membership.generation === 0
      ? this.#options.first
      : allMembers(this.#membership).map(endpointAddress);
  }

  /** Asks again and again. */
  watch(signal: AbortSignal): void {
    void this.#watch(signal);
  }

  async #watch(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.ask();
      await sleep(ASK_MS, signal).catch(() => undefined);
    }
  }

  /** All of them, as one that was away may not have heard of the newest members. */
  async ask(): Promise<void> {
    const { tenantId, timelineId } = this.#options;
    await Promise.allSettled(
      this.addresses.map(async (pgAddr) => {
        const address = { pgAddr, tenantId, timelineId, timeoutMs: TIMEOUT_MS };
        const { membership } = await walStatus(address);
        if (membership.generation > this.#membership.generation) {
          this.#membership = membership;
        }
      }),
    );
  }
}

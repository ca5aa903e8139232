// Drives a change of a timeline's safekeepers: the calls of membership-steps.ts over HTTP, the record in the store.

import { monotonicMs, sleep } from "../base/clock.ts";
import { errorKind, StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { parseLsn } from "../base/lsn.ts";
import { serviceUrl } from "../base/network/service-tls.ts";
import { splitAddress } from "../compute/api.ts";
import { membershipFromJson, membershipToJson } from "../safekeeper/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { MembershipConfiguration } from "../safekeeper-protocol/membership.ts";
import type { ControllerStore, MembershipRecord, StorageNode } from "./controller-state.ts";
import {
  type MembershipAnswer,
  type MembershipCall,
  membershipChange,
  type Told,
  unfinished,
} from "./membership-steps.ts";
import { findNode, type StorageController } from "./storage-controller.ts";

const REQUEST_TIMEOUT_MS = 5_000;
/** A pull gives up by itself where nothing arrives. */
const PULL_TIMEOUT_MS = 3_600_000;
const POLL_MS = 200;
/** For a running compute to hear of the new members, before the old ones are gone. */
const COMPUTE_TIMEOUT_MS = 15_000;

export interface Migration {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** Node ids. */
  readonly newMembers: readonly number[];
  /** Ends a change that is under way in favour of the old members. */
  readonly abort: boolean;
  /** For the new members to have all that was committed. */
  readonly timeoutMs: number;
}

/** StorageError `conflict` for another change under way, `unavailable` where it is to be run again. */
export async function migrateSafekeepers(
  controller: StorageController,
  wanted: Migration,
  say: (line: string) => void,
): Promise<void> {
  await controller.store.exclusively(`membership ${wanted.timelineId}`, () =>
    new MembershipDriver(controller, wanted, say).run(),
  );
}

class MembershipDriver {
  readonly #controller: StorageController;
  readonly #wanted: Migration;
  readonly #say: (line: string) => void;
  readonly #deadlineMs: number;

  constructor(controller: StorageController, wanted: Migration, say: (line: string) => void) {
    this.#controller = controller;
    this.#wanted = wanted;
    this.#say = say;
    this.#deadlineMs = monotonicMs() + wanted.timeoutMs;
  }

  get #store(): ControllerStore {
    return this.#controller.store;
  }

  async run(): Promise<void> {
    const { newMembers, abort } = this.#wanted;
    for (const id of newMembers) {
      this.#node(id);
    }
    const safekeeper = (id: number) => {
      const { host, port } = splitAddress(this.#node(id).listenPgAddr);
      return { id, host, pgPort: port };
    };
    const steps = membershipChange(await this.#current(), { newMembers, abort, safekeeper });
    let step = steps.next();
    while (step.done !== true) {
      let answer: MembershipAnswer;
      try {
        answer = await this.#perform(step.value);
      } catch (error) {
        step = steps.throw(error);
        continue;
      }
      step = steps.next(answer);
    }
    const { members, generation } = step.value;
    this.#say(`safekeepers ${members.join(", ")} have it in generation ${generation}`);
  }

  /** On record, or what the safekeepers have been told when the timeline was created. */
  async #current(): Promise<MembershipRecord> {
    const { tenantId, timelineId } = this.#wanted;
    const { memberships, safekeepers } = this.#store.read();
    const record = memberships.get(tenantId)?.get(timelineId);
    if (record !== undefined) {
      return record;
    }
    const answers = await Promise.allSettled(
      safekeepers.map((node) => client(node).timelineStatus(tenantId, timelineId)),
    );
    for (const answer of answers) {
      if (answer.status === "fulfilled" && answer.value.mconf.generation > 0) {
        const { generation, members } = membershipFromJson(answer.value.mconf);
        return { generation, members: members.map(({ id }) => id) };
      }
    }
    const reason: unknown = answers.find((answer) => answer.status === "rejected")?.reason;
    throw withContext(
      reason ?? new StorageError("unsupported", "no-membership", "no safekeeper knows any"),
      `find the membership of timeline ${timelineId}`,
    );
  }

  async #perform(call: MembershipCall): Promise<MembershipAnswer> {
    const { tenantId, timelineId } = this.#wanted;
    switch (call.type) {
      case "record":
        await this.#store.setMembership(tenantId, timelineId, call.record);
        return undefined;
      case "look":
        return this.#look(call.ids);
      case "tell":
        return new Map(
          await Promise.all(
            call.ids.map(async (id) => [id, await this.#tell(id, call.mconf)] as const),
          ),
        );
      case "pull":
        await this.#pull(call);
        return undefined;
      case "raise-term":
        await client(this.#node(call.id)).termBump(tenantId, timelineId, call.term);
        return undefined;
      case "exclude": {
        const mconf = membershipToJson(call.mconf);
        await client(this.#node(call.id)).exclude(tenantId, timelineId, mconf);
        return undefined;
      }
      case "await-computes":
        await this.#awaitComputes(call.generation);
        return undefined;
      case "wait":
        if (monotonicMs() > this.#deadlineMs) {
          throw unfinished(call.problem);
        }
        await sleep(POLL_MS);
        return undefined;
      case "say":
        this.#say(call.line);
        return undefined;
    }
  }

  async #look(ids: readonly number[]): Promise<ReadonlySet<number>> {
    const { tenantId, timelineId } = this.#wanted;
    const lacking = new Set<number>();
    const look = async (id: number) => {
      try {
        await client(this.#node(id)).timelineStatus(tenantId, timelineId);
      } catch (error) {
        if (errorKind(error) === "not-found") {
          lacking.add(id);
        }
      }
    };
    await Promise.all(ids.map(look));
    return lacking;
  }

  async #tell(id: number, mconf: MembershipConfiguration): Promise<Told> {
    const { tenantId, timelineId } = this.#wanted;
    try {
      const node = client(this.#node(id));
      const answer = await node.switchMembership(tenantId, timelineId, membershipToJson(mconf));
      const flushLsn = parseLsn(answer.flush_lsn);
      if (flushLsn === undefined) {
        throw new StorageError("corrupt", "bad-status", "it tells no positions");
      }
      const { term, last_log_term: lastLogTerm } = answer;
      return { position: { generation: mconf.generation, term, lastLogTerm, flushLsn } };
    } catch (error) {
      return { error };
    }
  }

  async #pull(call: Extract<MembershipCall, { type: "pull" }>): Promise<void> {
    const url = (id: number) => serviceUrl(this.#node(id).listenHttpAddr);
    await new SafekeeperHttpClient(url(call.id), PULL_TIMEOUT_MS).pullTimeline({
      tenant_id: this.#wanted.tenantId,
      timeline_id: this.#wanted.timelineId,
      http_hosts: call.from.map(url),
      mconf: membershipToJson(call.mconf),
    });
  }

  /** Until running computes have heard of the new members: from the old ones, who are to go. */
  async #awaitComputes(generation: number): Promise<void> {
    const deadline = monotonicMs() + COMPUTE_TIMEOUT_MS;
    const { tenantId, timelineId } = this.#wanted;
    const { computes } = this.#controller;
    const running = () => [
      ...computes.runningPrimaries(tenantId, timelineId),
      ...computes.runningReplicas(tenantId, timelineId),
    ];
    for (const { id } of running()) {
      // Asked anew each time: one that has ended need not hear of it.
      for (;;) {
        const compute = running().find((one) => one.id === id);
        if (compute === undefined) {
          break;
        }
        const status = await compute.status().catch(() => undefined);
        if ((status?.generation ?? 0) >= generation) {
          break;
        }
        if (monotonicMs() > deadline) {
          this.#say(`endpoint ${id} has not heard of it: it may have to be restarted`);
          break;
        }
        await sleep(POLL_MS);
      }
    }
  }

  #node(id: number): StorageNode {
    return findNode(this.#store.read().safekeepers, id, "safekeeper");
  }
}

function client(node: StorageNode): SafekeeperHttpClient {
  return new SafekeeperHttpClient(node.listenHttpAddr, REQUEST_TIMEOUT_MS);
}

// The broker itself: passes on what safekeepers publish to those who subscribed; keeps nothing.

import { create } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import {
  type BrokerService,
  MessageType,
  type SafekeeperTimelineInfo,
  type SubscribeByFilterRequest,
  type SubscribeSafekeeperInfoRequest,
  type TenantTimelineId,
  type TypedMessage,
  TypedMessageSchema,
} from "./broker_pb.ts";

/**
 * Largest message, before and after decompression; an info has some 300 bytes. With MAX_QUEUED it bounds
 * what a publisher can make the broker hold for each subscriber.
 */
export const MAX_MESSAGE_BYTES = 16 * 1024;
/** Messages that wait for one slow subscriber; when there are more, the oldest are dropped. */
const MAX_QUEUED = 4096;

interface Subscriber {
  /** Undefined: every timeline. */
  readonly timeline: string | undefined;
  readonly types: ReadonlySet<MessageType>;
  readonly queue: TypedMessage[];
  wake: (() => void) | undefined;
}

export interface BrokerCounts {
  published: number;
  delivered: number;
  dropped: number;
  publishers: number;
  readonly subscribers: number;
}

export class Broker implements ServiceImpl<typeof BrokerService> {
  readonly #subscribers = new Set<Subscriber>();
  #published = 0;
  #delivered = 0;
  #dropped = 0;
  #publishers = 0;

  get counts(): BrokerCounts {
    return {
      published: this.#published,
      delivered: this.#delivered,
      dropped: this.#dropped,
      publishers: this.#publishers,
      subscribers: this.#subscribers.size,
    };
  }

  async publishSafekeeperInfo(infos: AsyncIterable<SafekeeperTimelineInfo>) {
    this.#publishers += 1;
    try {
      for await (const info of infos) {
        this.#publish(
          create(TypedMessageSchema, {
            type: MessageType.SAFEKEEPER_TIMELINE_INFO,
            safekeeperTimelineInfo: info,
          }),
        );
      }
    } finally {
      this.#publishers -= 1;
    }
    return create(EmptySchema);
  }

  async publishOne(message: TypedMessage) {
    if (timelineOf(message) === undefined) {
      throw new ConnectError("message names no timeline", Code.InvalidArgument);
    }
    this.#publish(message);
    return create(EmptySchema);
  }

  async *subscribeSafekeeperInfo(
    request: SubscribeSafekeeperInfoRequest,
    context: { readonly signal: AbortSignal },
  ) {
    const key = request.subscriptionKey;
    if (key.case === undefined) {
      throw new ConnectError("missing subscription key", Code.InvalidArgument);
    }
    const timeline = key.case === "all" ? undefined : timelineKey(key.value);
    const types = new Set<MessageType>([MessageType.SAFEKEEPER_TIMELINE_INFO]);
    for await (const message of this.#subscribe(timeline, types, context.signal)) {
      if (message.safekeeperTimelineInfo !== undefined) {
        yield message.safekeeperTimelineInfo;
      }
    }
  }

  async *subscribeByFilter(
    request: SubscribeByFilterRequest,
    context: { readonly signal: AbortSignal },
  ) {
    const filter = request.tenantTimelineId;
    const timeline = filter?.enabled ? timelineKey(filter.tenantTimelineId) : undefined;
    const types = new Set(request.types.map((subscription) => subscription.type));
    yield* this.#subscribe(timeline, types, context.signal);
  }

  #publish(message: TypedMessage): void {
    this.#published += 1;
    const timeline = timelineOf(message);
    for (const subscriber of this.#subscribers) {
      const wanted =
        subscriber.types.has(message.type) &&
        (subscriber.timeline === undefined || subscriber.timeline === timeline);
      if (!wanted) {
        continue;
      }
      subscriber.queue.push(message);
      if (subscriber.queue.length > MAX_QUEUED) {
        subscriber.queue.shift();
        this.#dropped += 1;
      }
      subscriber.wake?.();
    }
  }

  async *#subscribe(
    timeline: string | undefined,
    types: ReadonlySet<MessageType>,
    signal: AbortSignal,
  ): AsyncGenerator<TypedMessage> {
    const subscriber: Subscriber = { timeline, types, queue: [], wake: undefined };
    // At once: one that has gone while a message was on its way to it is never asked for the next.
    const gone = () => {
      this.#subscribers.delete(subscriber);
      subscriber.queue.length = 0;
      subscriber.wake?.();
    };
    signal.addEventListener("abort", gone);
    this.#subscribers.add(subscriber);
    try {
      while (!signal.aborted) {
        const message = subscriber.queue.shift();
        if (message === undefined) {
          await new Promise<void>((resolve) => {
            subscriber.wake = resolve;
          });
          subscriber.wake = undefined;
          continue;
        }
        this.#delivered += 1;
        yield message;
      }
    } finally {
      this.#subscribers.delete(subscriber);
      signal.removeEventListener("abort", gone);
    }
  }
}

function timelineKey(id: TenantTimelineId | undefined): string {
  if (id === undefined || id.tenantId.length !== 16 || id.timelineId.length !== 16) {
    throw new ConnectError("tenant and timeline ids must be 16 bytes", Code.InvalidArgument);
  }
  return Buffer.concat([id.tenantId, id.timelineId]).toString("hex");
}

function timelineOf(message: TypedMessage): string | undefined {
  const id =
    message.safekeeperTimelineInfo?.tenantTimelineId ??
    message.safekeeperDiscoveryRequest?.tenantTimelineId ??
    message.safekeeperDiscoveryResponse?.tenantTimelineId;
  return id === undefined ? undefined : Buffer.concat([id.tenantId, id.timelineId]).toString("hex");
}

// How safekeepers and pageservers talk to the storage broker; reconnects by itself.

import type { TLSSocket } from "node:tls";
import { create } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { ownToken } from "../base/auth/service-token.ts";
import { sleep } from "../base/clock.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { type Lsn, MAX_LSN, toLsn } from "../base/lsn.ts";
import { connectTls, serviceUrl, tlsOfUrl, tlsProblem } from "../base/network/service-tls.ts";
import { parseHostPort } from "../postgres/wire/wire-client.ts";
import { MAX_MESSAGE_BYTES } from "./broker.ts";
import {
  BrokerService,
  type SafekeeperTimelineInfo,
  SafekeeperTimelineInfoSchema,
  SubscribeSafekeeperInfoRequestSchema,
} from "./broker_pb.ts";

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 2000;
/** Infos kept while the broker does not take them; older ones are dropped. */
const MAX_QUEUED = 1024;

/** Longest `HOST:PORT` that is believed. */
const MAX_ADDRESS_LENGTH = 300;

/** What a safekeeper knows about one of its timelines. */
export interface TimelineInfo {
  readonly safekeeperId: number;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly term: number;
  readonly lastLogTerm: number;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  readonly backupLsn: Lsn;
  readonly remoteConsistentLsn: Lsn;
  readonly peerHorizonLsn: Lsn;
  readonly localStartLsn: Lsn;
  /** Of the membership that it is in; 0 where that is not known. */
  readonly generation: number;
  /** `HOST:PORT` to stream WAL from. */
  readonly safekeeperConnstr: string;
  readonly httpConnstr: string;
}

export interface SubscribeOptions {
  /** Absent: every timeline. */
  readonly timeline?: { readonly tenantId: TenantId; readonly timelineId: TimelineId };
  onInfo(info: TimelineInfo): void;
}

const showToken: Interceptor = (next) => (request) => {
  const token = ownToken();
  if (token !== undefined) {
    request.header.set("authorization", `Bearer ${token}`);
  }
  return next(request);
};

/** `address`: `host:port`, or a URL; with TLS as `serviceUrl` has it. Nothing connects before the first use. */
export class BrokerClient {
  readonly #client: Client<typeof BrokerService>;
  readonly #sessions: Http2SessionManager;
  readonly #logger: Logger;
  readonly #host: string;
  readonly #stop = new AbortController();
  #queue: TimelineInfo[] = [];
  #wakePublisher: (() => void) | undefined;
  #publishing = false;
  /** Messages that made no sense, or that a subscriber could not take. */
  #refused = 0;

  constructor(address: string, logger: Logger) {
    this.#logger = logger;
    this.#host = address.replace(/^\w+:\/\//, "");
    const url = serviceUrl(address);
    this.#sessions = new Http2SessionManager(
      url,
      { pingIntervalMs: 5000, pingTimeoutMs: 5000 },
      url.startsWith("https:") ? { createConnection: (authority) => connectH2(authority) } : {},
    );
    const transport = createGrpcTransport({
      baseUrl: url,
      sessionManager: this.#sessions,
      readMaxBytes: MAX_MESSAGE_BYTES,
      interceptors: [showToken],
    });
    this.#client = createClient(BrokerService, transport);
  }

  /** Queues one info; never waits. While the broker is away the oldest are dropped. */
  publish(info: TimelineInfo): void {
    if (this.#stop.signal.aborted) {
      return;
    }
    this.#queue.push(info);
    if (this.#queue.length > MAX_QUEUED) {
      this.#queue.shift();
    }
    this.#wakePublisher?.();
    if (!this.#publishing) {
      this.#publishing = true;
      void this.#forEver("publish to", async () => {
        await this.#client.publishSafekeeperInfo(this.#infos(), { signal: this.#stop.signal });
      });
    }
  }

  /**
   * Calls `onInfo` for each info that arrives, over reconnects, until the returned function is
   * called or the client is closed. Infos may be lost: each is a full state, sent again every
   * second.
   */
  subscribe(options: SubscribeOptions): () => void {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#stop.signal]);
    void this.#forEver(
      "subscribe to",
      async (connected) => {
        const request = create(SubscribeSafekeeperInfoRequestSchema, {
          subscriptionKey:
            options.timeline === undefined
              ? { case: "all", value: create(EmptySchema) }
              : {
                  case: "tenantTimelineId",
                  value: {
                    tenantId: Buffer.from(options.timeline.tenantId, "hex"),
                    timelineId: Buffer.from(options.timeline.timelineId, "hex"),
                  },
                },
        });
        for await (const message of this.#client.subscribeSafekeeperInfo(request, { signal })) {
          connected();
          this.#deliver(message, options);
        }
      },
      signal,
    );
    return () => stop.abort();
  }

  get refused(): number {
    return this.#refused;
  }

  /** A bad message ends neither the subscription nor the process: the next one may be good. */
  #deliver(message: SafekeeperTimelineInfo, { onInfo }: SubscribeOptions): void {
    try {
      onInfo(infoFromMessage(message));
    } catch (error) {
      // Once: who can send one can send a million.
      if (this.#refused++ === 0) {
        this.#logger.warn({ error }, "the storage broker passed on a message that makes no sense");
      }
    }
  }

  close(): void {
    this.#stop.abort();
    this.#wakePublisher?.();
    this.#sessions.abort();
  }

  /** Runs a stream again and again, with back-off, until stopped; logs only changes. */
  async #forEver(
    doing: string,
    run: (connected: () => void) => Promise<void>,
    signal: AbortSignal = this.#stop.signal,
  ): Promise<void> {
    let delayMs = FIRST_RETRY_MS;
    let failing = false;
    const connected = () => {
      if (failing) {
        this.#logger.info({}, "storage broker is back");
      }
      failing = false;
      delayMs = FIRST_RETRY_MS;
    };
    while (!signal.aborted) {
      try {
        await run(connected);
      } catch (error) {
        if (!signal.aborted && !failing) {
          failing = true;
          const reason = tlsReason(error, this.#host) ?? errorMessage(error);
          this.#logger.info({ reason }, `cannot ${doing} the storage broker`);
        }
      }
      await sleep(delayMs, signal).catch(() => undefined);
      delayMs = Math.min(delayMs * 2, MAX_RETRY_MS);
    }
  }

  async *#infos(): AsyncIterable<SafekeeperTimelineInfo> {
    while (!this.#stop.signal.aborted) {
      const batch = this.#queue;
      this.#queue = [];
      for (const info of batch) {
        yield messageFromInfo(info);
      }
      if (this.#queue.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wakePublisher = resolve;
        });
        this.#wakePublisher = undefined;
      }
    }
  }
}

/** Each connection by the authorities that are believed then. */
function connectH2({ hostname, port, href }: URL): TLSSocket {
  return connectTls(tlsOfUrl(href), {
    host: hostname.replace(/^\[(.*)\]$/, "$1"),
    port: Number(port || 443),
    ALPNProtocols: ["h2"],
  });
}

/** The RPC's error has the connection's somewhere below it. */
function tlsReason(error: unknown, host: string): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const reason = tlsProblem(at, host);
    if (reason !== undefined) {
      return reason;
    }
  }
  return undefined;
}

function messageFromInfo(info: TimelineInfo): SafekeeperTimelineInfo {
  return create(SafekeeperTimelineInfoSchema, {
    safekeeperId: BigInt(info.safekeeperId),
    tenantTimelineId: {
      tenantId: Buffer.from(info.tenantId, "hex"),
      timelineId: Buffer.from(info.timelineId, "hex"),
    },
    term: BigInt(info.term),
    lastLogTerm: BigInt(info.lastLogTerm),
    flushLsn: BigInt(info.flushLsn),
    commitLsn: BigInt(info.commitLsn),
    backupLsn: BigInt(info.backupLsn),
    remoteConsistentLsn: BigInt(info.remoteConsistentLsn),
    peerHorizonLsn: BigInt(info.peerHorizonLsn),
    localStartLsn: BigInt(info.localStartLsn),
    generation: BigInt(info.generation),
    safekeeperConnstr: info.safekeeperConnstr,
    httpConnstr: info.httpConnstr,
  });
}

/**
 * The broker passes on what it gets, from anyone. StorageError `invalid` for what no safekeeper says of
 * itself; that it is true nobody can tell.
 */
export function infoFromMessage(message: SafekeeperTimelineInfo): TimelineInfo {
  const ids = message.tenantTimelineId;
  if (ids?.tenantId.length !== 16 || ids.timelineId.length !== 16) {
    throw bad("no tenant and timeline ids");
  }
  const info: TimelineInfo = {
    safekeeperId: number(message.safekeeperId, "safekeeper id"),
    tenantId: parseTenantId(Buffer.from(ids.tenantId).toString("hex")),
    timelineId: parseTimelineId(Buffer.from(ids.timelineId).toString("hex")),
    term: number(message.term, "term"),
    lastLogTerm: number(message.lastLogTerm, "last log term"),
    flushLsn: toLsn(number(message.flushLsn, "flush LSN")),
    commitLsn: toLsn(number(message.commitLsn, "commit LSN")),
    backupLsn: toLsn(number(message.backupLsn, "backup LSN")),
    remoteConsistentLsn: toLsn(number(message.remoteConsistentLsn, "remote consistent LSN")),
    peerHorizonLsn: toLsn(number(message.peerHorizonLsn, "peer horizon")),
    localStartLsn: toLsn(number(message.localStartLsn, "local start LSN")),
    generation: number(message.generation, "generation"),
    safekeeperConnstr: message.safekeeperConnstr,
    httpConnstr: message.httpConnstr,
  };
  const { term, lastLogTerm, flushLsn, commitLsn, backupLsn, remoteConsistentLsn } = info;
  if (lastLogTerm > term || commitLsn > flushLsn) {
    throw bad("positions that contradict each other");
  }
  if (backupLsn > commitLsn || remoteConsistentLsn > commitLsn) {
    throw bad("WAL stored elsewhere that is not committed");
  }
  checkAddress(info.safekeeperConnstr);
  if (info.httpConnstr !== "") {
    checkAddress(info.httpConnstr);
  }
  return info;
}

function number(value: bigint, what: string): number {
  if (value > BigInt(MAX_LSN)) {
    throw bad(`a ${what} of ${value}`);
  }
  return Number(value);
}

function checkAddress(text: string): void {
  if (text.length > MAX_ADDRESS_LENGTH || parseHostPort(text).port === 0) {
    throw bad(`an address that is none: ${text.slice(0, MAX_ADDRESS_LENGTH)}`);
  }
}

function bad(problem: string): StorageError {
  return new StorageError("invalid", "bad-broker-message", `a safekeeper's info with ${problem}`);
}

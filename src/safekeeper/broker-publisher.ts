// Tells the storage broker about this safekeeper's timelines: soon after a change, and each second.

import { monotonicMs, setRepeatingTimer, setTimer, type Timer } from "../base/clock.ts";
import type { BrokerClient, TimelineInfo } from "../storage-broker/client.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";

/**
 * Changes within this time are told as one. Under load every safekeeper and pageserver hears each of
 * them: at 50 ms that took a sixth of a safekeeper's processor time at one busy client.
 */
const THROTTLE_MS = 250;
const INTERVAL_MS = 1000;

export interface PublisherOptions {
  readonly nodeId: number;
  readonly pgAddr: string;
  readonly httpAddr: string;
  readonly broker: BrokerClient;
  readonly timelines: TimelineManager;
}

export class BrokerPublisher {
  readonly #options: PublisherOptions;
  readonly #changed = new Set<Timeline>();
  #throttle: Timer | undefined;
  #publishedAtMs = 0;
  readonly #interval: Timer;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#interval = setRepeatingTimer(() => {
      for (const timeline of options.timelines.timelines) {
        this.#publish(timeline);
      }
    }, INTERVAL_MS);
  }

  /** On the path of a commit: does as little as possible. */
  changed(timeline: Timeline): void {
    this.#changed.add(timeline);
    if (this.#throttle === undefined) {
      const waited = monotonicMs() - this.#publishedAtMs;
      this.#throttle = setTimer(() => this.#publishChanged(), Math.max(0, THROTTLE_MS - waited));
    }
  }

  close(): void {
    this.#interval?.cancel();
    this.#throttle?.cancel();
  }

  #publishChanged(): void {
    this.#throttle = undefined;
    this.#publishedAtMs = monotonicMs();
    const timelines = [...this.#changed];
    this.#changed.clear();
    for (const timeline of timelines) {
      this.#publish(timeline);
    }
  }

  #publish(timeline: Timeline): void {
    if (timeline.closed) {
      return;
    }
    const { nodeId, pgAddr, httpAddr, broker } = this.#options;
    const { state } = timeline;
    const info: TimelineInfo = {
      safekeeperId: nodeId,
      tenantId: timeline.tenantId,
      timelineId: timeline.timelineId,
      term: state.persistent.term,
      lastLogTerm: timeline.lastLogTerm,
      flushLsn: state.flushLsn,
      commitLsn: state.commitLsn,
      backupLsn: state.persistent.backupLsn,
      remoteConsistentLsn: state.remoteConsistentLsn,
      peerHorizonLsn: state.peerHorizonLsn,
      localStartLsn: state.persistent.localStartLsn,
      generation: state.persistent.mconf.generation,
      safekeeperConnstr: pgAddr,
      httpConnstr: httpAddr,
    };
    broker.publish(info);
  }
}

// START_WAL_PUSH: a proposer's connection; answers go out after one flush for all that arrived together.

import { nowMs } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { WireSession } from "../postgres/wire-server.ts";
import {
  decodeProposerMessage,
  encodeAcceptorMessage,
  PROTOCOL_VERSION,
  type ProposerMessage,
} from "./messages.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import type { Timeline } from "./timeline.ts";

export interface WalReceiver {
  readonly remote: string;
  readonly connectedAtMs: number;
}

/** Options of START_WAL_PUSH `(proto_version '3', allow_timeline_creation 'false')`. */
export function checkWalPushOptions(text: string): void {
  const version = /proto_version\s+'(\d+)'/.exec(text)?.[1];
  if (version !== undefined && Number(version) !== PROTOCOL_VERSION) {
    throw new StorageError(
      "unsupported",
      "protocol-version",
      `walproposer protocol version ${version} is not supported, only ${PROTOCOL_VERSION}`,
    );
  }
}

/** Takes over the session. Errors thrown in the handlers end the connection with an ErrorResponse. */
export function receiveWal(
  session: WireSession,
  timeline: Timeline,
  receivers: Set<WalReceiver>,
  metrics: SafekeeperMetrics,
): void {
  const channel = session.copyBoth();
  const receiver: WalReceiver = { remote: session.remote, connectedAtMs: nowMs() };
  receivers.add(receiver);
  timeline.logger.info({ remote: session.remote }, "proposer connected");
  channel.onClose(() => {
    receivers.delete(receiver);
    timeline.logger.info({ remote: session.remote }, "proposer disconnected");
  });
  let greeted = false;
  let answerDue = false;
  let dirty = false;
  const handle = (message: ProposerMessage) => {
    if (!greeted && message.type !== "greeting") {
      throw new StorageError("invalid", "no-greeting", `${message.type} before the greeting`);
    }
    greeted = true;
    const reply = timeline.receive(message);
    if (reply === "append-response") {
      answerDue = true;
      dirty = true;
    } else if (reply !== undefined) {
      channel.send(encodeAcceptorMessage(reply));
    }
  };
  const count = <T>(action: () => T): T => {
    try {
      return action();
    } catch (error) {
      metrics.refusedMessages.inc({ code: error instanceof StorageError ? error.code : "bug" });
      throw error;
    }
  };
  // Idle first: `onData` hands out what has arrived already.
  channel.onIdle(() =>
    count(() => {
      if (!dirty) {
        return;
      }
      dirty = false;
      timeline.settle();
      if (answerDue) {
        answerDue = false;
        channel.send(encodeAcceptorMessage(timeline.appendResponse()));
      }
      timeline.announce();
    }),
  );
  channel.onData((payload) => count(() => handle(decodeProposerMessage(payload))));
}

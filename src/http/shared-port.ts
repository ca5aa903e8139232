// Lets another protocol share a port with HTTP/1.1, told apart by its first bytes.

import type { Server } from "node:http";
import type { Socket } from "node:net";
import { setTimer } from "../base/clock.ts";

export interface OtherProtocol {
  /** What its connections begin with, and no HTTP/1.1 request does. */
  readonly preface: string;
  serve(socket: Socket): void;
}

/**
 * `late` gets connections that have not shown after `timeoutMs` what they are. Returns what ends those that
 * have not yet: `node:http` does not know of them, but its `close` waits for them.
 */
export function sharePort(
  server: Server,
  other: OtherProtocol,
  timeoutMs: number,
  late: (socket: Socket) => void,
): () => void {
  const undecided = new Set<Socket>();
  // node:http has put in the one that parses requests.
  const listeners = server.listeners("connection");
  server.removeAllListeners("connection");
  server.on("connection", (socket: Socket) => {
    let head = Buffer.alloc(0);
    undecided.add(socket);
    const timer = setTimer(() => {
      // What comes now is too late also where the refusal is still on its way.
      socket.off("data", lookAt);
      late(socket);
    }, timeoutMs);
    const lookAt = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      const isOther = other.preface.startsWith(
        head.subarray(0, other.preface.length).toString("latin1"),
      );
      if (isOther && head.length < other.preface.length) {
        return;
      }
      timer.cancel();
      undecided.delete(socket);
      socket.off("data", lookAt);
      socket.pause();
      socket.unshift(head);
      if (isOther) {
        other.serve(socket);
      } else {
        for (const listener of listeners) {
          listener.call(server, socket);
        }
      }
      process.nextTick(() => socket.resume());
    };
    socket.on("data", lookAt);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      timer.cancel();
      undecided.delete(socket);
    });
  });
  return () => {
    for (const socket of undecided) {
      socket.destroy();
    }
  };
}

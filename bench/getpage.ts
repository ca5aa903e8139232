// GetPage alone: images in the cache of a pageserver with a process of its own, asked over a socket by this one.
//
// The client parses nothing but the places where answers begin, so that it is not what limits the rate. The machine's
// other processes do; so beside pages a second stands the processor time that the pageserver's process takes for one.

import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { fileURLToPath } from "node:url";
import { SeededRandom } from "../src/base/random.ts";
import { encodeRelRequest, TAG_GET_PAGE } from "../src/pageserver/pagestream.ts";
import { PAGE_SIZE } from "../src/postgres/page.ts";
import { cstring, encodeMessage, int32, PROTOCOL_3 } from "../src/postgres/wire/wire-messages.ts";
import {
  MEASURED_LSN,
  MEASURED_RELATION,
  type ServedRelation,
  type UsedSoFar,
} from "./getpage-server.ts";
import { median, progress, type Row, ratio } from "./report.ts";

const REQUESTS = 1 << 14;
const REQUEST_BYTES = 5 + 42;
/** CopyData, the request again, the page. */
const ANSWER_BYTES = REQUEST_BYTES + PAGE_SIZE;
const COPY_DATA = "d".charCodeAt(0);
const ANSWER_TAG = 102;
/** Answer to a command that switches to the stream, with the bytes of an empty CopyBothResponse. */
const COPY_BOTH = encodeMessage("W", Buffer.from([0, 0, 0]));
const AIMS: Readonly<Record<number, string>> = { 1: "12000", 32: "60000" };

/** Random pages of the relation, ready to be sent from any place on. */
function encodeRequests(blocks: number): Buffer {
  const random = new SeededRandom(7);
  const messages = Array.from({ length: REQUESTS }, (_, id) => {
    const block = random.int(blocks);
    const lsns = [MEASURED_LSN, MEASURED_LSN] as const;
    return encodeMessage(
      "d",
      encodeRelRequest(TAG_GET_PAGE, id + 1, ...lsns, MEASURED_RELATION, block),
    );
  });
  return Buffer.concat(messages);
}

/** One connection in pagestream mode, which keeps `depth` requests under way. */
class Asker {
  readonly #socket: Socket;
  readonly #requests: Buffer;
  readonly #opened = Promise.withResolvers<void>();
  #streaming = false;
  #received = 0;
  #nextRequest = 0;
  #answers = 0;
  #left = 0;
  #finished = Promise.withResolvers<void>();

  constructor(served: ServedRelation) {
    this.#requests = encodeRequests(served.blocks);
    this.#socket = createConnection({
      host: "127.0.0.1",
      port: served.port,
      noDelay: true,
      onread: {
        buffer: Buffer.alloc(1 << 18),
        callback: (length, buffer) => {
          this.#receive(Buffer.from(buffer.buffer, buffer.byteOffset, length));
          return true;
        },
      },
    });
    const startup = Buffer.concat([
      int32(PROTOCOL_3),
      cstring("user"),
      cstring("bench"),
      cstring(""),
    ]);
    this.#socket.write(Buffer.concat([int32(startup.length + 4), startup]));
    this.#socket.write(
      encodeMessage("Q", cstring(`pagestream_v3 ${served.tenantId} ${served.timelineId}`)),
    );
    this.#socket.on("error", (error) => {
      this.#opened.reject(error);
      this.#finished.reject(error);
    });
  }

  get opened(): Promise<void> {
    return this.#opened.promise;
  }

  /** Asks for `count` pages, `depth` of them under way at any time. */
  run(count: number, depth: number): Promise<void> {
    this.#finished = Promise.withResolvers();
    this.#answers = 0;
    this.#received = 0;
    this.#left = count;
    this.#ask(depth);
    return this.#finished.promise;
  }

  close(): void {
    this.#socket.destroy();
  }

  #ask(count: number): void {
    let wanted = Math.min(count, this.#left);
    this.#left -= wanted;
    while (wanted > 0) {
      const some = Math.min(wanted, REQUESTS - this.#nextRequest);
      const from = this.#nextRequest * REQUEST_BYTES;
      this.#socket.write(this.#requests.subarray(from, from + some * REQUEST_BYTES));
      this.#nextRequest = (this.#nextRequest + some) % REQUESTS;
      wanted -= some;
    }
  }

  #receive(chunk: Buffer): void {
    if (!this.#streaming) {
      this.#streaming = chunk.subarray(-COPY_BOTH.length).equals(COPY_BOTH);
      if (this.#streaming) {
        this.#opened.resolve();
      }
      return;
    }
    let begins = -this.#received % ANSWER_BYTES;
    begins = begins < 0 ? begins + ANSWER_BYTES : begins;
    for (; begins + 5 < chunk.length; begins += ANSWER_BYTES) {
      if (chunk[begins] !== COPY_DATA || chunk[begins + 5] !== ANSWER_TAG) {
        this.#finished.reject(new Error(`no page: ${chunk.subarray(begins, begins + 200)}`));
        return;
      }
    }
    this.#received += chunk.length;
    const answers = Math.floor(this.#received / ANSWER_BYTES);
    const fresh = answers - this.#answers;
    this.#answers = answers;
    if (this.#left > 0) {
      this.#ask(fresh);
    } else if (fresh > 0 && this.#received % ANSWER_BYTES === 0) {
      this.#finished.resolve();
    }
  }
}

/** `request`: what the server does from then on; see getpage-server.ts. */
async function usedSoFar(server: ChildProcess, request = "used so far"): Promise<UsedSoFar> {
  const answer = once(server, "message");
  server.send(request);
  return ((await answer) as [UsedSoFar])[0];
}

async function processorUs(server: ChildProcess): Promise<number> {
  const { user, system } = await usedSoFar(server);
  return user + system;
}

/** Microseconds of one page after the other, sorted. */
async function latencies(asker: Asker, seconds: number): Promise<number[]> {
  const times: number[] = [];
  const end = performance.now() + seconds * 1000;
  for (let began = performance.now(); began < end; began = performance.now()) {
    await asker.run(1, 1);
    times.push((performance.now() - began) * 1000);
  }
  return times.sort((a, b) => a - b);
}

/** Alone, and while another timeline takes in changes and is compacted: in turns. */
async function besideCompaction(asker: Asker, server: ChildProcess, rounds: number): Promise<Row> {
  const alone: number[] = [];
  const beside: number[] = [];
  let steps = 0;
  for (let round = 0; round < rounds; round++) {
    alone.push(p99(await latencies(asker, 3)));
    const { compactions } = await usedSoFar(server, "neighbour");
    beside.push(p99(await latencies(asker, 6)));
    steps += (await usedSoFar(server)).compactions - compactions;
    await latencies(asker, 1);
  }
  assert.ok(steps >= rounds, `only ${steps} steps of compaction`);
  progress(
    `GetPage p99, us: alone ${alone.map(Math.round)}, beside ${steps} steps of compaction ${beside.map(Math.round)}`,
  );
  return {
    what: "GetPage one at a time, p99, us: beside compaction of another timeline, against alone",
    ours: median(beside).toFixed(0),
    theirs: median(alone).toFixed(0),
    ratio: ratio(median(beside), median(alone)),
    aim: "2",
  };
}

const p99 = (sorted: readonly number[]) => sorted[Math.floor(sorted.length * 0.99)]!;

export async function benchGetPage(rounds: number): Promise<Row[]> {
  const server = fork(fileURLToPath(new URL("getpage-server.ts", import.meta.url)));
  const [served] = (await once(server, "message")) as [ServedRelation];
  const asker = new Asker(served);
  const rows: Row[] = [];
  try {
    await asker.opened;
    await asker.run(4 * served.blocks, 32);
    for (const depth of [1, 32]) {
      const count = depth === 1 ? 20_000 : 100_000;
      const rates: number[] = [];
      const costs: number[] = [];
      const ownCosts: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const own = process.cpuUsage();
        const before = await processorUs(server);
        const began = performance.now();
        await asker.run(count, depth);
        rates.push((count * 1000) / (performance.now() - began));
        costs.push(((await processorUs(server)) - before) / count);
        const { user, system } = process.cpuUsage(own);
        ownCosts.push((user + system) / count);
      }
      const us = median(costs).toFixed(1);
      progress(
        `GetPage ${depth}: ${rates.map(Math.round)}/s, client ${median(ownCosts).toFixed(1)} us`,
      );
      const what = `GetPage, images in the cache, ${depth} in flight`;
      rows.push({
        what: `${what}, pages/s`,
        ours: median(rates).toFixed(0),
        theirs: "—",
        ratio: "—",
        aim: AIMS[depth]!,
      });
      rows.push({
        what: `${what}, processor time, us`,
        ours: us,
        theirs: "—",
        ratio: "—",
        aim: "",
      });
    }
    rows.push(await besideCompaction(asker, server, rounds));
  } finally {
    asker.close();
    server.disconnect();
    await once(server, "exit");
  }
  return rows;
}

// The replication protocol of a logical slot, from Node: what is streamed, and what a client says that it has.
//
// Source: "Streaming Replication Protocol": `w` start, end, time, data; `k` end, time, whether an answer is asked for;
// a client's `r` written, flushed, applied, time, answer.

import type { EventEmitter } from "node:events";
import pg from "pg";
import { formatLsn, INVALID_LSN, type Lsn, lsnFromBigInt } from "../../src/base/lsn.ts";

const DATA = "w".charCodeAt(0);
const KEEPALIVE = "k".charCodeAt(0);
const DATA_HEADER_BYTES = 25;
/** Longer than a machine with much to do needs to connect, shorter than a test waits. */
const CONNECT_TIMEOUT_MS = 60_000;

interface CopyConnection extends EventEmitter {
  sendCopyFromChunk(chunk: Buffer): void;
}

/** A connection that speaks the replication protocol too. */
export async function connectReplication(config: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client({
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    ...config,
    replication: "database",
  } as pg.ClientConfig);
  client.on("error", () => {});
  await client.connect();
  return client;
}

export interface LogicalStreamOptions {
  readonly slot: string;
  /** What committed before it is left out; 0: all that was not confirmed. */
  readonly from: Lsn;
  /** Options of the plugin, as `proto_version '1'`. */
  readonly plugin?: string;
  /** `bytes` are the listener's. A throw ends the stream with it. */
  readonly onData: (bytes: Buffer) => void;
  /** All up to `walEnd` was sent. */
  readonly onKeepalive?: (walEnd: Lsn) => void;
}

export class LogicalStream {
  /** Rejects with why it ended, unless `close` was called. */
  readonly ended: Promise<void>;
  readonly #connection: CopyConnection;
  readonly #onKeepalive: ((walEnd: Lsn) => void) | undefined;
  #confirmed: Lsn = INVALID_LSN;
  #closing = false;

  private constructor(client: pg.Client, options: LogicalStreamOptions) {
    const { slot, from, plugin, onData } = options;
    this.#onKeepalive = options.onKeepalive;
    this.#connection = (client as unknown as { connection: CopyConnection }).connection;
    const sql = `START_REPLICATION SLOT "${slot}" LOGICAL ${formatLsn(from)}`;
    const failed = Promise.withResolvers<void>();
    this.#connection.on("copyData", ({ chunk }: { chunk: Buffer }) => {
      try {
        this.#received(chunk, onData);
      } catch (error) {
        failed.reject(error);
      }
    });
    const streamed = client.query(plugin === undefined ? sql : `${sql} (${plugin})`);
    const closed = new Promise<void>((_, reject) => {
      client.once("end", () => reject(new Error("the connection was closed")));
    });
    this.ended = Promise.race([failed.promise, closed, streamed.then(() => {})]).catch(
      async (error: unknown) => {
        await client.end().catch(() => undefined);
        if (!this.#closing) {
          throw error;
        }
      },
    );
    this.ended.catch(() => undefined);
  }

  /** Rejects where the slot cannot be streamed from. */
  static async open(
    config: pg.ClientConfig,
    options: LogicalStreamOptions,
  ): Promise<LogicalStream> {
    const client = await connectReplication(config);
    const stream = new LogicalStream(client, options);
    const started = new Promise<void>((resolve) => {
      stream.#connection.once("replicationStart", () => resolve());
    });
    await Promise.race([
      started,
      stream.ended.then(() => {
        throw new Error("it ended before it began");
      }),
    ]);
    return stream;
  }

  /** All below `lsn` is durable here: the server may forget it. */
  confirm(lsn: Lsn): void {
    this.#confirmed = lsn;
    this.#answer();
  }

  /** Without a word to the server, as a client that is killed. */
  async close(): Promise<void> {
    this.#closing = true;
    const { stream } = this.#connection as unknown as { stream: { destroy(): void } };
    stream.destroy();
    await this.ended;
  }

  #received(chunk: Buffer, onData: (bytes: Buffer) => void): void {
    if (chunk[0] === DATA) {
      onData(Buffer.from(chunk.subarray(DATA_HEADER_BYTES)));
    } else if (chunk[0] === KEEPALIVE) {
      this.#onKeepalive?.(lsnFromBigInt(chunk.readBigUInt64BE(1)));
      if (chunk[17] === 1) {
        this.#answer();
      }
    }
  }

  #answer(): void {
    const bytes = Buffer.alloc(34);
    bytes.write("r", 0, "latin1");
    for (const offset of [1, 9, 17]) {
      bytes.writeBigUInt64BE(BigInt(this.#confirmed), offset);
    }
    this.#connection.sendCopyFromChunk(bytes);
  }
}

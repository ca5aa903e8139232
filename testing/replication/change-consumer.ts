// A client of `pgoutput` as Debezium is one: a snapshot, then each transaction, over connections that break; and a judge of what it is sent.

import assert from "node:assert/strict";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { formatLsn, INVALID_LSN, type Lsn, parseLsn } from "../../src/base/lsn.ts";
import { connectReplication, LogicalStream } from "./logical-stream.ts";
import { PgOutputDecoder, type PgOutputMessage } from "./pgoutput.ts";

const PAUSE_MS = 50;

export interface ChangeConsumerOptions {
  /** Name of its slot and of its publication. */
  readonly slot: string;
  readonly publication: string;
  /** Of two columns, `id` and `v`, with `id` as its replica identity. */
  readonly table: string;
  readonly config: () => pg.ClientConfig;
  /** After how many transactions it says that it has them; 0: never. */
  readonly confirmEach: number;
  /** Whether it tells the server from where on it wants to go on; else it gets all that it has not confirmed, and leaves out what it has. */
  readonly keepsOffset: boolean;
}

interface Change {
  readonly id: string;
  /** Undefined: deleted. */
  readonly v: string | undefined;
  readonly isInsert: boolean;
}

export class ChangeConsumer {
  /** The table, as it is after all that has come. */
  readonly rows = new Map<string, string>();
  readonly snapshotIds = new Set<string>();
  /** What it was told of inserts behind its snapshot: how often, by `id`. */
  readonly inserted = new Map<string, number>();
  /** Transactions that came again: none where it keeps its offset. */
  repeated = 0;
  connections = 0;
  /** End of the last transaction that it has. */
  offset: Lsn = INVALID_LSN;
  readonly #options: ChangeConsumerOptions;
  /** Ends of all transactions that have come, in order. */
  readonly #history: Lsn[] = [];
  #stream: LogicalStream | undefined;
  #stopping = false;
  #run: Promise<void> = Promise.resolve();

  constructor(options: ChangeConsumerOptions) {
    this.#options = options;
  }

  get transactions(): number {
    return this.#history.length;
  }

  /** Makes its slot and reads the table as it was then. A connection that breaks here rejects. */
  async snapshot(): Promise<void> {
    const { slot, table, config } = this.#options;
    const maker = await connectReplication(config());
    const reader = await connectReplication(config());
    try {
      const {
        rows: [made],
      } = await maker.query(`CREATE_REPLICATION_SLOT "${slot}" LOGICAL pgoutput EXPORT_SNAPSHOT`);
      await reader.query("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY");
      await reader.query(`SET TRANSACTION SNAPSHOT '${made.snapshot_name}'`);
      // The replication protocol knows simple queries only.
      const { rows } = await reader.query(`SELECT id::text, v FROM ${table}`);
      for (const { id, v } of rows) {
        this.rows.set(id, v);
        this.snapshotIds.add(id);
      }
      this.offset = parseLsn(made.consistent_point)!;
    } finally {
      await Promise.all([maker.end(), reader.end()]);
    }
  }

  /** Streams until `stop`, over as many connections as it takes. Rejects, from `stop`, with what must not be. */
  start(): void {
    this.#stopping = false;
    this.#run = (async () => {
      while (!this.#stopping) {
        await this.#connectAndStream();
        await sleep(PAUSE_MS);
      }
    })();
    this.#run.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#stream?.close();
    await this.#run;
  }

  /** Breaks its connection, as a client that is killed: it comes back. */
  async drop(): Promise<void> {
    await this.#stream?.close();
  }

  async #connectAndStream(): Promise<void> {
    const { slot, publication, config, keepsOffset } = this.#options;
    const connection = new Connection(this, this.#options);
    try {
      const stream = await LogicalStream.open(config(), {
        slot,
        from: keepsOffset ? this.offset : INVALID_LSN,
        plugin: `proto_version '1', publication_names '${publication}'`,
        onData: (bytes) => connection.received(bytes),
        onKeepalive: (walEnd) => connection.confirmIdle(walEnd),
      });
      connection.stream = stream;
      this.#stream = stream;
      this.connections++;
      if (this.#stopping) {
        await stream.close();
      }
      await stream.ended;
    } catch (error) {
      // The server is away, falls asleep or has the slot's last walsender still: it comes back.
      if (error instanceof assert.AssertionError) {
        throw error;
      }
    } finally {
      this.#stream = undefined;
    }
  }

  /** `previous`: what came before it on the same connection. */
  transaction(changes: readonly Change[], endLsn: Lsn, previous: Lsn | undefined): void {
    const known = this.#history.indexOf(endLsn);
    if (previous !== undefined) {
      const next = this.#history[this.#history.indexOf(previous) + 1];
      assert.equal(known === -1 ? undefined : endLsn, next, `behind ${formatLsn(previous)}`);
    }
    if (known !== -1) {
      this.repeated++;
      return;
    }
    assert.ok(endLsn > this.offset, `${formatLsn(endLsn)} is not behind ${formatLsn(this.offset)}`);
    this.#history.push(endLsn);
    this.offset = endLsn;
    for (const { id, v, isInsert } of changes) {
      if (isInsert) {
        this.inserted.set(id, (this.inserted.get(id) ?? 0) + 1);
      }
      if (v === undefined) {
        this.rows.delete(id);
      } else {
        this.rows.set(id, v);
      }
    }
  }
}

/** One connection's transactions: from the first on that was not confirmed, each in its order. */
class Connection {
  readonly #consumer: ChangeConsumer;
  readonly #options: ChangeConsumerOptions;
  readonly #decoder = new PgOutputDecoder();
  #open: Change[] | undefined;
  #previous: Lsn | undefined;
  #unconfirmed = 0;
  stream: LogicalStream | undefined;

  constructor(consumer: ChangeConsumer, options: ChangeConsumerOptions) {
    this.#consumer = consumer;
    this.#options = options;
  }

  received(bytes: Buffer): void {
    const message = this.#decoder.decode(bytes);
    if (message?.kind === "begin") {
      assert.equal(this.#open, undefined, "a transaction within another one");
      this.#open = [];
    } else if (message?.kind === "commit") {
      this.#consumer.transaction(this.#open!, message.endLsn, this.#previous);
      this.#previous = message.endLsn;
      this.#open = undefined;
      this.#confirm();
    } else if (message !== undefined) {
      this.#open!.push(...this.#changesOf(message));
    }
  }

  /** One that has confirmed all confirms what was not for it, too. */
  confirmIdle(walEnd: Lsn): void {
    if (this.#options.confirmEach > 0 && this.#unconfirmed === 0 && this.#open === undefined) {
      this.stream?.confirm(walEnd);
    }
  }

  #confirm(): void {
    this.#unconfirmed++;
    if (this.#unconfirmed === this.#options.confirmEach) {
      this.#unconfirmed = 0;
      this.stream?.confirm(this.#consumer.offset);
    }
  }

  #changesOf(message: PgOutputMessage): Change[] {
    if (message.kind !== "insert" && message.kind !== "update" && message.kind !== "delete") {
      throw new assert.AssertionError({ message: `nobody has done a ${message.kind}` });
    }
    const id = message.row["id"]!;
    const v = message.kind === "delete" ? undefined : message.row["v"]!;
    return [{ id, v, isInsert: message.kind === "insert" }];
  }
}

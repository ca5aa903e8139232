// What a server connection still has to answer, in order: so that answers that we asked for are swallowed, and those that we did not
// ask for are made up, each in its place.
//
// Source: Postgres documentation "Extended Query"; tcop/postgres.c (ignore_till_sync): after an error the server reads on to the
// next Sync and answers nothing before it, not even a simple query.

/** In place of a statement, with `EXPECT.query`: what it sets is of the transaction only. */
export const SETS_LOCALLY = -1;

/** An entry ends with the message, or with one of the messages, that its comment names. */
export const EXPECT = {
  /** ParseComplete `1`, BindComplete `2`, CloseComplete `3`: the client's. */
  parse: 1,
  bind: 2,
  close: 3,
  /** RowDescription `T` or NoData `n`. */
  describe: 4,
  /** CommandComplete `C`, EmptyQueryResponse `I`, PortalSuspended `s`. */
  execute: 5,
  /** ReadyForQuery `Z`: of Sync, of a simple query or a function call. */
  sync: 6,
  query: 7,
  /** As `parse` and `close`, but the client must not see it. */
  swallowParse: 8,
  swallowClose: 9,
  /** The server is not asked: the client gets ParseComplete or CloseComplete from us. */
  inventParse: 10,
  inventClose: 11,
} as const;

const ENDS: Readonly<Record<number, string>> = {
  [EXPECT.parse]: "1",
  [EXPECT.bind]: "2",
  [EXPECT.close]: "3",
  [EXPECT.describe]: "Tn",
  [EXPECT.execute]: "CIs",
  [EXPECT.sync]: "Z",
  [EXPECT.query]: "Z",
  [EXPECT.swallowParse]: "1",
  [EXPECT.swallowClose]: "3",
};

/** By entry, then by type of message: 1 where that ends it. */
const ENDS_TABLE = Uint8Array.from({ length: 12 * 256 }, (_, i) =>
  (ENDS[i >> 8] ?? "").includes(String.fromCharCode(i & 0xff)) ? 1 : 0,
);

/** A ring of entries in typed arrays: nothing is allocated for a message. */
export class ResponseQueue {
  #kinds = new Uint8Array(64);
  #statements = new Float64Array(64);
  #head = 0;
  #size = 0;
  /** Entries of Sync, simple query and function call. */
  #ready = 0;

  get isEmpty(): boolean {
    return this.#size === 0;
  }

  /** ReadyForQuery messages that are to come. */
  get readyCount(): number {
    return this.#ready;
  }

  /** 0 where there is none. */
  get first(): number {
    return this.#size === 0 ? 0 : this.#kinds[this.#head]!;
  }

  /** Of the first entry, as it was pushed. */
  get firstStatement(): number {
    return this.#size === 0 ? 0 : this.#statements[this.#head]!;
  }

  /** `statement`: the id that a Parse is to bring to the server; `SETS_LOCALLY`; 0 for others. */
  push(kind: number, statement = 0): void {
    if (this.#size === this.#kinds.length) {
      this.#grow();
    }
    const at = (this.#head + this.#size) & (this.#kinds.length - 1);
    this.#kinds[at] = kind;
    this.#statements[at] = statement;
    this.#size++;
    this.#ready += isReady(kind) ? 1 : 0;
  }

  shift(): void {
    this.#ready -= isReady(this.first) ? 1 : 0;
    this.#head = (this.#head + 1) & (this.#kinds.length - 1);
    this.#size--;
  }

  /** Whether a message of that type ends the first entry. */
  endsFirst(type: number): boolean {
    return ENDS_TABLE[(this.first << 8) | type] === 1;
  }

  /** After an error: drops what the server will not answer; `onLost` gets statements that it does not have now. */
  skipToSync(onLost: (statement: number) => void): void {
    while (this.#size > 0 && this.first !== EXPECT.sync) {
      const statement = this.#statements[this.#head]!;
      if (statement > 0) {
        onLost(statement);
      }
      this.shift();
    }
  }

  /** The server takes COPY data: it ignores each Sync that it finds among them. */
  dropSyncs(): void {
    const kept: [number, number][] = [];
    for (; this.#size > 0; this.shift()) {
      if (this.first !== EXPECT.sync) {
        kept.push([this.first, this.#statements[this.#head]!]);
      }
    }
    for (const [kind, statement] of kept) {
      this.push(kind, statement);
    }
  }

  #grow(): void {
    const { length } = this.#kinds;
    const kinds = new Uint8Array(length * 2);
    const statements = new Float64Array(length * 2);
    for (let i = 0; i < this.#size; i++) {
      kinds[i] = this.#kinds[(this.#head + i) & (length - 1)]!;
      statements[i] = this.#statements[(this.#head + i) & (length - 1)]!;
    }
    this.#kinds = kinds;
    this.#statements = statements;
    this.#head = 0;
  }
}

function isReady(kind: number): boolean {
  return kind === EXPECT.sync || kind === EXPECT.query;
}

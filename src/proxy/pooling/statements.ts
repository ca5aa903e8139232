// Prepared statements of pooled clients: the same text is one statement, whichever client and server connection it is on.

/** What a client has parsed under some name. */
export interface Statement {
  readonly id: number;
  /** The body of its Parse without the name: text, and types of parameters. */
  readonly definition: Buffer;
}

interface Counted extends Statement {
  readonly key: string;
  uses: number;
}

/** All statements that some client has; an id is never given twice. */
export class StatementTable {
  readonly #byDefinition = new Map<string, Counted>();
  #lastId = 0;

  get size(): number {
    return this.#byDefinition.size;
  }

  /** To be given back with `release`. */
  acquire(definition: Uint8Array): Statement {
    const bytes = Buffer.from(definition);
    const key = bytes.toString("latin1");
    let statement = this.#byDefinition.get(key);
    if (statement === undefined) {
      statement = { id: ++this.#lastId, definition: bytes, key, uses: 0 };
      this.#byDefinition.set(key, statement);
    }
    statement.uses++;
    return statement;
  }

  release(statement: Statement): void {
    const counted = statement as Counted;
    counted.uses--;
    if (counted.uses === 0) {
      this.#byDefinition.delete(counted.key);
    }
  }
}

/** The name of a statement at the server. */
export function serverName(id: number): string {
  return `S_${id}`;
}

/** Such a name is somebody else's where the client has not given it himself. */
export function isServerName(name: string): boolean {
  return /^S_\d+$/.test(name);
}

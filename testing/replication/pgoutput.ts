// What `pgoutput` says, protocol version 1, as a client in Node hears it.
//
// Source: "Logical Replication Message Formats" (logicalproto.h), 14-18: a letter, then big-endian fields; a row is a count of
// columns and for each a letter, `n` null, `u` unchanged and left out, `t` a length and text.

import type { Lsn } from "../../src/base/lsn.ts";
import { lsnFromBigInt } from "../../src/base/lsn.ts";

/** Columns by name; null, or undefined where it is TOASTed and did not change. */
export type Row = Readonly<Record<string, string | null | undefined>>;

export type PgOutputMessage =
  | { readonly kind: "begin"; readonly xid: number }
  /** `endLsn`: behind the commit record: what a client says that it has. */
  | { readonly kind: "commit"; readonly endLsn: Lsn }
  | { readonly kind: "insert" | "delete"; readonly table: string; readonly row: Row }
  /** `key`: what its replica identity was, where that changed. */
  | { readonly kind: "update"; readonly table: string; readonly key?: Row; readonly row: Row }
  | { readonly kind: "truncate"; readonly tables: readonly string[] };

interface Relation {
  readonly name: string;
  readonly columns: readonly string[];
}

/** One per connection: what a relation is like is said before its first change. */
export class PgOutputDecoder {
  readonly #relations = new Map<number, Relation>();

  /** Undefined for what only describes: relations, types, origins. Throws where it is not of version 1. */
  decode(bytes: Buffer): PgOutputMessage | undefined {
    const reader = new Reader(bytes);
    const kind = reader.letter();
    switch (kind) {
      case "B":
        reader.skip(16);
        return { kind: "begin", xid: reader.uint32() };
      case "C":
        reader.skip(9);
        return { kind: "commit", endLsn: reader.lsn() };
      case "R":
        this.#relation(reader);
        return undefined;
      case "I":
      case "D": {
        const relation = this.#of(reader);
        reader.skip(1);
        const row = reader.row(relation);
        return { kind: kind === "I" ? "insert" : "delete", table: relation.name, row };
      }
      case "U":
        return this.#update(reader);
      case "T": {
        const count = reader.uint32();
        reader.skip(1);
        return {
          kind: "truncate",
          tables: Array.from({ length: count }, () => this.#of(reader).name),
        };
      }
      case "Y":
      case "O":
      case "M":
        return undefined;
      default:
        throw new Error(`pgoutput says '${kind}'`);
    }
  }

  #relation(reader: Reader): void {
    const oid = reader.uint32();
    const name = `${reader.text()}.${reader.text()}`;
    reader.skip(1);
    const columns = Array.from({ length: reader.uint16() }, () => {
      reader.skip(1);
      const column = reader.text();
      reader.skip(8);
      return column;
    });
    this.#relations.set(oid, { name, columns });
  }

  #of(reader: Reader): Relation {
    const oid = reader.uint32();
    const relation = this.#relations.get(oid);
    if (relation === undefined) {
      throw new Error(`pgoutput has not said what relation ${oid} is`);
    }
    return relation;
  }

  #update(reader: Reader): PgOutputMessage {
    const relation = this.#of(reader);
    const what = reader.letter();
    if (what === "N") {
      return { kind: "update", table: relation.name, row: reader.row(relation) };
    }
    const key = reader.row(relation);
    reader.skip(1);
    return { kind: "update", table: relation.name, key, row: reader.row(relation) };
  }
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  skip(count: number): void {
    this.#at += count;
  }

  letter(): string {
    return String.fromCharCode(this.#bytes.readUInt8(this.#at++));
  }

  uint16(): number {
    this.#at += 2;
    return this.#bytes.readUInt16BE(this.#at - 2);
  }

  uint32(): number {
    this.#at += 4;
    return this.#bytes.readUInt32BE(this.#at - 4);
  }

  lsn(): Lsn {
    this.#at += 8;
    return lsnFromBigInt(this.#bytes.readBigUInt64BE(this.#at - 8));
  }

  /** Up to its closing zero. */
  text(): string {
    const end = this.#bytes.indexOf(0, this.#at);
    const text = this.#bytes.toString("utf8", this.#at, end);
    this.#at = end + 1;
    return text;
  }

  row({ columns }: Relation): Row {
    const row: Record<string, string | null | undefined> = {};
    const count = this.uint16();
    for (const column of columns.slice(0, count)) {
      const kind = this.letter();
      if (kind === "t") {
        const length = this.uint32();
        row[column] = this.#bytes.toString("utf8", this.#at, this.#at + length);
        this.#at += length;
      } else {
        row[column] = kind === "n" ? null : undefined;
      }
    }
    return row;
  }
}

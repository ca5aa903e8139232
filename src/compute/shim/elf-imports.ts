// Reads which functions an ELF program imports, and checks that the shim sees all of its file I/O.

import { closeSync, openSync, readSync } from "node:fs";
import { StorageError } from "../../base/errors.ts";
import { HARMLESS_IMPORTS, INTERCEPTED_IMPORTS, REFUSED_IMPORTS } from "./shim-imports.ts";

/*
 * ELF-64, little-endian (elf(5); gABI chapter 5; symbol versions: LSB "Symbol Versioning").
 * header: 0 7F 'E' 'L' 'F' | 4 class 2 | 5 data 1 | 32 u64 program headers | 54 u16 size | 56 u16 count
 * program header: 0 u32 type | 8 u64 offset | 16 u64 address | 32 u64 bytes in the file
 * dynamic entry:  0 i64 tag | 8 u64 value, ends with tag 0
 * symbol:         0 u32 name | 4 u8 info | 6 u16 section (0 = imported) | 16 u64 size
 * Bounds are checked before each read; a wrong one is `invalid`: the file is no usable program.
 */
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const DT_NEEDED = 1;
const DT_HASH = 4;
const DT_STRTAB = 5;
const DT_SYMTAB = 6;
const DT_STRSZ = 10;
const DT_GNU_HASH = 0x6ffffef5;
const DT_VERSYM = 0x6ffffff0;
const DT_VERNEED = 0x6ffffffe;
const DT_VERNEEDNUM = 0x6fffffff;
const SYMBOL_BYTES = 24;
const STT_FUNC_OR_NONE = new Set([0, 2, 10]);
const MAX_FILE_BYTES = 1 << 30;

export interface ElfImport {
  readonly name: string;
  /** The library that the linker found it in, or undefined for one without symbol versions. */
  readonly library: string | undefined;
}

export interface ElfImports {
  readonly functions: readonly ElfImport[];
  /** Names that the file itself gives to others. */
  readonly definitions: readonly string[];
  /** DT_NEEDED: the libraries it is linked with. */
  readonly libraries: readonly string[];
}

/** Imports of the program at `path`; StorageError `invalid` where it is not a 64-bit little-endian ELF file. */
export function readElfImports(path: string): ElfImports {
  const fd = openSync(path, "r");
  try {
    return new ElfReader(path, (at, length) => {
      const bytes = Buffer.alloc(length);
      return readSync(fd, bytes, 0, length, at) === length ? bytes : undefined;
    }).imports();
  } finally {
    closeSync(fd);
  }
}

/** As readElfImports, of a program in memory. */
export function parseElfImports(name: string, program: Uint8Array): ElfImports {
  const bytes = Buffer.from(program.buffer, program.byteOffset, program.byteLength);
  return new ElfReader(name, (at, length) =>
    at + length <= bytes.length ? bytes.subarray(at, at + length) : undefined,
  ).imports();
}

interface Segment {
  readonly offset: number;
  readonly address: number;
  readonly bytes: number;
}

class ElfReader {
  readonly #path: string;
  readonly #read: (at: number, length: number) => Buffer | undefined;
  readonly #loaded: Segment[] = [];

  constructor(path: string, read: (at: number, length: number) => Buffer | undefined) {
    this.#path = path;
    this.#read = read;
  }

  imports(): ElfImports {
    const header = this.#bytes(0, 64);
    if (header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1) {
      throw this.#invalid("not a 64-bit little-endian ELF file");
    }
    const dynamic = this.#dynamicTable(header);
    const one = (tag: number) => dynamic.find(([found]) => found === tag)?.[1];
    const strings = this.#loadedBytes(one(DT_STRTAB), one(DT_STRSZ) ?? 0);
    const symbolAddress = one(DT_SYMTAB);
    const count = this.#symbolCount(one(DT_HASH), one(DT_GNU_HASH));
    const symbols = this.#loadedBytes(symbolAddress, count * SYMBOL_BYTES);
    const versymAddress = one(DT_VERSYM);
    const versions =
      versymAddress === undefined ? undefined : this.#loadedBytes(versymAddress, count * 2);
    const libraryOf = this.#versionLibraries(one(DT_VERNEED), one(DT_VERNEEDNUM) ?? 0, strings);
    const functions: ElfImport[] = [];
    const definitions: string[] = [];
    for (let i = 1; i < count; i++) {
      const at = i * SYMBOL_BYTES;
      const name = this.#string(strings, symbols.readUInt32LE(at));
      if (symbols.readUInt16LE(at + 6) !== 0) {
        // Section symbols have no name.
        definitions.push(...(name === "" ? [] : [name]));
      } else if (STT_FUNC_OR_NONE.has(symbols[at + 4]! & 15)) {
        const version = versions && versions.readUInt16LE(i * 2) & 0x7fff;
        functions.push({ name, library: libraryOf.get(version ?? 0) });
      }
    }
    const libraries = dynamic
      .filter(([tag]) => tag === DT_NEEDED)
      .map(([, value]) => this.#string(strings, value));
    return { functions, definitions, libraries };
  }

  #dynamicTable(header: Buffer): [number, number][] {
    const at = this.#number(header, 32);
    const size = header.readUInt16LE(54);
    const count = header.readUInt16LE(56);
    if (size < 56) {
      throw this.#invalid(`program headers of ${size} bytes`);
    }
    const headers = this.#bytes(at, size * count);
    let dynamic: Buffer | undefined;
    for (let i = 0; i < count; i++) {
      const entry = headers.subarray(i * size, (i + 1) * size);
      const type = entry.readUInt32LE(0);
      const offset = this.#number(entry, 8);
      const bytes = this.#number(entry, 32);
      if (type === PT_LOAD) {
        this.#loaded.push({ offset, address: this.#number(entry, 16), bytes });
      } else if (type === PT_DYNAMIC) {
        dynamic = this.#bytes(offset, bytes);
      }
    }
    if (dynamic === undefined) {
      throw this.#invalid("statically linked: nothing can be preloaded into it");
    }
    const table: [number, number][] = [];
    for (let entry = 0; entry + 16 <= dynamic.length; entry += 16) {
      const tag = this.#number(dynamic, entry);
      if (tag === 0) {
        break;
      }
      table.push([tag, this.#number(dynamic, entry + 8)]);
    }
    return table;
  }

  /** From the hash table, as the dynamic section does not say how many symbols there are. */
  #symbolCount(hash: number | undefined, gnuHash: number | undefined): number {
    if (hash !== undefined) {
      return this.#loadedBytes(hash, 8).readUInt32LE(4);
    }
    if (gnuHash === undefined) {
      throw this.#invalid("no symbol hash table");
    }
    // buckets: u32 count, u32 first symbol, u32 bloom words, u32 shift, u64 bloom[], u32 bucket[], u32 chain[]
    const head = this.#loadedBytes(gnuHash, 16);
    const buckets = head.readUInt32LE(0);
    const first = head.readUInt32LE(4);
    const bucketsAt = gnuHash + 16 + head.readUInt32LE(8) * 8;
    const table = this.#loadedBytes(bucketsAt, buckets * 4);
    let last = 0;
    for (let i = 0; i < buckets; i++) {
      last = Math.max(last, table.readUInt32LE(i * 4));
    }
    if (last < first) {
      return first;
    }
    const chainsAt = bucketsAt + buckets * 4;
    while ((this.#loadedBytes(chainsAt + (last - first) * 4, 4).readUInt32LE(0) & 1) === 0) {
      last++;
    }
    return last + 1;
  }

  /** Version index -> library, from the list of needed versions. */
  #versionLibraries(
    address: number | undefined,
    count: number,
    strings: Buffer,
  ): Map<number, string> {
    const libraries = new Map<number, string>();
    let at = address ?? 0;
    for (let i = 0; i < count && at > 0; i++) {
      const need = this.#loadedBytes(at, 16);
      const library = this.#string(strings, need.readUInt32LE(4));
      let auxAt = at + need.readUInt32LE(8);
      for (let j = need.readUInt16LE(2); j > 0; j--) {
        const aux = this.#loadedBytes(auxAt, 16);
        libraries.set(aux.readUInt16LE(6), library);
        auxAt += aux.readUInt32LE(12);
      }
      at += need.readUInt32LE(12);
    }
    return libraries;
  }

  #loadedBytes(address: number | undefined, length: number): Buffer {
    const segment = this.#loaded.find(
      (part) =>
        address !== undefined &&
        address >= part.address &&
        address + length <= part.address + part.bytes,
    );
    if (segment === undefined || address === undefined) {
      throw this.#invalid(`address ${address} with ${length} bytes is not in the file`);
    }
    return this.#bytes(segment.offset + address - segment.address, length);
  }

  #bytes(at: number, length: number): Buffer {
    const bytes = at + length <= MAX_FILE_BYTES && length >= 0 ? this.#read(at, length) : undefined;
    if (bytes === undefined) {
      throw this.#invalid(`it ends before offset ${at + length}`);
    }
    return bytes;
  }

  #number(bytes: Buffer, at: number): number {
    return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
  }

  #string(strings: Buffer, at: number): string {
    const end = strings.indexOf(0, at);
    if (at >= strings.length || end < 0) {
      throw this.#invalid(`string ${at} is not in the string table`);
    }
    return strings.toString("latin1", at, end);
  }

  #invalid(why: string): StorageError {
    return new StorageError("invalid", "bad-elf-file", `${this.#path}: ${why}`);
  }
}

/** libc and the parts of it that used to be libraries of their own. */
const LIBC = /^(libc|libpthread|librt|libdl|libm|ld-linux[-\w]*)\.so/;

/**
 * Refuses a Postgres whose file I/O could pass the shim by: such a read would see zeros where a page
 * is not here yet, and Postgres takes a zero page for a new one. Every function that it imports
 * from libc must be one the shim intercepts or one known to read and write no data file; anything
 * else is StorageError `unsupported`, with the names.
 */
export function checkPostgresImports(program: string, imports: ElfImports): void {
  const refuse = (what: string) =>
    new StorageError(
      "unsupported",
      "unknown-file-io",
      `${program} cannot run as a compute: it ${what}, which the shim does not see`,
    );
  const ring = imports.libraries.find((library) => library.startsWith("liburing."));
  if (ring !== undefined) {
    throw refuse(`is linked with ${ring}`);
  }
  const unknown = imports.functions
    .filter(({ name, library }) =>
      library !== undefined && LIBC.test(library)
        ? !INTERCEPTED_IMPORTS.has(name) && !HARMLESS_IMPORTS.has(name)
        : REFUSED_IMPORTS.has(name) || name.startsWith("io_uring_"),
    )
    .map(({ name }) => name);
  if (unknown.length > 0) {
    throw refuse(`imports ${unknown.join(", ")}`);
  }
  const needed = ["open", "pread", "pwrite", "close", "fdatasync"];
  const names = new Set(imports.functions.map(({ name }) => name));
  const missing = needed.filter((name) => !names.has(name) && !names.has(`${name}64`));
  if (missing.length > 0) {
    throw refuse(`does not import ${missing.join(", ")} from libc`);
  }
}

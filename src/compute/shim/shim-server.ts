// The agent's end of the shim: answers what Postgres's processes ask over a unix socket.

import { chmodSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { errorKind, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { emitDataDirectly } from "../../base/network/direct-data.ts";
import { giveToPostgres } from "../../postgres/installation.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  type RelationPath,
  type StorageDirectory,
  type StorageFile,
  storagePath,
} from "../../postgres/relation-path.ts";
import {
  type AlsoLacking,
  encodeAbsent,
  encodeHelloReply,
  encodeListing,
  encodeReplyHeader,
  type ListedFile,
  type PlacedFile,
  putPagesReply,
  REPLY_HEADER_BYTES,
  type ShimRequest,
  ShimRequestReader,
  STATUS_ABSENT,
  STATUS_ERROR,
  STATUS_FENCED,
  STATUS_OK,
} from "./shim-protocol.ts";

export type { ListedFile, PlacedFile } from "./shim-protocol.ts";

/** Some pages, one after the other. */
export interface PagePiece {
  readonly bytes: Uint8Array;
  /** Called once, when nobody needs `bytes` any more, or never. */
  release(): void;
}

/** The page half: storage as of the compute's start LSN. */
export interface PageHandlers {
  /** Size in bytes of a relation or SLRU segment; undefined where storage has no such file. `asker`: as readPages(). */
  stat(file: StorageFile, asker?: object): Promise<number | undefined>;
  /** What else storage lacks of a relation, one file of which it does not have. Undefined: not known; absent: of no relation. */
  alsoLacking?(file: RelationPath): Promise<AlsoLacking | undefined>;
  /**
   * `count` (1 to 32) pages from block `blkno` of the file on: one array, or pieces one after the other. `asker`: which process
   * of Postgres's asks; the same object each time.
   */
  readPages(
    file: StorageFile,
    blkno: number,
    count: number,
    asker?: object,
  ): Promise<Uint8Array | readonly PagePiece[]>;
  listDirectory(directory: StorageDirectory): Promise<readonly ListedFile[]>;
  /**
   * Which of `blocks` (bit i: block `blkno` + i) storage has as they are in the file, but for what Postgres may lose: as a bit
   * set. They may leave the disk then, and readPages() gives them at least as new. Undefined: none of this file, ever; absent: of no file.
   */
  comparePages?(file: StorageFile, blkno: number, blocks: number): Promise<number | undefined>;
  /** A hint; must not throw. */
  prefetch(file: StorageFile, blkno: number, count: number): void;
}

/** The WAL half. */
export interface WalHandlers {
  /** `length` bytes at `offset` of a segment file have been written by Postgres; must not throw. */
  walWritten(segno: number, offset: number, length: number): void;
  /**
   * Resolves when a quorum has every whole record below `endOffset` of the segment on disk; there is
   * no failing: a rejection other than `fenced` leaves Postgres waiting for ever.
   */
  flushWal(segno: number, endOffset: number): Promise<void>;
  /** Microseconds that Postgres is to wait for each block by which it makes a relation longer, as of now. Absent: none. */
  extensionPaceMicros?(): number;
  /** A segment from before the start: true when its file is in pg_wal, false where nobody has it. Absent: nobody has any. */
  fetchOldWal?(segno: number): Promise<boolean>;
}

export type ShimHandlers = PageHandlers & WalHandlers;

/** sun_path holds 108 bytes with the closing NUL. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Of an answer that is copied; more leave from where they are. */
const MAX_COPIED_PAGES = 4;

/**
 * Listens on `socketPath`, which the Postgres user then owns. Stateless but for the waiting requests:
 * when an agent is replaced, the shim asks the next one again.
 */
export class ShimServer {
  readonly #socketPath: string;
  readonly #handlers: ShimHandlers;
  readonly #logger: Logger;
  readonly #placed: Promise<readonly PlacedFile[]>;
  readonly #sockets = new Set<Socket>();
  readonly #waitingFlushes = new Set<Socket>();
  readonly #hello = Promise.withResolvers<number>();
  #server: Server | undefined;
  #replyMemory = Buffer.allocUnsafeSlow(REPLY_HEADER_BYTES + MAX_COPIED_PAGES * PAGE_SIZE);
  #fenced = false;

  constructor(options: {
    socketPath: string;
    handlers: ShimHandlers;
    logger: Logger;
    /** What has been put into the data directory; until then Postgres starts no process that reads of it. */
    placed?: Promise<readonly PlacedFile[]>;
  }) {
    this.#socketPath = options.socketPath;
    this.#handlers = options.handlers;
    this.#logger = options.logger;
    this.#placed = options.placed ?? Promise.resolve([]);
  }

  /** StorageError `invalid` where the path is too long for a unix socket. */
  async listen(): Promise<void> {
    if (Buffer.byteLength(this.#socketPath) > MAX_SOCKET_PATH_BYTES) {
      throw new StorageError(
        "invalid",
        "socket-path-too-long",
        `a unix socket's path has at most ${MAX_SOCKET_PATH_BYTES} bytes: ${this.#socketPath}`,
      );
    }
    rmSync(this.#socketPath, { force: true });
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ path: this.#socketPath, backlog: 511 }, resolve);
    });
    chmodSync(this.#socketPath, 0o600);
    giveToPostgres(this.#socketPath);
  }

  /**
   * The pid of the first process that said hello: only then is the shim known to be loaded. A
   * Postgres without it must not live: its commits would be durable nowhere.
   */
  get postmaster(): Promise<number> {
    return this.#hello.promise;
  }

  /** From now on every flush, waiting or to come, is answered FENCED, which ends Postgres. */
  fence(): void {
    this.#fenced = true;
    for (const socket of this.#waitingFlushes) {
      socket.write(encodeReplyHeader("flush-wal", STATUS_FENCED));
    }
    this.#waitingFlushes.clear();
  }

  /** Waiting requests stay unanswered: the shim asks whoever listens next. */
  async close(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    const server = this.#server;
    if (server !== undefined) {
      await new Promise<void>((resolve) => server.close(() => resolve()));
    }
    rmSync(this.#socketPath, { force: true });
  }

  #accept(socket: Socket): void {
    const reader = new ShimRequestReader();
    this.#sockets.add(socket);
    emitDataDirectly(socket);
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const request of reader.feed(chunk)) {
          this.#handle(socket, request);
        }
      } catch (error) {
        this.#logger.error({ error }, "shim connection broken off");
        socket.destroy();
      }
    });
    // A process that ends in the middle of a request is nothing to report.
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      this.#sockets.delete(socket);
      this.#waitingFlushes.delete(socket);
    });
  }

  #handle(socket: Socket, request: ShimRequest): void {
    switch (request.type) {
      case "flush-wal":
        this.#flushWal(socket, request.segno, request.endOffset);
        return;
      case "wal-written":
        this.#handlers.walWritten(request.segno, request.offset, request.length);
        return;
      case "prefetch":
        this.#handlers.prefetch(request.file, request.blkno, request.count);
        return;
      case "hello":
        this.#hello.resolve(request.pid);
        this.#placed.then(
          (files) => writeAll(socket, encodeHelloReply(files)),
          // Whoever should have placed them reports it, and ends this Postgres.
          () => undefined,
        );
        return;
      case "read":
        this.#sendPages(socket, request).catch((error: unknown) => {
          this.#sendFailure(socket, request, error);
        });
        return;
      case "stat":
      case "list":
      case "old-wal":
      case "compare":
        this.#answer(request, socket).then(
          (parts) => writeAll(socket, parts),
          (error: unknown) => this.#sendFailure(socket, request, error),
        );
    }
  }

  #sendFailure(socket: Socket, request: ShimRequest, error: unknown): void {
    this.#logger.error({ error, request }, "cannot give Postgres what it reads");
    socket.write(encodeReplyHeader(request.type, STATUS_ERROR));
  }

  async #answer(
    request: Extract<ShimRequest, { type: "stat" | "list" | "old-wal" | "compare" }>,
    asker: object,
  ): Promise<Uint8Array[]> {
    if (request.type === "compare") {
      const { file, blkno, blocks } = request;
      const same = await this.#handlers.comparePages?.(file, blkno, blocks);
      return [encodeReplyHeader("compare", same === undefined ? STATUS_ABSENT : STATUS_OK, same)];
    }
    if (request.type === "old-wal") {
      const isHere = (await this.#handlers.fetchOldWal?.(request.segno)) === true;
      return [encodeReplyHeader("old-wal", isHere ? STATUS_OK : STATUS_ABSENT)];
    }
    if (request.type === "stat") {
      const { file } = request;
      const bytes = await this.#handlers.stat(file, asker);
      if (bytes !== undefined) {
        return [encodeReplyHeader("stat", STATUS_OK, bytes)];
      }
      const also = file.kind === "relation" ? await this.#handlers.alsoLacking?.(file) : undefined;
      return [encodeAbsent(also)];
    }
    const files = await this.#handlers.listDirectory(request.directory);
    const payload = encodeListing(files);
    return [encodeReplyHeader("list", STATUS_OK, files.length, payload.length), payload];
  }

  async #sendPages(
    socket: Socket,
    { file, blkno, count }: Extract<ShimRequest, { type: "read" }>,
  ): Promise<void> {
    const pages = await this.#handlers.readPages(file, blkno, count, socket);
    const pieces = pages instanceof Uint8Array ? [] : pages;
    const parts = pages instanceof Uint8Array ? [pages] : pieces.map(({ bytes }) => bytes);
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    if (length !== count * PAGE_SIZE) {
      throw new StorageError(
        "internal",
        "wrong-page-count",
        `${length} bytes for ${count} pages of ${storagePath(file)}`,
      );
    }
    if (count <= MAX_COPIED_PAGES) {
      this.#sendCopy(socket, parts);
      for (const piece of pieces) {
        piece.release();
      }
      return;
    }
    writeAll(socket, [encodeReplyHeader("read", STATUS_OK, 0, length), ...parts], (error) => {
      // A socket that broke may still hold them.
      if (error === undefined || error === null) {
        for (const piece of pieces) {
          piece.release();
        }
      }
    });
  }

  /** Few pages: a copy to where the last ones were costs less than a vector of writes, and what is copied is free at once. */
  #sendCopy(socket: Socket, pages: readonly Uint8Array[]): void {
    const memory = this.#replyMemory;
    socket.write(memory.subarray(0, putPagesReply(memory, pages)));
    if (socket.writableLength > 0) {
      // The kernel has not taken all of it: the socket keeps this memory.
      this.#replyMemory = Buffer.allocUnsafeSlow(memory.length);
    }
  }

  #flushWal(socket: Socket, segno: number, endOffset: number): void {
    if (this.#fenced) {
      socket.write(encodeReplyHeader("flush-wal", STATUS_FENCED));
      return;
    }
    this.#waitingFlushes.add(socket);
    this.#handlers.flushWal(segno, endOffset).then(
      () => {
        // Not there any more: the process ended, or was told that we are fenced.
        if (this.#waitingFlushes.delete(socket)) {
          const pace = this.#handlers.extensionPaceMicros?.() ?? 0;
          socket.write(encodeReplyHeader("flush-wal", STATUS_OK, pace));
        }
      },
      (error: unknown) => {
        if (errorKind(error) === "fenced") {
          this.fence();
        } else {
          this.#logger.error({ error, segno, endOffset }, "WAL flush stays unanswered");
        }
      },
    );
  }
}

/** `written`: called when the kernel has taken everything, or with the error. */
function writeAll(
  socket: Socket,
  parts: readonly Uint8Array[],
  written?: (error?: Error | null) => void,
): void {
  socket.cork();
  parts.forEach((part, i) => {
    socket.write(part, i === parts.length - 1 ? written : undefined);
  });
  socket.uncork();
}

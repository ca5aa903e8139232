// Takes the agent's HTTP port at once, and loads the HTTP server when there is time for it.

import type { Server as HttpServer } from "node:http";
import { createServer, type Server, type Socket } from "node:net";
import { StorageError } from "../base/errors.ts";
import type { ComputeControl } from "./http.ts";

/** A caller waits no longer than this for a compute that is still starting. */
const LOAD_DELAY_MS = 500;
/** After a start, in which first connections are to have the agent for themselves. */
const UNASKED_LOAD_DELAY_MS = 1000;

/**
 * Loading node:http takes 40 ms of CPU, about as long as Postgres itself takes to start; so callers
 * that come during a start wait until it is over, or for half a second.
 */
export class HttpListener {
  readonly #control: ComputeControl;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #held: Socket[] = [];
  #opened = false;
  #started = false;
  #http: HttpServer | undefined;
  #timer: NodeJS.Timeout | undefined;
  #loading: Promise<void> | undefined;

  constructor(control: ComputeControl) {
    this.#control = control;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Only the first call counts. StorageError `conflict` where the port is taken. */
  async listen(host: string, port: number): Promise<void> {
    if (this.#opened) {
      return;
    }
    this.#opened = true;
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (cause) => {
        const message = `listen on ${host}:${port}: ${cause.message}`;
        reject(new StorageError("conflict", "cannot-listen", message, { cause }));
      });
      this.#server.listen(port, host, resolve);
    });
  }

  /** The start is over: whoever waits is answered now, others when they come. */
  serveSoon(): void {
    this.#started = true;
    if (this.#held.length > 0) {
      void this.serve();
    } else {
      this.#timer ??= setTimeout(() => void this.serve(), UNASKED_LOAD_DELAY_MS);
    }
  }

  /** Loads what is needed to answer, and answers. */
  serve(): Promise<void> {
    this.#loading ??= this.#load();
    return this.#loading;
  }

  close(): void {
    this.#opened = true;
    clearTimeout(this.#timer);
    this.#server.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    if (this.#http !== undefined) {
      this.#http.emit("connection", socket);
      return;
    }
    this.#held.push(socket);
    if (this.#started) {
      void this.serve();
    } else {
      this.#timer ??= setTimeout(() => void this.serve(), LOAD_DELAY_MS);
    }
  }

  async #load(): Promise<void> {
    clearTimeout(this.#timer);
    const { createHttpServer } = await import("./http.ts");
    this.#http = createHttpServer(this.#control);
    const held = this.#held;
    this.#held = [];
    for (const socket of held) {
      this.#http.emit("connection", socket);
    }
  }
}

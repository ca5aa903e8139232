// Takes the agent's HTTP port at once, and loads the HTTP server when there is time for it.

import { createServer, type Server, type Socket } from "node:net";
import type { TokenVerifier } from "../base/auth/service-token.ts";
import { setTimer, type Timer } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { HTTP_LIMITS, type HttpLimits } from "../http/limits.ts";
import type { HttpServer } from "../http/server.ts";
import type { ComputeControl } from "./compute-control.ts";

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
  readonly #logger: Logger;
  readonly #limits: HttpLimits;
  readonly #callers: TokenVerifier | undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #held: Socket[] = [];
  #opened = false;
  #closed = false;
  #host = "";
  #started = false;
  #http: HttpServer | undefined;
  #timer: Timer | undefined;
  #loading: Promise<void> | undefined;

  constructor(
    control: ComputeControl,
    logger: Logger,
    options: { limits?: Partial<HttpLimits>; callers?: TokenVerifier | undefined } = {},
  ) {
    const { limits, callers } = options;
    this.#callers = callers;
    this.#control = control;
    this.#logger = logger;
    this.#limits = { ...HTTP_LIMITS, ...limits };
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = this.#limits.maxConnections;
  }

  /** Only the first call counts. StorageError `conflict` where the port is taken. */
  async listen(host: string, port: number): Promise<void> {
    if (this.#opened) {
      return;
    }
    this.#opened = true;
    this.#host = host;
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
      this.#timer ??= setTimer(() => void this.serve(), UNASKED_LOAD_DELAY_MS);
    }
  }

  /** Loads what is needed to answer, and answers. */
  serve(): Promise<void> {
    this.#loading ??= this.#load().catch((error: unknown) => {
      this.#logger.error({ error }, "cannot serve HTTP");
      this.#loading = undefined;
      for (const socket of this.#held.splice(0)) {
        socket.destroy();
      }
    });
    return this.#loading;
  }

  close(): void {
    this.#opened = true;
    this.#closed = true;
    this.#timer?.cancel();
    // One of the two has the port.
    this.#server.close();
    this.#http?.node.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    this.#http?.node.closeAllConnections();
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    this.#held.push(socket);
    if (this.#started) {
      void this.serve();
    } else {
      this.#timer ??= setTimer(() => void this.serve(), LOAD_DELAY_MS);
    }
  }

  /** From then on node:http has the port itself, as only then it watches over its time limits. */
  async #load(): Promise<void> {
    this.#timer?.cancel();
    const [{ HttpServer }, { authorizeBy }, { computeRoutes }] = await Promise.all([
      import("../http/server.ts"),
      import("../http/authorize.ts"),
      import("./http.ts"),
    ]);
    if (this.#closed || !this.#server.listening) {
      return;
    }
    const http = new HttpServer({
      component: "compute",
      routes: computeRoutes(this.#control),
      metrics: {
        contentType: "text/plain; version=0.0.4; charset=utf-8",
        text: () => this.#control.metricsText(),
      },
      logger: this.#logger,
      listenHost: this.#host,
      limits: this.#limits,
      authorize: authorizeBy(this.#callers, "compute"),
    });
    await http.takeOver(this.#server);
    this.#http = http;
    const held = this.#held;
    this.#held = [];
    for (const socket of held) {
      http.adopt(socket);
    }
  }
}

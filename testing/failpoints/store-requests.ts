// An S3 server whose requests that change something are steps: a pageserver ends right before or after one, or is refused from one on.

import { monotonicMs } from "../../src/base/clock.ts";
import type { ObjectStore } from "../../src/object-store/object-store.ts";
import { openObjectStore } from "../../src/object-store/open-object-store.ts";
import { type FaultKind, S3Server } from "../s3/s3-server.ts";
import type { Failpoint } from "./hooked-process.ts";

/** How long it refuses after the first refusal. */
const REFUSED_MS = 800;
/** The first is tried again by the client of S3, the second by who called that. */
const REFUSALS = [
  { type: "refuse", status: 500, code: "InternalError" },
  { type: "refuse", status: 507, code: "InsufficientStorage" },
] as const;

type Objects = ReadonlyMap<string, S3Server["objects"] extends Map<string, infer T> ? T : never>;

/** `before N`, `after N`: the pageserver's process ends right before, or after, request N happens; `refused N`: none happens from N on. */
export function isOfStore(failpoint: Failpoint): boolean {
  return /^(before|after|refused) /.test(failpoint);
}

export class StoreRequests {
  readonly #server = new S3Server();
  #failpoint: Failpoint = "none";
  #counted = /(?:)/;
  #number = 0;
  #refusedSinceMs: number | undefined;
  #kill: () => void = () => undefined;
  /** Of what was armed, as FailingPageserver.trace. */
  readonly trace: string[] = [];

  static async start(): Promise<StoreRequests> {
    const requests = new StoreRequests();
    await requests.#server.start();
    requests.#server.onRequest = (line) => requests.#onRequest(line);
    // For all processes that are started from now on.
    Object.assign(process.env, requests.#server.env);
    return requests;
  }

  get location(): string {
    return this.#server.location("pages");
  }

  open(): Promise<ObjectStore> {
    const onAway = (error: unknown) => {
      throw error;
    };
    return openObjectStore(this.location, { env: this.#server.env, onAway });
  }

  /** Of any kind. */
  get count(): number {
    return this.#server.requests.length;
  }

  /** To be given back later. */
  save(): Objects {
    return new Map(this.#server.objects);
  }

  restore(objects: Objects): void {
    this.arm("none", this.#kill);
    this.#server.objects.clear();
    for (const [key, object] of objects) {
      this.#server.objects.set(key, object);
    }
  }

  /** Counts from the next request on. */
  arm(failpoint: Failpoint, kill: () => void): void {
    this.#failpoint = failpoint;
    this.#kill = kill;
    this.#number = 0;
    this.#refusedSinceMs = undefined;
    if (failpoint !== "none") {
      this.trace.length = 0;
      this.#counted = new RegExp(/^\w+ \d+(?: (.*))?$/.exec(failpoint)?.[1] ?? "");
    }
  }

  #onRequest(line: string): FaultKind | undefined {
    const changes = /^(PUT|DELETE|POST) /.test(line);
    if (this.#failpoint === "none" || !changes || !this.#counted.test(line)) {
      return undefined;
    }
    const [failure, at] = this.#failpoint.split(" ");
    this.#number++;
    const sinceMs = this.#refusedSinceMs;
    const isOver = sinceMs !== undefined && monotonicMs() - sinceMs > REFUSED_MS;
    const isHit = this.#number >= Number(at) && !isOver;
    this.trace.push(`${this.#number} ${line}${isHit ? " !" : ""}`);
    if (!isHit) {
      return undefined;
    }
    if (failure === "before") {
      this.#kill();
      return { type: "hang" };
    }
    if (failure === "after") {
      return { type: "lost-reply", meanwhile: this.#kill };
    }
    this.#refusedSinceMs ??= monotonicMs();
    return REFUSALS[Number(at) % REFUSALS.length];
  }

  async close(): Promise<void> {
    await this.#server.stop();
  }
}

// A pageserver or safekeeper of one tenant, with just the routes that the storage controller uses.

import assert from "node:assert/strict";
import { createServer, type IncomingMessage } from "node:http";
import type { TestContext } from "node:test";

/** A storage node with just the routes that the command line uses. */
export class FakeStorageNode {
  readonly timelines = new Map<
    string,
    { ancestor: string | null; pgVersion: number; startLsn?: string }
  >();
  readonly tenantId: string;
  /** The next request whose method is this fails with 503. */
  failNext: string | undefined;
  /** Every request fails with 503. */
  away = false;
  lsn = "0/100";
  /** Where what it makes begins, whatever it was asked for. */
  startLsn: string | undefined;
  /** Where what it was asked to make is to begin, in that order. */
  readonly starts: string[] = [];
  /** A creation waits for it. */
  beforeCreate: (() => Promise<void>) | undefined;
  /** Timelines whose deletion was asked for. */
  readonly deleted: string[] = [];
  readonly #server = createServer((request, response) => {
    this.#answer(request).then(
      ([status, body]) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(JSON.stringify(body));
      },
      (error) => response.destroy(error),
    );
  });

  constructor(tenantId: string) {
    this.tenantId = tenantId;
  }

  async listen(t: TestContext): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      this.#server.close();
      this.#server.closeAllConnections();
    });
    const address = this.#server.address();
    assert.ok(address !== null && typeof address === "object");
    return `127.0.0.1:${address.port}`;
  }

  async #answer(request: IncomingMessage): Promise<[number, unknown]> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    if (this.away || this.failNext === request.method) {
      this.failNext = undefined;
      return [503, { msg: "out of order" }];
    }
    const last = request.url!.split("/").at(-1)!;
    if (request.method === "POST") {
      await this.beforeCreate?.();
      const body = JSON.parse(Buffer.concat(chunks).toString());
      const id: string = body.new_timeline_id ?? body.timeline_id;
      const ancestor: string | null = body.ancestor_timeline_id ?? null;
      const inherited = ancestor === null ? undefined : this.timelines.get(ancestor)?.pgVersion;
      const asked: string = body.start_lsn ?? body.ancestor_start_lsn ?? "0/10";
      this.starts.push(asked);
      const startLsn = this.startLsn ?? asked;
      this.timelines.set(id, { ancestor, pgVersion: body.pg_version ?? inherited, startLsn });
      return [201, this.#info(id)];
    }
    if (request.method === "DELETE" && last === this.tenantId) {
      this.timelines.clear();
      return [200, {}];
    }
    if (request.method === "DELETE") {
      this.deleted.push(last);
      return this.timelines.delete(last) ? [200, {}] : [404, { msg: `no timeline ${last}` }];
    }
    const timelines = [...this.timelines.keys()].map((id) => this.#info(id));
    if (last === "timeline") {
      return [200, timelines];
    }
    if (last === "timeline_and_offloaded") {
      return [200, { timelines, offloaded: [] }];
    }
    return this.timelines.has(last) ? [200, this.#info(last)] : [404, { msg: `no ${last}` }];
  }

  #info(id: string) {
    return {
      tenant_id: this.tenantId,
      timeline_id: id,
      ancestor_timeline_id: this.timelines.get(id)!.ancestor,
      pg_version: this.timelines.get(id)!.pgVersion,
      last_record_lsn: this.lsn,
      commit_lsn: this.lsn,
      system_id: "1",
      wal_seg_size: 16_777_216,
      start_lsn: this.timelines.get(id)!.startLsn ?? "0/10",
    };
  }
}

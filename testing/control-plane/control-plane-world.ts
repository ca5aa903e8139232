// A whole Strata whose control plane is asked over HTTP, by Neon's own command line too.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { TestCluster } from "../cluster.ts";
import { withClient } from "../tpcb.ts";
import { PublishedDocument } from "./published-document.ts";

const NEON = join(import.meta.dirname, "..", "..", "node_modules", "neon", "dist", "cli.js");

export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of many shapes
  readonly body: any;
}

export class ControlPlaneWorld {
  readonly cluster: TestCluster;
  readonly #document = new PublishedDocument();

  private constructor(cluster: TestCluster) {
    this.cluster = cluster;
  }

  /** Nothing but the services. */
  static async create(
    options: {
      safekeepers?: number;
      warmAgents?: number;
      proxyOptions?: Record<string, string>;
      /** As TestCluster's. */
      config?: object;
    } = {},
  ): Promise<ControlPlaneWorld> {
    const cluster = await TestCluster.create({ warmAgents: 1, ...options, start: false });
    try {
      await cluster.ok("start");
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return new ControlPlaneWorld(cluster);
  }

  get address(): string {
    const config = JSON.parse(readFileSync(join(this.cluster.home, "config.json"), "utf8"));
    return config.controlPlane.listenAddr;
  }

  /** Of the owner. */
  get key(): string {
    return readFileSync(join(this.cluster.home, "control_plane", "api.key"), "utf8").trim();
  }

  /** Every answer is checked against the document that Neon publishes. */
  async request(
    method: string,
    path: string,
    options: { body?: unknown; key?: string | undefined; headers?: Record<string, string> } = {},
  ): Promise<Answer> {
    const key = "key" in options ? options.key : this.key;
    const response = await fetch(`http://${this.address}${path}`, {
      method,
      headers: {
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
        "content-type": "application/json",
        // fetch would send on a connection that the server is just closing, as it was idle, and not try again.
        connection: "close",
        ...options.headers,
      },
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
    });
    const text = await response.text();
    const body = text === "" ? undefined : JSON.parse(text);
    this.#document.check(method, path, response.status, body);
    return { status: response.status, body };
  }

  /** Expects success; the answer's body. */
  async api(method: string, path: string, body?: unknown) {
    const answer = await this.request(method, `/api/v2${path}`, { body });
    assert.ok(
      answer.status >= 200 && answer.status < 300,
      `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}\n${this.cluster.logTails()}`,
    );
    return answer.body;
  }

  /** The API's answer, once all is done: on a busy machine it answers before. */
  async createProject(name: string) {
    const created = await this.api("POST", "/projects", { project: { name } });
    await this.#finished(created.project.id);
    return created;
  }

  /** As `createProject`; with an endpoint, which runs. */
  async createBranch(projectId: string, name: string) {
    const body = { branch: { name }, endpoints: [{ type: "read_write" }] };
    const created = await this.api("POST", `/projects/${projectId}/branches`, body);
    await this.#finished(projectId);
    return created;
  }

  async #finished(projectId: string): Promise<void> {
    const left = (await this.settled(projectId)).filter(({ status }) => status !== "finished");
    assert.deepEqual(left, [], this.cluster.logTails());
  }

  /** All operations of a project, when none is under way any more. */
  async settled(projectId: string): Promise<{ action: string; status: string; error?: string }[]> {
    for (;;) {
      const { operations } = await this.api("GET", `/projects/${projectId}/operations`);
      const isOpen = ({ status }: { status: string }) => /^(scheduling|running)$/.test(status);
      if (!operations.some(isOpen)) {
        return operations;
      }
      await sleep(100);
    }
  }

  /** Neon's command line; standard output, as JSON where there is any. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of many shapes
  async neon(...args: string[]): Promise<any> {
    const { code, stdout, stderr } = await this.neonResult(...args);
    assert.equal(
      code,
      0,
      `neon ${args.join(" ")}: ${stdout}\n${stderr}\n${this.cluster.logTails()}`,
    );
    try {
      return JSON.parse(stdout);
    } catch {
      return stdout.trim();
    }
  }

  neonResult(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const command = [
      ...[NEON, "--api-host", `http://${this.address}/api/v2`, "--api-key", this.key],
      ...["--no-analytics", "--output", "json", "--config-dir", join(this.cluster.home, "neon")],
      ...args,
    ];
    const options = { cwd: this.cluster.home, env: { ...process.env, CI: "1" }, timeout: 100_000 };
    return new Promise((resolve) => {
      execFile(process.execPath, command, options, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ code, stdout, stderr });
      });
    });
  }

  /** Of an endpoint that runs, past the proxy, with a user's password. */
  sql<T extends object>(
    endpointId: string,
    login: { readonly user: string; readonly password: string; readonly database: string },
    statement: string,
  ): Promise<T[]> {
    const { pgHost, pgPort } = this.cluster.endpointSpec(endpointId);
    const word = encodeURIComponent;
    const url = `postgresql://${word(login.user)}:${word(login.password)}@${pgHost}:${pgPort}/${word(login.database)}`;
    return withClient(url, async (client: pg.Client) => (await client.query(statement)).rows);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cluster[Symbol.asyncDispose]();
  }
}

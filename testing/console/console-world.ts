// A whole Strata whose console is used: over HTTP with a cookie, and by browsers.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { TenantId, TimelineId } from "../../src/base/ids.ts";
import { readBuild } from "../../src/control-plane/console/console-build.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { ControlPlaneWorld } from "../control-plane/control-plane-world.ts";
import { checkpointCommitted } from "../replication/stored-wal.ts";

const ROOT = join(import.meta.dirname, "..", "..");

// biome-ignore lint/suspicious/noExplicitAny: lines of many shapes
export type SqlLine = any;

export class ConsoleWorld implements AsyncDisposable {
  readonly world: ControlPlaneWorld;
  /** With branch `main`, role `neondb_owner`, database `neondb`. */
  readonly projectId: string;
  readonly branchId: string;

  private constructor(world: ControlPlaneWorld, projectId: string, branchId: string) {
    this.world = world;
    this.projectId = projectId;
    this.branchId = branchId;
  }

  static async create(name = "shop"): Promise<ConsoleWorld> {
    if (readBuild() === undefined) {
      const script = join(ROOT, "console", "build.ts");
      const { status, stderr } = spawnSync(process.execPath, [script], { encoding: "utf8" });
      assert.equal(status, 0, stderr);
    }
    const world = await ControlPlaneWorld.create();
    try {
      const { project, branch } = await world.createProject(name);
      return new ConsoleWorld(world, project.id, branch.id);
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** As `strata console` prints it. */
  async link(): Promise<string> {
    return (await this.world.cluster.ok("console")).trim();
  }

  /** The answer to a request that runs SQL, as it begins. */
  runSql(query: string, options: object = {}, signal?: AbortSignal): Promise<Response> {
    const body = { branch_id: this.branchId, database: "neondb", role: "neondb_owner", query };
    return fetch(`http://${this.world.address}/console/projects/${this.projectId}/sql`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${this.world.key}`,
        "content-type": "application/json",
        // As ControlPlaneWorld's.
        connection: "close",
      },
      body: JSON.stringify({ ...body, ...options }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** All that came of it. */
  async sql(query: string, options: object = {}): Promise<SqlLine[]> {
    const response = await this.runSql(query, options);
    const text = await response.text();
    assert.equal(response.status, 200, text);
    return text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
  }

  /**
   * POSTs, below the project, what is to be made; it is there then. A project does one thing at a time, and refuses others
   * meanwhile.
   */
  async make(path: string, body: object): Promise<SqlLine> {
    await this.world.settled(this.projectId);
    const made = await this.world.api("POST", `/projects/${this.projectId}${path}`, body);
    await this.world.settled(this.projectId);
    return made;
  }

  /** Of the project. */
  async tenantId(): Promise<string> {
    const { endpoints } = await this.world.api("GET", `/projects/${this.projectId}/endpoints`);
    return this.world.cluster.endpointSpec(endpoints[0].id).tenantId;
  }

  /** As the command line names the project. */
  async tenantOption(): Promise<readonly string[]> {
    return ["--tenant-id", await this.tenantId()];
  }

  /** All that the project's branches have committed is in layer files then. */
  async checkpoint(): Promise<void> {
    const { cluster } = this.world;
    const tenantId = (await this.tenantId()) as TenantId;
    const pageserver = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
    for (const { timeline_id } of await pageserver.listTimelines(tenantId)) {
      await checkpointCommitted(cluster, tenantId, timeline_id as TimelineId);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.world[Symbol.asyncDispose]();
  }
}

import assert from "node:assert/strict";
import { test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { freePort } from "../../testing/free-port.ts";
import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import type { ComputeStatus, StartMetrics } from "./api.ts";
import { ComputeClient } from "./client.ts";
import type { ComputeControl } from "./compute-control.ts";
import { HttpListener } from "./http-listener.ts";

class FakeControl implements ComputeControl {
  started = false;
  terminated = "";
  askedForActivity: boolean | undefined;

  readonly pgBin = undefined;

  async status({ activity }: { activity: boolean }): Promise<ComputeStatus> {
    this.askedForActivity = activity;
    return {
      endpointId: "main",
      tenantId: "",
      timelineId: "",
      status: this.started ? "running" : "init",
      mode: "primary",
      startTime: "2026-01-01T00:00:00.000Z",
      error: null,
      postgresPid: null,
      restarts: 0,
      term: null,
      generation: null,
      startLsn: null,
      commitLsn: null,
      flushLsn: null,
      insideLsn: null,
      replayLsn: null,
      replayLagBytes: null,
      last_active: null,
    };
  }

  startMetrics(): StartMetrics | undefined {
    const parts = {
      process_ms: 1,
      sync_safekeepers_ms: 1,
      basebackup_ms: 1,
      data_directory_ms: 1,
      start_postgres_ms: 1,
    };
    return this.started ? { ...parts, total_startup_ms: 7 } : undefined;
  }

  metricsText(): string {
    return "strata_compute_running 1\n";
  }

  terminate(mode: "fast" | "immediate") {
    this.terminated = mode;
    return Promise.resolve({ lsn: "0/10" });
  }

  postgresAddress() {
    return { host: "/nowhere", port: 1, pgVersion: 17 };
  }

  configure() {
    return Promise.resolve({ restart_required: [] });
  }

  hotBlocks(): never {
    throw new StorageError("unavailable", "not-running", "no Postgres");
  }
}

async function withListener(
  run: (
    control: FakeControl,
    client: ComputeClient,
    address: string,
    listener: HttpListener,
  ) => Promise<void>,
): Promise<void> {
  const control = new FakeControl();
  const listener = new HttpListener(control, createLogger("test", "silent"));
  const port = await freePort();
  await listener.listen("127.0.0.1", port);
  try {
    const address = `127.0.0.1:${port}`;
    await run(control, new ComputeClient(address), address, listener);
  } finally {
    listener.close();
  }
}

test("HttpListener: a caller that comes during the start is answered when it is over", async (t) => {
  inSteadyTime(t);
  await withListener(async (control, client, _address, listener) => {
    const early = client.status();
    await sleep(50);
    control.started = true;
    await listener.serve();
    assert.equal((await early).status, "running");
    assert.equal((await client.startMetrics()).total_startup_ms, 7);
  });
});

test("HttpListener: a start that takes long is told of after half a second", async () => {
  await withListener(async (_control, client) => {
    const asked = performance.now();
    assert.equal((await client.status()).status, "init");
    assert.ok(performance.now() - asked >= 450);
    await assert.rejects(client.startMetrics(), { kind: "unavailable" });
  });
});

test("HttpListener: routes, and what is none", async () => {
  await withListener(async (control, client, address, listener) => {
    await listener.serve();
    assert.deepEqual(await client.terminate("immediate"), { lsn: "0/10" });
    assert.equal(control.terminated, "immediate");
    const metrics = await fetch(`http://${address}/metrics`);
    assert.match(await metrics.text(), /^strata_compute_running 1\n.*http_requests_total/s);
    assert.equal((await fetch(`http://${address}/nothing`)).status, 404);
    assert.equal((await fetch(`http://${address}/status`, { method: "POST" })).status, 405);
    const wrong = await fetch(`http://${address}/terminate?mode=later`, {
      method: "POST",
      headers: { "content-type": "application/json" },
    });
    assert.equal(wrong.status, 400);
    assert.match(await wrong.text(), /mode must be/);
  });
});

test("HttpListener: a body of null is one without what it takes", async () => {
  await withListener(async (_control, _client, address, listener) => {
    await listener.serve();
    for (const path of ["extensions", "grants", "database_schema?database=postgres", "configure"]) {
      const answer = await fetch(`http://${address}/${path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: "null",
      });
      assert.equal(answer.status, 400, path);
    }
  });
});

test("ComputeClient.standing: Postgres is not asked when it was last used", async () => {
  await withListener(async (control, client, address, listener) => {
    control.started = true;
    listener.serveSoon();
    await client.standing();
    assert.equal(control.askedForActivity, false);
    await client.status();
    assert.equal(control.askedForActivity, true);
    const wrong = await fetch(`http://${address}/status?activity=no`);
    assert.equal(wrong.status, 400);
    assert.match(await wrong.text(), /activity must be true or false, got 'no'/);
  });
});

test("HttpListener: a taken port is a conflict", async () => {
  await withListener(async (control, _client, address) => {
    const second = new HttpListener(control, createLogger("test", "silent"));
    const port = Number(address.split(":")[1]);
    await assert.rejects(second.listen("127.0.0.1", port), { kind: "conflict" });
  });
});

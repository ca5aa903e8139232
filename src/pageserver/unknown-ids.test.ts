// Ids that are not there, asked for at every route and every command that takes some: named, and nothing is made of them.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { request } from "../../testing/damage.ts";
import { createLogger } from "../base/log.ts";
import { DirectoryObjectStore } from "../object-store/directory-object-store.ts";
import { connectWire, parseHostPort } from "../postgres/wire/wire-client.ts";
import { PageserverHttpClient } from "./client.ts";
import { pageserverRoutes } from "./http.ts";
import { Pageserver } from "./pageserver.ts";
import { retentionRoutes } from "./retention/http.ts";

const TENANT = "a".repeat(32);
const NOBODY = "0123456789abcdef".repeat(2);
const LSN = "0/1234568";
/** Of routes that refuse a request without one. */
const BODIES: Readonly<Record<string, object>> = {
  "POST /v1/tenant/{tenant}/timeline": { new_timeline_id: NOBODY },
  "POST /v1/tenant/{tenant}/timeline/{timeline}/lsn_lease": { lsn: LSN },
  "PUT /v1/tenant/{tenant}/timeline/{timeline}/archival_config": { state: "Archived" },
};
/** Those for which it is no error that there is nothing, or that make it. */
const FINE = [
  "DELETE /v1/tenant/{tenant}",
  "DELETE /v1/tenant/{tenant}/timeline/{timeline}/import_pgdata",
  "PUT /v1/tenant/{tenant}/timeline/{timeline}/import_pgdata",
];
const QUERY: Readonly<Record<string, string>> = {
  "GET /v1/tenant/{tenant}/timeline/{timeline}/get_lsn_by_timestamp":
    "?timestamp=2026-11-28T00:00:00Z",
  "GET /v1/tenant/{tenant}/timeline/{timeline}/get_timestamp_of_lsn": `?lsn=${LSN}`,
};

let workdir: string;
let pageserver: Pageserver;
before(async () => {
  workdir = await mkdtemp(join(tmpdir(), "strata-ids-"));
  pageserver = await Pageserver.start({
    id: 1,
    workdir,
    listenPg: "127.0.0.1:0",
    listenHttp: "127.0.0.1:0",
    store: new DirectoryObjectStore(join(workdir, "store")),
    logger: createLogger("test", "silent"),
  });
  await new PageserverHttpClient(address()).createTenant(TENANT);
});
after(async () => {
  await pageserver?.close({ flush: false });
  await rm(workdir, { recursive: true, force: true });
});

const address = () => `127.0.0.1:${pageserver.httpPort}`;

const nothing = {} as never;
const ROUTES = [...pageserverRoutes(nothing), ...retentionRoutes(nothing)]
  .map(({ method, path }) => ({ method, path, name: `${method} ${path}` }))
  .filter(({ path, name }) => path.includes("{tenant}") && !FINE.includes(name));

for (const { method, path, name } of ROUTES) {
  test(`unknown ids: ${name}`, async () => {
    const ask = (tenant: string) => {
      const filled = path.replace("{tenant}", tenant).replace("{timeline}", NOBODY);
      const body = BODIES[name] ?? (method === "GET" || method === "DELETE" ? undefined : {});
      return request(address(), method, `${filled}${QUERY[name] ?? ""}`, body);
    };
    assert.deepEqual(await ask(NOBODY), { status: 404, msg: `tenant ${NOBODY} not found` });
    if (path.includes("{timeline}")) {
      assert.deepEqual(await ask(TENANT), { status: 404, msg: `timeline ${NOBODY} not found` });
    }
  });
}

test("unknown ids: a tenant's settings", async () => {
  for (const method of ["PUT", "PATCH"]) {
    const body = { tenant_id: NOBODY, pitr_interval: "1h" };
    const answer = await request(address(), method, "/v1/tenant/config", body);
    assert.deepEqual(answer, { status: 404, msg: `tenant ${NOBODY} not found` });
  }
});

test("unknown ids: the page service", async () => {
  const pgAddress = parseHostPort(`127.0.0.1:${pageserver.pgPort}`);
  for (const [tenant, what] of [
    [NOBODY, `tenant ${NOBODY} not found`],
    [TENANT, `timeline ${NOBODY} not found`],
  ] as const) {
    const ids = `${tenant} ${NOBODY}`;
    for (const sql of [
      `compute_state ${ids}`,
      `lease lsn ${ids} ${LSN}`,
      `list_relations ${ids} ${LSN} 1663 5`,
      `has_relations_from ${ids} ${LSN} 1663 5 16384`,
    ]) {
      const connection = await connectWire(pgAddress);
      try {
        await assert.rejects(connection.query(sql), {
          kind: "not-found",
          message: new RegExp(what),
        });
      } finally {
        connection.close();
      }
    }
    const connection = await connectWire(pgAddress);
    try {
      const stream = connection.copyBoth(`pagestream_v3 ${ids}`);
      await assert.rejects(stream, { kind: "not-found", message: new RegExp(what) });
    } finally {
      connection.close();
    }
  }
});

test("unknown ids: what was asked has made nothing", async () => {
  const http = new PageserverHttpClient(address());
  const tenants = await http.listTenants();
  assert.deepEqual(
    tenants.map(({ id, timelines }) => [id, timelines]),
    [[TENANT, []]],
  );
});

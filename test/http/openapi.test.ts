import assert from "node:assert/strict";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import { createLogger } from "../../src/base/log.ts";
import { computeRoutes } from "../../src/compute/http.ts";
import { controlPlaneRoutes } from "../../src/control-plane/server.ts";
import { Dispatcher } from "../../src/http/dispatcher.ts";
import { HTTP_LIMITS } from "../../src/http/limits.ts";
import { openApiDocument } from "../../src/http/openapi.ts";
import type { Route } from "../../src/http/route.ts";
import { pageserverRoutes } from "../../src/pageserver/http.ts";
import { retentionRoutes } from "../../src/pageserver/retention/http.ts";
import { proxyRoutes } from "../../src/proxy/http.ts";
import { safekeeperRoutes } from "../../src/safekeeper/http.ts";
import { brokerRoutes } from "../../src/storage-broker/server.ts";

interface Operation {
  readonly operationId: string;
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
  readonly requestBody?: { readonly required: boolean };
  readonly responses: Readonly<Record<string, { readonly content?: Record<string, unknown> }>>;
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

// No handler runs.
const nothing = {} as never;
const COMPONENTS: Readonly<Record<string, readonly Route[]>> = {
  pageserver: [...pageserverRoutes(nothing), ...retentionRoutes(nothing)],
  safekeeper: safekeeperRoutes(nothing),
  storage_broker: brokerRoutes(),
  compute: computeRoutes(nothing),
  control_plane: controlPlaneRoutes(nothing, nothing),
  proxy: proxyRoutes(nothing),
};

/** With those that every component has. */
function allRoutes(component: string, routes: readonly Route[]): readonly Route[] {
  return new Dispatcher({
    component,
    routes,
    metrics: { contentType: "text/plain", text: () => "" },
    logger: createLogger("test", "silent"),
    listenHost: "127.0.0.1",
    allowedHosts: [],
    limits: HTTP_LIMITS,
  }).table.routes;
}

for (const [component, own] of Object.entries(COMPONENTS)) {
  test(`OpenAPI of ${component}: valid 3.1, and every route with what it takes and gives`, async () => {
    const routes = allRoutes(component, own);
    const document = await openApiDocument(component, routes);
    const result = await new Validator().validate(structuredClone(document));
    assert.deepEqual(result, { valid: true }, JSON.stringify(result.errors));
    const { paths } = document as unknown as Document;
    const described = Object.entries(paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    );
    assert.deepEqual(
      described.toSorted(),
      routes.map(({ method, path }) => `${method} ${path}`).toSorted(),
    );
    for (const route of routes) {
      const operation = paths[route.path]![route.method.toLowerCase()]!;
      const { answer, body } = await route.schemas();
      const types = Object.keys(operation.responses[route.status]!.content ?? {});
      assert.deepEqual(
        types,
        route.mediaType ? [route.mediaType] : answer ? ["application/json"] : [],
      );
      assert.equal(operation.requestBody !== undefined, body !== undefined);
      assert.deepEqual(
        operation.parameters?.filter((each) => each.in === "path").map(({ name }) => name) ?? [],
        [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]),
      );
    }
    const ids = Object.values(paths).flatMap((operations) =>
      Object.values(operations).map(({ operationId }) => operationId),
    );
    assert.equal(new Set(ids).size, ids.length);
  });
}

test("OpenAPI: the validator refuses what is wrong", async () => {
  const document = await openApiDocument("x", allRoutes("x", []));
  const broken = { ...document, paths: { "/x": { get: { responses: "none" } } } };
  assert.equal((await new Validator().validate(broken)).valid, false);
});

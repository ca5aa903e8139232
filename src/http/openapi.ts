// The OpenAPI 3.1 document of a component, made from its routes and their zod schemas.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ROOT } from "../base/program-files.mjs";
import type { ErrorBody } from "./http-errors.ts";
import type { Route } from "./route.ts";

type Json = Record<string, unknown>;

const errorBody: z.ZodType<ErrorBody> = z.object({
  msg: z.string().describe("for people"),
  code: z.string().describe("stable"),
  request_id: z.string().describe("as the header x-request-id").exactOptional(),
});

const ERROR_RESPONSE = { $ref: "#/components/responses/Error" };

/** `component` as in `storage_broker`. The order of routes is kept. */
export async function openApiDocument(component: string, routes: readonly Route[]): Promise<Json> {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    paths[route.path] ??= {};
    paths[route.path]![route.method.toLowerCase()] = await operation(route);
  }
  return {
    openapi: "3.1.1",
    info: {
      title: `Strata ${component}`,
      version: version(),
      license: { name: "Apache 2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      schemas: { Error: jsonSchema(errorBody, "output") },
      responses: {
        Error: {
          description: "An error; its status says of which kind (docs/http.md)",
          content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
        },
      },
    },
  };
}

function version(): string {
  const path = join(ROOT, "package.json");
  return (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version;
}

async function operation(route: Route): Promise<Json> {
  const { params, query, body, answer } = await route.schemas();
  const parameters = [
    ...pathParameters(route, params),
    ...(query === undefined ? [] : queryParameters(query)),
  ];
  return {
    operationId: `${route.method}${route.path}`.toLowerCase().replaceAll(/\W+/g, "_"),
    summary: route.summary,
    "x-scope": route.scope,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: !body.safeParse({}).success,
            content: { "application/json": { schema: jsonSchema(body, "input") } },
          },
        }),
    responses: { [route.status]: response(route, answer), default: ERROR_RESPONSE },
  };
}

function response(route: Route, answer: z.ZodType | undefined): Json {
  if (route.mediaType !== undefined) {
    return { description: "Done", content: { [route.mediaType]: {} } };
  }
  return {
    description: "Done",
    ...(answer === undefined
      ? {}
      : { content: { "application/json": { schema: jsonSchema(answer, "output") } } }),
  };
}

function pathParameters(route: Route, schema: z.ZodType | undefined): Json[] {
  const known = schema === undefined ? {} : propertiesOf(jsonSchema(schema, "input"));
  return [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: known[name!] ?? { type: "string" },
  }));
}

function queryParameters(schema: z.ZodType): Json[] {
  const json = jsonSchema(schema, "input");
  const required = (json["required"] ?? []) as string[];
  return Object.entries(propertiesOf(json)).map(([name, property]) => ({
    name,
    in: "query",
    required: required.includes(name),
    schema: property,
  }));
}

function propertiesOf(json: Json): Record<string, Json> {
  return (json["properties"] ?? {}) as Record<string, Json>;
}

/** zod makes JSON Schema 2020-12, which is what OpenAPI 3.1 takes. */
function jsonSchema(schema: z.ZodType, io: "input" | "output"): Json {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    io,
    override: ({ jsonSchema: part }) => {
      // Later versions may answer more; callers must bear it.
      if (part.additionalProperties === false) {
        delete part.additionalProperties;
      }
    },
  });
  return json;
}

// Checks answers of API v2 against the document that Neon publishes, which comes with a package and is not ours to keep.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { Ajv } from "ajv";
import addFormats from "ajv-formats";
import { parse } from "yaml";

type Json = Record<string, unknown>;

interface Operation {
  readonly responses: Readonly<Record<string, Json>>;
}

export interface PublishedOperation {
  readonly method: string;
  /** With parameters in braces. */
  readonly path: string;
}

const PACKAGE = "@neondatabase/api-client/package.json";
const PREFIX = "/api/v2";

export class PublishedDocument {
  readonly operations: readonly PublishedOperation[];
  readonly #document: {
    readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
    readonly components: Json;
  };
  readonly #ajv: Ajv;

  constructor() {
    const directory = dirname(createRequire(import.meta.url).resolve(PACKAGE));
    const text = readFileSync(join(directory, "public-v2-for-users.gen.yaml"), "utf8");
    this.#document = parse(text);
    this.operations = Object.entries(this.#document.paths).flatMap(([path, methods]) =>
      Object.keys(methods)
        .filter((method) => /^(get|post|put|patch|delete)$/.test(method))
        .map((method) => ({ method: method.toUpperCase(), path })),
    );
    this.#ajv = new Ajv({ strict: false, allErrors: true, validateFormats: true });
    addFormats.default(this.#ajv);
    this.#ajv.addFormat("int64", true);
    this.#ajv.addFormat("uint64", true);
    this.#ajv.addFormat("int32", true);
    this.#ajv.addFormat("int", true);
    this.#ajv.addFormat("double", true);
    this.#ajv.addSchema({ $id: "neon", components: nullables(this.#document.components) });
  }

  /** The operation that a request means; undefined for what is not in the document. */
  find(method: string, path: string): PublishedOperation | undefined {
    const segments = path.split("?")[0]!.slice(PREFIX.length).split("/");
    const fits = (template: string) => {
      const parts = template.split("/");
      return (
        parts.length === segments.length &&
        parts.every((part, i) => part.startsWith("{") || part === segments[i])
      );
    };
    const found = this.operations.filter(
      (operation) => operation.method === method && fits(operation.path),
    );
    // `/projects/shared` before `/projects/{project_id}`.
    return found.toSorted((a, b) => parameters(a.path) - parameters(b.path))[0];
  }

  /** Fails where the answer is not what the document says of that operation and status. */
  check(method: string, path: string, status: number, body: unknown): void {
    const operation = this.find(method, path);
    if (operation === undefined) {
      return;
    }
    const { responses } = this.#document.paths[operation.path]![method.toLowerCase()]!;
    const response =
      responses[String(status)] ?? (status >= 400 ? responses["default"] : undefined);
    assert.ok(response, `${method} ${path}: the document has no answer with status ${status}`);
    const schema = this.#schemaOf(response);
    if (schema === undefined) {
      return;
    }
    const validate = this.#ajv.compile({ ...pointed(nullables(schema) as Json) });
    const problems = validate(body) ? [] : (validate.errors ?? []);
    assert.deepEqual(
      problems.map(({ instancePath, message }) => `${instancePath} ${message}`),
      [],
      `${method} ${path} ${status}: ${JSON.stringify(body)}`,
    );
  }

  #schemaOf(response: Json): Json | undefined {
    const reference = response["$ref"];
    if (typeof reference === "string") {
      const responses = this.#document.components["responses"] as Record<string, Json>;
      return this.#schemaOf(responses[reference.split("/").at(-1)!]!);
    }
    const content = response["content"] as Record<string, { schema: Json }> | undefined;
    return content?.["application/json"]?.schema;
  }
}

function parameters(path: string): number {
  return path.split("{").length;
}

/** OpenAPI 3.0's `nullable` as JSON Schema says it. */
function nullables(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(nullables);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const entries = Object.entries(value).map(([key, each]) => [key, nullables(each)]);
  const copy = Object.fromEntries(entries) as Json;
  return copy["nullable"] === true && typeof copy["type"] === "string"
    ? { ...copy, type: [copy["type"], "null"] }
    : copy;
}

/** References lead into the document that was added under the name `neon`. */
function pointed(schema: Json): Json {
  return JSON.parse(JSON.stringify(schema).replaceAll('"#/components/', '"neon#/components/'));
}

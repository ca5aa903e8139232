// The table of docs/api-coverage.md, made from the published document and the control plane's routes.

import { isUnsupported } from "../../src/control-plane/api-v2/unsupported.ts";
import { controlPlaneRoutes } from "../../src/control-plane/server.ts";
import { PublishedDocument } from "./published-document.ts";

const PREFIX = "/api/v2";

interface Covered {
  readonly method: string;
  readonly path: string;
  /** Undefined: no route at all. */
  readonly how: "yes" | "501" | undefined;
}

/** Of each operation in the published document. */
export function coverage(): Covered[] {
  const shape = (path: string) => path.replaceAll(/\{[^}]+\}/g, "{}");
  // No handler runs.
  const routes = new Map(
    controlPlaneRoutes({} as never, {} as never).map((one) => [
      `${one.method} ${shape(one.path)}`,
      isUnsupported(one.method, one.path) ? ("501" as const) : ("yes" as const),
    ]),
  );
  return new PublishedDocument().operations.map(({ method, path }) => ({
    method,
    path,
    how: routes.get(`${method} ${PREFIX}${shape(path)}`),
  }));
}

export function coverageText(): string {
  const all = coverage();
  const done = all.filter(({ how }) => how === "yes");
  const rows = (list: readonly Covered[]) =>
    list.map(({ method, path }) => `| ${method} | \`${path}\` |`).join("\n");
  return `# What of Neon's API v2 there is

Made by \`UPDATE=1 npm test -- api-coverage\` from the document in the package \`@neondatabase/api-client\` and the control plane's routes: ${done.length} of ${all.length} operations.
Each answer of these is checked against the document in the tests ([control-plane.md](control-plane.md)); what is not there answers 501 with a message that says so.

Taken, and without meaning on one machine: \`region_id\`, \`provisioner\`, \`autoscaling_limit_*\` (shown again), \`org_id\`, annotations. Counters of consumption are 0 in branches; in projects they are those of the month, of what is measured ([control-plane.md](control-plane.md#consumption)).
A read-only endpoint is a replica, which follows its branch. \`schema\`, \`compare_schema\` and \`init_source: schema-only\` need a \`pg_dump\` of the branch's major on the machine.

## There

| | |
| --- | --- |
${rows(done)}

## Not there

| | |
| --- | --- |
${rows(all.filter(({ how }) => how !== "yes"))}
`;
}

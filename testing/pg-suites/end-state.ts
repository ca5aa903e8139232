// What a suite left on an endpoint, again after a restart from storage alone and on a branch: sums of tables, and amcheck.

import type pg from "pg";
import type { TestCluster } from "../cluster.ts";
import { withClient } from "../tpcb.ts";

export interface EndState {
  /** Of each permanent table, by its name: rows, and a sum over their texts; or why they cannot be read. */
  readonly sums: ReadonlyMap<string, string>;
  /** B-tree indexes that amcheck found whole. */
  readonly indexes: number;
  /** What amcheck said of others. */
  readonly damaged: readonly string[];
}

const TABLES = `
  SELECT c.oid::regclass::text AS name FROM pg_class c
  WHERE c.relkind IN ('r', 'm', 'S') AND c.relpersistence = 'p' AND c.oid >= 16384
  ORDER BY 1`;
const INDEXES = `
  SELECT c.oid, c.oid::regclass::text AS name
  FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam
  WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid
  ORDER BY 2`;

/** The suites leave only values behind whose text depends on the settings of a session in these. */
const SESSION = "SET search_path = public; SET extra_float_digits = 1; SET TIME ZONE 'UTC'";

export async function readEndState(url: string): Promise<EndState> {
  return await withClient(url, async (client) => {
    await client.query(SESSION);
    const sums = new Map<string, string>();
    for (const { name } of (await client.query<{ name: string }>(TABLES)).rows) {
      const sum = `SELECT count(*) || ' rows, ' || coalesce(sum(hashtext(t::text)::bigint), 0) AS answer FROM ONLY ${name} t`;
      sums.set(name, await answerOf(client, sum));
    }
    const damaged: string[] = [];
    let indexes = 0;
    for (const { oid, name } of (await client.query<{ oid: number; name: string }>(INDEXES)).rows) {
      const said = await answerOf(
        client,
        `SELECT 'whole' AS answer FROM (SELECT bt_index_check(${oid}, true)) checked`,
      );
      if (said === "whole") {
        indexes += 1;
      } else {
        damaged.push(`${name}: ${said}`);
      }
    }
    return { sums, indexes, damaged };
  });
}

async function answerOf(client: pg.Client, statement: string): Promise<string> {
  try {
    return (await client.query<{ answer: string }>(statement)).rows[0]!.answer;
  } catch (error) {
    return `error: ${(error as Error).message}`;
  }
}

/** What is otherwise than before; one line each. */
export function compareEndStates(before: EndState, after: EndState): string[] {
  const names = new Set([...before.sums.keys(), ...after.sums.keys()]);
  const changed = [...names].flatMap((name) => {
    const [one, other] = [before.sums.get(name), after.sums.get(name)];
    return one === other ? [] : [`${name}: ${one ?? "not there"}, then ${other ?? "not there"}`];
  });
  const indexes =
    before.indexes === after.indexes
      ? []
      : [`${before.indexes} whole indexes, then ${after.indexes}`];
  return [...changed, ...indexes, ...after.damaged];
}

/** Of endpoint `main`, which stops and starts; `database` is there. Prints what it looked at; what is wrong, a line each. */
export async function checkEndState(cluster: TestCluster, database: string): Promise<string[]> {
  const url = (id: string) => cluster.socketUrl(id, database);
  await withClient(url("main"), (client) => client.query("CREATE EXTENSION IF NOT EXISTS amcheck"));
  const before = await readEndState(url("main"));
  if (before.sums.size === 0 || before.indexes === 0) {
    return [`${database} has ${before.sums.size} tables and ${before.indexes} indexes`];
  }
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  const restarted = await readEndState(url("main"));
  await cluster.ok("branch", "create", "end", "--start");
  const branched = await readEndState(url("end"));
  await cluster.ok("endpoint", "stop", "end");
  console.log(
    `${database} after the suite, after a restart and on a branch: ${before.sums.size} tables and sequences summed, ` +
      `${before.indexes} B-tree indexes checked with their tables (amcheck)`,
  );
  return [
    ...before.damaged,
    ...compareEndStates(before, restarted).map((line) => `after a restart: ${line}`),
    ...compareEndStates(before, branched).map((line) => `on a branch: ${line}`),
  ];
}

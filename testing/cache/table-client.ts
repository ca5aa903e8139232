// A client that makes, loads, changes, cuts off, moves and drops tables of its own, and knows what must be in each of them.

import assert from "node:assert/strict";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { BROKEN } from "../proxy/logged-client.ts";
import { connect } from "../tpcb.ts";

/** What a client may be told: nobody stands between it and a Postgres that starts or stops. */
export const AWAY = new RegExp(
  `${BROKEN.source}|57P03|the database system is|timeout expired`,
  "i",
);
const PAUSE_MS = 50;
const MOST_TABLES = 5;
const LEAST_ROWS = 5_000;
const DOUBLE_TIMEOUT_S = 300;
/** About 700 bytes each, and what indexes take. */
const MOST_ROWS = 60_000;

/** What a table holds: rows 1 to `rows`, all of one round. */
interface Content {
  readonly rows: number;
  readonly round: number;
}

interface Table {
  readonly name: string;
  /** Of which one is there. Where a connection broke there are two, and undefined is "no table". */
  contents: readonly (Content | undefined)[];
}

/** In SQL, in terms of `n` and `round`. */
const PAD = "repeat(n || ':' || round || ' ', 60)";
/** By index access method; each of a table's indexes is asked for rows, too. */
const INDEXES: Readonly<Record<string, { readonly keys: string; readonly where: string }>> = {
  btree: { keys: "(n)", where: "n > 0" },
  hash: { keys: "(n)", where: "n = any (array(select generate_series(1, 5000)))" },
  gist: { keys: "(point(n, round))", where: "point(n, round) <@ box '((0,0),(1e9,1e9))'" },
  spgist: { keys: "(point(n, round))", where: "point(n, round) <@ box '((0,0),(1e9,1e9))'" },
  gin: { keys: "((array[n % 100, -1]))", where: "array[n % 100, -1] @> array[-1]" },
  brin: { keys: "(n)", where: "n > 0" },
};

export class TableClient {
  /** How often each kind of work was done. */
  readonly done = new Map<string, number>();
  readonly #url: string;
  readonly #random: SeededRandom;
  readonly #tables: Table[] = [];
  #client: pg.Client | undefined;
  #next = 0;
  #stopping = false;
  #run: Promise<void> = Promise.resolve();

  constructor(url: string, random: SeededRandom) {
    this.#url = url;
    this.#random = random;
  }

  /** Works until `pause`, which rejects with what no client may be told or shown. */
  start(): void {
    this.#stopping = false;
    this.#run = this.#work();
    this.#run.catch(() => undefined);
  }

  async pause(): Promise<void> {
    this.#stopping = true;
    await this.#run;
  }

  async end(): Promise<void> {
    this.#stopping = true;
    await this.#run.catch(() => undefined);
    await this.#client?.end().catch(() => undefined);
    this.#client = undefined;
  }

  /** Every table has what it must have, by scan and by one index after the other; what was dropped is gone. */
  async check(): Promise<void> {
    for (const table of [...this.#tables]) {
      while (!(await this.#look(table))) {
        await sleep(PAUSE_MS);
      }
    }
    const names = this.#tables.map(({ name }) => name).toSorted();
    const rows = await this.#try("select relname from pg_class where relname ~ '^own_[0-9]+$'");
    if (rows !== undefined) {
      assert.deepEqual(rows.map((row) => row["relname"] as string).toSorted(), names);
    }
  }

  async #work(): Promise<void> {
    while (!this.#stopping) {
      const table =
        this.#tables.length < MOST_TABLES && this.#random.int(3) === 0
          ? undefined
          : this.#pickTable();
      if (table === undefined) {
        await this.#create();
      } else if (table.contents.length > 1 || this.#random.int(4) === 0) {
        await this.#look(table);
      } else {
        await this.#change(table);
      }
    }
  }

  #pickTable(): Table | undefined {
    return this.#tables.length === 0 ? undefined : this.#random.pick(this.#tables);
  }

  async #create(): Promise<void> {
    const name = `own_${this.#next++}`;
    const rows = LEAST_ROWS + this.#random.int(MOST_ROWS - LEAST_ROWS);
    const table: Table = { name, contents: [undefined] };
    this.#tables.push(table);
    const first = Object.keys(INDEXES);
    const methods = new Set(["btree", this.#random.pick(first), this.#random.pick(first)]);
    const indexes = [...methods]
      .map((one) => `create index ${name}_${one} on ${name} using ${one} ${INDEXES[one]!.keys}`)
      .join("; ");
    const empty = `create table ${name} (n int, round int, pad text)`;
    const half = rows >> 1;
    const loads: Readonly<Record<string, string>> = {
      // One command, several, and rows that come into indexes one by one.
      "create as": `create table ${name} as ${rowsOf(1, rows, 0)}; ${indexes}`,
      "load in parts": `${empty}; insert into ${name} ${rowsOf(1, half, 0)}; insert into ${name} ${rowsOf(half + 1, rows, 0)}; ${indexes}`,
      copy: `${empty}; copy ${name} from program $$${copyProgram(rows)}$$; ${indexes}`,
      "load into indexes": `${empty}; ${indexes}; insert into ${name} ${rowsOf(1, rows, 0)}`,
    };
    const kind = this.#random.pick(Object.keys(loads));
    await this.#become(table, { rows, round: 0 }, kind, `begin; ${loads[kind]}; commit`);
  }

  async #change(table: Table): Promise<void> {
    const [content] = table.contents as [Content];
    const { name } = table;
    const { rows, round } = content;
    const up = `set round = ${round + 1}, pad = repeat(n || ':' || ${round + 1} || ' ', 60)`;
    const more = rows + this.#random.int(LEAST_ROWS);
    const changes: Readonly<Record<string, readonly [Content | undefined, string]>> = {
      update: [{ rows, round: round + 1 }, `update ${name} ${up}`],
      "update in parts": [
        { rows, round: round + 1 },
        `begin; update ${name} ${up} where n % 2 = 0; update ${name} ${up} where n % 2 = 1; commit`,
      ],
      // By an index that the new rows come into ahead of it: one that was given back must not forget which command wrote it.
      "double, behind an update": [
        { rows: 2 * rows, round: round + 1 },
        `begin; set local statement_timeout = '${DOUBLE_TIMEOUT_S}s'; set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off;
         update ${name} ${up};
         insert into ${name} select n + ${rows}, round, repeat(n + ${rows} || ':' || round || ' ', 60) from ${name} where n > 0 order by n; commit`,
      ],
      "update, rolled back": [content, `begin; update ${name} ${up}; rollback`],
      add: [{ rows: more, round }, `insert into ${name} ${rowsOf(rows + 1, more, round)}`],
      "delete the end, vacuum": [
        { rows: rows >> 1, round },
        `delete from ${name} where n > ${rows >> 1}`,
      ],
      truncate: [{ rows: 0, round }, `truncate ${name}`],
      "truncate and fill": [
        { rows, round },
        `begin; truncate ${name}; insert into ${name} ${rowsOf(1, rows, round)}; commit`,
      ],
      "truncate, rolled back": [
        content,
        `begin; truncate ${name}; insert into ${name} select 0, 0, 'no' from generate_series(1, 3000); rollback`,
      ],
      vacuum: [content, `vacuum ${name}`],
      "vacuum full": [content, `vacuum full ${name}`],
      reindex: [content, `reindex table ${name}`],
      cluster: [content, `cluster ${name} using ${name}_btree`],
      "temporary table": [content, `create temp table t as table ${name}; drop table t`],
      drop: [undefined, `drop table ${name}`],
    };
    const kind = this.#random.pick(
      Object.keys(changes).filter((one) => rows <= MOST_ROWS / 2 || !one.startsWith("double")),
    );
    const [after, sql] = changes[kind]!;
    await this.#become(table, after, kind, sql);
    if (kind === "delete the end, vacuum") {
      // A transaction of its own, which cuts the file off.
      await this.#try(`vacuum ${name}`);
    }
  }

  /** One transaction: it is done, or nothing of it is. */
  async #become(table: Table, after: Content | undefined, kind: string, sql: string) {
    table.contents = [...table.contents, after];
    if ((await this.#try(sql)) !== undefined) {
      table.contents = [after];
      this.#forget(table);
      this.done.set(kind, (this.done.get(kind) ?? 0) + 1);
    }
  }

  #forget(table: Table): void {
    if (table.contents.length === 1 && table.contents[0] === undefined) {
      this.#tables.splice(this.#tables.indexOf(table), 1);
    }
  }

  /** False where the connection broke. */
  async #look(table: Table): Promise<boolean> {
    const { name } = table;
    const there = await this.#try("select to_regclass($1) is not null as there", [name]);
    if (there === undefined) {
      return false;
    }
    if (there[0]!["there"] !== true) {
      assert.ok(table.contents.includes(undefined), `table ${name} is lost`);
      table.contents = [undefined];
      this.#forget(table);
      return true;
    }
    const found = await this.#try(
      `select count(*)::int as rows, coalesce(sum(n), 0)::float8 as sum, min(round) as least, max(round) as most,
         count(*) filter (where pad is distinct from ${PAD})::int as wrong from ${name}`,
    );
    if (found === undefined) {
      return false;
    }
    const [row] = found;
    const content = table.contents.find(
      (one) => one !== undefined && one.rows === row!["rows"] && isAllOf(one, row!),
    );
    assert.ok(
      content !== undefined,
      `table ${name} has ${JSON.stringify(row)}, not one of ${JSON.stringify(table.contents)}`,
    );
    table.contents = [content];
    this.done.set("look", (this.done.get("look") ?? 0) + 1);
    return this.#lookByIndexes(name, content);
  }

  async #lookByIndexes(name: string, { rows }: Content): Promise<boolean> {
    for (const [method, { where }] of Object.entries(INDEXES)) {
      const has = await this.#try("select to_regclass($1) is not null as there", [
        `${name}_${method}`,
      ]);
      if (has === undefined) {
        return false;
      }
      if (has[0]!["there"] === true) {
        const found = await this.#try(
          `begin; set local enable_seqscan = off; select count(*)::int as rows from ${name} where ${where}; commit`,
        );
        if (found === undefined) {
          return false;
        }
        const wanted = method === "hash" ? Math.min(rows, 5000) : rows;
        assert.deepEqual(found, [{ rows: wanted }], `${name} by its ${method} index`);
      }
    }
    return true;
  }

  /** Undefined where the connection broke. Of several statements, the rows of the one that has some. */
  async #try(sql: string, values?: unknown[]): Promise<Record<string, unknown>[] | undefined> {
    try {
      this.#client ??= await connect(this.#url);
      const answer: unknown = await this.#client.query({ text: sql, values: values ?? [] });
      const results = (Array.isArray(answer) ? answer : [answer]) as pg.QueryResult[];
      return results.find(({ rows }) => rows.length > 0)?.rows ?? [];
    } catch (error) {
      const { code = "", message } = error as { code?: string; message: string };
      assert.match(`${code} ${message}`, AWAY, `${sql}: ${message}`);
      await this.#client?.end().catch(() => undefined);
      this.#client = undefined;
      await sleep(PAUSE_MS);
      return undefined;
    }
  }
}

function isAllOf({ rows, round }: Content, row: Record<string, unknown>): boolean {
  return (
    row["wrong"] === 0 &&
    row["sum"] === (rows * (rows + 1)) / 2 &&
    (rows === 0 || (row["least"] === round && row["most"] === round))
  );
}

const rowsOf = (from: number, to: number, round: number) =>
  `select n, ${round} as round, repeat(n || ':' || ${round} || ' ', 60) as pad from generate_series(${from}, ${to}) n`;

/** As `rowsOf` makes them, of round 0. */
const copyProgram = (rows: number) =>
  `seq 1 ${rows} | awk '{ pad = ""; for (i = 0; i < 60; i++) pad = pad $1 ":0 "; print $1 "\\t0\\t" pad }'`;

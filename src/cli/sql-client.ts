// What stands in for psql where there is none: runs the statements of `-c`, prints rows as psql does.

import pg from "pg";
import { errorMessage } from "../base/errors.ts";

/** Values as the server writes them: text, whatever the type. */
const AS_TEXT = { getTypeParser: () => (value: unknown) => String(value) };
/** Types that psql puts to the right: the numbers, oid, xid, cid, tid and money. */
const RIGHT_ALIGNED = new Set([20, 21, 23, 26, 28, 29, 700, 701, 790, 1700]);

/**
 * The statements of psql's arguments; undefined where they ask for more than `-c`: a file, an option,
 * or a session.
 */
export function statementsOf(args: readonly string[]): string[] | undefined {
  const statements: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const word = args[at]!;
    const [, attached] = /^(?:-c|--command=)(.+)$/s.exec(word) ?? [];
    if (attached !== undefined) {
      statements.push(attached);
    } else if ((word === "-c" || word === "--command") && args[at + 1] !== undefined) {
      statements.push(args[++at]!);
    } else {
      return undefined;
    }
  }
  return statements.length === 0 ? undefined : statements;
}

/** As psql's aligned format: title, rule, rows, count. */
export function formatRows(result: {
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[];
  readonly rows: readonly (readonly (string | null)[])[];
}): string {
  const { fields, rows } = result;
  // Not one Math.max of all: a call takes some 100,000 arguments, and rows can be more.
  const widths = fields.map(({ name }, column) =>
    rows.reduce((widest, row) => Math.max(widest, row[column]?.length ?? 0), name.length),
  );
  const centred = (text: string, width: number) => {
    const left = Math.floor((width - text.length) / 2);
    return `${" ".repeat(left)}${text}`.padEnd(width);
  };
  const line = (cells: readonly string[]) => ` ${cells.join(" | ")}`.trimEnd();
  return [
    line(fields.map(({ name }, column) => centred(name, widths[column]!))),
    widths.map((width) => "-".repeat(width + 2)).join("+"),
    ...rows.map((row) =>
      line(
        row.map((cell, column) => {
          const text = cell ?? "";
          const width = widths[column]!;
          const { dataTypeID } = fields[column]!;
          return RIGHT_ALIGNED.has(dataTypeID) ? text.padStart(width) : text.padEnd(width);
        }),
      ),
    ),
    rows.length === 1 ? "(1 row)" : `(${rows.length} rows)`,
    "",
  ].join("\n");
}

/** Runs the statements in order; psql's exit codes: 0, 1 after a failed one, 2 without a connection. */
export async function runStatements(
  connection: pg.ClientConfig,
  statements: readonly string[],
  write: { out: (text: string) => void; error: (text: string) => void },
): Promise<number> {
  const client = new pg.Client(connection);
  // The statement under way, or the next one, fails of it; unheard, it would end the process.
  client.on("error", () => undefined);
  client.on("notice", ({ severity, message }) => write.error(`${severity}:  ${message}`));
  try {
    await client.connect();
  } catch (error) {
    write.error(`connection to the endpoint failed: ${errorMessage(error)}`);
    return 2;
  }
  const tags = commandTagsOf(client);
  let code = 0;
  try {
    for (const text of statements) {
      tags.length = 0;
      try {
        const results = await client.query({ text, rowMode: "array", types: AS_TEXT });
        for (const [i, result] of [results].flat().entries()) {
          write.out(result.fields.length > 0 ? formatRows(result) : (tags[i] ?? ""));
        }
        code = 0;
      } catch (error) {
        write.error(`ERROR:  ${errorMessage(error)}`);
        code = 1;
      }
    }
  } finally {
    await client.end();
  }
  return code;
}

/** What Postgres says of each command of the query under way, `CREATE TABLE` for one; pg keeps its first word. */
function commandTagsOf(client: pg.Client): string[] {
  const tags: string[] = [];
  client.connection.on("commandComplete", ({ text }: { text: string }) => tags.push(text));
  return tags;
}

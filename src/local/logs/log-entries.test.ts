// Entries of logs: levels and times, and what hostile lines come to.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type LogEntry, LogParser, type LogSource } from "./log-entries.ts";

function parse(source: LogSource, text: string | Uint8Array, options = {}): LogEntry[] {
  const parser = new LogParser(source, options);
  return [...parser.push(Buffer.from(text)), ...parser.flush()];
}

const AT = "2026-11-29 14:30:29.409 UTC [7]";

test("LogParser: of Postgres's log, entries of several lines with their levels", () => {
  const entries = parse(
    "postgres",
    `${AT} LOG:  ready\n${AT} ERROR:  no "x"\n${AT} STATEMENT:  select\n\t  x\n\tfrom y\n${AT} FATAL:  gone\nPANICs: a library\n`,
  );
  assert.deepEqual(
    entries.map(({ level, text }) => [level, text]),
    [
      ["info", "[7] LOG:  ready"],
      ["error", '[7] ERROR:  no "x"'],
      ["error", "[7] STATEMENT:  select\n\t  x\n\tfrom y"],
      ["fatal", "[7] FATAL:  gone"],
      ["fatal", "PANICs: a library"],
    ],
  );
  assert.equal(entries[0]!.time, "2026-11-29T14:30:29.409Z");
  assert.equal(entries[4]!.time, undefined);
});

test("LogParser: of the agent's log, messages with their fields; last words", () => {
  const line = {
    ...{ level: "warn", time: "2026-11-29T14:30:29.409Z", component: "compute", pid: 7 },
    ...{ endpoint: "main", why: "a b", nested: { n: 1 }, msg: "something" },
  };
  const entries = parse("compute", `${JSON.stringify(line)}\nfatal: no\nTypeError: x\n{"a":1}\n`);
  assert.deepEqual(
    entries.map(({ level, time, text }) => [level, time, text]),
    [
      ["warn", line.time, 'something endpoint=main why="a b" nested={"n":1}'],
      ["fatal", undefined, "fatal: no"],
      ["error", undefined, "TypeError: x"],
      ["info", undefined, '{"a":1}'],
    ],
  );
  const [raw] = parse("compute", `${JSON.stringify(line)}\n`, { isRaw: true });
  assert.equal(raw!.text, JSON.stringify(line));
});

test("LogParser: a line of a megabyte is cut, and what follows is whole", () => {
  const long = `${AT} LOG:  ${"x".repeat(1 << 20)}\n${AT} LOG:  short\n`;
  const [first, second] = parse("postgres", long);
  assert.ok(first!.text.length <= 8192);
  assert.ok(first!.cutBytes > 1_000_000);
  assert.deepEqual([second!.text, second!.cutBytes], ["[7] LOG:  short", 0]);
  const tabs = `${AT} LOG:  x\n${"\ty\n".repeat(1_000_000)}${AT} LOG:  short\n`;
  // Of the processor, and not of the clock: others have it, too.
  const began = process.cpuUsage();
  const [many, after] = parse("postgres", tabs);
  assert.ok(process.cpuUsage(began).user < 10_000_000);
  assert.ok(many!.text.length <= 16_384 && many!.cutBytes > 1_000_000);
  assert.equal(after!.text, "[7] LOG:  short");
});

test("LogParser: neither steers a terminal nor turns the direction of text; what is no UTF-8 is shown so", () => {
  const bytes = Buffer.concat([
    Buffer.from(`${AT} LOG:  \x1b]0;title\x07\r\x00\x7f \u202Eabc\u2066 <b>`),
    Buffer.from([0xff, 0xc3, 0x28, 0xc2, 0x9b, 10]),
  ]);
  const [entry] = parse("postgres", bytes);
  assert.equal(
    entry!.text,
    "[7] LOG:  \u241b]0;title\u2407\u240d\u2400\u2421 <U+202E>abc<U+2066> <b>\ufffd\ufffd(\ufffd",
  );
});

test("LogParser: passwords in statements, strings of connections, tokens are taken out", () => {
  for (const statement of [
    "ALTER ROLE a PASSWORD 'hunter2'",
    "ALTER ROLE a PASSWORD\n\t  'hunter2'",
    "alter role a encrypted password E'it\\'s hunter2' valid until 'x'",
    "alter role a password 'it''s hunter2'",
    "alter role a password $q$ hunter2 $q$ nologin",
    "CREATE ROLE a PASSWORD 'hunter2",
    "alter role a password /*x*/ 'hunter2'",
    "alter role a password/* a /* b */ 'c' */'hunter2' nologin",
    "alter role a password -- it's new\n\t'hunter2'",
    "alter role a password/**/--\n\t--\n\t/***/ E'\\x' 'hunter2'",
    "alter role a password'hunter2'",
    "alter role a password U&'hunter2\\0061'",
    "alter role a password 'x'\n\t'hunter2'",
    "alter role a password 'x' -- and on\n\t  'hunter2' valid until 'infinity'",
    "select '*/ /*'; alter role a password /* '/* */ */ 'hunter2'",
    "create subscription s connection 'host=h password=hunter2 user=u' publication p",
    "select dblink('password = ''hunter2'' host=h')",
    "select 'postgresql://u:hunter2@h/d'",
    "alter role a password 'SCRAM-SHA-256$4096:hunter2$hunter2:hunter2='",
    "update pg_authid set rolpassword = 'SCRAM-SHA-256$4096:hunter2$hunter2:hunter2='",
    "update pg_authid set rolpassword = 'md50123456789abcdef0123456789abcdef'",
    "Authorization: Bearer eyJhunter2.eyJhunter2.hunter2",
  ]) {
    const [entry] = parse("postgres", `${AT} STATEMENT:  ${statement}\n`);
    assert.doesNotMatch(entry!.text, /hunter2|89abcdef/, statement);
    assert.match(entry!.text, /\*\*\*/, statement);
  }
  const said = "alter role a password /*x*/ 'hunter2' /* password */ valid until 'infinity'";
  const [shown] = parse("postgres", `${AT} STATEMENT:  ${said}\n`);
  assert.ok(shown!.text.endsWith(said.replace("hunter2", "***")), shown!.text);
  const [plain] = parse("postgres", `${AT} LOG:  password authentication failed for user "x"\n`);
  assert.equal(plain!.text, '[7] LOG:  password authentication failed for user "x"');
});

test("LogParser: what looks like very many passwords takes little time", () => {
  for (const part of [
    "password ",
    "password=",
    "password '",
    "a://b:",
    "eyJ-",
    "password $$",
    "password/*",
    "password/**/",
    "password*/",
    "password--",
    "password=\\n",
    "\\'",
  ]) {
    const began = process.cpuUsage();
    parse("postgres", `${AT} LOG:  password '${part.repeat(2000)}${" ".repeat(8000)}\n`);
    parse("postgres", `${AT} LOG:  ${part.repeat(2000)}\n`);
    assert.ok(process.cpuUsage(began).user < 5_000_000, part);
  }
});

test("LogParser: the same entries in whatever pieces the bytes come; inside of an entry it waits for the next", () => {
  const text = `${AT} LOG:  a\n\tb\n${AT} ERROR:  é\n\t\n\tc\nx\n\n${AT} LOG:  d\n`;
  const bytes = Buffer.from(text);
  const whole = parse("postgres", bytes);
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
      const parser = new LogParser("postgres");
      const entries: LogEntry[] = [];
      let at = 0;
      for (const cut of [...cuts.toSorted((a, b) => a - b), bytes.length]) {
        entries.push(...parser.push(bytes.subarray(at, cut)));
        at = cut;
      }
      assert.deepEqual([...entries, ...parser.flush()], whole);
    }),
  );
  const inside = parse("postgres", bytes.subarray(3), { isInside: true });
  assert.deepEqual(inside, whole.slice(1));
});

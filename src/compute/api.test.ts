import assert from "node:assert/strict";
import { test } from "node:test";
import { scramSecret } from "../postgres/scram.ts";
import {
  changedOwnSettings,
  checkOwnSettings,
  LOCAL_CACHE,
  localCacheBytes,
  MAX_WRITE_LAG,
  maxWriteLagBytes,
  PREWARM,
  parseEndpointSpec,
} from "./api.ts";

const SECRET = scramSecret("x");
const GOOD = {
  endpointId: "ep-main",
  tenantId: "0123456789abcdef0123456789abcdef",
  timelineId: "fedcba9876543210fedcba9876543210",
  mode: "primary",
  pgVersion: 17,
  pgHost: "127.0.0.1",
  pgPort: 55432,
  internalHttpPort: 55433,
  pageserver: { pgAddr: "127.0.0.1:64000", httpAddr: "127.0.0.1:9898" },
  safekeepers: [{ id: 1, pgAddr: "127.0.0.1:5454", httpAddr: "127.0.0.1:7676" }],
  settings: { work_mem: "8MB" },
};

test("parseEndpointSpec: takes what the command line writes", () => {
  assert.deepEqual(parseEndpointSpec(JSON.stringify(GOOD)), {
    ...GOOD,
    movablePorts: undefined,
    pgBin: undefined,
    extensionDir: undefined,
    superuserSecret: undefined,
  });
  const past = { ...GOOD, mode: { static: "0/16F9A00" }, safekeepers: [], settings: undefined };
  const parsed = parseEndpointSpec(JSON.stringify(past));
  assert.deepEqual(parsed.mode, { static: "0/16F9A00" });
  assert.deepEqual(parsed.settings, {});
  const movable = { ...GOOD, movablePorts: ["internalHttpPort"] };
  assert.deepEqual(parseEndpointSpec(JSON.stringify(movable)).movablePorts, ["internalHttpPort"]);
});

test("parseEndpointSpec: names the field that is wrong", () => {
  const wrong: [string, object, RegExp][] = [
    ["tenant", { tenantId: "123" }, /tenantId: expected 32 hex digits/],
    ["a secret that ends a string in SQL", { superuserSecret: `${SECRET}'` }, /superuserSecret: /],
    ["port", { pgPort: 70_000 }, /pgPort: expected a whole number from 1 to 65535/],
    ["port text", { internalHttpPort: "80" }, /internalHttpPort/],
    ["a port of no name", { movablePorts: ["port"] }, /movablePorts: expected a list of pgPort/],
    ["mode", { mode: "standby" }, /mode: expected 'primary', 'replica'/],
    ["lsn", { mode: { static: "12" } }, /mode:/],
    ["zero lsn", { mode: { static: "0/0" } }, /mode:/],
    ["no safekeepers", { safekeepers: [] }, /a primary needs at least one/],
    ["nobody to follow", { mode: "replica", safekeepers: [] }, /a replica needs at least one/],
    ["twice", { safekeepers: [GOOD.safekeepers[0], GOOD.safekeepers[0]] }, /twice/],
    [
      "address",
      { pageserver: { ...GOOD.pageserver, pgAddr: "here" } },
      /pgAddr: expected host:port/,
    ],
    ["setting", { settings: { work_mem: 8 } }, /settings\.work_mem/],
    ["list", { settings: [] }, /settings: expected an object/],
    [
      "a directory that depends on where one is",
      { extensionDir: "here" },
      /extensionDir: expected/,
    ],
    ["major", { pgVersion: 13 }, /pgVersion/],
  ];
  for (const [what, change, message] of wrong) {
    assert.throws(() => parseEndpointSpec(JSON.stringify({ ...GOOD, ...change })), message, what);
  }
  for (const text of ["", "null", "[]", "7", "{", '"x"']) {
    assert.throws(() => parseEndpointSpec(text), { kind: "invalid", code: "bad-endpoint-spec" });
  }
});

test("localCacheBytes: sizes and none; what is too small, larger than the disk or no size", () => {
  const bytes = (text: string) => localCacheBytes({ [LOCAL_CACHE]: text }, 10 * 2 ** 30);
  assert.equal(localCacheBytes({}, 0), undefined);
  assert.equal(bytes("0"), undefined);
  assert.equal(bytes("16MB"), 16 * 2 ** 20);
  assert.equal(bytes("10GB"), 10 * 2 ** 30);
  assert.equal(localCacheBytes({ "STRATA.Local_Cache": "64" }, 2 ** 30), 64 * 2 ** 20);
  const wrong: [string, RegExp][] = [
    ["16383kB", /must be at least 16MB, or 0 for no limit; it is '16383kB'$/],
    ["11GB", /must not be larger than the disk, which has 10240MB; it is '11GB'$/],
    [
      "much",
      /\(strata.local_cache\) must be a size such as 64MB, or 0 for no limit; it is 'much'$/,
    ],
    ["", /must be a size/],
    ["-64MB", /must be a size/],
  ];
  for (const [text, message] of wrong) {
    assert.throws(() => bytes(text), { kind: "invalid", message }, text);
  }
});

test("maxWriteLagBytes: sizes as Postgres writes them", () => {
  const parse = (text: string) => maxWriteLagBytes({ [MAX_WRITE_LAG]: text });
  assert.equal(maxWriteLagBytes({}), 500 * 2 ** 20);
  assert.deepEqual(["0", "500MB", "1 GB", "64kB", "3"].map(parse), [
    undefined,
    500 * 2 ** 20,
    2 ** 30,
    2 ** 16,
    3 * 2 ** 20,
  ]);
  assert.throws(() => parse("-1"), { kind: "invalid" });
  assert.throws(() => parse("lots"), { kind: "invalid" });
});

test("checkOwnSettings: each of ours, whatever its case", () => {
  checkOwnSettings({ work_mem: "much" }, 0);
  for (const name of ["FSYNC", "primary_conninfo", "wal_sync_method"]) {
    const refused = { code: "protected-setting", message: new RegExp(`^setting '${name}' cannot`) };
    assert.throws(() => checkOwnSettings({ [name]: "off" }, 2 ** 40), refused);
  }
  for (const [name, why] of [
    [LOCAL_CACHE, /local_cache/],
    [PREWARM, /on or off/],
    [MAX_WRITE_LAG, /must be a size/],
  ] as const) {
    const settings = { [name.toUpperCase()]: "much" };
    assert.throws(() => checkOwnSettings(settings, 2 ** 40), { kind: "invalid", message: why });
  }
});

test("changedOwnSettings: names those of ours that are other, whatever their case", () => {
  const before = { [LOCAL_CACHE]: "16MB", work_mem: "8MB" };
  assert.deepEqual(changedOwnSettings(before, { [LOCAL_CACHE.toUpperCase()]: "16MB" }), []);
  assert.deepEqual(changedOwnSettings(before, { [LOCAL_CACHE]: "32MB", [PREWARM]: "on" }), [
    LOCAL_CACHE,
    PREWARM,
  ]);
  assert.deepEqual(changedOwnSettings(before, { [MAX_WRITE_LAG]: "1GB" }), [
    LOCAL_CACHE,
    MAX_WRITE_LAG,
  ]);
});

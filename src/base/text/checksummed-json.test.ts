import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { StorageError } from "../errors.ts";
import { decodeChecksummedJson, encodeChecksummedJson } from "./checksummed-json.ts";

const schema = z.object({ name: z.string(), size: z.int() });
const corrupt = (what: string, cause?: unknown) =>
  new StorageError("corrupt", "corrupt-test", what, { cause });
const decode = (text: string) => decodeChecksummedJson(text, schema, corrupt);

test("decodeChecksummedJson: what was encoded, indented or not", () => {
  const value = { name: "a", size: 1 };
  for (const indent of [0, 1]) {
    assert.deepEqual(decode(encodeChecksummedJson(value, indent)), value);
  }
});

test("decodeChecksummedJson: any change of a character that counts is noticed", () => {
  const text = encodeChecksummedJson({ name: "abc", size: 12 });
  for (let at = 0; at < text.length - 1; at++) {
    const changed = text.slice(0, at) + (text[at] === "1" ? "2" : "1") + text.slice(at + 1);
    assert.throws(() => decode(changed), { code: "corrupt-test" }, changed);
  }
});

test("decodeChecksummedJson: says what is wrong", () => {
  assert.throws(() => decode(""), /not JSON: /);
  for (const text of ["[]", "1", "null", "{}"]) {
    assert.throws(() => decode(text), /no checksum/);
  }
  assert.throws(() => decode(`{"checksum":"00000000","name":"a","size":1}`), /checksum is wrong/);
  assert.throws(() => decode(encodeChecksummedJson({ name: 1, size: "x" })), /name: .*; size: /);
});

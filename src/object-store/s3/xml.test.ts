import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { childrenNamed, childText, escapeXml, parseXml } from "./xml.ts";

const BAD = { kind: "unavailable", code: "bad-answer" };

test("parseXml: what S3 says", () => {
  const root = parseXml(
    `\n<?xml version="1.0" encoding="UTF-8"?>\n<!-- a > b --><R xmlns="http://s3/"><Contents><Key>a&amp;b&lt;&#x63;&#100;&quot;</Key><Empty/></Contents>\n<Contents/></R >\n`,
  );
  assert.equal(root.name, "R");
  const contents = childrenNamed(root, "Contents");
  assert.equal(contents.length, 2);
  assert.equal(childText(contents[0]!, "Key"), 'a&b<cd"');
  assert.equal(childText(contents[0]!, "Empty"), "");
  assert.equal(childText(contents[0]!, "Other"), undefined);
});

test("parseXml: what is no whole element, has entities of its own or too much is refused", () => {
  for (const text of [
    "",
    "text",
    "<a>",
    "<a></b>",
    "<a><b></a></b>",
    "</a>",
    "<a/><b/>",
    "<a/>text",
    "<a",
    "<a><!-- ",
    "<>",
    "< a></ a>",
    "<a>&x;</a>",
    "<a>&</a>",
    "<a>&#0;</a>",
    "<a>&#x110000;</a>",
    "<a>&toString;</a>",
    '<!DOCTYPE a [<!ENTITY x "xx">]><a>&x;</a>',
    "<a><![CDATA[x]]></a>",
    `<${"n".repeat(200)}/>`,
    "<a>".repeat(100) + "</a>".repeat(100),
    `<a>${"<b/>".repeat(50_000)}</a>`,
  ]) {
    assert.throws(() => parseXml(text), BAD, text.slice(0, 60));
  }
});

test("parseXml: hostile text of megabytes takes no longer than its length", () => {
  const size = 4_000_000;
  for (const part of ["<", "&", "<a", "&#", "<!--", "<?", "a", "<a>", "&amp;", "</"]) {
    // Of the processor, and not of the clock: others have it, too.
    const begin = process.cpuUsage();
    try {
      parseXml(`<x>${part.repeat(size / part.length)}</x>`);
    } catch (error) {
      assert.equal((error as { code: string }).code, "bad-answer");
    }
    assert.ok(process.cpuUsage(begin).user < 5_000_000, part);
  }
});

test("parseXml: any text comes back as it was escaped, and no text breaks it", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      assert.equal(parseXml(`<a>${escapeXml(text)}</a>`).text, text);
    }),
  );
  const pieces = fc.constantFrom("<", ">", "/", "a", "&", ";", "#", "!", "--", "?", " ", "x");
  fc.assert(
    fc.property(fc.array(pieces), (parts) => {
      try {
        parseXml(parts.join(""));
      } catch (error) {
        assert.equal((error as { code: string }).code, "bad-answer");
      }
    }),
  );
});

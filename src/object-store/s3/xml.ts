// Reads the few XML answers that S3 gives: elements and text, with limits, and nothing else of XML.

import { StorageError } from "../../base/errors.ts";

/*
 * The input comes from whoever answers at the endpoint. It is looked at once, from front to back, so
 * the work is linear; elements, their depth and the length of names are capped. No document type is
 * taken, so there are no entities but XML's own five and numbers, and nothing that can expand.
 * Attributes (S3 has `xmlns` only) are skipped.
 */

export interface XmlElement {
  readonly name: string;
  /** All text directly in it, entities decoded. */
  readonly text: string;
  readonly children: readonly XmlElement[];
}

/** A page of 1000 objects has 8 elements each, with owner and checksums a few more. */
const MAX_ELEMENTS = 40_000;
const MAX_DEPTH = 16;
const MAX_NAME = 100;
const MAX_ENTITY = 12;
const NAME = /^[A-Za-z_][\w.:-]*$/;
const ENTITIES: Readonly<Record<string, string>> = {
  lt: "<",
  gt: ">",
  amp: "&",
  quot: '"',
  apos: "'",
};

interface OpenElement {
  readonly name: string;
  text: string;
  readonly children: XmlElement[];
}

/** The root element. StorageError `unavailable` (`bad-answer`) for anything that S3 would not say. */
export function parseXml(text: string): XmlElement {
  const document: OpenElement = { name: "", text: "", children: [] };
  const open: OpenElement[] = [document];
  let elements = 0;
  let at = text.startsWith("\ufeff") ? 1 : 0;
  while (at < text.length) {
    const current = open.at(-1)!;
    const tag = text.indexOf("<", at);
    const end = tag < 0 ? text.length : tag;
    if (end > at) {
      current.text += decodeEntities(text.slice(at, end), at);
    }
    if (tag < 0) {
      break;
    }
    if (text.startsWith("<?", tag) || text.startsWith("<!--", tag)) {
      const close = text[tag + 1] === "?" ? "?>" : "-->";
      at = after(text, close, tag + 2);
      continue;
    }
    const close = after(text, ">", tag);
    const inside = text.slice(tag + 1, close - 1);
    at = close;
    if (inside.startsWith("/")) {
      if (open.length === 1 || inside.slice(1).trim() !== current.name) {
        throw badXml(tag, "an end tag that does not belong");
      }
      open.pop();
      continue;
    }
    elements++;
    if (elements > MAX_ELEMENTS || open.length > MAX_DEPTH) {
      throw badXml(tag, "too many elements");
    }
    const name = nameOf(inside, tag);
    const element: OpenElement = { name, text: "", children: [] };
    current.children.push(element);
    if (!inside.endsWith("/")) {
      open.push(element);
    }
  }
  const [root, ...more] = document.children;
  if (open.length > 1 || root === undefined || more.length > 0 || document.text.trim() !== "") {
    throw badXml(text.length, "not one whole element");
  }
  return root;
}

/** The text of a child; undefined where there is none. */
export function childText(element: XmlElement, name: string): string | undefined {
  return element.children.find((child) => child.name === name)?.text;
}

export function childrenNamed(element: XmlElement, name: string): XmlElement[] {
  return element.children.filter((child) => child.name === name);
}

/** What stands between two tags, for a text of ours. */
export function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function nameOf(inside: string, at: number): string {
  const name = inside.slice(0, MAX_NAME + 1).split(/[\s/]/, 1)[0]!;
  if (name.length > MAX_NAME || !NAME.test(name)) {
    throw badXml(at, "not an element");
  }
  return name;
}

/** Behind the next `what`. */
function after(text: string, what: string, from: number): number {
  const found = text.indexOf(what, from);
  if (found < 0) {
    throw badXml(from, `no ${what}`);
  }
  return found + what.length;
}

function decodeEntities(text: string, offset: number): string {
  let ampersand = text.indexOf("&");
  if (ampersand < 0) {
    return text;
  }
  const parts: string[] = [];
  let done = 0;
  while (ampersand >= 0) {
    const name = /^&([^;&]+);/.exec(text.slice(ampersand, ampersand + MAX_ENTITY))?.[1];
    const character = name === undefined ? undefined : entity(name);
    if (character === undefined) {
      throw badXml(offset + ampersand, "an entity that is none");
    }
    parts.push(text.slice(done, ampersand), character);
    done = ampersand + name!.length + 2;
    ampersand = text.indexOf("&", done);
  }
  return parts.join("") + text.slice(done);
}

function entity(name: string): string | undefined {
  const number = /^#(?:x([0-9A-Fa-f]+)|(\d+))$/.exec(name);
  if (number === null) {
    return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : undefined;
  }
  const code = number[1] === undefined ? Number(number[2]) : Number.parseInt(number[1], 16);
  return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : undefined;
}

function badXml(at: number, what: string): StorageError {
  return new StorageError("unavailable", "bad-answer", `answer is not XML of S3: ${what} at ${at}`);
}

// Takes passwords out of SQL: PASSWORD 'x' and password='x', whatever stands between the word and the string.
//
// Source: Postgres's scan.l (comments nest; strings that only a line's end parts are one) and gram.y (a password is an
// Sconst: '', E'', U&'', $$). What is no SQL is taken out rather too often than too seldom. The time it takes grows with the
// length of the text, whatever it is: one pass finds where comments end, one goes from word to word.

/** In place of a secret. */
export const HIDDEN = "***";

const WORD = /\bpassword/gi;
/** Also as JSON writes the end of a line. */
const SPACE_OR_EQUALS = /(?:[\s=]|\\[nrt])+/y;
/** With its beginning, and up to the text's end where it was cut. Several quotes: it stands in a string itself. */
const STRING =
  /(?:U&|[EN])?'+(?:[^'\\]|''|\\[\s\S])*(?:'|\\?$)|\$(\w{0,63})\$[\s\S]*?(?:\$\1\$|$)/iy;

export function withoutPasswords(text: string): string {
  let comments: ReadonlyMap<number, number> | undefined;
  let shown = "";
  let at = 0;
  WORD.lastIndex = 0;
  for (let word = WORD.exec(text); word !== null; word = WORD.exec(text)) {
    comments ??= commentsOf(text);
    for (let from = behindGap(text, WORD.lastIndex, comments); ; ) {
      const end = matchEnd(STRING, text, from);
      if (end === undefined) {
        break;
      }
      shown += `${text.slice(at, from)}'${HIDDEN}'`;
      at = end;
      WORD.lastIndex = end;
      // Another string behind a line's end goes on with it.
      from = behindGap(text, end, comments);
      if (text[from] !== "'") {
        break;
      }
    }
  }
  return shown + text.slice(at);
}

/** Where what is neither space, nor `=`, nor a comment begins, at or behind `from`. */
function behindGap(text: string, from: number, comments: ReadonlyMap<number, number>): number {
  for (let at = from; ; ) {
    const next =
      comments.get(at) ??
      (text.startsWith("--", at) ? lineEnd(text, at) : matchEnd(SPACE_OR_EQUALS, text, at));
    if (next === undefined) {
      return at;
    }
    at = next;
  }
}

function lineEnd(text: string, from: number): number {
  const end = text.indexOf("\n", from);
  return end < 0 ? text.length : end + 1;
}

function matchEnd(pattern: RegExp, text: string, from: number): number | undefined {
  pattern.lastIndex = from;
  return pattern.test(text) ? pattern.lastIndex : undefined;
}

/** Of each comment that has an end: where it begins, to what is behind it. */
function commentsOf(text: string): ReadonlyMap<number, number> {
  const ends = new Map<number, number>();
  const open: number[] = [];
  for (const { 0: sign, index } of text.matchAll(/\/\*|\*\//g)) {
    if (sign === "/*") {
      open.push(index);
    } else {
      const begin = open.pop();
      if (begin !== undefined) {
        ends.set(begin, index + 2);
      }
    }
  }
  return ends;
}

// A storage key as people call what it stands for.
//
// A key is 36 hex digits: fields of 2, 8, 8, 8, 2 and 8 of them (pageserver/layers/key.ts has the table).

const FORKS = ["", "_fsm", "_vm", "_init"];
const SLRUS = ["pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_commit_ts"];
const FIRST = "0".repeat(36);
const LAST = "F".repeat(36);

/** `tablespace/database/relation` and block where it is a page. What it does not know stays hex. */
export function keyWords(key: string): string {
  if (key === FIRST) {
    return "the first key";
  }
  if (key === LAST) {
    return "the last key";
  }
  const field = (start: number, end: number) => Number.parseInt(key.slice(start, end), 16);
  const keyspace = field(0, 2);
  const [f2, f3, f4] = [field(2, 10), field(10, 18), field(18, 26)];
  const f5 = field(26, 28);
  const index = field(28, 36);
  const relation = `${f2}/${f3}/${f4}${FORKS[f5] ?? `_${f5}`}`;
  switch (keyspace) {
    case 0x00:
      return f4 === 0 ? `relation map of ${f2}/${f3}` : `${relation} block ${index}`;
    case 0x01:
      return `${SLRUS[f2] ?? f2} segment ${hex(f4)} block ${index}`;
    case 0x02:
      return "the last block";
    case 0x03:
      return index === 0 ? "control file" : "checkpoint";
    case 0x61:
      return `size of ${relation}`;
    case 0x63:
      return `replication origin ${index}`;
    case 0x64:
      return `database ${f2}/${f3}`;
    case 0x66:
      return `size of ${SLRUS[f2] ?? f2} segment ${hex(f3)}`;
    case 0x69:
      return `prepared transaction ${index}`;
    case 0x6a:
      return "commit times";
    case 0x6b:
      return `tablespace ${index}`;
    case 0x6c:
      return "statistics";
    default:
      return key;
  }
}

function hex(segment: number): string {
  return segment.toString(16).toUpperCase().padStart(4, "0");
}

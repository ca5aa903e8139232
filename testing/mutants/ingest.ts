// Broken rules of the pageserver's ingest: what it makes of WAL besides pages.

import type { MutantPart } from "./mutant.ts";

const PREPARED = "src/pageserver/ingest/prepared-transactions.ts";
const PREPARED_TEST = "src/pageserver/ingest/prepared-transactions.test.ts";

export const INGEST_MUTANTS: MutantPart = {
  part: "ingest",
  mutants: [
    {
      rule: "each prepared transaction leaves a key for ever",
      file: PREPARED,
      search: "this.#free.pop() ?? slots.size + 1;",
      replace: "Number(fullXid);",
      test: PREPARED_TEST,
      name: "PreparedTransactions: as many keys as were open at once, and the past stays",
    },
    {
      rule: "prepared transactions of a timeline of before are lost at the next one",
      file: PREPARED,
      search: "this.#put(slots, transaction, lsn);\n      }",
      replace: "}",
      test: PREPARED_TEST,
      name: "PreparedTransactions: those of a timeline of before are read, and moved at the first record",
    },
  ],
};

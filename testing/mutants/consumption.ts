// Broken rules of metering: what projects have used.

import type { MutantPart } from "./mutant.ts";

const CONSUMPTION_TEST = "test/control-plane/consumption.test.ts";
const COUNTING_TEST = "src/control-plane/consumption/counting.test.ts";
const METER_TEST = "src/control-plane/consumption/meter.test.ts";

export const CONSUMPTION_MUTANTS: MutantPart = {
  part: "consumption",
  mutants: [
    {
      rule: "a run is counted anew at each look",
      file: "src/control-plane/consumption/counting.ts",
      search: "const isSame = cursor?.run === run;",
      replace: "const isSame = cursor === undefined;",
      test: COUNTING_TEST,
      name: "countEndpoint: a run is counted from its start",
    },
    {
      rule: "what slept is counted up to its next word",
      file: "src/control-plane/consumption/counting.ts",
      search: "if (cursor === undefined || cursor.hasEnded) {",
      replace: "if (cursor === undefined) {",
      test: COUNTING_TEST,
      name: "countEndpoint: another run begins anew",
    },
    {
      rule: "what was used before the first look is counted",
      file: "src/control-plane/consumption/counting.ts",
      search: "if (cursor === undefined && isFirst) {",
      replace: "if (cursor === undefined && isFirst && nowMs < 0) {",
      test: COUNTING_TEST,
      name: "countEndpoint: what was before the first look is not known",
    },
    {
      rule: "WAL that a pageserver reads again is counted again",
      file: "src/control-plane/consumption/counting.ts",
      search: "return { counted: (from + bytes) as Lsn, bytes };",
      replace: "return { counted: lastLsn, bytes };",
      test: COUNTING_TEST,
      name: "countWal: a new timeline from its own start",
    },
    {
      rule: "the cursor of an endpoint does not move",
      file: "src/control-plane/consumption/meter.ts",
      search: 'conflict.column("endpoint_id").doUpdateSet(values)',
      replace: 'conflict.column("endpoint_id").doNothing()',
      test: METER_TEST,
      name: "settle: what was used is in the hour",
    },
    {
      rule: "a second first look counts from the start",
      file: "src/control-plane/consumption/meter.ts",
      search: "if (begun !== undefined) {",
      replace: 'if (begun?.since === "") {',
      test: METER_TEST,
      name: "settle: the first look is where counting begins",
    },
    {
      rule: "history is told further back than it is kept",
      file: "src/control-plane/api-v2/consumption.ts",
      search: "if (fromMs < oldest) {",
      replace: "if (fromMs < 0) {",
      test: CONSUMPTION_TEST,
      name: "consumption: what is not kept, or makes no sense, is refused",
    },
    {
      rule: "a key of one project sees what others use",
      file: "src/control-plane/api-v2/consumption.ts",
      search: "(own === null || id === own)",
      replace: '(own === null || id !== "")',
      test: CONSUMPTION_TEST,
      name: "consumption: what is not kept, or makes no sense, is refused",
    },
    {
      rule: "a report of a proxy is counted twice",
      file: "src/control-plane/consumption/transfer.ts",
      search: "sequence <= known.sequence",
      replace: "sequence < known.sequence",
      test: METER_TEST,
      name: "countTransfer: each report once",
    },
    {
      rule: "an endpoint whose file cannot be read for a while is counted twice",
      file: "src/control-plane/consumption/meter.ts",
      search: "          : projectOfDamaged.get(endpoint.id);",
      replace: "          : undefined;",
      test: METER_TEST,
      name: "Meter.look: an endpoint whose endpoint.json cannot be read",
    },
  ],
};

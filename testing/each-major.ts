// Majors that a test goes through by itself: in `npm test` the oldest, the default and the newest; all of them in `npm run test:majors`.

import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { MAJORS } from "../src/postgres/versions.ts";

export const EACH_MAJOR = MAJORS.filter(
  (major) =>
    process.env["STRATA_TEST_EACH_MAJOR"] === "1" ||
    [MAJORS[0], DEFAULT_MAJOR, MAJORS.at(-1)].includes(major),
);

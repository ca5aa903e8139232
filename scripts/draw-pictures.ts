// `npm run pictures`: draws the pictures of README and ARCHITECTURE into docs/pictures.
//
// The picture of imports is made from the table that the layout test holds; a test compares the
// files with what this script draws.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { type Box, Picture, type Point } from "../src/base/text/svg.ts";
import { IMPORT_TABLE } from "../testing/import-table.ts";
import { inRepository } from "./checks.ts";

const COMPUTE = { fill: "#eff6ff", stroke: "#60a5fa" };
const STORAGE = { fill: "#f0fdf4", stroke: "#4ade80" };
const DURABLE = { fill: "#fff7ed", stroke: "#fb923c" };

/** The libraries of a folder without those that it has through another one. */
function nearest(folder: string): string[] {
  const { libraries } = IMPORT_TABLE[folder]!;
  const reach = (from: string): string[] =>
    IMPORT_TABLE[from]!.libraries.flatMap((to) => [to, ...reach(to)]);
  const further = new Set(libraries.flatMap(reach));
  return libraries.filter((to) => !further.has(to));
}

/** Rows from the top: each folder below all that import it, and near to them. */
function rowsOfImports(): string[][] {
  const folders = Object.keys(IMPORT_TABLE);
  const importers = (of: string) => folders.filter((folder) => nearest(folder).includes(of));
  const depth = (folder: string): number => Math.max(-1, ...importers(folder).map(depth)) + 1;
  const rows: string[][] = [];
  for (const folder of folders) {
    const row = depth(folder);
    rows[row] ??= [];
    rows[row].push(folder);
  }
  const places = new Map<string, number>();
  for (const row of rows) {
    const wish = (folder: string): number => {
      const above = importers(folder).map((importer) => places.get(importer)!);
      return above.length === 0 ? 0 : above.reduce((a, b) => a + b) / above.length;
    };
    row.sort((a, b) => wish(a) - wish(b));
    for (const [index, folder] of row.entries()) {
      places.set(folder, index - (row.length - 1) / 2);
    }
  }
  return rows;
}

function drawImports(): string {
  const rows = rowsOfImports();
  const [boxWidth, boxHeight, gap, rise] = [196, 56, 18, 46];
  const widest = Math.max(...rows.map((row) => row.length));
  const width = widest * (boxWidth + gap) + gap;
  const height = rows.length * (boxHeight + rise) + 30;
  const picture = new Picture("Which folder of src imports which", width, height);
  const boxes = new Map<string, Box>();
  for (const [level, row] of rows.entries()) {
    const left = (width - row.length * (boxWidth + gap) + gap) / 2;
    for (const [index, folder] of row.entries()) {
      const x = left + index * (boxWidth + gap);
      const y = level * (boxHeight + rise) + 20;
      boxes.set(folder, { x, y, width: boxWidth, height: boxHeight });
    }
  }
  for (const [folder, { x, y }] of boxes) {
    const targets = nearest(folder);
    for (const [index, target] of targets.entries()) {
      const to = boxes.get(target)!;
      const from: Point = [x + (boxWidth * (index + 1)) / (targets.length + 1), y + boxHeight];
      picture.drop(from, [to.x + boxWidth / 2, to.y]);
    }
  }
  for (const [folder, box] of boxes) {
    const { job, isService } = IMPORT_TABLE[folder]!;
    picture.labelled(box, folder, [job], isService === true ? STORAGE : {});
  }
  picture.text(
    [width / 2, height - 14],
    "An arrow: may import, also what that one stands on. Green: a running service, of which every other may import api.ts and client.ts.",
    { small: true },
  );
  return picture.toString();
}

function drawStrata(): string {
  const picture = new Picture("Strata: compute, safekeepers, pageserver, object store", 900, 400);
  const endpoint: Box = { x: 30, y: 92, width: 270, height: 218 };
  picture.text([165, 32], "psql, any driver", { bold: true });
  picture.rectangle(endpoint, { ...COMPUTE, dashed: true });
  picture.text([165, 330], "endpoint: nothing here must survive", { small: true });
  picture.arrow([
    [165, 42],
    [165, 118],
  ]);
  picture.labelled({ x: 50, y: 120, width: 230, height: 76 }, "stock PostgreSQL 14 to 18", [
    "unmodified binary; its libc calls",
    "go through a small shim",
  ]);
  picture.arrow([
    [165, 198],
    [165, 228],
  ]);
  picture.labelled({ x: 50, y: 230, width: 230, height: 62 }, "compute agent", [
    "ships WAL, fetches absent pages",
  ]);
  for (const offset of [16, 8, 0]) {
    picture.rectangle({ x: 390 + offset, y: 226 - offset, width: 190, height: 84 }, STORAGE);
  }
  picture.labelled(
    { x: 390, y: 226, width: 190, height: 84 },
    "safekeepers",
    ["a commit returns when a", "majority has its WAL on disk"],
    STORAGE,
  );
  picture.labelled(
    { x: 390, y: 92, width: 206, height: 84 },
    "pageserver",
    ["page versions by (key, LSN);", "redo in TypeScript; branches"],
    STORAGE,
  );
  picture.labelled(
    { x: 690, y: 150, width: 180, height: 100 },
    "object store",
    ["WAL for good;", "a directory"],
    DURABLE,
  );
  picture.arrow([
    [282, 268],
    [388, 268],
  ]);
  picture.text([335, 260], "WAL", { small: true });
  picture.arrow([
    [388, 134],
    [335, 134],
    [335, 246],
    [282, 246],
  ]);
  picture.text([345, 126], "pages", { small: true });
  picture.arrow([
    [493, 208],
    [493, 178],
  ]);
  picture.text([500, 198], "WAL", { small: true, anchor: "start" });
  picture.arrow([
    [582, 268],
    [640, 268],
    [640, 215],
    [688, 215],
  ]);
  picture.text([632, 288], "segments", { small: true });
  picture.text(
    [450, 352],
    "A branch is a record of a parent and an LSN: nothing is copied, whatever the size of the database.",
    {},
  );
  picture.text([450, 376], "Every LSN of the past can be read, and branched from.", {});
  return picture.toString();
}

/** File below the repository -> what it shows. */
export const PICTURES: Readonly<Record<string, () => string>> = {
  "docs/pictures/strata.svg": drawStrata,
  "docs/pictures/imports.svg": drawImports,
};

if (import.meta.main) {
  for (const [path, draw] of Object.entries(PICTURES)) {
    mkdirSync(dirname(inRepository(path)), { recursive: true });
    writeFileSync(inRepository(path), draw());
    console.log(path);
  }
}

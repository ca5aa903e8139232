// layers: which layers a branch reads, as a list and as a picture.

import type { Command } from "commander";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import {
  branchNames,
  DEFAULT_BRANCH_NAME,
  resolveBranch,
  resolveTenant,
} from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { keyWords } from "../../storage-controller/layers/key-words.ts";
import {
  type BranchLayers,
  groupLayers,
  lsnRange,
  readBranchLayers,
} from "../../storage-controller/layers/layer-map.ts";
import { jsonOption, openHome, print, printJson, tenantOption } from "../cli.ts";
import { formatTable } from "../output.ts";
import { drawLayers, sizeWords } from "./layer-picture.ts";

/** More layers are listed by LSN range. */
const MAX_LINES = 40;

interface LayersOptions {
  tenantId?: string;
  branchName: string;
  svg?: string;
  all?: boolean;
  json?: boolean;
}

export function addLayersCommand(program: Command): void {
  program
    .command("layers")
    .description("which layers a branch reads, its own and inherited ones")
    .addOption(tenantOption())
    .option("--branch-name <name>", "its name", DEFAULT_BRANCH_NAME)
    .option("--svg <file>", "draw them: keys to the right, LSNs upwards")
    .option("--all", "each layer by itself, however many there are")
    .addOption(jsonOption())
    .action(async (options: LayersOptions) => {
      const home = openHome();
      const config = home.config();
      const tenantId = resolveTenant(config, options.tenantId);
      const timelineId = resolveBranch(config, tenantId, options.branchName);
      const controller = controllerOf(home);
      // One that is archived is in no listing.
      await controller.timeline(tenantId, timelineId);
      const map = await readBranchLayers(controller, tenantId, timelineId);
      const names = branchNames(config, tenantId);
      const nameOf = (id: string) => names.get(id) ?? id;
      if (options.svg !== undefined) {
        const { writeFile } = await import("node:fs/promises");
        await writeFile(options.svg, drawLayers(map, options.branchName, nameOf));
        print(
          `Drew ${map.layers.length} layers of branch '${options.branchName}' in ${options.svg}`,
        );
      } else if (options.json === true) {
        printJson(jsonOf(map));
      } else {
        printLayers(map, options.all === true, nameOf);
      }
    });
}

function printLayers(map: BranchLayers, all: boolean, nameOf: (id: string) => string): void {
  const { layers } = map;
  const groups = groupLayers(layers, all || layers.length <= MAX_LINES);
  const rows = groups.map(({ first, keyStart, keyEnd, count, sizeBytes, remote }) => [
    first.kind.toLowerCase(),
    `${count}`,
    sizeWords(sizeBytes),
    lsnRange(first),
    nameOf(first.timelineId),
    remote === 0 ? "disk" : remote === count ? "store" : `${remote} in the store only`,
    `${keyWords(keyStart)} to ${keyWords(keyEnd)}`,
  ]);
  print(formatTable(["KIND", "FILES", "SIZE", "LSN", "OF", "WHERE", "KEYS"], rows));
  const bytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const memory =
    map.memoryFrom === undefined ? "" : `, in memory from ${formatLsn(map.memoryFrom)} on`;
  print(
    `${layers.length} layers, ${sizeWords(bytes)}; readable from ${formatLsn(map.minReadableLsn)} to ${formatLsn(map.headLsn)}${memory}`,
  );
  for (const { timelineId, lsn } of map.branchPoints) {
    print(`branch ${nameOf(timelineId)} begins at ${formatLsn(lsn)}`);
  }
}

function jsonOf(map: BranchLayers): unknown {
  const text = (lsn: Lsn | undefined) => (lsn === undefined ? null : formatLsn(lsn));
  return {
    head_lsn: text(map.headLsn),
    min_readable_lsn: text(map.minReadableLsn),
    begin_lsn: text(map.beginLsn),
    memory_from_lsn: text(map.memoryFrom),
    branch_points: map.branchPoints.map(({ timelineId, lsn }) => ({
      timeline_id: timelineId,
      lsn: text(lsn),
    })),
    layers: map.layers.map((layer) => ({
      layer_file_name: layer.fileName,
      layer_file_size: layer.sizeBytes,
      kind: layer.kind,
      key_start: layer.keyStart,
      key_end: layer.keyEnd,
      lsn_start: text(layer.lsnStart),
      lsn_end: text(layer.lsnEnd),
      timeline_id: layer.timelineId,
      remote: layer.isRemote,
    })),
  };
}

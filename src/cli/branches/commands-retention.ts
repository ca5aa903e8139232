// How long history is kept: `tenant config` and `gc`.

import { type Command, InvalidArgumentError, Option } from "commander";
import { StorageError } from "../../base/errors.ts";
import { parseTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";
import { branchNames, resolveBranch, resolveTenant } from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import type { StrataHome } from "../../local/home.ts";
import type { GcHolder, GcResult, TenantConfigPatch } from "../../pageserver/api.ts";
import { jsonOption, openHome, parseSetting, print, printJson, tenantOption } from "../cli.ts";
import { formatBytes, formatTable } from "../output.ts";

/** Which are durations, and which numbers. */
const SETTINGS = {
  pitr_interval: "duration",
  gc_horizon: "number",
  gc_period: "duration",
  compaction_period: "duration",
} as const;

type Setting = keyof typeof SETTINGS;

interface ConfigOptions {
  tenantId?: string;
  pitrInterval?: string;
  gcHorizon?: string;
  gcPeriod?: string;
  compactionPeriod?: string;
  config?: Record<string, string>;
  json?: boolean;
}

export function addTenantConfigCommand(tenant: Command): void {
  tenant
    .command("config")
    .description("show how a tenant is kept, and set it; 'default' as a value takes a setting back")
    .addOption(tenantOption())
    .option("--pitr-interval <duration>", "how old history may get, such as '7 days'; 0s: see next")
    .option("--gc-horizon <bytes>", "without a PITR interval: bytes of WAL that stay readable")
    .option("--gc-period <duration>", "how often old history is collected; 0s: by 'strata gc' only")
    .option("--compaction-period <duration>", "how often layers are looked at; 0s: never")
    .addOption(
      new Option("-c, --config <key=value>", "the same as in neon_local: pitr_interval=1d")
        .argParser(parseSetting)
        .hideHelp(),
    )
    .addOption(jsonOption())
    .action((options: ConfigOptions) => configure(openHome(), options));
}

export function addTenantSizeCommand(tenant: Command): void {
  tenant
    .command("size")
    .description("what all that can be read of a tenant takes at least: snapshots and WAL")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action(async (options: { tenantId?: string; json?: boolean }) => {
      const home = openHome();
      const tenantId = resolveTenant(home.config(), options.tenantId);
      const answer = await controllerOf(home).syntheticSize(tenantId);
      if (options.json === true) {
        printJson(answer);
      } else {
        print(formatBytes(answer.size));
      }
    });
}

async function configure(home: StrataHome, options: ConfigOptions): Promise<void> {
  const tenantId = resolveTenant(home.config(), options.tenantId);
  const patch = patchOf(options);
  const controller = controllerOf(home);
  if (Object.keys(patch).length > 0) {
    await controller.patchTenantConfig(tenantId, patch);
  }
  const info = await controller.tenantConfig(tenantId);
  if (options.json === true) {
    printJson(info);
    return;
  }
  if (Object.keys(patch).length > 0) {
    print(`tenant ${tenantId} successfully configured`);
  }
  const { effective_config, tenant_specific_overrides } = info;
  const rows = Object.entries(effective_config).map(([name, value]) => [
    name,
    `${value}`,
    tenant_specific_overrides[name as Setting] === undefined ? "default" : "set",
  ]);
  print(formatTable(["SETTING", "VALUE", "FROM"], rows));
}

function patchOf(options: ConfigOptions): TenantConfigPatch {
  const given = {
    pitr_interval: options.pitrInterval,
    gc_horizon: options.gcHorizon,
    gc_period: options.gcPeriod,
    compaction_period: options.compactionPeriod,
    ...options.config,
  };
  const patch: Record<string, string | number | null> = {};
  for (const [name, text] of Object.entries(given)) {
    if (text !== undefined) {
      // What is unknown the pageserver refuses, by name.
      patch[name] = text === "default" ? null : settingOf(name, text);
    }
  }
  return patch;
}

function settingOf(name: string, text: string): string | number {
  if (SETTINGS[name as Setting] !== "number") {
    return text;
  }
  if (!/^\d{1,15}$/.test(text)) {
    throw new InvalidArgumentError(`${name}: a number of bytes is wanted`);
  }
  return Number(text);
}

interface GcOptions {
  tenantId?: string;
  branchName?: string;
  dryRun?: boolean;
  force?: boolean;
  json?: boolean;
}

export function addGcCommand(program: Command): void {
  program
    .command("gc")
    .description("collect history that is older than the tenant's PITR interval, now")
    .addOption(tenantOption())
    .option("--branch-name <name>", "of this branch only (default: all)")
    .option("--dry-run", "only say what would go, and why the rest stays")
    .option("--force", "also in the first 10 minutes of a pageserver, when leases may be missing")
    .addOption(jsonOption())
    .action((options: GcOptions) => collect(openHome(), options));
}

async function collect(home: StrataHome, options: GcOptions): Promise<void> {
  const config = home.config();
  const tenantId = resolveTenant(config, options.tenantId);
  const names = branchNames(config, tenantId);
  const controller = controllerOf(home);
  const timelineIds =
    options.branchName === undefined
      ? await namedTimelines(home, tenantId, names)
      : [resolveBranch(config, tenantId, options.branchName)];
  const request = { dryRun: options.dryRun === true, force: options.force === true };
  const results: GcResult[] = [];
  for (const timelineId of timelineIds) {
    const result = await controller.collectGarbage(tenantId, timelineId, request);
    results.push(result);
    if (options.json !== true) {
      describeCollection(result, names).forEach(print);
    }
  }
  if (options.json === true) {
    printJson(results.map((one) => ({ branch_name: names.get(one.timeline_id) ?? null, ...one })));
  }
}

/** Those that are there, by name; those without one last. */
async function namedTimelines(
  home: StrataHome,
  tenantId: TenantId,
  names: ReadonlyMap<string, string>,
): Promise<TimelineId[]> {
  const nameOf = (id: string) => names.get(id) ?? "\uffff";
  const ids = (await controllerOf(home).timelines(tenantId)).map((info) => info.timeline_id);
  if (ids.length === 0) {
    throw new StorageError("not-found", "no-timelines", `tenant ${tenantId} has no timelines`);
  }
  return ids.toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1)).map(parseTimelineId);
}

/** Lines for people. */
export function describeCollection(result: GcResult, names: ReadonlyMap<string, string>): string[] {
  const { dry_run, removed, rewritten, written, gc_cutoff_lsn, gc_cutoff_time, held } = result;
  const of = ({ layers, bytes }: { layers: number; bytes: number }) =>
    bytes === 0
      ? `${layers} layers`
      : `${layers} layer${layers === 1 ? "" : "s"}, ${formatBytes(bytes)}`;
  const nameOf = (id: string | null) => `branch '${names.get(id ?? "") ?? id}'`;
  const verb = dry_run ? "would be " : "";
  const by = ({ kind, timeline_id, valid_until }: GcHolder) =>
    ({
      branch: nameOf(timeline_id),
      lease: `a lease until ${valid_until}`,
      subscriptions: "subscriptions that came with the import, until an endpoint's first start",
    })[kind];
  const time = gc_cutoff_time === null ? "" : `, of ${gc_cutoff_time}`;
  const replaced = written === null ? "" : `, ${of(written)} written`;
  const stays = [
    [result.above_cutoff, "history above the cutoff"],
    [result.needed_at_cutoff, "read at the cutoff"],
    [result.needed_below_cutoff, "read by who holds history below it"],
  ] as const;
  return [
    `${nameOf(result.timeline_id)}: cutoff ${gc_cutoff_lsn}${time}`,
    ...held.map((holder) => `  held: ${holder.lsn} by ${by(holder)}`),
    `  ${verb}removed: ${of(removed)}`,
    `  ${verb}rewritten: ${of(rewritten)}${replaced}`,
    ...stays
      .filter(([count]) => count.layers > 0)
      .map(([count, why]) => `  ${dry_run ? "would stay" : "stayed"}: ${of(count)}, ${why}`),
    ...(dry_run ? goingLayers(result) : []),
  ];
}

function goingLayers({ layers }: GcResult): string[] {
  return layers
    .filter(({ fate }) => fate === "removed" || fate === "rewritten")
    .map((layer) => `    ${layer.fate} ${layer.layer_file_name} ${layer.layer_file_size}`);
}

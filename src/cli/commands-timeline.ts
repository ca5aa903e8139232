// tenant, timeline and branch.

import type { Command } from "commander";
import { StorageError } from "../base/errors.ts";
import { generateTenantId, parseTenantId, parseTimelineId, type TenantId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import {
  branchNames,
  createTimeline,
  DEFAULT_BRANCH_NAME,
  deleteBranch,
  newestLsnFor,
  requireFreeBranchName,
  requireNoChildren,
  resolveBranch,
  resolveTenant,
  splitNameAtLsn,
} from "../local/branches.ts";
import { nameBranch, pgBinOf } from "../local/config.ts";
import { controllerOf, placementOf } from "../local/controller.ts";
import type { Print } from "../local/daemon.ts";
import { stopAndKeep } from "../local/endpoint-stop.ts";
import {
  connectionUrl,
  createEndpoint,
  destroyEndpoint,
  endpointState,
  freeEndpointId,
  listEndpoints,
  startEndpoint,
} from "../local/endpoints.ts";
import type { StrataHome } from "../local/home.ts";
import { shellWord, strataCommand } from "../local/strata-command.ts";
import type { TimelineInfo } from "../pageserver/api.ts";
import { findInstallation } from "../postgres/installation.ts";
import {
  group,
  jsonOption,
  notice,
  openHome,
  parseCount,
  parseDuration,
  parseIds,
  print,
  printJson,
  safekeeperSetOption,
  setDefaultTenant,
  tenantOption,
  withEndpointLocked,
  withHomeLocked,
} from "./cli.ts";
import { addTenantConfigCommand } from "./commands-retention.ts";
import { formatTable, formatTimelineTree } from "./output.ts";
import { type NamedBranch, requireOnBranch, resolvePoint } from "./point-in-time.ts";
import { addTransferCommands } from "./transfer/commands-transfer.ts";

export function addTenantCommands(program: Command): void {
  const tenant = group(program, "tenant", "tenants");
  tenant
    .command("list")
    .addOption(jsonOption())
    .action(async (options: { json?: boolean }) => {
      const home = openHome();
      const config = home.config();
      const tenants = await controllerOf(home).tenants();
      if (options.json === true) {
        printJson(
          tenants.map((info) => ({
            id: info.id,
            state: info.state.slug,
            is_default: info.id === config.defaultTenantId,
          })),
        );
        return;
      }
      for (const info of tenants) {
        print(`${info.id} ${info.state.slug}`);
      }
    });
  tenant
    .command("create")
    .option("--tenant-id <id>", "32 hex digits (default: random)")
    .option("--timeline-id <id>", "of its first branch, main")
    .option("--pg-version <major>", "PostgreSQL 14 to 18 (default: the home's)", parseCount)
    .option("--data-checksums", "page checksums, as initdb's: reads then write WAL (default: off)")
    .addOption(safekeeperSetOption())
    .option("--set-default", "use it where --tenant-id is not given")
    .action(async (options: TenantCreateOptions) => {
      const home = openHome();
      await withHomeLocked(home, () => createTenant(home, options, print));
    });
  tenant
    .command("set-default")
    .requiredOption("--tenant-id <id>", "32 hex digits")
    .action(async (options: { tenantId: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = parseTenantId(options.tenantId);
        const tenants = await controllerOf(home).tenants();
        if (!tenants.some((info) => info.id === tenantId)) {
          throw new StorageError("not-found", "no-tenant", `tenant ${tenantId} not found`);
        }
        setDefaultTenant(home, tenantId, print);
      });
    });
  addTenantConfigCommand(tenant);
  addTransferCommands(tenant);
}

interface TenantCreateOptions {
  tenantId?: string;
  timelineId?: string;
  pgVersion?: number;
  dataChecksums?: boolean;
  skSet?: number[];
  setDefault?: boolean;
}

/** A tenant with its first branch, `main`; call with the home locked. */
export async function createTenant(
  home: StrataHome,
  options: TenantCreateOptions,
  say: Print,
): Promise<TenantId> {
  const { pgVersion, dataChecksums } = options;
  const config = home.config();
  const major = pgVersion ?? config.pgVersion;
  // Before the tenant exists: a wrong major leaves none without branches.
  findInstallation(major, { pgBin: pgBinOf(config, major) });
  const controller = controllerOf(home);
  const tenantId =
    options.tenantId === undefined ? generateTenantId() : parseTenantId(options.tenantId);
  const branchName = DEFAULT_BRANCH_NAME;
  if (options.tenantId !== undefined) {
    const tenants = await controller.tenants();
    // One without branches is a creation that was cut short: this finishes it.
    const branches = config.branchNameMappings.get(tenantId)?.size ?? 0;
    if (tenants.some((info) => info.id === tenantId) && branches > 0) {
      throw new StorageError("conflict", "tenant-exists", `tenant ${tenantId} already exists`);
    }
  }
  await controller.createTenant(tenantId);
  say(`tenant ${tenantId} successfully created on the pageserver`);
  const timelineId =
    options.timelineId === undefined ? undefined : parseTimelineId(options.timelineId);
  const info = await createTimeline(home, {
    tenantId,
    timelineId,
    branchName,
    pgVersion,
    dataChecksums,
    safekeepers: options.skSet,
  });
  say(`Created an initial timeline '${info.timeline_id}' for tenant: ${tenantId}`);
  if (options.setDefault === true) {
    setDefaultTenant(home, tenantId, say);
  }
  return tenantId;
}

function addSafekeeperMigrateCommand(timeline: Command): void {
  timeline
    .command("safekeeper-migrate")
    .description("move a timeline to other safekeepers while it is used; repeat after a failure")
    .addOption(tenantOption())
    .option("--branch-name <name>", "its name", DEFAULT_BRANCH_NAME)
    .option("--new-sk-set <ids>", "all safekeepers that are to have it, as 1,2,4", parseIds)
    .option("--abort", "back to the old ones, where a change was not finished")
    .option("--timeout <duration>", "for the new ones to have all WAL", parseDuration, 60_000)
    .action(async (options: MigrateOptions) => {
      const home = openHome();
      const config = home.config();
      if ((options.newSkSet === undefined) !== (options.abort === true)) {
        throw new StorageError("invalid", "no-sk-set", "one of --new-sk-set and --abort is needed");
      }
      const tenantId = resolveTenant(config, options.tenantId);
      const { migrateSafekeepers } = await import("../storage-controller/safekeeper-migrate.ts");
      await migrateSafekeepers(
        controllerOf(home, (body) => withHomeLocked(home, body)),
        {
          tenantId,
          timelineId: resolveBranch(config, tenantId, options.branchName),
          newMembers: options.newSkSet ?? [],
          abort: options.abort === true,
          timeoutMs: options.timeout,
        },
        print,
      );
    });
}

interface MigrateOptions {
  tenantId?: string;
  branchName: string;
  newSkSet?: number[];
  abort?: boolean;
  timeout: number;
}

export function addTimelineCommands(program: Command): void {
  const timeline = group(program, "timeline", "timelines, which branch names stand for");
  timeline
    .command("list")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action(async (options: { tenantId?: string; json?: boolean }) => {
      const home = openHome();
      const config = home.config();
      const tenantId = resolveTenant(config, options.tenantId);
      const timelines = await controllerOf(home).timelines(tenantId);
      const names = branchNames(config, tenantId);
      if (options.json === true) {
        printJson(timelines.map((info) => withName(info, names)));
        return;
      }
      for (const line of formatTimelineTree(timelines, names)) {
        print(line);
      }
    });
  timeline
    .command("create")
    .description("a new root timeline, empty as initdb leaves it")
    .addOption(tenantOption())
    .option("--timeline-id <id>", "32 hex digits (default: random)")
    .requiredOption("--branch-name <name>", "its name")
    .option("--pg-version <major>", "PostgreSQL 14 to 18 (default: the home's)", parseCount)
    .option("--data-checksums", "page checksums, as initdb's: reads then write WAL (default: off)")
    .addOption(safekeeperSetOption())
    .action(async (options: TenantCreateOptions & { branchName: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        const { branchName, pgVersion, dataChecksums } = options;
        const timelineId =
          options.timelineId === undefined ? undefined : parseTimelineId(options.timelineId);
        const info = await createTimeline(home, {
          tenantId,
          timelineId,
          branchName,
          pgVersion,
          dataChecksums,
          safekeepers: options.skSet,
        });
        const at = `at Lsn ${info.last_record_lsn}`;
        print(`Created timeline '${info.timeline_id}' ${at} for tenant: ${tenantId}`);
      });
    });
  addSafekeeperMigrateCommand(timeline);
  timeline
    .command("branch")
    .description("a branch of another timeline, at its head, or at an older LSN or a time")
    .addOption(tenantOption())
    .option("--timeline-id <id>", "32 hex digits (default: random)")
    .requiredOption("--branch-name <name>", "its name")
    .option("--ancestor-branch-name <name>", "branch to start from", DEFAULT_BRANCH_NAME)
    .option("--ancestor-start-lsn <lsn|time>", "where to start (default: the newest commit)")
    .addOption(safekeeperSetOption())
    .action(async (options: BranchOptions & { branchName: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const info = await createBranch(home, options.branchName, options);
        const ancestor = options.ancestorBranchName ?? DEFAULT_BRANCH_NAME;
        print(
          `Created timeline '${info.timeline_id}' at Lsn ${info.ancestor_lsn} for tenant: ${info.tenant_id}. Ancestor timeline: '${ancestor}'`,
        );
      });
    });
}

function withName(info: TimelineInfo, names: ReadonlyMap<string, string>) {
  return { branch_name: names.get(info.timeline_id) ?? null, ...info };
}

interface BranchOptions {
  tenantId?: string;
  timelineId?: string;
  ancestorBranchName?: string;
  ancestorStartLsn?: string;
  skSet?: number[];
}

/** A branch at an LSN or a time, by default at the newest commit; call with the home locked. */
export async function createBranch(
  home: StrataHome,
  branchName: string,
  options: BranchOptions,
): Promise<TimelineInfo> {
  const config = home.config();
  const tenantId = resolveTenant(config, options.tenantId);
  requireFreeBranchName(config, tenantId, branchName);
  const ancestorName = options.ancestorBranchName ?? DEFAULT_BRANCH_NAME;
  const ancestor = resolveBranch(config, tenantId, ancestorName);
  const lsn = await branchLsn(
    home,
    { tenantId, timelineId: ancestor, name: ancestorName },
    options.ancestorStartLsn,
  );
  return createTimeline(home, {
    tenantId,
    branchName,
    timelineId: options.timelineId === undefined ? undefined : parseTimelineId(options.timelineId),
    ancestor: { timelineId: ancestor, lsn },
    safekeepers: options.skSet,
  });
}

async function branchLsn(
  home: StrataHome,
  ancestor: NamedBranch,
  at: string | undefined,
): Promise<Lsn> {
  if (at === undefined) {
    return await newestLsnFor(home, ancestor, undefined);
  }
  const lsn = await resolvePoint(home, ancestor, at, notice);
  await requireOnBranch(home, ancestor, lsn, at);
  return lsn;
}

interface BranchCreateOptions {
  tenantId?: string;
  parent: string;
  at?: string;
  skSet?: number[];
  start?: boolean;
}

export function addBranchCommands(program: Command): void {
  const branch = group(program, "branch", "branches, in short");
  branch
    .command("create")
    .argument("<name>")
    .description("a branch of main, or of --parent, now or --at an LSN or a time")
    .addOption(tenantOption())
    .option("-p, --parent <name[@lsn]>", "branch to start from", DEFAULT_BRANCH_NAME)
    .option("--at <lsn|time>", "where to start (default: the newest commit)")
    .addOption(safekeeperSetOption())
    .option("-s, --start", "also create and start an endpoint on it")
    .action(async (name: string, options: BranchCreateOptions) => {
      await shortBranchCreate(openHome(), name, options);
    });
  branch
    .command("list")
    .alias("ls")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action((options: { tenantId?: string; json?: boolean }) =>
      listBranches(openHome(), options.tenantId, options.json === true),
    );
  branch
    .command("delete")
    .alias("rm")
    .argument("<name>")
    .addOption(tenantOption())
    .option("-f, --force", "also stop and destroy the endpoints on it")
    .action(async (name: string, options: { tenantId?: string; force?: boolean }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        // Before endpoints are destroyed for a deletion that is refused.
        await requireNoChildren(home, tenantId, name);
        await clearEndpoints(home, tenantId, name, options.force === true);
        const timelineId = await deleteBranch(home, tenantId, name);
        print(`Deleted branch '${name}' (timeline '${timelineId}')`);
      });
    });
  branch
    .command("rename")
    .argument("<name>")
    .argument("<new-name>")
    .addOption(tenantOption())
    .action(async (name: string, newName: string, options: { tenantId?: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        const timelineId = resolveBranch(home.config(), tenantId, name);
        requireFreeBranchName(home.config(), tenantId, newName);
        home.update((config) => {
          config.branchNameMappings.get(tenantId)?.delete(name);
          nameBranch(config, tenantId, newName, timelineId);
        });
        print(`Renamed branch '${name}' to '${newName}'`);
      });
    });
}

async function shortBranchCreate(
  home: StrataHome,
  name: string,
  options: BranchCreateOptions,
): Promise<void> {
  const { name: parent, lsn: parentLsn } = splitNameAtLsn(options.parent);
  const lsn = parentLsn ?? options.at;
  if (parentLsn !== undefined && options.at !== undefined) {
    throw new StorageError("invalid", "lsn-twice", "--at and --parent NAME@LSN exclude each other");
  }
  const endpoint = await withHomeLocked(home, async () => {
    const info = await createBranch(home, name, {
      ...(options.tenantId === undefined ? {} : { tenantId: options.tenantId }),
      ancestorBranchName: parent,
      ...(lsn === undefined ? {} : { ancestorStartLsn: lsn }),
      ...(options.skSet === undefined ? {} : { skSet: options.skSet }),
    });
    print(`Created branch '${name}' of '${parent}' at ${info.ancestor_lsn} [${info.timeline_id}]`);
    if (options.start !== true) {
      return undefined;
    }
    const tenantId = parseTenantId(info.tenant_id);
    const timelineId = parseTimelineId(info.timeline_id);
    const wanted = {
      id: freeEndpointId(home, name),
      tenantId,
      timelineId,
      pgVersion: info.pg_version,
    };
    return createEndpoint(home, wanted, controllerOf(home).placementOf(tenantId, timelineId));
  });
  if (endpoint !== undefined) {
    await withEndpointLocked(home, endpoint.id, () =>
      startEndpoint(home, endpoint, placementOf(home, endpoint), {
        timeoutMs: parseDuration("90s"),
        print: () => {},
      }),
    );
    print(`Endpoint ${endpoint.id}: ${connectionUrl(home, endpoint)}`);
  } else {
    endpointHint(freeEndpointId(home, name), name, options.tenantId).forEach(print);
  }
}

/** How to get Postgres on a branch, as it can be typed where we were started. */
export function endpointHint(id: string, branchName: string, tenantId?: string): string[] {
  const strata = strataCommand();
  const tenant = tenantId === undefined ? "" : ` --tenant-id ${tenantId}`;
  return [
    `Start Postgres on it: ${strata} endpoint create ${id} --branch-name ${shellWord(branchName)}${tenant}`,
    `                      ${strata} endpoint start ${id}`,
  ];
}

async function listBranches(
  home: StrataHome,
  givenTenant: string | undefined,
  json: boolean,
): Promise<void> {
  const config = home.config();
  const tenantId = resolveTenant(config, givenTenant);
  const names = branchNames(config, tenantId);
  const timelines = await controllerOf(home).timelines(tenantId);
  const endpoints = listEndpoints(home).filter(({ spec }) => spec.tenantId === tenantId);
  const rows = timelines
    .filter((info) => names.has(info.timeline_id))
    .toSorted((a, b) => names.get(a.timeline_id)!.localeCompare(names.get(b.timeline_id)!, "en"))
    .map((info) => ({
      name: names.get(info.timeline_id)!,
      timeline_id: info.timeline_id,
      parent:
        info.ancestor_timeline_id === null
          ? null
          : (names.get(info.ancestor_timeline_id) ?? info.ancestor_timeline_id),
      parent_lsn: info.ancestor_timeline_id === null ? null : info.ancestor_lsn,
      last_record_lsn: info.last_record_lsn,
      pg_version: info.pg_version,
      endpoints: endpoints
        .filter(({ spec }) => spec.timelineId === info.timeline_id)
        .map((endpoint) => ({ id: endpoint.id, status: endpointState(endpoint).state })),
    }));
  if (json) {
    printJson(rows);
    return;
  }
  print(
    formatTable(
      ["BRANCH", "TIMELINE", "PARENT", "PARENT LSN", "LAST LSN", "PG", "ENDPOINTS"],
      rows.map((row) => [
        row.name,
        row.timeline_id,
        row.parent ?? "---",
        row.parent_lsn ?? "---",
        row.last_record_lsn,
        `${row.pg_version}`,
        row.endpoints.map((one) => `${one.id} (${one.status})`).join(", ") || "---",
      ]),
    ),
  );
}

/** Endpoints of a branch that is to go: refused, or with `force` stopped and destroyed. */
async function clearEndpoints(
  home: StrataHome,
  tenantId: TenantId,
  name: string,
  force: boolean,
): Promise<void> {
  const timelineId = resolveBranch(home.config(), tenantId, name);
  const endpoints = listEndpoints(home).filter(
    ({ spec }) => spec.tenantId === tenantId && spec.timelineId === timelineId,
  );
  if (endpoints.length > 0 && !force) {
    const ids = endpoints.map((endpoint) => endpoint.id).join(", ");
    throw new StorageError(
      "conflict",
      "branch-has-endpoints",
      `branch '${name}' has endpoints: ${ids}; --force stops and destroys them`,
    );
  }
  for (const endpoint of endpoints) {
    await stopAndKeep(
      home,
      endpoint,
      "immediate",
      () => {},
      () => destroyEndpoint(endpoint),
    );
    print(`Destroyed endpoint ${endpoint.id}`);
  }
}

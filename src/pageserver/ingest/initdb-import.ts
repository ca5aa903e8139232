// Makes the starting content of root timelines: initdb once a version, kept as one image layer.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { monotonicMs } from "../../base/clock.ts";
import { fsyncDirectory, readFileIfExists, writeFileDurably } from "../../base/disk.ts";
import { withContext } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { addLsn, formatLsn, type Lsn, parseLsn } from "../../base/lsn.ts";
import { randomBytes } from "../../base/random.ts";
import {
  findInstallation,
  giveToPostgres,
  type Installation,
  runPostgresTool,
  runtimeDirectory,
  SUPERUSER,
} from "../../postgres/installation.ts";
import { pgVersion } from "../../postgres/versions.ts";
import { readDataDirectory } from "../import/data-directory-import.ts";
import { LAYER_FORMAT_VERSION } from "../layers/format-versions.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import { type LayerDescription, LayerWriter } from "../layers/layer-writer.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";

const TEMPLATE_FILE = "template.json";
/** Raise it when what initdb is asked for, or how it is imported, changes. */
const TEMPLATE_VERSION = 1;
const DRAIN_BYTES = 1 << 20;
const SCRATCH_PREFIX = "initdb-scratch-";

/** A root timeline's first layer, ready to be linked into it. */
export interface InitdbTemplate {
  readonly pgVersion: number;
  readonly dataChecksums: boolean;
  /** Holds the layer file. */
  readonly directory: string;
  readonly layer: LayerDescription;
  /** The state is as of here, and the timeline's WAL begins here. */
  readonly lsn: Lsn;
  readonly prevRecordLsn: Lsn;
  readonly walSegmentSize: number;
}

const LSN_TEXT = z.string().transform((text, context) => {
  const lsn = parseLsn(text);
  if (lsn === undefined) {
    context.addIssue(`not an LSN: ${text}`);
    return z.NEVER;
  }
  return lsn;
});

const templateSchema = z.object({
  layer_file_name: z.string(),
  layer_file_size: z.int().positive(),
  lsn: LSN_TEXT,
  prev_record_lsn: LSN_TEXT,
  wal_seg_size: z.int().positive(),
});

/** One per pageserver: templates, made when first asked for and kept in `workdir`. */
export class InitdbTemplates {
  readonly #workdir: string;
  readonly #ownMajor: number;
  readonly #pgBin: string | undefined;
  readonly #superuserSecret: string | undefined;
  readonly #logger: Logger;
  readonly #templates = new Map<string, Promise<InitdbTemplate>>();
  #cleaned = false;

  /** `pgBin`: the bin directory of `ownMajor`, where that is not npm's as all others are. */
  constructor(options: {
    readonly workdir: string;
    readonly ownMajor: number;
    readonly pgBin: string | undefined;
    /** What `initdb --pwfile` is to hold; undefined: the superuser has no password. */
    readonly superuserSecret: string | undefined;
    readonly logger: Logger;
  }) {
    this.#workdir = options.workdir;
    this.#ownMajor = options.ownMajor;
    this.#pgBin = options.pgBin;
    this.#superuserSecret = options.superuserSecret;
    this.#logger = options.logger;
  }

  /** StorageError `unsupported` for a major without an installation. */
  get(major: number, dataChecksums = false): Promise<InitdbTemplate> {
    const key = `${major} ${dataChecksums}`;
    let template = this.#templates.get(key);
    if (template === undefined) {
      template = this.#load(major, dataChecksums);
      this.#templates.set(key, template);
      // A failure (no space, no binaries) is worth another try at the next request.
      template.catch(() => this.#templates.delete(key));
    }
    return template;
  }

  async #load(major: number, dataChecksums: boolean): Promise<InitdbTemplate> {
    const pgBin = major === this.#ownMajor ? this.#pgBin : undefined;
    const installation = findInstallation(major, { pgBin });
    const secret = this.#superuserSecret;
    const directory = templateDirectory(this.#workdir, installation, dataChecksums, secret);
    const parent = dirname(directory);
    const stored = readTemplate(directory, major, dataChecksums);
    if (stored !== undefined) {
      return stored;
    }
    const start = monotonicMs();
    mkdirSync(parent, { recursive: true });
    this.#removeUnfinished(parent);
    rmSync(directory, { recursive: true, force: true });
    const temporary = `${directory}.${randomBytes(4).toString("hex")}.tmp`;
    mkdirSync(temporary);
    try {
      const template = await buildTemplate(
        { installation, dataChecksums, superuserSecret: secret },
        this.#workdir,
        temporary,
      );
      await rename(temporary, directory);
      fsyncDirectory(parent);
      this.#logger.info(
        { version: installation.version, tookMs: Math.round(monotonicMs() - start) },
        "made the template of root timelines",
      );
      return { ...template, directory };
    } catch (error) {
      rmSync(temporary, { recursive: true, force: true });
      throw withContext(error, `run initdb of PostgreSQL ${installation.version}`);
    }
  }

  /** What an earlier process left half made: once, as later there is our own work in progress. */
  #removeUnfinished(parent: string): void {
    if (this.#cleaned) {
      return;
    }
    this.#cleaned = true;
    const runtime = runtimeDirectory(this.#workdir);
    for (const path of [
      ...readdirSync(parent)
        .filter((name) => name.endsWith(".tmp"))
        .map((name) => join(parent, name)),
      ...readdirSync(runtime)
        .filter((name) => name.startsWith(SCRATCH_PREFIX))
        .map((name) => join(runtime, name)),
    ]) {
      rmSync(path, { recursive: true, force: true });
    }
  }
}

/** Where a pageserver keeps the template of this version. */
export function templateDirectory(
  workdir: string,
  installation: Installation,
  dataChecksums = false,
  superuserSecret?: string,
): string {
  const kind = `${dataChecksums ? "-k" : ""}${superuserSecret === undefined ? "" : `-p${digest(superuserSecret)}`}`;
  const name = `${installation.version}${kind}-t${TEMPLATE_VERSION}-l${LAYER_FORMAT_VERSION}`;
  return join(workdir, "initdb", name);
}

/** What it is of cannot be told from it. */
function digest(secret: string): string {
  return createHash("sha256").update(secret).digest("hex").slice(0, 16);
}

/** Undefined where there is none that can be used: it is then made anew. */
function readTemplate(
  directory: string,
  major: number,
  dataChecksums: boolean,
): InitdbTemplate | undefined {
  const bytes = readFileIfExists(join(directory, TEMPLATE_FILE));
  if (bytes === undefined) {
    return undefined;
  }
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
  const parsed = templateSchema.safeParse(json);
  if (!parsed.success || !readdirSync(directory).includes(parsed.data.layer_file_name)) {
    return undefined;
  }
  return {
    pgVersion: major,
    dataChecksums,
    directory,
    layer: { fileName: parsed.data.layer_file_name, sizeBytes: parsed.data.layer_file_size },
    lsn: parsed.data.lsn,
    prevRecordLsn: parsed.data.prev_record_lsn,
    walSegmentSize: parsed.data.wal_seg_size,
  };
}

/** Runs initdb and writes the layer and, last, the file that describes it. */
async function buildTemplate(
  initdb: InitdbOptions,
  workdir: string,
  directory: string,
): Promise<InitdbTemplate> {
  const scratch = join(
    runtimeDirectory(workdir),
    `${SCRATCH_PREFIX}${randomBytes(6).toString("hex")}`,
  );
  mkdirSync(scratch, { mode: 0o700 });
  try {
    giveToPostgres(scratch);
    const pgdata = join(scratch, "pgdata");
    await runInitdb(pgdata, initdb);
    return await writeTemplate(pgdata, initdb.installation.major, directory);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

export interface InitdbOptions {
  readonly installation: Installation;
  readonly dataChecksums?: boolean;
  /** A password, or its SCRAM secret. */
  readonly superuserSecret?: string | undefined;
}

/** Beside `pgdata` it writes a file. Exported for tests that go on with the cluster in a stock Postgres. */
export async function runInitdb(pgdata: string, options: InitdbOptions): Promise<void> {
  const { installation, dataChecksums = false, superuserSecret } = options;
  const passwordFile = join(dirname(pgdata), "pwfile");
  if (superuserSecret !== undefined) {
    writeFileSync(passwordFile, `${superuserSecret}\n`, { mode: 0o600 });
    giveToPostgres(passwordFile);
  }
  // The collation that behaves the same on every machine; before 17 that is only C.
  const locale =
    installation.major >= 17
      ? ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
      : ["--locale=C"];
  await runPostgresTool(installation, "initdb", [
    "--pgdata",
    pgdata,
    "--username",
    SUPERUSER,
    "--encoding=UTF8",
    ...locale,
    "--auth=trust",
    ...(superuserSecret === undefined ? [] : ["--pwfile", passwordFile]),
    "--no-sync",
    "--no-instructions",
    ...(dataChecksums ? ["--data-checksums"] : []),
    // From 18 on they are the default.
    ...(!dataChecksums && installation.major >= 18 ? ["--no-data-checksums"] : []),
  ]);
}

/** Imports a cluster that was shut down cleanly; exported for tests, which bring their own. */
export async function writeTemplate(
  pgdata: string,
  major: number,
  directory: string,
): Promise<InitdbTemplate> {
  const image = readDataDirectory(pgdata, pgVersion(major).major);
  const writer = await LayerWriter.create(directory, LAYER_KIND_IMAGE);
  let layer: LayerDescription;
  try {
    for (const { prefix, index, value } of image.values()) {
      writer.add(prefix, index, image.lsn, VALUE_IMAGE, value);
      if (writer.pendingBytes >= DRAIN_BYTES) {
        await writer.drain();
      }
    }
    layer = await writer.finish({
      kind: LAYER_KIND_IMAGE,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: image.lsn,
      lsnEnd: addLsn(image.lsn, 1),
    });
  } catch (error) {
    await writer.abandon();
    throw error;
  }
  writeFileDurably(
    join(directory, TEMPLATE_FILE),
    JSON.stringify({
      layer_file_name: layer.fileName,
      layer_file_size: layer.sizeBytes,
      lsn: formatLsn(image.lsn),
      prev_record_lsn: formatLsn(image.prevRecordLsn),
      wal_seg_size: image.control.segmentSize,
    }),
  );
  return {
    pgVersion: major,
    dataChecksums: image.control.dataChecksums,
    directory,
    layer,
    lsn: image.lsn,
    prevRecordLsn: image.prevRecordLsn,
    walSegmentSize: image.control.segmentSize,
  };
}

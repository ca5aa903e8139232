// All that a pageserver has of a branch at an LSN, beside a data directory that stock Postgres recovered to it.

import type { Lsn } from "../../src/base/lsn.ts";
import type { ComputeState, TenantTimeline } from "../../src/pageserver/api.ts";
import { computeState, listRelations, PagestreamClient } from "../../src/pageserver/client.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import {
  GLOBAL_TABLESPACE_OID,
  INIT_FORK,
  MAIN_FORK,
  VM_FORK,
} from "../../src/postgres/relation-path.ts";
import { SLRU_PAGES_PER_SEGMENT } from "../../src/postgres/slru.ts";
import type { RelationFork, SlruKind } from "../../src/wal-decoder/record-sink.ts";
import {
  type ComparedPages,
  compareOtherFiles,
  compareRelationFiles,
  compareSlruPages,
} from "../../src/wal-verify/directory-comparison.ts";
import { readSlruPages } from "../../src/wal-verify/relation-files.ts";
import { SLRU_KINDS } from "../../src/wal-verify/slru-pages.ts";

/** Of relations; a branch that has nothing in common with the directory has more. */
const MAX_MISMATCHES = 20_000;

export interface StorageComparison {
  /** Of relations: all but free space maps, and unlogged ones by their init forks. */
  readonly forks: number;
  readonly pages: number;
  readonly slruPages: number;
  /** Relation maps and prepared transactions. */
  readonly files: number;
  /** The first of relations, and all others; a line each. */
  readonly mismatches: readonly string[];
}

/** Waits until the pageserver has the WAL. Nothing is masked. */
export async function compareWithStorage(
  directory: string,
  pgAddr: string,
  timeline: TenantTimeline,
  lsn: Lsn,
  onProgress?: (done: number, total: number) => void,
): Promise<StorageComparison> {
  const state = await computeState(pgAddr, timeline, lsn);
  const client = await PagestreamClient.connect(pgAddr, timeline);
  try {
    const relations = await compareRelationFiles({
      directory,
      source: await storedPages(client, pgAddr, timeline, state),
      forks: [MAIN_FORK, VM_FORK, INIT_FORK],
      maxMismatches: MAX_MISMATCHES,
      ...(onProgress === undefined ? {} : { onProgress }),
    });
    const slruPages = await readStoredSlrus(client, directory, lsn);
    const slrus = compareSlruPages(directory, (kind, pageno) => slruPages.get(`${kind}/${pageno}`));
    const others = compareOtherFiles(directory, {
      relationMaps: new Map(
        state.relationMaps.map(({ spcOid, dbOid, bytes }) => [`${spcOid}/${dbOid}`, bytes]),
      ),
      twoPhase: new Map(
        state.twoPhase.map(({ fullXid, payload }) => [Number(fullXid & 0xffff_ffffn), payload]),
      ),
    });
    return {
      forks: relations.forks,
      pages: relations.pages,
      slruPages: slrus.pages,
      files: others.files,
      mismatches: [
        ...relations.mismatches.map(
          ({ rel, blkno, what }) => `${forkName(rel)} block ${blkno}: ${what}`,
        ),
        ...[...slrus.mismatches, ...others.mismatches].map(
          ({ file, pageno, what }) =>
            `${file}${pageno === undefined ? "" : ` page ${pageno}`}: ${what}`,
        ),
      ],
    };
  } finally {
    client.close();
  }
}

function forkName({ spcOid, dbOid, relNumber, fork }: RelationFork): string {
  return `${spcOid}/${dbOid}/${relNumber}, fork ${fork},`;
}

async function storedPages(
  client: PagestreamClient,
  pgAddr: string,
  timeline: TenantTimeline,
  { lsn, databases }: ComputeState,
): Promise<ComparedPages> {
  const sizes = new Map<string, { rel: RelationFork; blocks: number }>();
  for (const { spcOid, dbOid } of [{ spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0 }, ...databases]) {
    for (const found of await listRelations(pgAddr, timeline, lsn, spcOid, dbOid)) {
      const rel = { spcOid, dbOid, relNumber: found.relNumber, fork: found.fork };
      sizes.set(forkName(rel), { rel, blocks: found.blocks });
    }
  }
  return {
    blocks: (rel) => sizes.get(forkName(rel))?.blocks,
    readPage: (rel, blkno) => client.getPage(rel, blkno, lsn),
    forks: () => [...sizes.values()].map(({ rel }) => rel),
  };
}

/** Of the segments that the directory has; by kind and number of the page. */
async function readStoredSlrus(
  client: PagestreamClient,
  directory: string,
  lsn: Lsn,
): Promise<Map<string, Uint8Array>> {
  const stored = new Map<string, Uint8Array>();
  for (const kind of SLRU_KINDS) {
    const segments = new Set<number>();
    for (const { pageno } of readSlruPages(directory, kind)) {
      segments.add(Math.floor(pageno / SLRU_PAGES_PER_SEGMENT));
    }
    for (const segno of segments) {
      for (const [at, page] of (await slruSegment(client, kind, segno, lsn)).entries()) {
        stored.set(`${kind}/${segno * SLRU_PAGES_PER_SEGMENT + at}`, page);
      }
    }
  }
  return stored;
}

async function slruSegment(
  client: PagestreamClient,
  kind: SlruKind,
  segno: number,
  lsn: Lsn,
): Promise<Uint8Array[]> {
  const { blocks, data } = await client.slruSegment(kind, segno, lsn);
  return Array.from({ length: blocks }, (_, at) =>
    data.subarray(at * PAGE_SIZE, (at + 1) * PAGE_SIZE),
  );
}

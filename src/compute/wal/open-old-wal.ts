// What the logical replication slots of a start need: WAL from before it; and what becomes of them without.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { INVALID_LSN } from "../../base/lsn.ts";
import { isSlotPath, slotsOf } from "../../data-directory/aux-files.ts";
import type { ComputeState } from "../../pageserver/api.ts";
import { decodeReplicationSlot, withoutWal } from "../../postgres/replication/replication-slot.ts";
import { pgVersion } from "../../postgres/versions.ts";
import { allMembers, type MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import { endpointAddress } from "../../walproposer/safekeeper-peer.ts";
import type { EndpointSpec } from "../api.ts";
import { OldWal } from "./old-wal.ts";
import { safekeeperWal } from "./safekeeper-wal.ts";

export interface OldWalPlace {
  readonly dataDirectory: string;
  readonly spec: EndpointSpec;
  readonly state: ComputeState;
  /** Of the safekeepers, when they are asked; generation 0: those of the specification. */
  readonly membership: () => MembershipConfiguration;
  readonly logger: Logger;
}

/** Undefined where no slot needs any. StorageError `corrupt` where the state of one makes no sense. */
export function openOldWal(place: OldWalPlace): OldWal | undefined {
  const { dataDirectory, spec, state, membership, logger } = place;
  const slots = slotsOf(state.auxFiles).filter(
    ({ restartLsn }) => restartLsn !== INVALID_LSN && restartLsn < state.lsn,
  );
  if (slots.length === 0) {
    return undefined;
  }
  return new OldWal({
    directory: join(dataDirectory, "pg_wal"),
    slots,
    timelineStartLsn: state.timelineStartLsn,
    end: state.lsn,
    version: pgVersion(state.pgVersion),
    systemId: state.systemId,
    segmentSize: state.walSegmentSize,
    read: safekeeperWal({
      tenantId: parseTenantId(spec.tenantId),
      timelineId: parseTimelineId(spec.timelineId),
      safekeepers: () => {
        const now = membership();
        return now.generation === 0
          ? spec.safekeepers.map(({ pgAddr }) => pgAddr)
          : allMembers(now).map(endpointAddress);
      },
    }),
    logger,
  });
}

/** Makes slots, which are in the data directory already, as Postgres does that has removed their WAL. */
export function invalidateSlots(
  dataDirectory: string,
  { auxFiles, pgVersion: major }: ComputeState,
  names: readonly string[],
): void {
  for (const { path, bytes } of auxFiles) {
    if (isSlotPath(path) && names.includes(decodeReplicationSlot(bytes).name)) {
      writeFileSync(join(dataDirectory, path), withoutWal(bytes, major));
    }
  }
}

// What a real timeline needs to run on a simulated disk.

import { dirname, join } from "node:path";
import type { Disk } from "../src/base/disk.ts";
import { StorageError } from "../src/base/errors.ts";
import type { Logger } from "../src/base/log.ts";
import type { ObjectStore } from "../src/object-store/object-store.ts";
import type {
  AcceptorPersistentState,
  AcceptorState,
} from "../src/safekeeper/consensus/acceptor.ts";
import { CONTROL_FILE_NAME } from "../src/safekeeper/control-file.ts";
import { SafekeeperMetrics } from "../src/safekeeper/metrics.ts";
import { Timeline, type TimelineContext } from "../src/safekeeper/timeline.ts";
import type { MembershipConfiguration } from "../src/safekeeper-protocol/membership.ts";
import type { SimulatedDisk } from "./simulated-disk.ts";
import {
  FIRST_LSN,
  SEGMENT_SIZE,
  SYSTEM_ID,
  TIMELINE_DIRECTORY,
  TIMELINE_IDS,
  WORKDIR,
} from "./simulated-wal.ts";

const ignore = () => undefined;

/** What is logged as an error goes to `onError`. */
function silentLogger(onError: (error: unknown) => void): Logger {
  const logger: Logger = {
    level: "silent",
    trace: ignore,
    debug: ignore,
    info: ignore,
    warn: ignore,
    error: (fields: object | string) => onError((fields as { error?: unknown }).error),
    fatal: ignore,
    child: () => logger,
  };
  return logger;
}
export const METRICS = new SafekeeperMetrics();

/** For a real timeline on a simulated disk. */
export function silentContext(
  nodeId: number,
  disk: SimulatedDisk,
  store?: ObjectStore,
  onError: (error: unknown) => void = ignore,
): TimelineContext & { readonly disk: Disk } {
  const logger = silentLogger(onError);
  return { nodeId, logger, metrics: METRICS, disk, store, onChange: ignore };
}

/** The control file of a timeline without WAL. */
export function newTimeline(mconf: MembershipConfiguration): AcceptorPersistentState {
  return {
    ...TIMELINE_IDS,
    systemId: SYSTEM_ID,
    walSegSize: SEGMENT_SIZE,
    mconf,
    term: 0,
    termHistory: [],
    timelineStartLsn: FIRST_LSN,
    localStartLsn: FIRST_LSN,
    commitLsn: FIRST_LSN,
    backupLsn: FIRST_LSN,
    peerHorizonLsn: FIRST_LSN,
    remoteConsistentLsn: FIRST_LSN,
    flushedLsn: FIRST_LSN,
  };
}

/** Makes the timeline on an empty disk, durably; that it may be a small one is why no TimelineManager does. */
export function createTimeline(
  context: TimelineContext & { readonly disk: Disk },
  persistent: AcceptorPersistentState,
): Timeline {
  context.disk.makeDirectory(dirname(TIMELINE_DIRECTORY));
  context.disk.fsyncDirectory(WORKDIR);
  return Timeline.create(context, TIMELINE_DIRECTORY, persistent);
}

/** What a start on `disk` finds; undefined where there is no timeline that can be served. */
export function loadedState(id: number, disk: SimulatedDisk): AcceptorState | undefined {
  if (!disk.exists(join(TIMELINE_DIRECTORY, CONTROL_FILE_NAME))) {
    return undefined;
  }
  try {
    return Timeline.load(silentContext(id, disk), TIMELINE_DIRECTORY).state;
  } catch (error) {
    if (error instanceof StorageError && error.kind === "corrupt") {
      return undefined;
    }
    throw error;
  }
}

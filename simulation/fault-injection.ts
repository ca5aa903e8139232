// Carries out one fault of a plan on a simulated run.

import { alignLsn, type Lsn, pageOffset, walFileName } from "../src/base/lsn.ts";
import { LONG_PAGE_HEADER_SIZE } from "../src/postgres/wal-page.ts";
import { CONTROL_FILE_NAME } from "../src/safekeeper/control-file.ts";
import type { SafekeeperId } from "../src/safekeeper-protocol/membership.ts";
import type { ComputeNode } from "./compute-node.ts";
import type { Fault } from "./faults.ts";
import type { OperatorNode } from "./operator-node.ts";
import type { PageserverNode } from "./pageserver-node.ts";
import type { SafekeeperNode } from "./safekeeper-node.ts";
import type { Node } from "./simulated-network.ts";
import type { SimulatedStore } from "./simulated-store.ts";
import { FIRST_LSN, SEGMENT_SIZE, TIMELINE_DIRECTORY } from "./simulated-wal.ts";
import type { World } from "./world.ts";

/** A run as faults find it. */
export interface FaultyWorld extends World {
  readonly safekeepers: ReadonlyMap<number, SafekeeperNode>;
  readonly computes: Set<ComputeNode>;
  readonly pageserver: PageserverNode;
  readonly operator: OperatorNode;
  readonly store: SimulatedStore;
  /** All safekeepers that there are. */
  readonly ids: readonly SafekeeperId[];
  /** Those that a compute should connect to now. */
  readonly members: readonly SafekeeperId[];
  readonly healed: boolean;
  rotted: boolean;
  startCompute(): ComputeNode;
}

const MAX_COMPUTES = 3;
const LAG_MS = 1000;

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: a list, one case a fault
export function injectFault(simulation: FaultyWorld, fault: Fault): void {
  const { time, network, operator, pageserver, shape } = simulation;
  const safekeeper = pick(
    simulation.members.map(({ id }) => simulation.safekeepers.get(id)!),
    fault.target,
  );
  const untilMs = time.nowMs + fault.durationMs;
  switch (fault.kind) {
    case "kill-safekeeper":
    case "power-cut":
      crash(simulation, safekeeper, fault);
      break;
    case "power-cut-everywhere":
      for (const node of simulation.safekeepers.values()) {
        if (node.up) {
          node.crash(true);
          time.after(fault.durationMs, () => node.start());
        }
      }
      break;
    case "break-connection":
      computeOf(simulation, fault)?.breakConnection(safekeeper.id);
      break;
    case "cut-link":
      cutLink(simulation, safekeeper, fault, untilMs);
      break;
    case "isolate-safekeeper":
      for (const other of [
        ...simulation.computes,
        ...simulation.safekeepers.values(),
        pageserver,
        operator,
      ]) {
        network.cut(other, safekeeper, untilMs);
        network.cut(safekeeper, other, untilMs);
      }
      break;
    case "starve-safekeeper":
      // It lags behind, but all others reach it.
      for (const compute of simulation.computes) {
        network.cut(compute, safekeeper, untilMs + LAG_MS);
      }
      break;
    case "mangle":
      network.mangleUntilMs = untilMs;
      break;
    case "slow-network":
      network.meanDelayMs = Math.min(shape.meanDelayMs * 10, 100);
      time.after(fault.durationMs, () => {
        network.meanDelayMs = shape.meanDelayMs;
      });
      break;
    case "slow-disk":
      safekeeper.disk.syncMs = 50 + fault.amount * 10;
      time.after(fault.durationMs, () => {
        safekeeper.disk.syncMs = shape.syncMs;
      });
      break;
    case "full-disk":
      safekeeper.disk.full = true;
      time.after(fault.durationMs, () => {
        safekeeper.disk.full = false;
      });
      break;
    case "store-away":
      simulation.store.away = true;
      time.after(fault.durationMs, () => {
        simulation.store.away = false;
      });
      break;
    case "failing-sync":
      failSync(simulation, safekeeper, fault);
      break;
    case "lose-disk":
      loseDisk(simulation, safekeeper, fault);
      break;
    case "rot":
      rot(simulation, safekeeper, fault);
      break;
    case "start-compute":
      if (simulation.computes.size < MAX_COMPUTES) {
        simulation.startCompute();
      }
      break;
    case "kill-compute":
      computeOf(simulation, fault)?.stop();
      break;
    case "pause-compute":
      computeOf(simulation, fault)?.pause(untilMs);
      break;
    case "raise-term":
      safekeeper.bumpTerm();
      break;
    case "change-members":
      changeMembers(simulation, fault);
      break;
    case "restart-operator":
      operator.restart();
      break;
    case "restart-pageserver":
      pageserver.restart();
      break;
  }
}

function pick<T>(items: readonly T[], choice: number): T {
  return items[choice % items.length]!;
}

function computeOf(simulation: FaultyWorld, fault: Fault): ComputeNode | undefined {
  const computes = [...simulation.computes];
  return computes.length === 0 ? undefined : pick(computes, fault.choice);
}

/** At once, or in the middle of one of the next disk operations. */
function crash(simulation: FaultyWorld, safekeeper: SafekeeperNode, fault: Fault): void {
  const powerCut = fault.kind === "power-cut";
  if (!safekeeper.up) {
    return;
  }
  if (fault.choice % 3 > 0) {
    safekeeper.diesByPowerCut = powerCut;
    safekeeper.downMs = fault.durationMs;
    safekeeper.disk.operationsLeft = fault.amount;
    return;
  }
  safekeeper.crash(powerCut);
  simulation.time.after(fault.durationMs, () => safekeeper.start());
}

function cutLink(
  simulation: FaultyWorld,
  safekeeper: SafekeeperNode,
  fault: Fault,
  untilMs: number,
): void {
  const others: Node[] = [
    ...simulation.computes,
    ...simulation.computes,
    ...[...simulation.safekeepers.values()].filter((node) => node !== safekeeper),
    simulation.pageserver,
    simulation.operator,
  ];
  const other = pick(others, fault.choice);
  const direction = fault.amount % 3;
  if (direction !== 1) {
    simulation.network.cut(other, safekeeper, untilMs);
  }
  if (direction !== 0) {
    simulation.network.cut(safekeeper, other, untilMs);
  }
}

/** The kernel could not write: the process must not trust the file any more, and is restarted. */
function failSync(simulation: FaultyWorld, safekeeper: SafekeeperNode, fault: Fault): void {
  safekeeper.disk.failingSyncs = 1 + (fault.amount % 2);
  safekeeper.disk.goodSyncs = Math.floor(fault.amount / 2) % 4;
  simulation.time.after(fault.durationMs, () => {
    if (safekeeper.up && !simulation.healed) {
      safekeeper.crash(false);
      safekeeper.start();
    }
  });
}

/**
 * Whether a majority of every set of members that counts, or is wished for, still has its disks without
 * this one. A member that has not got its copy yet is as good as one that lost it.
 */
function mayLose(simulation: FaultyWorld, id: number): boolean {
  const { generation, members, newMembers } = simulation.mconf;
  const isLost = (member: SafekeeperId) => member.id === id || simulation.damaged.has(member.id);
  const isEmpty = (member: SafekeeperId) => !simulation.safekeepers.get(member.id)!.hasTimeline;
  return (
    generation > 0 &&
    [members, newMembers ?? []].every((set) =>
      keepsMajority(set, (member) => isLost(member) || isEmpty(member)),
    ) &&
    keepsMajority(simulation.operator.wished ?? [], isLost)
  );
}

function keepsMajority(
  set: readonly SafekeeperId[],
  isLost: (member: SafekeeperId) => boolean,
): boolean {
  return set.length === 0 || set.filter(isLost).length <= Math.floor((set.length - 1) / 2);
}

function loseDisk(simulation: FaultyWorld, safekeeper: SafekeeperNode, fault: Fault): void {
  if (mayLose(simulation, safekeeper.id)) {
    simulation.damaged.add(safekeeper.id);
    safekeeper.loseDisk();
    simulation.time.after(fault.durationMs, () => safekeeper.start());
  }
}

/**
 * A bit of the control file, or of WAL that was known to be flushed when the control file was written
 * last. (Behind that, damage cannot be told from the torn end that a power cut leaves; and nobody can
 * check the end of a record whose beginning has been removed.)
 */
function rot(simulation: FaultyWorld, safekeeper: SafekeeperNode, fault: Fault): void {
  const { state } = safekeeper;
  if (state === undefined || !mayLose(simulation, safekeeper.id)) {
    return;
  }
  const { flushedLsn } = state.persistent;
  const length = flushedLsn - FIRST_LSN;
  const inControlFile = length === 0 || fault.amount % 2 === 0;
  // Padding and some fields of page headers are covered by no checksum; padding is never at the start
  // of eight bytes.
  const at = alignLsn((FIRST_LSN + ((fault.choice * 7919) % Math.max(length, 1))) as Lsn);
  const isChecked = at < flushedLsn && at >= safekeeper.firstRecordLsn;
  if (pageOffset(at) < LONG_PAGE_HEADER_SIZE || (!inControlFile && !isChecked)) {
    return;
  }
  const name = inControlFile
    ? CONTROL_FILE_NAME
    : walFileName(Math.floor(at / SEGMENT_SIZE), 1, SEGMENT_SIZE);
  const offset = inControlFile ? 16 + (fault.choice % 200) : at % SEGMENT_SIZE;
  if (safekeeper.disk.rot(`${TIMELINE_DIRECTORY}/${name}`, offset, fault.amount % 8)) {
    simulation.damaged.add(safekeeper.id);
    simulation.rotted = true;
    // An operator's check of the files finds it some time.
    simulation.time.after(fault.durationMs * 2, () => {
      if (simulation.damaged.has(safekeeper.id)) {
        safekeeper.loseDisk();
        safekeeper.start();
      }
    });
  }
}

/** Puts spares in the places of one or two members, or makes three of five, or five of three. */
function changeMembers(simulation: FaultyWorld, fault: Fault): void {
  const { mconf, ids, operator } = simulation;
  if (mconf.generation === 0) {
    return;
  }
  const wish = otherMembers(mconf.members, ids, fault);
  // Damage that nobody has found yet must not become that of a majority.
  if (keepsMajority(wish, ({ id }) => simulation.damaged.has(id))) {
    operator.wish(wish);
  }
}

function otherMembers(
  members: readonly SafekeeperId[],
  ids: readonly SafekeeperId[],
  fault: Fault,
): readonly SafekeeperId[] {
  const spares = ids.filter(({ id }) => !members.some((member) => member.id === id));
  const leaving = fault.target % members.length;
  switch (fault.choice % 5) {
    case 0:
      return [...members, ...spares].slice(0, 3 + (members.length === 3 ? 2 : 0));
    case 1:
    case 2:
      return [...spares.slice(0, 2), ...members].slice(0, members.length);
    default:
      return members.map((member, index) => (index === leaving ? (spares[0] ?? member) : member));
  }
}

// The receiving end of a snapshot: a control file and then segments without a gap; nothing else.

import type { DiskSteps } from "../../base/disk-steps.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { type Lsn, parseWalFileName, segmentNumber } from "../../base/lsn.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";
import { CONTROL_FILE_NAME, decodeControlFile } from "../control-file.ts";
import type { IncomingPlace } from "../timeline-manager.ts";
import { IncomingTimeline } from "./incoming-timeline.ts";
import { adoptedState, type PullDecision, type PullSource } from "./pull-decision.ts";
import { TarReader } from "./tar.ts";

const MAX_CONTROL_FILE_BYTES = 4 * 1024 * 1024;

/** Errors are StorageError `corrupt` where what arrives is not as it must be, and those of the disk. */
export class SnapshotReceiver {
  readonly #place: IncomingPlace;
  readonly #wanted: { readonly tenantId: TenantId; readonly timelineId: TimelineId };
  readonly #decision: PullDecision<PullSource>;
  readonly #tar = new TarReader();
  readonly #control: Uint8Array[] = [];
  #state: AcceptorPersistentState | undefined;
  #incoming: IncomingTimeline | undefined;
  #inControl = false;

  /** For a snapshot of the timeline `wanted`, pulled as `decision` says. */
  constructor(
    place: IncomingPlace,
    wanted: { readonly tenantId: TenantId; readonly timelineId: TimelineId },
    decision: PullDecision<PullSource>,
  ) {
    this.#place = place;
    this.#wanted = wanted;
    this.#decision = decision;
  }

  /** The next bytes of the archive. */
  *take(chunk: Uint8Array): DiskSteps {
    for (const event of this.#tar.read(chunk)) {
      if (event.type === "begin") {
        this.#begin(event.name, event.sizeBytes);
      } else if (event.type === "data" && this.#inControl) {
        this.#control.push(event.bytes.slice());
      } else if (event.type === "data") {
        yield* this.#incoming!.write(event.bytes);
      } else if (this.#inControl) {
        this.#inControl = false;
        this.#state = this.#adopt(decodeControlFile(Buffer.concat(this.#control)));
      }
    }
  }

  /** After the last bytes: the timeline is whole and durable in its place, without its name yet. */
  finish(): void {
    this.#tar.finish();
    if (this.#state === undefined) {
      throw bad("no control file");
    }
    // A timeline without WAL has no segments.
    this.#incoming ??= this.#newIncoming(this.#state, this.#state.flushedLsn);
    this.#incoming.finish();
  }

  /** In any case, at the end. */
  *close(): DiskSteps {
    if (this.#incoming !== undefined) {
      yield* this.#incoming.close();
    }
  }

  #begin(name: string, sizeBytes: number): void {
    if (name === CONTROL_FILE_NAME && this.#state === undefined && !this.#inControl) {
      if (sizeBytes > MAX_CONTROL_FILE_BYTES) {
        throw bad(`a control file of ${sizeBytes} bytes`);
      }
      this.#inControl = true;
      return;
    }
    if (this.#state === undefined || sizeBytes !== this.#state.walSegSize) {
      throw bad(`unexpected file ${JSON.stringify(name)} of ${sizeBytes} bytes`);
    }
    if (this.#incoming === undefined) {
      const { walSegSize, localStartLsn, flushedLsn } = this.#state;
      const segno = parseWalFileName(name, walSegSize);
      const first = segmentNumber(localStartLsn, walSegSize);
      if (segno === undefined || segno < first || segno * walSegSize >= flushedLsn) {
        throw bad(`unexpected file ${JSON.stringify(name)}`);
      }
      this.#incoming = this.#newIncoming(this.#state, (segno * walSegSize) as Lsn);
    }
    if (name !== this.#incoming.nextSegmentName) {
      throw bad(`${JSON.stringify(name)} in place of ${this.#incoming.nextSegmentName}`);
    }
  }

  #newIncoming(state: AcceptorPersistentState, startLsn: Lsn): IncomingTimeline {
    const { disk, directory } = this.#place;
    return new IncomingTimeline(disk, directory, state, startLsn);
  }

  #adopt(state: AcceptorPersistentState): AcceptorPersistentState {
    const { tenantId, timelineId } = this.#wanted;
    if (state.tenantId !== tenantId || state.timelineId !== timelineId) {
      throw bad(`it is of timeline ${state.tenantId}/${state.timelineId}`);
    }
    return adoptedState(state, this.#decision);
  }
}

function bad(problem: string): StorageError {
  return new StorageError("corrupt", "bad-snapshot", `snapshot: ${problem}`);
}

// The generation of a pageserver process: greater in each life, durable before anything is written in it.

import { join } from "node:path";
import { type Disk, readFileIfExists, writeFileDurablyAsync } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { FIRST_LAYER_NUMBER, type LayerNumber } from "../layers/layer-format.ts";

const FILE_NAME = "generation";
const MAX_GENERATION = 0xffff_ffff;

/** Numbers the layers of one life of a process: none is given twice, in this life or another. */
export class Generation {
  readonly number: number;
  /** No other disk had the tenants between the life before on this disk and this one. */
  readonly followsOwn: boolean;
  #sequence = 0;

  constructor(number: number, followsOwn = true) {
    this.number = number;
    this.followsOwn = followsOwn;
  }

  /**
   * The one after the last that began in `workdir`, or what `draw` makes of that one: then others may have been there
   * in between. `corrupt` where the last one's file is no number.
   */
  static async begin(
    workdir: string,
    disk: Disk,
    draw: (last: number) => Promise<number> = async (last) => last + 1,
  ): Promise<Generation> {
    const path = join(workdir, FILE_NAME);
    const text = readFileIfExists(path, disk)?.toString("utf8").trim();
    const last = text === undefined ? FIRST_LAYER_NUMBER.generation : Number(text);
    if (!Number.isInteger(last) || last < 1 || last >= MAX_GENERATION) {
      throw new StorageError(
        "corrupt",
        "bad-generation",
        `${path} should hold the number of the last generation, a whole number`,
        { fields: { path } },
      );
    }
    const next = await draw(last);
    await writeFileDurablyAsync(path, `${next}\n`, disk, `${path}.___temp`);
    return new Generation(next, next === last + 1);
  }

  nextLayer(): LayerNumber {
    return { generation: this.number, sequence: this.#sequence++ };
  }
}

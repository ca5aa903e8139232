// The generation of a pageserver process, from the object store that it works on: whoever came last has the highest.
//
//   pageserver-generations/<generation, 8 hex>
//
// The object is put on the condition that there is none, so each number is drawn once; the body says by whom, for people.
// The numbers order the lives of all pageservers that ever worked on the store: one that finds a higher one than its own was replaced.

import { hostname } from "node:os";
import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { ask, listObjects, type StoreAccess } from "../transfers/store-calls.ts";

const PREFIX = "pageserver-generations/";
const KEY = /^pageserver-generations\/([0-9a-f]{8})$/;
const MAX_GENERATION = 0xffff_ffff;
const CLAIM_ATTEMPTS = 20;
/** Older ones say nothing that the newest does not. */
const KEPT = 16;

function generationKey(generation: number): string {
  return PREFIX + generation.toString(16).padStart(8, "0");
}

/**
 * Draws a number above all that were drawn before and above `last`, one's own last one. StorageErrors: `unavailable` where the
 * store does not answer, `conflict` where others are always quicker.
 */
export async function claimGeneration(access: StoreAccess, last: number): Promise<number> {
  for (let attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++) {
    const drawn = await drawnGenerations(access);
    const generation = Math.max(last, drawn.at(-1) ?? 0) + 1;
    if (generation > MAX_GENERATION) {
      const message = `no generation is left above ${MAX_GENERATION} in ${access.store.location}`;
      throw new StorageError("conflict", "no-generation-left", message);
    }
    if (await put(access, generation)) {
      await removeOld(access, drawn);
      return generation;
    }
  }
  const message = `others always draw the next generation first in ${access.store.location}`;
  throw new StorageError("conflict", "generation-contended", message);
}

/** Whether nobody has drawn a higher one. */
export async function isCurrentGeneration(
  access: StoreAccess,
  generation: number,
): Promise<boolean> {
  const { objects } = await ask(access, "look for a newer generation", (signal) =>
    access.store.list({ prefix: PREFIX, after: generationKey(generation), limit: 1, signal }),
  );
  return objects.length === 0;
}

/** Ascending. */
async function drawnGenerations(access: StoreAccess): Promise<number[]> {
  const objects = await listObjects(access, PREFIX);
  return objects.flatMap(({ key }) => {
    const digits = KEY.exec(key)?.[1];
    return digits === undefined ? [] : [Number.parseInt(digits, 16)];
  });
}

/** False where somebody else has it. A put whose answer was lost counts as somebody else's: its number is not used. */
async function put(access: StoreAccess, generation: number): Promise<boolean> {
  const owner = { hostname: hostname(), pid: process.pid, time: new Date(nowMs()).toISOString() };
  const body = Buffer.from(`${JSON.stringify(owner)}\n`);
  try {
    await ask(access, `draw generation ${generation}`, (signal) =>
      access.store.put(generationKey(generation), body, { ifAbsent: true, signal }),
    );
    return true;
  } catch (error) {
    if (error instanceof StorageError && error.code === "object-exists") {
      return false;
    }
    throw error;
  }
}

async function removeOld(access: StoreAccess, drawn: readonly number[]): Promise<void> {
  const old = drawn.slice(0, -KEPT).map(generationKey).slice(0, 1000);
  if (old.length > 0) {
    await ask(access, "remove old generations", (signal) => access.store.delete(old, { signal }));
  }
}

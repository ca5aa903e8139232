// Public ids of projects, branches and endpoints, in Neon's shapes: two words and something that makes them one of many.

import { createHash } from "node:crypto";
import { randomBytes } from "../base/random.ts";

/** 64 each, so that six bits choose one. */
const FIRST =
  "ancient autumn billowing bitter black blue bold broad broken calm cold cool crimson curly damp dark dawn delicate divine dry empty falling fancy flat floral fragrant frosty gentle green hidden holy icy jolly late lingering little lively long lucky misty morning muddy mute nameless noisy odd old orange patient plain polished proud purple quiet rapid raspy red restless rough round royal shiny shrill shy".split(
    " ",
  );
const SECOND =
  "art band bar base bird block boat bonus bread breeze brook bush butterfly cake cell cherry cloud credit darkness dawn dew disk dream dust feather field fire firefly flower fog forest frog frost glade glitter grass hall hat haze heart hill king lab lake leaf limit math meadow mode moon morning mountain mouse mud night paper pine poetry pond queen rain recipe resonance rice".split(
    " ",
  );
const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";

/** Of what the command line made: the same for the same seed. `attempt` gives others. */
export function projectIdOf(tenantId: string, attempt = 0): string {
  return projectId(digest(`project ${tenantId} ${attempt}`));
}

export function branchIdOf(tenantId: string, timelineId: string, attempt = 0): string {
  return `br-${wordsAndLetters(digest(`branch ${tenantId} ${timelineId} ${attempt}`))}`;
}

export function newProjectId(): string {
  return projectId(randomBytes(32));
}

export function newBranchId(): string {
  return `br-${wordsAndLetters(randomBytes(32))}`;
}

export function newEndpointId(): string {
  return `ep-${wordsAndLetters(randomBytes(32))}`;
}

function projectId(bytes: Buffer): string {
  const digits = `${bytes.readUInt32BE(2) % 100_000_000}`.padStart(8, "0");
  return `${words(bytes)}-${digits}`;
}

function wordsAndLetters(bytes: Buffer): string {
  const letters = [...bytes.subarray(2, 10)].map((byte) => LETTERS[byte % LETTERS.length]);
  return `${words(bytes)}-${letters.join("")}`;
}

function words(bytes: Buffer): string {
  return `${FIRST[bytes[0]! % FIRST.length]}-${SECOND[bytes[1]! % SECOND.length]}`;
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

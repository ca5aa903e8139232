// Tenant and timeline identifiers: 16 random bytes, written as 32 lower-case hex digits.

import { StorageError } from "./errors.ts";
import { randomBytes } from "./random.ts";

export type TenantId = string & { readonly __tenantId: unique symbol };
export type TimelineId = string & { readonly __timelineId: unique symbol };

const HEX_32 = /^[0-9a-f]{32}$/;

function parseId(text: string, what: string): string {
  const lower = text.toLowerCase();
  if (!HEX_32.test(lower)) {
    throw new StorageError("invalid", "bad-id", `${what} must be 32 hex digits, got '${text}'`);
  }
  return lower;
}

export function parseTenantId(text: string): TenantId {
  return parseId(text, "tenant id") as TenantId;
}

export function parseTimelineId(text: string): TimelineId {
  return parseId(text, "timeline id") as TimelineId;
}

export function generateTenantId(): TenantId {
  return randomBytes(16).toString("hex") as TenantId;
}

export function generateTimelineId(): TimelineId {
  return randomBytes(16).toString("hex") as TimelineId;
}

/** Neon's limit: number and count are one byte each. */
const MAX_SHARDS = 255;

/** A part of a tenant: one of `shardCount` that its blocks are spread over, or all of it where that is 0. */
export interface TenantShardId {
  readonly tenantId: TenantId;
  /** From 0. */
  readonly shardNumber: number;
  readonly shardCount: number;
}

/** The one shard of a tenant that was never split. */
export function unshardedId(tenantId: TenantId): TenantShardId {
  return { tenantId, shardNumber: 0, shardCount: 0 };
}

/** Neon's form: the tenant id, and `-SSNN` where it is sharded: number and count as two hex digits each. */
export function formatTenantShardId({ tenantId, shardNumber, shardCount }: TenantShardId): string {
  const byte = (value: number) => value.toString(16).padStart(2, "0");
  return shardCount === 0 ? tenantId : `${tenantId}-${byte(shardNumber)}${byte(shardCount)}`;
}

/** StorageError `invalid` for what is no id, or a shard that its count does not have. */
export function parseTenantShardId(text: string): TenantShardId {
  const match = /^([0-9a-f]{32})(?:-([0-9a-f]{2})([0-9a-f]{2}))?$/.exec(text.toLowerCase());
  if (match === null) {
    throw new StorageError(
      "invalid",
      "bad-id",
      `tenant shard id must be 32 hex digits, and -SSNN where it is sharded, got '${text}'`,
    );
  }
  const tenantId = match[1] as TenantId;
  return match[2] === undefined
    ? unshardedId(tenantId)
    : shardOf(tenantId, Number.parseInt(match[2], 16), Number.parseInt(match[3]!, 16));
}

/** StorageError `invalid` for a number that the count does not have; 0 of 0 is the unsharded one. */
export function shardOf(
  tenantId: TenantId,
  shardNumber: number,
  shardCount: number,
): TenantShardId {
  const isWhole = Number.isInteger(shardNumber) && Number.isInteger(shardCount);
  const exists = shardNumber >= 0 && shardNumber < Math.max(shardCount, 1);
  if (!isWhole || !exists || shardCount < 0 || shardCount > MAX_SHARDS) {
    throw new StorageError(
      "invalid",
      "bad-id",
      `there is no shard ${shardNumber} of ${shardCount}`,
    );
  }
  return { tenantId, shardNumber, shardCount };
}

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

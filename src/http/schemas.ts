// Schemas that several components' APIs share: identifiers, LSNs, paths of tenants and timelines.

import { z } from "zod";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { parseLsn } from "../base/lsn.ts";

const HEX_32 = "^[0-9a-fA-F]{32}$";

/** A tenant's or a timeline's. */
export const idText = z.string().regex(new RegExp(HEX_32), "expected 32 hex digits");

export const lsnText = z
  .string()
  .refine((text) => parseLsn(text) !== undefined, "expected an LSN such as 0/16F9A00")
  .meta({ description: "LSN as X/X", examples: ["0/16F9A00"] });

const tenant = z.string().transform(parseTenantId).meta({ pattern: HEX_32 });
const timeline = z.string().transform(parseTimelineId).meta({ pattern: HEX_32 });

/** Of paths with `{tenant}`. */
export const tenantParams = z.object({ tenant });

/** Of paths with `{tenant}` and `{timeline}`. */
export const timelineParams = z.object({ tenant, timeline });

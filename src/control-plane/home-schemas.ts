// What commands of this home's owner ask the control plane for, and its answers.

import { z } from "zod";

const hexId = z.string().regex(/^[0-9a-f]{32}$/);

export const homeBranchBody = z.object({
  name: z.string().max(1000),
  timeline_id: hexId.describe(
    "chosen by the caller, who knows by it what was made where the answer is lost",
  ),
  tenant_id: z.string().max(100).optional(),
  parent: z.string().max(1000),
  at: z.string().max(100).optional(),
  sk_set: z.array(z.int()).max(32).optional(),
  start: z.boolean(),
});

export const homeBranchAnswer = z.object({
  tenant_id: z.string(),
  timeline_id: z.string(),
  ancestor_lsn: z.string().nullable(),
  notices: z.array(z.string()).describe("for people, in order"),
  endpoint_id: z.string().describe("of the one that was started, or a name that is free for one"),
  connection_url: z.string().optional().describe("with the superuser's password"),
});

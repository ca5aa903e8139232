// Wire types of the proxy's HTTP API.

import { z } from "zod";

/**
 * How long a proxy uses what the control plane told it of an endpoint: from when it asked. The control plane counts on it
 * (src/control-plane/access-answers.ts).
 */
export const ACCESS_KEEP_MS = 1000;

export const proxyStatusSchema = z.object({
  connections: z.int().describe("Of clients, open"),
  half_open_connections: z.int().describe("Of these, those that have not logged in"),
  endpoints: z.record(z.string(), z.int()).describe("Endpoint to number of clients"),
  pooled_server_connections: z.int().describe("Of transaction pools, to Postgres"),
  tls: z
    .object({
      names: z.string().describe("As in the certificate: subjectAltName"),
      valid_to: z.string().describe("RFC 3339"),
    })
    .nullable(),
});

/** What a proxy tells the control plane: POST /proxy/api/v1/transfer. */
export const transferReportSchema = z.object({
  proxy: z.string().min(1).max(64).describe("Of the proxy's process"),
  sequence: z.int().min(1).describe("Of its reports, from 1: one that is known was counted"),
  bytes: z
    .record(z.string().max(100), z.int().min(0))
    .describe("By endpoint, sent to clients since the report before"),
});

export type TransferReport = z.infer<typeof transferReportSchema>;
export type ProxyStatus = z.infer<typeof proxyStatusSchema>;

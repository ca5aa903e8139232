// Wire types of the proxy's HTTP API.

import { z } from "zod";

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

export type ProxyStatus = z.infer<typeof proxyStatusSchema>;

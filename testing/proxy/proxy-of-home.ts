// The proxy of a home, for clients that connect themselves.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { neonConfig } from "@neondatabase/serverless";
import { StrataHome } from "../../src/local/home.ts";
import { parseHostPort } from "../../src/postgres/wire/wire-client.ts";

export interface ProxyOfHome {
  /** Of its port for Postgres. */
  readonly address: { readonly host: string; readonly port: number };
  /** PEM: who signed its certificate. */
  readonly ca: string;
}

/** From here on Neon's serverless driver, one for the whole process, goes through it. */
export function useProxyOfHome(home: string): ProxyOfHome {
  const { listenPgAddr, listenHttpAddr } = new StrataHome(home).config().proxy!;
  neonConfig.fetchEndpoint = () => `http://${listenHttpAddr}/sql`;
  neonConfig.wsProxy = (host) => `${listenHttpAddr}/v2?address=${host}`;
  neonConfig.useSecureWebSocket = false;
  return {
    address: parseHostPort(listenPgAddr),
    ca: readFileSync(join(home, "tls", "ca.crt"), "latin1"),
  };
}

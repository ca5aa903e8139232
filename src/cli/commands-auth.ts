// `strata auth`: service tokens of this home, and the keys that sign them.

import type { Command } from "commander";
import { StorageError } from "../base/errors.ts";
import { resolveTenant } from "../local/branches.ts";
import { forgetOldKeys, makeToken, rotateServiceKey } from "../local/service-keys.ts";
import { group, openHome, parseCount, print, tenantOption, withHomeLocked } from "./cli.ts";

const DEFAULT_DAYS = 30;

export function addAuthCommands(program: Command): void {
  const auth = group(program, "auth", "service tokens, by which daemons know their callers");
  auth
    .command("token")
    .description("print a service token: of the tenant, or of another scope")
    .addOption(tenantOption())
    .option("--scope <scope>", "admin, pageserverapi, safekeeperdata or tenant", "tenant")
    .option("--days <n>", `how long it counts (default: ${DEFAULT_DAYS})`, parseCount)
    .action((options: { tenantId?: string; scope: string; days?: number }) => {
      const home = openHome();
      const { scope, days = DEFAULT_DAYS } = options;
      if (scope === "tenant") {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        print(makeToken(home, { scope, tenant_id: tenantId }, days));
      } else {
        print(makeToken(home, { scope: daemonScope(scope) }, days));
      }
    });
  auth
    .command("rotate")
    .description(
      "sign with a new key from now on; tokens of the old one count until 'auth forget-old-keys'",
    )
    .action(async () => {
      const home = openHome();
      await withHomeLocked(home, async () => rotateServiceKey(home));
      print("signing with a new key: restart endpoints, then run 'auth forget-old-keys'");
    });
  auth
    .command("forget-old-keys")
    .description("tokens of every key but the newest cease to count, within a minute")
    .action(async () => {
      const home = openHome();
      await withHomeLocked(home, async () => forgetOldKeys(home));
    });
}

function daemonScope(scope: string): "admin" | "pageserverapi" | "safekeeperdata" {
  if (scope !== "admin" && scope !== "pageserverapi" && scope !== "safekeeperdata") {
    const message = `--scope: expected admin, pageserverapi, safekeeperdata or tenant, got '${scope}'`;
    throw new StorageError("invalid", "bad-scope", message);
  }
  return scope;
}

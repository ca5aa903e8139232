// endpoint promote.

import type { Command } from "commander";
import { connectionUrl, findEndpoint } from "../../local/endpoints.ts";
import { promoteEndpoint } from "../../local/replicas/promote.ts";
import { openHome, print, startTimeoutOption, withHomeLocked } from "../cli.ts";

export function addEndpointPromoteCommand(endpoint: Command): void {
  endpoint
    .command("promote")
    .description("make a replica the primary endpoint of its branch, and the primary a replica")
    .argument("<id>")
    .addOption(startTimeoutOption("90s"))
    .action(async (id: string, options: { startTimeout: number }) => {
      const home = openHome();
      const timeoutMs = options.startTimeout;
      await withHomeLocked(home, () => promoteEndpoint(home, id, { timeoutMs, print }));
      print(`endpoint ${id} is the primary: '${connectionUrl(home, findEndpoint(home, id))}'`);
    });
}

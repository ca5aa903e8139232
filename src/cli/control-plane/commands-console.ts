// console: a link that logs a browser in to the web console.

import { spawn } from "node:child_process";
import type { Command } from "commander";
import { jsonOption, notice, print, printJson } from "../cli.ts";
import { controlPlaneClient } from "./session.ts";

export function addConsoleCommand(program: Command): void {
  program
    .command("console")
    .description("prints a link to the web console, which logs in once")
    .option("--open", "opens it in the browser, too")
    .addOption(jsonOption())
    .action(async (options: { open?: boolean; json?: boolean }) => {
      const url = await controlPlaneClient().loginLink();
      options.json === true ? printJson({ url }) : print(url);
      if (options.open === true) {
        await openBrowser(url);
      }
    });
}

/** By the desktop's own opener; that there is none is no failure, as the link is printed. */
function openBrowser(url: string): Promise<void> {
  return new Promise((resolve) => {
    const child = spawn("xdg-open", [url], { detached: true, stdio: "ignore" });
    child.on("error", () => {
      notice("there is no xdg-open here: open the link by hand");
      resolve();
    });
    child.on("spawn", () => {
      child.unref();
      resolve();
    });
  });
}

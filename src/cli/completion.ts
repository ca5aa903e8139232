// `strata completion bash|zsh`: a script for the shell, made from the commands themselves.

import { Argument, type Command } from "commander";
import { print } from "./cli.ts";

export function addCompletionCommand(program: Command): void {
  program
    .command("completion")
    .description("print a completion script: source <(strata completion bash)")
    .addArgument(new Argument("<shell>").choices(["bash", "zsh"]))
    .action((shell: string) => print(completionScript(program, shell === "zsh")));
}

/** Every command's path (`timeline branch`) with the words that can follow it. */
function wordsByPath(command: Command, path: string, into: Map<string, string[]>): void {
  const words = [
    ...command.commands.flatMap((one) => [one.name(), ...one.aliases()]),
    ...command.options.flatMap((option) => (option.long === undefined ? [] : [option.long])),
  ];
  into.set(path, words);
  for (const subcommand of command.commands) {
    for (const name of [subcommand.name(), ...subcommand.aliases()]) {
      wordsByPath(subcommand, path === "" ? name : `${path} ${name}`, into);
    }
  }
}

/** zsh runs the bash script through its own emulation. */
export function completionScript(program: Command, zsh: boolean): string {
  const words = new Map<string, string[]>();
  wordsByPath(program, "", words);
  const cases = [...words].map(([path, list]) => `    '${path}') words='${list.join(" ")}' ;;`);
  return [
    ...(zsh
      ? ["autoload -U +X compinit && compinit -C", "autoload -U +X bashcompinit && bashcompinit"]
      : []),
    "_strata() {",
    "  local verb='' words='' word",
    // The verb is the words before the cursor that are no options.
    `  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do`,
    `    case "$word" in -*) ;; *) verb="\${verb:+$verb }$word" ;; esac`,
    "  done",
    '  case "$verb" in',
    ...cases,
    "  esac",
    `  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))`,
    "}",
    "complete -F _strata strata",
  ].join("\n");
}

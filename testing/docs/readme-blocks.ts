// The commands of a page of Markdown, and what they are said to print.

/** A fenced block: its language and its lines. */
export interface Block {
  readonly language: string;
  readonly lines: readonly string[];
}

/** A command of a transcript and the lines below it. */
export interface TranscriptStep {
  readonly command: string;
  readonly output: readonly string[];
}

export function fencedBlocks(markdown: string): Block[] {
  return [...markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, body]) => ({
    language: language!,
    lines: body!.trimEnd().split("\n"),
  }));
}

/** The commands of a `sh` block: comments and empty lines left out. */
export function shellCommands({ lines }: Block): string[] {
  return lines.map((line) => line.replace(/(^|\s+)# .*$/, "").trim()).filter((line) => line !== "");
}

/** The steps of a `console` block: `$ command`, then what it prints. */
export function transcript({ lines }: Block): TranscriptStep[] {
  const steps: { command: string; output: string[] }[] = [];
  for (const line of lines) {
    if (line.startsWith("$ ")) {
      steps.push({ command: line.slice(2), output: [] });
    } else if (line.trim() !== "" && !line.startsWith("# ")) {
      steps.at(-1)!.output.push(line.trim());
    }
  }
  return steps;
}

/** What differs from run to run, and its pattern. */
const VARIABLE: readonly (readonly [RegExp, string])[] = [
  [/[0-9a-f]{32}/, "[0-9a-f]{32}"],
  [/[0-9A-F]+\/[0-9A-F]{6,8}/, "[0-9A-F]+/[0-9A-F]+"],
  [/(?<=127\.0\.0\.1:)\d+/, "\\d+"],
  [/(?<=:\/\/\w+:)[\w-]+(?=@)/, "[^@]+"],
  [/(?<=pid: )\d+/, "\\d+"],
  [/\d+(?:\.\d+)? m?s\b/, "\\d+(?:\\.\\d+)? m?s"],
  [/\.\.\.(?=[/'"])/, ".*"],
];

const squeezed = (text: string) => text.trim().replaceAll(/ +/g, " ");

/** Whether `line` is what the page shows, apart from ids, LSNs, ports, times, paths and widths. */
export function matchesShown(shownLine: string, line: string): boolean {
  const shown = squeezed(shownLine);
  const alternatives = VARIABLE.map(([{ source }], index) => `(?<v${index}>${source})`);
  const variable = new RegExp(alternatives.join("|"), "g");
  let pattern = "";
  let at = 0;
  for (const match of shown.matchAll(variable)) {
    pattern += RegExp.escape(shown.slice(at, match.index));
    pattern += VARIABLE.find((_, index) => match.groups?.[`v${index}`] !== undefined)![1];
    at = match.index + match[0].length;
  }
  pattern += RegExp.escape(shown.slice(at));
  return new RegExp(`^${pattern}$`).test(squeezed(line));
}

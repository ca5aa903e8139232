// A real browser on the console, where one is installed: what it asks of whom, and what it complains of.

import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BrowserContext,
  type Browser as BrowserProcess,
  chromium,
  type Page,
} from "playwright-core";

const CANDIDATES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
/** A machine that does ten things at once is slow. */
const TIMEOUT_MS = 60_000;

/** `$CHROMIUM`, else where Debian and others have it; undefined: none. */
export function findChromium(): string | undefined {
  const named = process.env["CHROMIUM"];
  return named !== undefined && named !== "" ? named : CANDIDATES.find((path) => existsSync(path));
}

/** Why tests with a browser are left out; false: they are not. */
export const NO_BROWSER =
  findChromium() === undefined
    ? "no browser: apt-get install chromium, or $CHROMIUM names one"
    : false;

const ARGUMENTS = [
  ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
];

export interface BrowserOptions {
  readonly width: number;
  readonly height: number;
  readonly colorScheme?: "light" | "dark";
  /** Before all else on the machine, where that is allowed: it is the page that is measured. */
  readonly goesFirst?: boolean;
}

export class Browser implements AsyncDisposable {
  readonly page: Page;
  readonly context: BrowserContext;
  /** What the page wrote to its console as errors, threw, or was refused by its security policy. */
  readonly complaints: string[] = [];
  /** Requests to anybody but the origin that is opened first. */
  readonly foreign: string[] = [];
  readonly #profile: string | undefined;
  #origin: string | undefined;

  private constructor(context: BrowserContext, page: Page, profile?: string) {
    this.context = context;
    this.page = page;
    this.#profile = profile;
    page.on("console", (message) => {
      if (message.type() === "error" || /Content Security Policy/.test(message.text())) {
        this.complaints.push(`${message.text()} ${message.location().url}`);
      }
    });
    page.on("pageerror", (error) => this.complaints.push(`${error}`));
    context.on("request", (request) => {
      const { origin, protocol } = new URL(request.url());
      if (/^(https?|wss?):$/.test(protocol) && origin !== this.#origin) {
        this.foreign.push(request.url());
      }
    });
  }

  /** To begin one takes a second of a processor: for several, each by itself as if it were the only one (`launchIn`). */
  static launchProcess(executablePath: string): Promise<BrowserProcess> {
    return chromium.launch({ executablePath, args: ARGUMENTS });
  }

  static async launchIn(process: BrowserProcess, options: BrowserOptions): Promise<Browser> {
    const context = await process.newContext(pageOptions(options));
    context.setDefaultTimeout(TIMEOUT_MS);
    return new Browser(context, await context.newPage());
  }

  static async launch(executablePath: string, options: BrowserOptions): Promise<Browser> {
    const profile = mkdtempSync(join(tmpdir(), "strata-chromium-"));
    const { goesFirst = false } = options;
    const first = join(profile, "first");
    if (goesFirst) {
      // Linux shares processors out among sessions first, and among their processes then. Whoever may not has it as it is.
      writeFileSync(
        first,
        '#!/bin/sh\necho -10 2>/dev/null >/proc/self/autogroup\nexec nice -n -10 "$STRATA_TEST_BROWSER" "$@"\n',
      );
      chmodSync(first, 0o755);
    }
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: goesFirst ? first : executablePath,
      env: { ...process.env, STRATA_TEST_BROWSER: executablePath },
      ...pageOptions(options),
      args: ARGUMENTS,
    });
    context.setDefaultTimeout(TIMEOUT_MS);
    const page = context.pages()[0] ?? (await context.newPage());
    return new Browser(context, page, profile);
  }

  async open(url: string): Promise<void> {
    this.#origin ??= new URL(url).origin;
    // Only a new document, not another `#`, reads a link's token.
    await this.page.goto("about:blank");
    await this.page.goto(url);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.context.close();
    if (this.#profile !== undefined) {
      rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 });
    }
  }
}

function pageOptions({ width, height, colorScheme = "light" }: BrowserOptions) {
  return { viewport: { width, height }, colorScheme, locale: "en-GB", timezoneId: "UTC" };
}

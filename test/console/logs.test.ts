import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { programOf } from "../../src/base/program-files.mjs";
import type { LogEvent } from "../../src/control-plane/api.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { ConsoleWorld } from "../../testing/console/console-world.ts";
import { goTo, inBothSizes } from "../../testing/console/visit.ts";

// Logs of an endpoint: as the console hears them, on the command line, and in a browser where one is installed.

type LogEntry = LogEvent["entries"][number];

let world: ConsoleWorld;
let endpointId: string;

before(async () => {
  world = await ConsoleWorld.create();
  const { endpoints } = await world.world.api("GET", `/projects/${world.projectId}/endpoints`);
  endpointId = endpoints[0].id;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

function ask(path: string, options: { key?: string; signal?: AbortSignal } = {}) {
  const { address, key } = world.world;
  const headers = { authorization: `Bearer ${options.key ?? key}` };
  const url = `http://${address}/console/projects/${world.projectId}/endpoints/${path}`;
  return fetch(url, { headers, ...(options.signal ? { signal: options.signal } : {}) });
}

/** The events as they come, of before first; ends with the iteration. */
async function* eventsOf(query: string): AsyncGenerator<readonly LogEntry[]> {
  const controller = new AbortController();
  try {
    const { body } = await ask(`${endpointId}/logs?${query}`, { signal: controller.signal });
    let rest = "";
    for await (const chunk of body!.pipeThrough(new TextDecoderStream())) {
      const events = (rest + chunk).split("\n\n");
      rest = events.pop()!;
      for (const event of events.filter((one) => one.startsWith("data: "))) {
        yield (JSON.parse(event.slice("data: ".length)) as LogEvent).entries;
      }
    }
  } finally {
    controller.abort();
  }
}

/** `act` is called when those of before were heard. */
async function firstWhere(
  query: string,
  is: (entry: LogEntry) => boolean,
  act?: () => Promise<unknown>,
): Promise<LogEntry> {
  let isFirst = true;
  for await (const entries of eventsOf(query)) {
    const found = entries.find(is);
    if (found !== undefined && (act === undefined || !isFirst)) {
      return found;
    }
    if (isFirst) {
      await act?.();
    }
    isFirst = false;
  }
  throw new Error("the log has ended");
}

/** Into Postgres's log, whatever it is. */
function write(bytes: string | Uint8Array): void {
  appendFileSync(join(world.world.cluster.home, "endpoints", endpointId, "postgres.log"), bytes);
}

const AT = "2026-11-29 14:30:29.409 UTC [7]";

test("logs: of before and as they come, by level, of an endpoint that sleeps too", async () => {
  const running = await firstWhere("source=compute", ({ text }) => /compute is running/.test(text));
  assert.equal(running.level, "info");
  assert.match(running.time!, /^20\d\d-/);
  const failed = await firstWhere(
    "source=postgres&level=error",
    ({ text }) => /column "after_it" does not exist/.test(text),
    () => world.sql("select after_it"),
  );
  assert.equal(failed.level, "error");
  for await (const entries of eventsOf("source=postgres&level=error")) {
    assert.ok(entries.length > 0 && entries.every(({ level }) => level !== "info"));
    break;
  }
  await world.world.api("POST", `/projects/${world.projectId}/endpoints/${endpointId}/suspend`);
  const stopped = await firstWhere("source=postgres", ({ text }) => /is shut down/.test(text));
  assert.equal(stopped.level, "info");
  for await (const entries of eventsOf("source=postgres&lines=2")) {
    assert.equal(entries.length, 2);
    break;
  }
});

test("logs: hostile lines are cut and harmless, passwords taken out, wherever they are shown", async () => {
  await world.sql("alter role neondb_owner password 'hunter2' nosuch");
  const statement = await firstWhere("source=postgres", ({ text }) => /nosuch$/.test(text));
  assert.match(statement.text, /password '\*\*\*' nosuch$/);
  await world.sql("do $$ begin raise warning '%', repeat('long', 300000); end $$");
  const long = await firstWhere("source=postgres", ({ cutBytes }) => cutBytes > 1_000_000);
  assert.ok(long.text.length < 10_000);
  write(Buffer.concat([Buffer.from(`${AT} ERROR:  \x1b[2J<b>`), Buffer.from([0xff, 10])]));
  const odd = await firstWhere("source=postgres", ({ text }) => /<b>/.test(text));
  assert.equal(odd.text, "[7] ERROR:  \u241b[2J<b>\ufffd");
  const download = await ask(`${endpointId}/logs/download?source=postgres`);
  assert.match(download.headers.get("content-disposition")!, /^attachment; filename="ep-.*\.log"$/);
  const told = await world.world.cluster.ok("endpoint", "logs", endpointId, "--postgres");
  for (const text of [await download.text(), told]) {
    assert.ok(!text.includes("hunter2") && !text.includes("\x1b"));
    assert.match(text, /password '\*\*\*' nosuch\n/);
    assert.match(text, /\[\d{7} bytes left out\]\n/);
  }
});

test("logs: not to a key that only reads, nor of what is not there", async () => {
  const { key } = await world.world.api("POST", "/api_keys", {
    key_name: "reader",
    scope: "read_only",
  });
  for (const path of ["logs", "logs/download"]) {
    assert.equal((await ask(`${endpointId}/${path}`, { key })).status, 403, path);
    assert.equal((await ask(`ep-no-such-one/${path}`)).status, 404, path);
    assert.equal((await ask(`${endpointId}/${path}?source=../x`)).status, 400, path);
  }
  assert.equal((await ask(`${endpointId}/logs?lines=2001`)).status, 400);
  assert.match(
    await world.world.cluster.fails("endpoint", "logs", "nosuch"),
    /postgres endpoint nosuch is not found/,
  );
});

test("strata endpoint logs --follow: goes on with what comes", async () => {
  const { cluster } = world.world;
  const args = ["endpoint", "logs", endpointId, "--postgres", "--follow", "--lines", "1"];
  const child = spawn(process.execPath, [programOf("cli/main.ts"), ...args], {
    env: { ...process.env, STRATA_HOME: cluster.home },
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    let told = "";
    for await (const chunk of child.stdout) {
      const isFirst = told === "";
      told += chunk;
      if (isFirst) {
        write(`${AT} LOG:  to follow\n`);
      }
      if (/LOG: {2}to follow\n/.test(told)) {
        break;
      }
    }
    assert.match(told, /LOG: {2}to follow\n/);
  } finally {
    child.kill("SIGKILL");
  }
});

inBothSizes(
  "an endpoint's logs, live, by level, with hostile lines",
  () => world,
  async ({ browser, page, size }) => {
    await page.getByRole("link", { name: /shop/ }).click();
    await goTo(page, "Endpoints");
    await page.getByRole("link", { name: endpointId }).click();
    await page
      .getByText(/compute is running/)
      .first()
      .waitFor();
    await page.locator(".logs label", { hasText: "Postgres" }).click();
    write(`${AT} LOG:  no error ${size}\n`);
    await page.getByText(`no error ${size}`).waitFor();
    const hostile = `<img src=x onerror="alert(1)"> ${size}`;
    write(`${AT} ERROR:  ${hostile} \u202Eabc\n${AT} LOG:  ${"x".repeat(1 << 20)}\n`);
    const view = page.getByLabel("Log", { exact: true });
    await view.getByText(`${hostile} <U+202E>abc`).waitFor();
    await page.getByLabel("Show").selectOption("errors");
    await view.getByText(hostile).waitFor();
    assert.equal(await view.getByText(/no error/).count(), 0);
    await page.getByLabel("Follow").uncheck();
    write(`${AT} ERROR:  while nobody follows ${size}\n`);
    await page.waitForTimeout(1500);
    assert.equal(await view.getByText(`while nobody follows ${size}`).count(), 0);
    await page.getByLabel("Follow").check();
    await view.getByText(`while nobody follows ${size}`).waitFor();
    // 3,000 lines at once: the page keeps 2,000, and stays at the end.
    write(`${AT} ERROR:  of many\n`.repeat(3000));
    write(`${AT} ERROR:  the last ${size}\n`);
    await view.getByText(`the last ${size}`).waitFor();
    assert.ok((await view.getByRole("listitem").count()) <= 2000);
    const isAtEnd = "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 50)";
    assert.ok(await page.evaluate(`${isAtEnd}(document.querySelector(".log-view"))`));
    await assertAccessible(browser, "logs");
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("link", { name: "Download" }).click(),
    ]);
    assert.equal(download.suggestedFilename(), `${endpointId}-postgres.log`);
  },
);

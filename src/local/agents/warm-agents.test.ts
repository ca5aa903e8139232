import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { commandWords, processIds } from "../../base/proc.ts";
import { type Daemon, NODE_FLAGS } from "../daemon.ts";
import { currentDirectory } from "../processes.ts";
import { WarmAgents } from "./warm-agents.ts";

const logger = createLogger("test", "silent");

/** Does what the agent does as far as the pool sees it; and only says that it is ready where it is `frozen`. */
const PROGRAM = `
process.on("disconnect", () => process.exit());
if (process.env.WARM_TEST === "dies") process.exit(1);
process.on("message", (work) => {
  if (process.env.WARM_TEST === "frozen") return;
  require("node:fs").appendFileSync(work.logFile, process.pid + "\\n");
  process.send("taken");
});
process.send("ready");
setInterval(() => {}, 1000);
`;

describe("warm agents", () => {
  let root: string;
  const entry = () => join(root, "program", "compute", "main.cjs");
  const directory = () => join(root, "endpoints");
  const daemon = (): Daemon => ({
    name: "endpoint x",
    workdir: root,
    pidFile: join(root, "x.pid"),
    logFile: join(root, "x.log"),
    entry: entry(),
    args: [],
    addresses: [],
    otherPorts: "",
    probe: async () => true,
  });
  const pool = (size = 1, fillDelayMs = 10) =>
    new WarmAgents({ size, logger, directory: directory(), entry: entry(), fillDelayMs });
  const waiting = () => processIds().filter((pid) => currentDirectory(pid) === directory());
  const ends = (pid: number) => eventually("its end", () => commandWords(pid) === undefined);

  async function readyPool(size = 1): Promise<WarmAgents> {
    const agents = pool(size);
    agents.fillSoon();
    await eventually("readiness", () => agents.ready === size);
    return agents;
  }

  before(() => {
    root = mkdtempSync(join(tmpdir(), "strata-warm-"));
    mkdirSync(join(root, "program", "compute"), { recursive: true });
    writeFileSync(entry(), PROGRAM);
    writeFileSync(join(root, "program", "compute", "part.js"), "1");
  });

  /** Of a test that failed. */
  afterEach(() => {
    for (const pid of waiting()) {
      process.kill(pid, "SIGKILL");
    }
  });

  after(() => rmSync(root, { recursive: true, force: true }));

  test("each is given out once, to one, and replaced", async () => {
    const agents = await readyPool(2);
    const taken = await Promise.all([1, 2, 3, 4].map(() => agents.take(daemon())));
    const pids = taken.flatMap((child) => (child === undefined ? [] : [child.pid]));
    assert.equal(pids.length, 2);
    assert.equal(new Set(pids).size, 2);
    const told = readFileSync(daemon().logFile, "utf8").trim().split("\n").map(Number);
    assert.deepEqual(told.toSorted(), pids.toSorted());
    await eventually("replacement", () => agents.ready === 2);
    // It does not end those that it gave out.
    await agents.close();
    assert.deepEqual(waiting().toSorted(), pids.toSorted());
    for (const pid of pids) {
      process.kill(pid, "SIGKILL");
      await ends(pid);
    }
    assert.equal(await agents.take(daemon()), undefined);
  });

  test("claim: one that still loads is waited for; without a pool no other is made", async () => {
    const agents = pool(0);
    const claimed = agents.claim();
    assert.equal(agents.ready, 0);
    const child = await claimed!.take(daemon());
    assert.notEqual(child, undefined);
    await claimed!.release();
    await sleep(50);
    assert.deepEqual(waiting(), [child!.pid]);
    await agents.close();
    assert.deepEqual(waiting(), [child!.pid]);
    process.kill(child!.pid, "SIGKILL");
    await ends(child!.pid);
  });

  test("claim: one that is ready is nobody else's; not taken, it waits again, or ends where enough do", async () => {
    const agents = await readyPool();
    const [pid] = waiting() as [number];
    const first = agents.claim();
    assert.equal(agents.ready, 0);
    assert.equal(await agents.take(daemon()), undefined);
    const second = agents.claim();
    await first!.release();
    assert.equal(agents.ready, 1);
    await second!.release();
    assert.deepEqual(waiting(), [pid]);
    const third = agents.claim();
    await agents.close();
    assert.deepEqual(waiting(), []);
    assert.equal(await third!.take(daemon()), undefined);
    await third!.release();
  });

  test("startEnded: one that was taken is replaced soon after its start, or after a while where nobody tells of that", async () => {
    const agents = pool(1, 3_600_000);
    agents.fillSoon(1);
    await eventually("readiness", () => agents.ready === 1);
    const claimed = agents.claim();
    const first = await claimed!.take(daemon());
    await sleep(300);
    assert.deepEqual(waiting(), [first!.pid]);
    await claimed!.release();
    await eventually("replacement", () => agents.ready === 1);
    const second = await agents.take(daemon());
    agents.startEnded();
    // Not put off by the next one.
    agents.startEnded();
    await eventually("replacement", () => agents.ready === 1);
    await agents.close();
    for (const child of [first, second]) {
      process.kill(child!.pid, "SIGKILL");
      await ends(child!.pid);
    }
  });

  test("one that was killed is not given out, and replaced", async () => {
    const agents = await readyPool();
    const [pid] = waiting() as [number];
    process.kill(pid, "SIGKILL");
    const child = await agents.take(daemon());
    assert.notEqual(child?.pid, pid);
    await eventually("replacement", () => agents.ready === 1 && waiting()[0] !== pid);
    await agents.close();
    assert.deepEqual(waiting(), []);
  });

  test("one whose program has changed since is not given out, and ends", async () => {
    const agents = await readyPool();
    const [pid] = waiting() as [number];
    writeFileSync(join(root, "program", "compute", "part.js"), "12");
    assert.equal(await agents.take(daemon()), undefined);
    await ends(pid);
    await eventually("one of today", () => agents.ready === 1);
    const child = await agents.take(daemon());
    assert.notEqual(child, undefined);
    process.kill(child!.pid, "SIGKILL");
    await agents.close();
  });

  test("one that does not answer is ended before anything else is started there", async () => {
    process.env["WARM_TEST"] = "frozen";
    const agents = await readyPool();
    delete process.env["WARM_TEST"];
    const [pid] = waiting() as [number];
    assert.equal(await agents.take(daemon()), undefined);
    assert.equal(commandWords(pid), undefined);
    await agents.close();
  });

  test("the agent itself ends with who keeps it, killed or not", async () => {
    const module = (path: string) => JSON.stringify(join(import.meta.dirname, path));
    const keeper = spawn(
      process.execPath,
      [
        ...NODE_FLAGS,
        ...["--input-type=module", "--eval"],
        `import { WarmAgents } from ${module("warm-agents.ts")};
         import { createLogger } from ${module("../../base/log.ts")};
         const logger = createLogger("test", "silent");
         const agents = new WarmAgents({ size: 1, logger, directory: ${JSON.stringify(directory())}, fillDelayMs: 1 });
         agents.fillSoon();
         setInterval(() => agents.ready === 1 && console.log("ready"), 20);`,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await once(keeper.stdout, "data");
    const [pid] = waiting() as [number];
    keeper.kill("SIGKILL");
    await ends(pid);
  });

  test("a program that cannot start is tried again with growing pauses", async () => {
    process.env["WARM_TEST"] = "dies";
    const agents = pool();
    agents.fillSoon();
    await sleep(1000);
    delete process.env["WARM_TEST"];
    assert.equal(agents.ready, 0);
    await eventually("readiness", () => agents.ready === 1);
    await agents.close();
    assert.deepEqual(waiting(), []);
  });
});

// A commit through one safekeeper process beside a bare pwrite + fdatasync on the same disk, and bulk WAL.

import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { formatLsn, type Lsn, toLsn, WAL_SEGMENT_SIZE } from "../../src/base/lsn.ts";
import { SafekeeperHttpClient } from "../../src/safekeeper/client.ts";
import { RecordWalker } from "../../src/wal-decoder/record-walker.ts";
import { ProposerDriver } from "../../src/walproposer/proposer-driver.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";

const START = toLsn(WAL_SEGMENT_SIZE + 40);
const COMMITS = 2000;
const RECORD_BYTES = 300;
const BULK_BYTES = 128 * 1024 * 1024;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

function report(name: string, times: number[]): void {
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.floor(times.length * share)]!.toFixed(3);
  console.log(`${name}: p50 ${at(0.5)} ms, p90 ${at(0.9)} ms, p99 ${at(0.99)} ms`);
}

function bareDisk(directory: string): void {
  const fd = openSync(join(directory, "bare"), "w");
  writeSync(fd, new Uint8Array(WAL_SEGMENT_SIZE), 0, WAL_SEGMENT_SIZE, 0);
  fdatasyncSync(fd);
  const bytes = new Uint8Array(RECORD_BYTES);
  const times: number[] = [];
  for (let i = 0; i < COMMITS; i++) {
    const started = monotonicMs();
    writeSync(fd, bytes, 0, RECORD_BYTES, i * RECORD_BYTES);
    fdatasyncSync(fd);
    times.push(monotonicMs() - started);
  }
  closeSync(fd);
  report("pwrite + fdatasync", times);
}

function walkerSpeed(): void {
  for (const length of [60, RECORD_BYTES, 8192]) {
    const wal = new WalBuilder({ startLsn: START });
    while (wal.endLsn - START < 8 * 1024 * 1024) {
      wal.appendFilled(length);
    }
    const bytes = wal.read(START, wal.endLsn);
    let best = Number.MAX_VALUE;
    for (let round = 0; round < 8; round++) {
      const started = monotonicMs();
      new RecordWalker({ startLsn: START, segmentSize: WAL_SEGMENT_SIZE }).feed(bytes);
      best = Math.min(best, monotonicMs() - started);
    }
    const records = wal.recordEnds.length;
    console.log(
      `walk of ${length}-byte records: ${Math.round(bytes.length / best / 1000)} MB/s, ` +
        `${Math.round((best * 1e6) / records)} ns a record`,
    );
  }
}

async function commitLatency(driver: ProposerDriver, wal: WalBuilder, wait: CommitWait) {
  const times: number[] = [];
  for (let i = 0; i < COMMITS; i++) {
    wal.appendFilled(RECORD_BYTES);
    const started = monotonicMs();
    driver.walAvailable(wal.endLsn);
    await wait(wal.endLsn);
    times.push(monotonicMs() - started);
  }
  report("commit through a safekeeper", times);
}

async function bulk(driver: ProposerDriver, wal: WalBuilder, wait: CommitWait) {
  const from = wal.endLsn;
  while (wal.endLsn - from < BULK_BYTES) {
    wal.appendFilled(4000);
  }
  const started = monotonicMs();
  driver.walAvailable(wal.endLsn);
  await wait(wal.endLsn);
  const seconds = (monotonicMs() - started) / 1000;
  console.log(`bulk: ${((wal.endLsn - from) / 1e6 / seconds).toFixed(0)} MB/s committed`);
}

type CommitWait = (lsn: Lsn) => Promise<void>;

async function main(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "strata-sk-bench-"));
  let child: ChildProcess | undefined;
  let driver: ProposerDriver | undefined;
  try {
    walkerSpeed();
    bareDisk(directory);
    const [pgPort, httpPort] = [await freePort(), await freePort()];
    const entry = join(import.meta.dirname, "../../src/safekeeper/main.ts");
    const listen = ["--listen-pg", `127.0.0.1:${pgPort}`, "--listen-http", `127.0.0.1:${httpPort}`];
    child = spawn(process.execPath, [entry, "--workdir", directory, ...listen], {
      stdio: "ignore",
    });
    while (!existsSync(join(directory, "safekeeper.pid"))) {
      await sleep(20);
    }
    const [tenantId, timelineId] = [generateTenantId(), generateTimelineId()];
    await new SafekeeperHttpClient(`http://127.0.0.1:${httpPort}`).createTimeline({
      tenant_id: tenantId,
      timeline_id: timelineId,
      pg_version: 170010,
      system_id: "42",
      start_lsn: formatLsn(START),
    });
    let committed = START;
    let waiter: { lsn: Lsn; done: () => void } | undefined;
    driver = new ProposerDriver({
      tenantId,
      timelineId,
      pgVersion: 170010,
      walSegSize: WAL_SEGMENT_SIZE,
      safekeepers: [{ id: 1, host: "127.0.0.1", pgPort }],
      logger: createLogger("test", "silent"),
      onCommitted: (lsn) => {
        committed = lsn;
        if (waiter !== undefined && lsn >= waiter.lsn) {
          waiter.done();
        }
      },
      onFenced: () => {},
      onFatal: (error) => {
        throw error;
      },
    });
    const wait: CommitWait = (lsn) =>
      committed >= lsn
        ? Promise.resolve()
        : new Promise((resolve) => {
            waiter = { lsn, done: resolve };
          });
    driver.start();
    await driver.recovered;
    const wal = new WalBuilder({ startLsn: START });
    driver.setLocalWal((begin, end) => wal.read(begin, end));
    await commitLatency(driver, wal, wait);
    await bulk(driver, wal, wait);
  } finally {
    driver?.close();
    child?.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  }
}

await main();

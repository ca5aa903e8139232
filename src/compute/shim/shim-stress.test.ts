// The claim protocol of blocks under many processes at once: what Postgres's own locks almost never let happen.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { brokenShim } from "../../../testing/compute/broken-shim.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { loaderEnvironment } from "../../postgres/installation.ts";
import { storagePath } from "../../postgres/relation-path.ts";
import { findShim, shimEnvironment } from "./shim-loader.ts";
import { ShimServer } from "./shim-server.ts";

const SOURCE = join(import.meta.dirname, "claim_stress.c");
const PAGE_BYTES = 8192;
const SECTOR_BYTES = 512;
const PATH = "base/5/100";

/** Version 1 of blocks, as claim_stress.c stamps them. */
function stampedPages(blkno: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const block = blkno + Math.floor(at / PAGE_BYTES);
    const index = (at % PAGE_BYTES) / SECTOR_BYTES;
    bytes.fill(1, at, at + SECTOR_BYTES);
    view.setBigUint64(at, 0x73747261746121n, true);
    view.setUint32(at + 8, block, true);
    view.setUint32(at + 12, index, true);
    view.setUint32(at + 16, 1, true);
    view.setUint32(at + 20, block * 31 + index * 7 + 1, true);
  }
  return bytes;
}

/** Runs the stress under `shim`; what it printed and whether it was content. */
async function stress(
  shim: string,
  seed: number,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const blocks = 8000;
  const random = new SeededRandom(seed);
  const workdir = await mkdtemp(join(tmpdir(), "strata-stress-"));
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    handlers: {
      stat: async (file) => (storagePath(file) === PATH ? blocks * PAGE_BYTES : undefined),
      readPages: async (_file, blkno, count) => {
        await sleep(random.int(3));
        return stampedPages(blkno, count);
      },
      listDirectory: async () => [],
      prefetch: () => undefined,
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
    },
  });
  try {
    const program = join(workdir, "claim_stress");
    const built = spawnSync("cc", ["-O1", "-Wall", "-Werror", "-o", program, SOURCE, "-ldl"]);
    assert.equal(built.status, 0, String(built.stderr));
    mkdirSync(join(workdir, "base", "5"), { recursive: true });
    await server.listen();
    const child = spawn(program, [PATH, String(blocks), "8", "2000", String(seed)], {
      env: {
        ...shimEnvironment({
          shimPath: shim,
          dataDirectory: workdir,
          socketPath: join(workdir, "s"),
          wal: "none",
          walSegmentSize: 1 << 24,
          versionDirectory: "PG_17_1",
        }),
        ...loaderEnvironment(shim),
        STRATA_SHIM_PROGRAM: "claim_stress",
        STRESS_DIR: workdir,
      },
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += String(chunk);
    });
    child.stderr.on("data", (chunk) => {
      stderr += String(chunk);
    });
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { code, stdout, stderr };
  } finally {
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

const compiler = spawnSync("cc", ["--version"]).status === 0;
const skip = compiler ? false : "no C compiler";

test("claims: no write is lost and no zero is read, whatever runs at once", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const shim = findShim(directory);
    for (const seed of [1, 2]) {
      const { code, stdout, stderr } = await stress(shim, seed);
      assert.equal(code, 0, `seed ${seed}: ${stderr}`);
      assert.ok(Number(stdout) > 50, `only ${stdout} waits: the test does not test`);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** Faults put into the shim, each of which the stress must see. */
const CANARIES: readonly { name: string; text: string; by: string }[] = [
  {
    name: "a writer that does not claim",
    text: "(state == ABSENT && claim(file, block, 1, WRITING) == 1)",
    by: "state == ABSENT",
  },
  {
    name: "a partial write that does not fetch the rest",
    text: "at % BLOCK != 0 && fault(file, fd, from, from + 1) != 0",
    by: "false",
  },
  {
    name: "a reader that does not wait for another's fill",
    text: "      if (!wait_block(file, from)) {\n        return give_up();\n      }\n      continue;",
    by: "      from++;\n      continue;",
  },
  {
    name: "a fill that writes nothing",
    text: "result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);",
    by: "result = 0;",
  },
  {
    name: "a truncation that forgets no blocks",
    text: "u32 old = load(&file->nremote), now = old;",
    by: "u32 old = 0, now = 0;",
  },
];

for (const { name, text, by } of CANARIES) {
  test(`claims: the stress sees ${name}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const shim = brokenShim(directory, [text, by]);
      const { code, stderr } = await stress(shim, 1);
      assert.equal(code, 1);
      assert.match(
        stderr,
        /claim_stress: (zeros|lost write|foreign bytes|torn sector|resurrected)/,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

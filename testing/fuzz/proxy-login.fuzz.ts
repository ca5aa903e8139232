// Hostile clients of the proxy before they are logged in: start-up packets, TLS requests and SCRAM messages, damaged in every way.
//
// One proxy is attacked whose control plane knows one endpoint, and whose computes do not exist. Invariants:
// 1. Nobody gets in: no AuthenticationOk, no ReadyForQuery, and no compute is woken.
// 2. An answer is what the protocol has before a login: R, v, E, or a letter for a request of encryption; nothing follows an E.
// 3. No error is a bug's (XX000), and nothing is logged as an error.
// 4. After all, the proxy holds no connection, and a client that behaves is asked for its password.

import assert from "node:assert/strict";
import { sleep } from "../../src/base/clock.ts";
import type { Logger } from "../../src/base/log.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { parseScramSecret, scramSecret } from "../../src/postgres/scram.ts";
import { cstring, encodeMessage, int32 } from "../../src/postgres/wire/wire-messages.ts";
import { ProxyServer } from "../../src/proxy/proxy-server.ts";
import { type Conversation, converse, startupPacket } from "../hostile-client.ts";

const ENDPOINT = "ep-attacked";
/** Connections at a time. */
const ROUND = 20;
const CODES = [196608, 196610, 131072, 80877102, 80877103, 80877104, 0, -1, 0x7fffffff];
const GS2 = ["n,,", "y,,", "p=tls-server-end-point,,", "p=x,,", "n,a=x,", ""];
const ENCRYPTION_ANSWERS = new Set(["N", "S"]);
const LETTERS = "pQXPBDESHFdcf\0\xff";

/** `steps` connections. */
export async function run(seed: number, steps: number): Promise<void> {
  const random = new SeededRandom(seed);
  const target = new Target();
  const port = await target.server.listen("127.0.0.1", 0);
  const address = `127.0.0.1:${port}`;
  try {
    for (let done = 0; done < steps; done += ROUND) {
      const attacks = Array.from({ length: Math.min(ROUND, steps - done) }, () => attack(random));
      const answers = await Promise.all(
        attacks.map((chunks) => converse(address, chunks, [], { quietMs: 4, limitMs: 200 })),
      );
      answers.forEach((answer, i) => {
        checkAnswers(answer, attacks[i]!);
      });
    }
    assert.deepEqual(target.errors, [], "logged as errors");
    assert.equal(target.wakes, 0, "a compute was woken");
    const hello = startupPacket({ options: `endpoint=${ENDPOINT}` });
    const good = await converse(address, [hello], [], { quietMs: 500 });
    assert.deepEqual(
      good.answers.map(({ type }) => type),
      ["R"],
    );
    for (let i = 0; target.server.connections > 0; i++) {
      assert.ok(i < 500, `${target.server.connections} connections are left`);
      await sleep(10);
    }
  } finally {
    await target.server.close();
  }
}

class Target {
  readonly errors: string[] = [];
  wakes = 0;
  readonly server: ProxyServer;

  constructor() {
    const nothing = () => undefined;
    const logger: Logger = {
      level: "error",
      ...{ trace: nothing, debug: nothing, info: nothing, warn: nothing },
      error: (first: object | string) => void this.errors.push(JSON.stringify(first)),
      fatal: (first: object | string) => void this.errors.push(JSON.stringify(first)),
      child: () => logger,
    };
    const secret = parseScramSecret(scramSecret("unknown"));
    this.server = new ProxyServer({
      controlPlane: {
        tokenRules: () => Promise.resolve([]),
        accessControl: () => Promise.resolve({ secret, allowedIps: [] }),
        wakeCompute: () => {
          this.wakes++;
          return Promise.reject(new Error("nobody is to come this far"));
        },
      },
      certificates: undefined,
      settings: { loginTimeoutMs: 1000, failedLoginsPerMinute: Number.MAX_SAFE_INTEGER },
      logger,
      mockSeed: Buffer.alloc(32),
    });
  }
}

function checkAnswers({ answers }: Conversation, attack: readonly Buffer[]): void {
  const told = attack.map((chunk) => chunk.toString("hex")).join(" ");
  answers.forEach(({ type, body }, i) => {
    if (ENCRYPTION_ANSWERS.has(type)) {
      // No message: what follows was not read as one.
      return;
    }
    assert.ok("RvE".includes(type), `'${type}' after ${told}`);
    if (type === "R") {
      assert.notEqual(body.readInt32BE(0), 0, `got in by ${told}`);
    }
    if (type === "E") {
      assert.equal(i, answers.length - 1, `more after an error: ${told}`);
      assert.ok(!body.includes("CXX000"), `${body} after ${told}`);
    }
  });
}

/** What a client sends, cut into pieces. */
function attack(random: SeededRandom): Buffer[] {
  const parts: Buffer[] = [];
  if (random.bool(0.15)) {
    parts.push(packet(random.pick([80877103, 80877104]), Buffer.alloc(random.int(3))));
  }
  parts.push(startup(random));
  for (let i = random.int(4); i > 0; i--) {
    parts.push(loginMessage(random));
  }
  let bytes: Buffer = Buffer.concat(parts);
  if (random.bool(0.4)) {
    bytes = damaged(random, bytes);
  }
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = random.bool(0.6) ? bytes.length : 1 + random.int(16);
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return chunks;
}

function startup(random: SeededRandom): Buffer {
  if (random.bool(0.5)) {
    return startupPacket({ user: "ann", options: `endpoint=${ENDPOINT}` });
  }
  const words = Array.from({ length: random.int(8) }, () =>
    random.pick([
      ...["user", "options", "database", "_pq_.x", "", "é", "x".repeat(random.int(12_000))],
      ...[`endpoint=${ENDPOINT}`, "endpoint=", "endpoint=../x", "neon_lsn:0/1 ".repeat(12)],
    ]),
  );
  const end = Buffer.alloc(random.int(3));
  return packet(random.pick(CODES), Buffer.concat([...words.map(cstring), end]));
}

function packet(code: number, body: Buffer): Buffer {
  return Buffer.concat([int32(body.length + 8), int32(code), body]);
}

function loginMessage(random: SeededRandom): Buffer {
  const nonce = random.pick(["r=abcdefgh", "r=", "x", "r=a,m=b", ""]);
  const first = Buffer.from(
    `${random.pick(GS2)}${random.pick(["n=,", "n=ann,", "m=x,", ""])}${nonce}`,
  );
  const mechanism = random.pick(["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN", ""]);
  const length = random.bool(0.8) ? first.length : random.pick([-1, 0, 2 ** 31 - 1, 7]);
  const proof = Buffer.alloc(random.int(40)).toString("base64");
  return random.pick([
    () => encodeMessage("p", cstring(mechanism), int32(length), first),
    () => encodeMessage("p", Buffer.from(`c=biws,${nonce},p=${proof}`)),
    () => encodeMessage("p", Buffer.alloc(random.int(3000), random.int(256))),
    () => encodeMessage(random.pick([...LETTERS]), Buffer.alloc(random.int(50))),
  ])();
}

function damaged(random: SeededRandom, bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = 1 + random.int(4); i > 0; i--) {
    copy[random.int(copy.length)] = random.int(256);
  }
  return random.bool(0.3) ? copy.subarray(0, random.int(copy.length)) : copy;
}

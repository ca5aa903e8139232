// A process on the measured host's network: asks two pageservers for pages, in turns, one page at a time and many at once.

import { identifyBy } from "../../src/base/auth/service-token.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { parseLsn } from "../../src/base/lsn.ts";
import { type ServiceTrust, trustServices } from "../../src/base/network/service-tls.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { PagestreamClient } from "../../src/pageserver/client.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";

export interface AskedPageserver {
  readonly pgAddr: string;
  readonly tokenFile: string;
  readonly trust: ServiceTrust;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly lsn: string;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly blocks: number;
}

/** Of each in turn: microseconds a page, one at a time; and of 16 at once. */
export interface AskedTimes {
  readonly single: number[][];
  readonly many: number[][];
}

const DEPTH = 16;
const [order, rounds] = JSON.parse(process.argv[2]!) as [AskedPageserver[], number];
const clients: PagestreamClient[] = [];
for (const { pgAddr, tokenFile, trust, tenantId, timelineId } of order) {
  identifyBy(tokenFile);
  trustServices(() => trust);
  const timeline = { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) };
  clients.push(await PagestreamClient.connect(pgAddr, timeline));
}
const random = new SeededRandom(3);
const buffers = Array.from({ length: DEPTH }, () => new Uint8Array(PAGE_SIZE));

/** Microseconds a page. */
async function ask(i: number, depth: number, requests: number): Promise<number> {
  const { lsn, dbOid, relNumber, blocks } = order[i]!;
  const rel = { spcOid: 1663, dbOid, relNumber, fork: 0 };
  const began = performance.now();
  const loop = async (buffer: Uint8Array) => {
    for (let asked = 0; asked < requests / depth; asked++) {
      await clients[i]!.getPages(rel, random.int(blocks), parseLsn(lsn)!, buffer);
    }
  };
  await Promise.all(buffers.slice(0, depth).map(loop));
  return ((performance.now() - began) * 1000) / requests;
}

const times: AskedTimes = { single: order.map(() => []), many: order.map(() => []) };
for (let round = -2; round < rounds; round++) {
  for (const i of order.keys()) {
    const single = await ask(i, 1, 200);
    const many = await ask(i, DEPTH, 1600);
    // The first ones read layers into the cache.
    if (round >= 0) {
      times.single[i]!.push(single);
      times.many[i]!.push(many);
    }
  }
}
process.stdout.write(JSON.stringify(times));
process.exit();

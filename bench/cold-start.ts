// An endpoint's start where the pageserver's disk has just been lost, against one on a warm disk: what the store costs.
//
// The store is Ceph's radosgw where it is installed (`npm run test:s3` does it), else the S3 server of the tests.

import { spawnSync } from "node:child_process";
import { parseTenantId, parseTimelineId } from "../src/base/ids.ts";
import { parseLsn } from "../src/base/lsn.ts";
import { PageserverHttpClient } from "../src/pageserver/client.ts";
import { freeConfig, TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { CEPH_PROGRAMS, makeBucket, Radosgw } from "../testing/s3/radosgw.ts";
import { S3Server } from "../testing/s3/s3-server.ts";
import { initializeTpcb } from "../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { firstRow } from "./stock.ts";

interface Store extends AsyncDisposable {
  readonly name: string;
  readonly location: string;
}

const BUCKET = "strata-bench";

async function startStore(): Promise<Store> {
  if (CEPH_PROGRAMS.some((program) => spawnSync(program, ["--version"]).error !== undefined)) {
    progress(
      "radosgw is not installed (npm run test:s3 does it): the tests' own S3 server instead",
    );
    const server = new S3Server();
    await server.start();
    return {
      name: "the tests' S3 server",
      location: server.location("bench"),
      [Symbol.asyncDispose]: () => server.stop(),
    };
  }
  const radosgw = new Radosgw();
  try {
    await radosgw.start();
    const { endpoint, accessKeyId, secretAccessKey } = radosgw;
    const env = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
    Object.assign(process.env, env);
    const location = `s3://${BUCKET}/bench?endpoint=${endpoint}&region=us-east-1`;
    await makeBucket(location, env);
    return { name: "radosgw", location, [Symbol.asyncDispose]: () => radosgw.stop() };
  } catch (error) {
    await radosgw.stop();
    throw error;
  }
}

/** Until the store has all that is committed. */
async function stored(strata: TestCluster): Promise<void> {
  const http = new PageserverHttpClient(strata.config().pageservers[0]!.listenHttpAddr);
  const { tenantId, timelineId } = strata.endpointSpec();
  const ids = [parseTenantId(tenantId), parseTimelineId(timelineId)] as const;
  await http.checkpoint(...ids);
  await eventually("the store has it", async () => {
    const { remote_consistent_lsn: remote, last_record_lsn: last } = await http.getTimeline(...ids);
    return parseLsn(remote)! >= parseLsn(last)!;
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

export async function benchColdStart(rounds: number): Promise<Row[]> {
  await using store = await startStore();
  await using strata = await TestCluster.create({
    config: { ...(await freeConfig(1)), remoteStorage: store.location },
  });
  await strata.startEndpoint("main");
  await initializeTpcb(strata.url(), 10);
  await strata.ok("endpoint", "stop", "main");
  await stored(strata);
  const [warm, cold, pageserver] = [[] as number[], [] as number[], [] as number[]];
  const start = () =>
    timed(async () => {
      await strata.ok("endpoint", "start", "main");
      await firstRow(strata.url());
    });
  for (let i = 0; i < rounds; i++) {
    await strata.ok("pageserver", "stop");
    await strata.ok("pageserver", "start");
    warm.push(await start());
    await strata.ok("endpoint", "stop", "main");
    await stored(strata);
    await strata.ok("pageserver", "stop");
    strata.loseDisk();
    pageserver.push(await timed(() => strata.ok("pageserver", "start")));
    cold.push(await start());
    await strata.ok("endpoint", "stop", "main");
    await stored(strata);
  }
  progress(`cold start: ${cold.map(Math.round)} ms, warm ${warm.map(Math.round)} ms`);
  return [
    {
      what: `endpoint start (CLI) on an empty pageserver disk, store ${store.name}, against a warm disk, ms`,
      ours: median(cold).toFixed(0),
      theirs: median(warm).toFixed(0),
      ratio: ratio(median(cold), median(warm)),
      aim: "",
    },
    {
      what: `pageserver start (CLI) on an empty disk, store ${store.name}, ms`,
      ours: median(pageserver).toFixed(0),
      theirs: "—",
      ratio: "—",
      aim: "",
    },
  ];
}

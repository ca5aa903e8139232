// `npm run test:s3`: the object-store suite, and whole clusters, against a real S3 service, Ceph's radosgw.
//
// It is installed with apt where it is missing and this is root; where that cannot be, one line says so
// and nothing is tested. Everything runs on loopback in a temporary directory, and is gone afterwards.

import { spawn, spawnSync } from "node:child_process";
import { CEPH_PROGRAMS, makeBucket, Radosgw } from "../testing/s3/radosgw.ts";
import { inRepository, NODE_FLAGS } from "./checks.ts";

const PACKAGES = ["ceph-mon", "ceph-osd", "radosgw"];
const BUCKET = "strata-test";

/** Why it cannot be had; undefined where it is there. */
function install(): string | undefined {
  const missing = () =>
    CEPH_PROGRAMS.filter((program) => spawnSync(program, ["--version"]).error !== undefined);
  if (missing().length === 0) {
    return undefined;
  }
  if (process.getuid?.() !== 0) {
    return `${missing().join(", ")} not there; root could install ${PACKAGES.join(" ")}`;
  }
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C" };
  for (const args of [["update"], ["install", "--yes", "--no-install-recommends", ...PACKAGES]]) {
    const result = spawnSync("apt-get", args, { encoding: "utf8", env });
    if (result.status !== 0) {
      const why = result.error?.message ?? result.stderr.trim().split("\n").at(-1);
      return `apt-get ${args[0]}: ${why}`;
    }
  }
  return missing().length === 0 ? undefined : `${missing().join(", ")} still not there`;
}

/** Files that look at STRATA_TEST_S3; the interface first, or the rest says little. */
const SUITES = [["src/object-store/object-store.test.ts"], ["test/object-store/lost-disk.test.ts"]];

function runSuite(
  files: readonly string[],
  location: string,
  env: Record<string, string>,
): Promise<number> {
  const args = [...NODE_FLAGS, "--test", "--test-reporter=spec", ...files.map(inRepository)];
  const child = spawn(process.execPath, args, {
    stdio: "inherit",
    env: { ...process.env, ...env, STRATA_TEST_S3: location },
  });
  return new Promise((resolve) => child.on("close", (code) => resolve(code ?? 1)));
}

const why = install();
if (why !== undefined) {
  console.log(`test:s3 skipped: no radosgw here (${why})`);
  process.exit(0);
}
const radosgw = new Radosgw();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    radosgw.stopAtOnce();
    process.exit(1);
  });
}
try {
  const begin = performance.now();
  await radosgw.start();
  console.log(`radosgw answers after ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  const { endpoint, accessKeyId, secretAccessKey } = radosgw;
  const env = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
  const location = `s3://${BUCKET}/suite?endpoint=${endpoint}&region=us-east-1`;
  await makeBucket(location, env);
  for (const files of SUITES) {
    process.exitCode = (await runSuite(files, location, env)) || process.exitCode;
  }
} finally {
  await radosgw.stop();
}

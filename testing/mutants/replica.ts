// Broken rules of replicas: where they begin, what they are told, and how one becomes the primary.

import type { MutantPart } from "./mutant.ts";

const START = "src/compute/replica/replica-start.ts";
const START_TEST = "src/compute/replica/replica-start.test.ts";
const LAYOUT = "src/data-directory/replay-start.ts";
const LAYOUT_TEST = "src/compute/replica/replay-start.pg.test.ts";
const DIRECTORY = "src/data-directory/start-directory.ts";
const REPLICA = "src/compute/replica/replica.ts";
const RELAY = "src/compute/replica/wal-relay.ts";
const RELAY_TEST = "src/compute/replica/wal-relay.test.ts";
const FOLLOWED = "src/compute/replica/followed-safekeepers.ts";
const FOLLOWED_TEST = "src/compute/replica/followed-safekeepers.test.ts";
const REPLICA_TEST = "src/compute/replica/replica.pg.test.ts";
const SNAPSHOTS_TEST = "src/pageserver/ingest/standby-snapshots.test.ts";
const UPKEEP_TEST = "src/pageserver/retention/layer-upkeep.test.ts";
const KEPT =
  "collectNow: where a replica would begin stays readable, in the next life too; where it would not any more goes";
const PROMOTE = "src/local/replicas/promote.ts";
const PROMOTION_TEST = "test/replica/promotion.test.ts";
const OPEN = "replica: a transaction that is open at its start is neither committed nor aborted";

export const REPLICA_MUTANTS: MutantPart = {
  part: "replica",
  mutants: [
    {
      rule: "a replica begins behind the last record that names what runs",
      file: START,
      search: "own.length > 1 ? own.at(-2) : undefined",
      replace: "own.at(-1)",
      test: START_TEST,
      name: "replicaStart: behind the last but one that names what runs, or behind a shutdown",
    },
    {
      rule: "a replica asks the safekeepers of its start for ever",
      file: FOLLOWED,
      search: "return this.#membership.generation === 0",
      replace: "return this.#membership.generation !== -1",
      test: FOLLOWED_TEST,
      name: "FollowedSafekeepers: the newest members",
    },
    {
      rule: "a replica goes back to the members that one who is behind tells of",
      file: FOLLOWED,
      search: "membership.generation > this.#membership.generation",
      replace: "membership.generation > 0",
      test: FOLLOWED_TEST,
      name: "FollowedSafekeepers: the newest members",
    },
    {
      rule: "a replica never asks for other safekeepers",
      file: REPLICA,
      search: "this.#safekeepers.watch(this.#closing.signal);",
      replace: "",
      test: "test/membership.test.ts",
      name: "a replica follows to a whole new set",
    },
    {
      rule: "a change of safekeepers does not wait for replicas",
      file: "src/storage-controller/safekeeper-migrate.ts",
      search: "      ...computes.runningReplicas(tenantId, timelineId),\n",
      replace: "",
      test: "test/membership.test.ts",
      name: "a replica follows to a whole new set",
    },
    {
      rule: "a safekeeper that a replica goes to does not hear what it still sees",
      file: RELAY,
      search: "        source.sendHotStandbyFeedback(this.#feedback);",
      replace: "",
      test: RELAY_TEST,
      name: "WalRelay: the next safekeeper hears at once",
    },
    {
      rule: "a walreceiver that was killed keeps its place",
      file: RELAY,
      search: "    this.#stream?.close();\n    this.#stream = new",
      replace: "    this.#stream = new",
      test: RELAY_TEST,
      name: "WalRelay: from R on",
    },
    {
      rule: "a walreceiver gets WAL from before R",
      file: RELAY,
      search: "maxLsn(lsn, this.#options.startLsn),",
      replace: "lsn,",
      test: RELAY_TEST,
      name: "WalRelay: from R on",
    },
    {
      rule: "a replica that is built anew forgets the members it has heard of",
      file: FOLLOWED,
      search: "options.membership ?? NO_MEMBERSHIP",
      replace: "NO_MEMBERSHIP",
      test: FOLLOWED_TEST,
      name: "FollowedSafekeepers: what the run before knew counts",
    },
    {
      rule: "a replica that somebody made a primary stays one",
      file: REPLICA,
      search: "throwIfNoEntry: false }) !== undefined",
      replace: "throwIfNoEntry: false }) === null",
      test: REPLICA_TEST,
      name: "replica: one that was made a primary all the same is built anew, and nothing of it is kept",
    },
    {
      rule: "where a replica would begin is collected",
      file: "src/pageserver/storage/timeline.ts",
      search: "leased, this.leases.replicaStarts);",
      replace: "leased);",
      test: UPKEEP_TEST,
      name: KEPT,
    },
    {
      rule: "where a replica would begin is not readable below the cutoff",
      file: "src/pageserver/storage/retention.ts",
      search: " || this.replicaStarts.includes(lsn)",
      replace: "",
      test: UPKEEP_TEST,
      name: KEPT,
    },
    {
      rule: "the next life of a pageserver does not know where a replica would begin",
      file: "src/pageserver/storage/timeline.ts",
      search: "this.leases.replicaStarts = part.replicaStarts ?? [];",
      replace: "",
      test: UPKEEP_TEST,
      name: KEPT,
    },
    {
      rule: "an ancestor's records hold history of a branch for its replicas",
      file: "src/pageserver/ingest/standby-snapshots.ts",
      search: "ends.filter((lsn) => lsn > this.#storage.startLsn)",
      replace: "ends",
      test: UPKEEP_TEST,
      name: KEPT,
    },
    {
      rule: "an ancestor's running transactions run on a branch",
      file: START,
      search: "endLsn > timelineStartLsn",
      replace: "endLsn > 0",
      test: START_TEST,
      name: "replicaStart: what is an ancestor's says nothing of a branch",
    },
    {
      rule: "a replica begins as if nothing ran",
      file: START,
      search: 'running: kind === "shutdown" ? undefined :',
      replace: 'running: kind !== "static" ? undefined :',
      test: REPLICA_TEST,
      name: OPEN,
    },
    {
      rule: "a replica takes ids up to storage's rounded next one for known",
      file: DIRECTORY,
      search: "nextFullXid: checkPoint.nextFullXid - BigInt(ahead),",
      replace: "nextFullXid: checkPoint.nextFullXid + BigInt(ahead - ahead),",
      test: REPLICA_TEST,
      name: "replica: ids that storage has rounded over are not taken for known",
    },
    {
      rule: "the made-up record before R is not of the true one's length",
      file: LAYOUT,
      search: "const length = bytesOfRecords(prevRecordLsn, end, segmentSize);",
      replace: "const length = bytesOfRecords(prevRecordLsn, end, segmentSize) + 8;",
      test: LAYOUT_TEST,
      name: "writeDataDirectory: recovery goes on in the middle of a page",
    },
    {
      rule: "page headers count as bytes of the record before R",
      file: LAYOUT,
      search: "Math.max(at, page + pageHeaderSize(page, segmentSize))",
      replace: "Math.max(at, page)",
      test: LAYOUT_TEST,
      name: "writeDataDirectory: recovery goes on behind one that goes over pages",
    },
    {
      rule: "a shutdown checkpoint is noted as if transactions ran",
      file: "src/pageserver/ingest/walingest.ts",
      search: 'kind: "shutdown", oldestRunningXid',
      replace: 'kind: "running", oldestRunningXid',
      test: SNAPSHOTS_TEST,
      name: "standby snapshots: the last two at each LSN, of running transactions and shutdowns only",
    },
    {
      rule: "a pageserver that starts again forgets where a replica can begin",
      file: "src/pageserver/ingest/standby-snapshots.ts",
      search: "    this.#last = readStandbySnapshots(storage, storage.lastRecordLsn);",
      replace: "    this.#last = [];",
      test: SNAPSHOTS_TEST,
      name: "standby snapshots: who goes on with a timeline knows the one before",
    },
    {
      rule: "a superuser promotes a replica",
      file: REPLICA,
      search: "    symlinkSync(NO_PROMOTION, join(dataDirectory, PROMOTE_FILE));\n",
      replace: "    symlinkSync(NO_PROMOTION, join(dataDirectory, NO_PROMOTION.slice(0, 3)));\n",
      test: REPLICA_TEST,
      name: "replica: a superuser's promotion is an error, and it goes on as a replica",
    },
    {
      rule: "a replica waits at its start as long as it is to be behind",
      file: START,
      search: "consistentLsn: last.endLsn",
      replace: "consistentLsn: endLsn",
      test: START_TEST,
      name: "replicaStart: behind the last but one that names what runs, or behind a shutdown",
    },
    {
      rule: "a start's pg_control does not say where a standby is consistent",
      file: "src/postgres/control-file.ts",
      search: "lsnToBigInt(minRecoveryPoint), true",
      replace: "0n, true",
      test: "src/postgres/control-file.test.ts",
      name: "encodeStartControlFile: says that the cluster was shut down at the checkpoint",
    },
    {
      rule: "a replica whose safekeeper says nothing asks the next one only",
      file: RELAY,
      search: ".filter((other) => other !== pgAddr)",
      replace: ".filter((other) => other === this.#after(pgAddr))",
      test: RELAY_TEST,
      name: "WalRelay: one that has WAL is found behind one that says nothing and one that is away",
    },
    {
      rule: "a replica looks at the head for how much room its primary had",
      file: REPLICA,
      search: "[this.#room, roomOf(dataDirectory)]",
      replace: "[this.#room, this.#primary]",
      test: REPLICA_TEST,
      name: "replica: a primary that had more room for a while only does not stop it, where it hears of that later",
    },
    {
      rule: "a replica with less room than its primary waits for ever",
      file: REPLICA,
      search: 'name !== "walLevel" && replayed[name] > room[name]',
      replace: 'name === "walLevel" && replayed[name] > room[name]',
      test: REPLICA_TEST,
      name: "replica: a primary with more room than it has gets a replica with as much",
    },
    {
      rule: "a primary does not say in WAL how much room it has",
      file: DIRECTORY,
      search: "options.standby ? options.settings.controlParameters : undefined",
      replace: "options.settings.controlParameters",
      test: REPLICA_TEST,
      name: "replica: a primary with more room than it has gets a replica with as much",
    },
    {
      rule: "a promoted endpoint stays a reader in the API",
      file: "src/control-plane/inventory.ts",
      search: "row.creating === 0 && row.type !== type",
      replace: "row.creating === 0 && row.type === undefined",
      test: "test/replica/api.test.ts",
      name: "a read_only endpoint follows its branch, sleeps and wakes, keeps no primary awake, and can be promoted",
    },
    {
      rule: "read_only endpoints of the API stay at one LSN",
      file: "src/control-plane/api-v2/branches.ts",
      search: 'replica: endpoint.type === "read_only",',
      replace: "replica: false,",
      test: "test/replica/api.test.ts",
      name: "a read_only endpoint follows its branch, sleeps and wakes, keeps no primary awake, and can be promoted",
    },
    {
      rule: "an endpoint that was demoted starts as the primary that it was",
      file: "src/local/endpoints.ts",
      search: 'if (typeof mode === "string" && mode !== asked.spec.mode) {',
      replace: 'if (typeof mode === "string" && mode === undefined) {',
      test: "src/local/endpoints.test.ts",
      name: "startEndpoint: one that was promoted or demoted meanwhile is not started as what it was",
    },
    {
      rule: "feedback of a replica ends at its agent",
      file: "src/compute/replica/wal-relay.ts",
      search:
        "      this.#feedback = message;\n      this.#source?.sendHotStandbyFeedback(message);\n",
      replace: "",
      test: PROMOTION_TEST,
      name: "feedback: a long query on a replica holds back VACUUM on the primary",
    },
    {
      rule: "a promotion leaves the old primary what it was",
      file: PROMOTE,
      search: 'setEndpointMode(findEndpoint(home, primary.id), "replica")',
      replace: 'setEndpointMode(findEndpoint(home, primary.id), "primary")',
      test: PROMOTION_TEST,
      name: "endpoint promote: under load, from one to the other and back, nothing acknowledged is lost",
    },
  ],
};

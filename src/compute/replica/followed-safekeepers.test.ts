import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { WireServer } from "../../postgres/wire/wire-server.ts";
import type { MembershipConfiguration } from "../../safekeeper-protocol/membership.ts";
import { encodeMembership } from "../../safekeeper-protocol/messages.ts";
import { FollowedSafekeepers } from "./followed-safekeepers.ts";

const member = (id: number) => ({ id, host: "10.0.0.1", pgPort: 5000 + id });

function membership(generation: number, ids: number[], joining?: number[]) {
  return { generation, members: ids.map(member), newMembers: joining?.map(member) };
}

/** A safekeeper that was told of `mconf`, or is of a version that tells of none; its address. */
async function safekeeper(
  t: TestContext,
  mconf: MembershipConfiguration | undefined,
): Promise<string> {
  const server = new WireServer({
    logger: createLogger("safekeeper", "silent"),
    onQuery: async (session) => {
      const told = mconf && Buffer.from(encodeMembership(mconf)).toString("hex");
      const row = ["0/8", "0/8", ...(told === undefined ? [] : [told])];
      session.sendRows(
        row.map((_, i) => `c${i}`),
        [row],
        "TIMELINE_STATUS",
      );
    },
  });
  const { port } = await server.listen("127.0.0.1", 0);
  t.after(() => server.close());
  return `127.0.0.1:${port}`;
}

function followed(first: string[], known?: MembershipConfiguration): FollowedSafekeepers {
  return new FollowedSafekeepers({
    tenantId: parseTenantId("a".repeat(32)),
    timelineId: parseTimelineId("b".repeat(32)),
    first,
    membership: known,
  });
}

test("FollowedSafekeepers: the newest members that any of them tells of, whoever is away or behind", async (t) => {
  const first = [
    await safekeeper(t, membership(2, [1, 2])),
    await safekeeper(t, membership(3, [1, 2], [2, 4])),
    await safekeeper(t, membership(1, [1])),
    // Nobody is there.
    "127.0.0.1:1",
  ];
  const safekeepers = followed(first);
  assert.deepEqual(safekeepers.addresses, first);
  await safekeepers.ask();
  assert.equal(safekeepers.membership.generation, 3);
  assert.deepEqual(safekeepers.addresses, ["10.0.0.1:5001", "10.0.0.1:5002", "10.0.0.1:5004"]);
});

test("FollowedSafekeepers: those of the specification where nobody tells of members", async (t) => {
  const first = [await safekeeper(t, undefined), await safekeeper(t, membership(0, []))];
  const safekeepers = followed(first);
  await safekeepers.ask();
  assert.deepEqual(safekeepers.addresses, first);
});

test("FollowedSafekeepers: what the run before knew counts, not the specification", () => {
  const safekeepers = followed(["127.0.0.1:1"], membership(7, [9]));
  assert.deepEqual(safekeepers.addresses, ["10.0.0.1:5009"]);
});

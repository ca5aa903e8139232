import { test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { rehearse } from "./rehearsal.ts";

test("rehearse: all that it does works, and nothing of it is left", async () => {
  const handles = () => process.getActiveResourcesInfo().filter((name) => name !== "Timeout");
  const before = handles();
  await rehearse();
  await eventually("the end of its connections", () => `${handles()}` === `${before}`, {
    timeoutMs: 20_000,
  });
});

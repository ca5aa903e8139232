import assert from "node:assert/strict";
import { test } from "node:test";
import { branchIdOf, newBranchId, newEndpointId, newProjectId, projectIdOf } from "./public-ids.ts";

test("public ids: Neon's shapes, which its clients tell from names; the same for the same, others otherwise", () => {
  const tenant = "ab".repeat(16);
  const timeline = "cd".repeat(16);
  for (const id of [branchIdOf(tenant, timeline), newBranchId()]) {
    assert.match(id, /^br-[a-z0-9]+-[a-z0-9]+-[a-z0-9]+$/);
  }
  for (const id of [projectIdOf(tenant), newProjectId()]) {
    assert.match(id, /^[a-z]+-[a-z]+-\d{8}$/);
  }
  // A host name's label, with room for -pooler.
  assert.match(newEndpointId(), /^ep-[a-z]+-[a-z]+-[a-z0-9]{8}$/);
  assert.equal(projectIdOf(tenant), projectIdOf(tenant));
  assert.notEqual(projectIdOf(tenant), projectIdOf(tenant, 1));
  assert.equal(branchIdOf(tenant, timeline), branchIdOf(tenant, timeline));
  assert.notEqual(branchIdOf(tenant, timeline), branchIdOf(timeline, tenant));
  assert.equal(new Set(Array.from({ length: 1000 }, newBranchId)).size, 1000);
});

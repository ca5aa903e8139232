import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { StorageFixture } from "../../../testing/storage-fixture.ts";
import { errorKind } from "../../base/errors.ts";
import type { TenantConfig } from "../api.ts";
import {
  DEFAULT_UPKEEP,
  decodeTenantConfig,
  encodeTenantConfig,
  TENANT_CONFIG_NAME,
  upkeepOf,
} from "./tenant-config.ts";

const CONFIG: TenantConfig = { pitr_interval: "1h 30m", gc_horizon: 4096, gc_period: "0s" };

function settingsOf(fixture: StorageFixture) {
  return fixture.manager.tenant(fixture.tenantId).settings;
}

test("tenant config: what was encoded; the rest are the defaults", () => {
  const stored = { generation: 7, config: CONFIG };
  assert.deepEqual(decodeTenantConfig(encodeTenantConfig(stored), "x"), stored);
  assert.deepEqual(upkeepOf(CONFIG, DEFAULT_UPKEEP), {
    pitrIntervalMs: 5_400_000,
    gcHorizonBytes: 4096,
    gcPeriodMs: 0,
    compactionPeriodMs: DEFAULT_UPKEEP.compactionPeriodMs,
  });
  assert.deepEqual(upkeepOf({}, DEFAULT_UPKEEP), DEFAULT_UPKEEP);
});

test("tenant config: damage, and fields that a later version may have, are corrupt with the path", () => {
  const text = encodeTenantConfig({ generation: 7, config: CONFIG });
  const later = encodeTenantConfig({
    generation: 7,
    config: { ...CONFIG, later: 1 } as TenantConfig,
  });
  for (const wrong of [text.replace("4096", "4097"), text.slice(0, 20), later]) {
    assert.throws(() => decodeTenantConfig(wrong, "some/path"), {
      kind: "corrupt",
      message: /some\/path/,
    });
  }
});

test("TenantSettings: durable, patched one after the other, null is the default again", async () => {
  await using fixture = await StorageFixture.create();
  assert.deepEqual(settingsOf(fixture).config, {});
  await settingsOf(fixture).replace(CONFIG);
  await fixture.reopen();
  assert.deepEqual(settingsOf(fixture).config, CONFIG);
  const settings = settingsOf(fixture);
  await Promise.all([
    settings.patch({ gc_horizon: null, compaction_period: "1s" }),
    settings.patch({ pitr_interval: "7 days" }),
  ]);
  const patched = { pitr_interval: "7 days", gc_period: "0s", compaction_period: "1s" };
  assert.deepEqual(settings.config, patched);
  await fixture.reopen();
  assert.deepEqual(settingsOf(fixture).config, patched);
  await settingsOf(fixture).replace({});
  assert.deepEqual(settingsOf(fixture).config, {});
});

test("TenantSettings: a damaged file is told to who asks, hurts no timeline, and is replaced", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  await settingsOf(fixture).replace(CONFIG);
  const path = join(fixture.timelinesDirectory, "..", TENANT_CONFIG_NAME);
  writeFileSync(path, readFileSync(path, "utf8").replace("4096", "1"));
  await fixture.reopen();
  const settings = settingsOf(fixture);
  assert.throws(() => settings.config, { kind: "corrupt" });
  await assert.rejects(settings.patch({ gc_horizon: 1 }), { kind: "corrupt" });
  assert.ok(fixture.manager.tenant(fixture.tenantId).hasTimeline(timeline.timelineId));
  await settings.replace(CONFIG);
  await fixture.reopen();
  assert.deepEqual(settingsOf(fixture).config, CONFIG);
});

test("TenantSettings: what could not be written does not count", async () => {
  await using fixture = await StorageFixture.create();
  const settings = settingsOf(fixture);
  await settings.replace(CONFIG);
  const directory = join(fixture.timelinesDirectory, "..");
  // Its temporary name is taken by what cannot be written to.
  const temporary = join(directory, `${TENANT_CONFIG_NAME}.___temp`);
  mkdirSync(temporary);
  await assert.rejects(settings.replace({}), (error) => errorKind(error) === "internal");
  assert.deepEqual(settings.config, CONFIG);
  rmdirSync(temporary);
  await settings.patch({ gc_horizon: 1 });
  assert.equal(settings.config.gc_horizon, 1);
});

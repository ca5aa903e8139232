// A simulated tenant or two on pageservers that end, stall and take over from each other, beside a model of what they owe.

import assert from "node:assert/strict";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { StorageError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId } from "../../src/base/ids.ts";
import { INVALID_LSN, type Lsn, toLsn } from "../../src/base/lsn.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { MemoryObjectStore } from "../../src/object-store/memory-object-store.ts";
import { mayEvict } from "../../src/pageserver/layer-eviction.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../../src/pageserver/layers/layer-format.ts";
import { LayerWriter } from "../../src/pageserver/layers/layer-writer.ts";
import type { StorageConfig } from "../../src/pageserver/storage/storage-resources.ts";
import type { Tenant } from "../../src/pageserver/storage/tenant.ts";
import type { Timeline } from "../../src/pageserver/storage/timeline.ts";
import { SimulatedCrash } from "../simulated-disk.ts";
import { type Life, Machine, SCRATCH } from "./life.ts";
import { KEYS, LEASE_MS, ModelTimeline, RECORD_BYTES, START } from "./model.ts";

/*
 * Owed by the pageserver that came last, whatever ended or took over before:
 *  1. a timeline whose creation was answered, or whose WAL was called durable, is there; one whose deletion was answered is not;
 *     it is archived, or not, as was answered last
 *  2. it is not behind what any pageserver told as remote_consistent_lsn: safekeepers have no older WAL
 *  3. every key at every LSN from the highest cutoff on that was asked for, at each branch point and each lease reads
 *     as in the model; what else is readable does too, on a pageserver that was replaced as well
 *  4. nothing is damaged, and no timeline does not load
 *  5. at the end, after a scrub, the store and the disks have nothing that no timeline names
 */

const GENERATIONS = "pageserver-generations/";
/** Timelines of one run, so that it has its end. */
const MAX_TIMELINES = 10;
const MAX_RECORDS = 60;

export type Trace = (text: string) => void;

export class World {
  readonly random: SeededRandom;
  readonly store: MemoryObjectStore;
  readonly machines: readonly Machine[];
  readonly tenants: TenantId[] = [];
  readonly timelines: ModelTimeline[] = [];
  readonly config: Partial<StorageConfig>;
  /** What was done how often: runs are worth something only if they get everywhere. */
  readonly counts = new Map<string, number>();
  /** The first thing that was found wrong. */
  violation: Error | undefined;
  readonly trace: Trace;
  /** Whose deletion was asked for: it may take effect at any time, also after a creation that is answered meanwhile. */
  readonly #goingTenants = new Set<TenantId>();
  #steps = 0;

  constructor(random: SeededRandom, trace: Trace) {
    this.random = random;
    this.trace = (text) => trace(`${monotonicMs().toFixed(0).padStart(8)} ${text}`);
    this.store = new MemoryObjectStore(random, monotonicMs);
    this.machines = [new Machine(0, random), new Machine(1, random)];
    this.config = {
      checkpointDistanceBytes: random.pick([5000, 20_000, 60_000]),
      imageAfterDeltas: random.pick([2, 32]),
      imageRotation: random.pick([1, 16]),
      cacheAfterDeltas: random.pick([1, 8]),
      flushRetryMs: 1,
      levelAfterLayers: random.pick([2, 3]),
      minCompactionBytes: random.pick([0, 4000]),
      imageRatio: random.pick([0, 1]),
      collectRatio: random.pick([0, 0.5]),
      imageLayerBytes: random.pick([1, 20_000, 1 << 25]),
      blockCacheBytes: random.pick([1, 1 << 20, 1 << 20, 1 << 20]),
      pageCachePages: 16,
      maxOpenFiles: random.pick([1, 16]),
    };
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** Whether nobody has begun a later generation. */
  isCurrent(life: Life): boolean {
    const newest = this.store.keys.findLast((key) => key.startsWith(GENERATIONS));
    return Number.parseInt(newest!.slice(GENERATIONS.length), 16) === life.generation;
  }

  newId(): string {
    return Buffer.from(Array.from({ length: 16 }, () => this.random.int(256))).toString("hex");
  }

  /** Of the model's; undefined where this process has not (or no longer) loaded it. */
  loaded(life: Life, model: ModelTimeline): Timeline | undefined {
    const tenant = life.tenants.tenants.find(({ tenantId }) => tenantId === model.tenantId);
    return tenant?.hasTimeline(model.timelineId) === true
      ? tenant.timeline(model.timelineId)
      : undefined;
  }

  isArchived(life: Life, model: ModelTimeline): boolean {
    const tenant = life.tenants.tenants.find(({ tenantId }) => tenantId === model.tenantId);
    return tenant?.archived.has(model.timelineId) === true;
  }

  #allLoaded(life: Life): ModelTimeline[] {
    return this.timelines.filter((model) => this.loaded(life, model) !== undefined);
  }

  /** After every start of a process, before it does anything else. */
  checkLoaded(life: Life): void {
    const isCurrent = this.isCurrent(life);
    for (const model of this.timelines) {
      const timeline = this.loaded(life, model);
      const { name } = model;
      if (!isCurrent) {
        continue;
      }
      const isArchived = this.isArchived(life, model);
      const isThere = timeline !== undefined || isArchived;
      assert.ok(!model.isPromised || isThere, `${name} is not there`);
      assert.ok(model.deletion !== "answered" || !isThere, `${name} is there again`);
      if (model.isPromised && model.archival !== "unknown") {
        assert.equal(isArchived, model.archival === "archived", `${name} is ${model.archival}`);
      }
      if (timeline === undefined) {
        continue;
      }
      const { lastRecordLsn } = timeline;
      assert.ok(lastRecordLsn <= model.end, `${name} is ahead of its WAL`);
      assert.ok(lastRecordLsn >= model.trimmed, `${name} needs WAL that may be gone`);
    }
    this.checkWhole(life);
  }

  checkWhole(life: Life): void {
    for (const tenant of this.isCurrent(life) ? life.tenants.tenants : []) {
      for (const [timelineId, error] of tenant.brokenTimelines) {
        assert.fail(`timeline ${timelineId} does not load: ${error.message}`);
      }
    }
  }

  /** What is told to the safekeepers. */
  look(life: Life): void {
    for (const model of life.isDead ? [] : this.timelines) {
      const told = this.loaded(life, model)?.remoteConsistentLsn ?? 0;
      model.isCreated ||= told > 0 && this.isCurrent(life);
      assert.ok(told <= model.end, `${model.name} tells more than there is`);
      if (told > model.trimmed) {
        model.trimmed = toLsn(told);
        this.count("WAL trimmed");
      }
    }
  }

  /** One thing that somebody asks for; it may go on in the background. */
  async step(life: Life): Promise<void> {
    const { random } = this;
    // One that was replaced has no compute: it goes on with what it does by itself.
    const dice = this.isCurrent(life) || random.bool() ? random.int(100) : 15 + random.int(35);
    const some = this.#allLoaded(life);
    // What is new may not be in the store yet.
    const one = random.bool(0.2) ? some.at(-1) : some[random.int(some.length)];
    const archived = this.timelines.filter((model) => this.isArchived(life, model));
    this.#steps++;
    if (archived.length > 0 && random.bool(0.2)) {
      await this.#stepOfArchived(life, random.pick(archived));
      this.look(life);
      return;
    }
    if (this.tenants.length === 0 || (dice < 2 && this.tenants.length < 2)) {
      await this.#do(life, "create tenant", () => this.createTenant(life));
    } else if (one === undefined || (dice < 5 && this.timelines.length < MAX_TIMELINES)) {
      await this.#do(life, "create root", () => this.createRoot(life, random.pick(this.tenants)));
    } else {
      await this.#stepOf(life, one, dice);
    }
    this.look(life);
  }

  async #stepOfArchived(life: Life, model: ModelTimeline): Promise<void> {
    const dice = this.random.int(10);
    const did = (what: string, work: () => Promise<unknown>) =>
      this.#do(life, `${what} ${model.name}`, work);
    if (dice < 1) {
      await did("delete archived", () => this.deleteOne(life, model));
    } else if (dice < 3) {
      await did("archive again", () => this.archive(life, model));
    } else {
      await did("unarchive", () => this.unarchive(life, model));
    }
  }

  async #stepOf(life: Life, model: ModelTimeline, dice: number): Promise<void> {
    const timeline = this.loaded(life, model)!;
    const did = (what: string, work: () => Promise<unknown>) =>
      this.#do(life, `${what} ${model.name}`, work);
    if (!model.isCreated && this.random.bool(0.3)) {
      await did("create again", () => this.createAgain(life, model));
    } else if (dice < 7 && model.isPromised) {
      if (this.timelines.length < MAX_TIMELINES) {
        await did("reset", () => this.reset(life, model));
      }
    } else if (dice < 12) {
      if (this.timelines.length < MAX_TIMELINES) {
        await did("branch", () => this.createBranch(life, model));
      }
    } else if (dice < 14) {
      await did("delete", () => this.deleteOne(life, model));
    } else if (dice < 15) {
      await did("delete tenant", () => this.deleteTenant(life, model.tenantId));
    } else if (dice < 18) {
      await did("detach", () => timeline.detachFromAncestor());
    } else if (dice < 24) {
      await did("collect", () => this.collectSome(life, model));
    } else if (dice < 36) {
      await did("compact", () => this.compact(timeline));
    } else if (dice < 44) {
      await did("checkpoint", () => timeline.checkpoint());
    } else if (dice < 56) {
      await did("evict", () => this.evict(life.tenants.tenant(model.tenantId)));
    } else if (dice < 59) {
      await did("lease", async () => this.lease(life, model));
    } else if (dice < 62) {
      await did("wait", () => sleep(this.random.pick([10, 1000, 15_000, 60_000, 700_000])));
      this.renewLeases(life);
    } else if (dice < 64) {
      await did("delete objects", () => life.tenants.resources.remote!.deletions.flush());
    } else if (dice < 66) {
      await did("scrub", () => this.scrub(life, model));
    } else if (dice < 69) {
      await did("archive", () => this.archive(life, model));
    } else if (dice < 76) {
      await did("read", () => this.read(life, model));
    } else {
      await did("write", () => this.write(life, model, 1 + random40(this.random)));
    }
  }

  /** Waits for it a while, or until it is done. */
  async #do(life: Life, what: string, work: () => Promise<unknown>): Promise<void> {
    const who = `${life.machine.number}/${life.generation}`;
    const number = this.#steps;
    this.trace(`${who} #${number} ${what}`);
    const done = work().then(
      () => {
        if (!life.isDead) {
          this.trace(`${who} #${number} done`);
          this.count(what.replace(/ timeline.*/, ""));
        }
      },
      (error: unknown) => this.#failed(life, `${who} #${number} ${what}`, error),
    );
    const patience = this.random.bool(0.7) ? 60_000 : this.random.int(200);
    await Promise.race([done, sleep(patience), life.ended]);
    this.#throwViolation();
  }

  #throwViolation(): void {
    if (this.violation !== undefined) {
      throw this.violation;
    }
  }

  /** What may fail, and how, while stores fail and others take over. */
  #failed(life: Life, what: string, error: unknown): void {
    if (life.isDead || error instanceof SimulatedCrash) {
      return;
    }
    const isStorage = error instanceof StorageError;
    this.trace(`${what}: ${isStorage ? error.code : error}`);
    const mayFail =
      isStorage && (this.isCurrent(life) ? mayRefuse(what, error) : mayRefuseLate(error));
    if (!mayFail) {
      this.violation ??= new Error(what, { cause: error });
    }
  }

  async createTenant(life: Life, tenantId = parseTenantId(this.newId())): Promise<void> {
    await life.tenants.createTenant(tenantId);
    if (!life.isDead && !this.tenants.includes(tenantId)) {
      this.tenants.push(tenantId);
    }
  }

  #newModel(tenantId: TenantId, ancestor: ModelTimeline | undefined, start: Lsn): ModelTimeline {
    const timelineId = parseTimelineId(this.newId());
    const model = new ModelTimeline(tenantId, timelineId, this.timelines.length, ancestor, start);
    if (this.#goingTenants.has(tenantId)) {
      model.deletion = "asked";
    }
    this.timelines.push(model);
    return model;
  }

  /** As an import does: a layer in a directory of its own first. */
  async createRoot(life: Life, tenantId: TenantId): Promise<void> {
    const model = this.#newModel(tenantId, undefined, START);
    const writer = await LayerWriter.create(SCRATCH, LAYER_KIND_IMAGE, life.disk);
    const layer = await writer.finish({
      kind: LAYER_KIND_IMAGE,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: START,
      lsnEnd: toLsn(START + 1),
    });
    const path = join(SCRATCH, layer.fileName);
    await this.#makeRoot(life, model, [{ path, sizeBytes: layer.sizeBytes }]);
  }

  async #makeRoot(
    life: Life,
    model: ModelTimeline,
    layerPaths: readonly { readonly path: string; readonly sizeBytes: number }[],
  ): Promise<void> {
    const { timelineId, tenantId } = model;
    await life.tenants.tenant(tenantId).createRoot({
      timelineId,
      pgVersion: 17,
      dataChecksums: false,
      systemId: 1n,
      walSegmentSize: 1 << 24,
      startLsn: START,
      prevRecordLsn: toLsn(START - RECORD_BYTES),
      layerPaths,
    });
    this.#created(life, model);
  }

  async createBranch(life: Life, ancestor: ModelTimeline): Promise<void> {
    const parent = this.loaded(life, ancestor)!;
    const low = Math.max(ancestor.start, ancestor.cutoff);
    const start = this.#lsnIn(this.random.bool(0.8) ? low : START, parent.lastRecordLsn);
    const model = this.#newModel(ancestor.tenantId, ancestor, start);
    await this.#makeBranch(life, model);
  }

  async #makeBranch(life: Life, model: ModelTimeline): Promise<void> {
    const { timelineId, tenantId, ancestor, start } = model;
    await life.tenants.tenant(tenantId).createBranch({
      timelineId,
      ancestorTimelineId: ancestor!.timelineId,
      ancestorLsn: start,
    });
    this.#created(life, model);
  }

  /** Whoever had no answer asks again, perhaps another pageserver. */
  async createAgain(life: Life, model: ModelTimeline): Promise<void> {
    if (model.ancestor === undefined) {
      await this.#makeRoot(life, model, []);
    } else if (this.loaded(life, model)?.ancestor !== undefined) {
      await this.#makeBranch(life, model);
    }
  }

  /** Its name comes to stand for another state, its own of before or its ancestor's; the old timeline may stay. */
  async reset(life: Life, model: ModelTimeline): Promise<void> {
    const from = model.ancestor;
    const isThere = from !== undefined && this.loaded(life, from) !== undefined;
    await this.createBranch(life, isThere && this.random.bool() ? from : model);
    if (!life.isDead && this.random.bool(0.7)) {
      await this.deleteOne(life, model);
    }
  }

  #created(life: Life, model: ModelTimeline): void {
    if (!life.isDead) {
      this.trace(`${model.name} is answered as created, it begins at ${model.start - START}`);
      model.isCreated = true;
    }
  }

  async deleteOne(life: Life, model: ModelTimeline): Promise<void> {
    if (model.deletion === "none") {
      model.deletion = "asked";
    }
    await life.tenants.tenant(model.tenantId).deleteTimeline(model.timelineId);
    if (!life.isDead) {
      this.trace(`${model.name} is answered as deleted`);
      model.deletion = "answered";
    }
  }

  /** Nobody who has a lease on it keeps it from that. */
  async archive(life: Life, model: ModelTimeline): Promise<void> {
    const { archived } = life.tenants.tenant(model.tenantId);
    await this.#askArchival(life, model, "archived", async () => {
      model.leases.clear();
      await archived.archive(model.timelineId);
    });
  }

  async unarchive(life: Life, model: ModelTimeline): Promise<void> {
    const { archived } = life.tenants.tenant(model.tenantId);
    await this.#askArchival(life, model, "active", async () => {
      const timeline = await archived.unarchive(model.timelineId);
      const isBehind = timeline.lastRecordLsn < model.trimmed;
      assert.ok(life.isDead || !isBehind, `${model.name} needs WAL that may be gone`);
    });
  }

  async #askArchival(
    life: Life,
    model: ModelTimeline,
    archival: "archived" | "active",
    ask: () => Promise<void>,
  ): Promise<void> {
    const number = ++model.archivalAsks;
    if (life.generation >= model.archivalGeneration) {
      model.archival = "unknown";
    }
    await ask();
    if (!life.isDead && number === model.archivalAsks) {
      this.trace(`${model.name} is answered as ${archival}`);
      model.archival = archival;
      model.archivalGeneration = life.generation;
    }
  }

  /** All that can be: ancestors first. */
  async unarchiveAll(life: Life): Promise<void> {
    for (const model of this.timelines) {
      if (this.isArchived(life, model)) {
        await this.unarchive(life, model);
      }
    }
  }

  async deleteTenant(life: Life, tenantId: TenantId): Promise<void> {
    const timelines = () => this.timelines.filter((model) => model.tenantId === tenantId);
    for (const model of timelines().filter(({ deletion }) => deletion === "none")) {
      model.deletion = "asked";
    }
    this.#goingTenants.add(tenantId);
    await life.tenants.deleteTenant(tenantId);
    if (!life.isDead) {
      this.trace(`the tenant ${tenantId} is answered as deleted`);
      for (const model of timelines()) {
        model.deletion = "answered";
      }
      const at = this.tenants.indexOf(tenantId);
      this.tenants.splice(at, at < 0 ? 0 : 1);
    }
  }

  #lsnIn(low: number, high: number): Lsn {
    const from = Math.min(low, high);
    return toLsn(from + this.random.int((high - from) / RECORD_BYTES + 1) * RECORD_BYTES);
  }

  /** Of one timeline, or of all, with what it makes superfluous gone. */
  async collectSome(life: Life, model: ModelTimeline): Promise<void> {
    const all = this.random.bool();
    for (const one of all ? this.#allLoaded(life) : [model]) {
      await this.collect(life, one);
      const timeline = this.loaded(life, one);
      while (all && (await timeline?.compact("collect")) === true) {
        this.count("compaction step");
      }
    }
  }

  /** Leases of the process before are asked for anew first, unless all of them hold without that: until then it collects nothing. */
  async collect(life: Life, model: ModelTimeline): Promise<void> {
    const timeline = this.loaded(life, model);
    if (timeline === undefined) {
      return;
    }
    const { lastRecordLsn: last } = timeline;
    const low = Math.max(model.start, model.cutoff);
    const cutoff = this.random.bool(0.3) ? last : this.#lsnIn(low, last);
    const areHeld = this.#areHeld(life);
    if (!areHeld && !this.isCurrent(life)) {
      return;
    }
    if (!(areHeld && this.random.bool()) && !this.renewLeases(life)) {
      return;
    }
    const before = timeline.diskConsistentLsn;
    model.cutoff = toLsn(Math.max(model.cutoff, Math.min(cutoff, before)));
    const named = [...model.leases].filter(([, lease]) => lease.generation === life.generation);
    await timeline.advanceGcCutoff(cutoff);
    await timeline.makeDurable();
    for (const [lsn, lease] of life.isDead || !this.isCurrent(life) ? [] : named) {
      lease.isKept ||= lsn < timeline.gcCutoffLsn;
    }
  }

  /** Whether all leases that there were before this process are, by it or by an index that it has found. */
  #areHeld(life: Life): boolean {
    return this.timelines.every((model) =>
      [...model.leases].every(
        ([lsn, { isKept, generation }]) =>
          isKept || generation >= life.generation || !model.hasLease(lsn),
      ),
    );
  }

  async compact(timeline: Timeline): Promise<void> {
    const kind = this.random.pick(["due", "due", "collect"] as const);
    while (await timeline.compact(kind)) {
      this.count("compaction step");
    }
  }

  async evict(tenant: Tenant): Promise<void> {
    const share = this.random.pick([0.5, 1]);
    for (const file of [...tenant.layerFiles]) {
      if (mayEvict(file) && this.random.bool(share)) {
        await tenant.evict(file);
        this.count("eviction");
      }
    }
  }

  /** Only from the pageserver that counts. */
  async lease(life: Life, model: ModelTimeline): Promise<void> {
    const timeline = this.loaded(life, model)!;
    if (!this.isCurrent(life) || model.leases.size > 3) {
      return;
    }
    const low = this.random.bool(0.6) ? START : Math.max(model.start, model.cutoff);
    const lsn = this.#lsnIn(low, timeline.lastRecordLsn);
    await this.#grantLease(life, model, timeline, lsn);
    if (!life.isDead && this.random.bool()) {
      await this.collect(life, model);
    }
  }

  /** It is owed when no pageserver that was replaced can take it back. */
  async #grantLease(life: Life, model: ModelTimeline, timeline: Timeline, lsn: Lsn): Promise<void> {
    const givenMs = monotonicMs();
    const isKept = model.leases.get(lsn)?.isKept ?? false;
    await timeline.promiseLease(lsn, LEASE_MS);
    await timeline.holdInStore();
    if (!life.isDead && this.isCurrent(life)) {
      const { generation } = life;
      model.leases.set(lsn, { givenMs, generation, isKept });
      this.count(lsn < timeline.startLsn ? "lease of an ancestor's history" : "lease of its own");
    }
  }

  /** As their holders do, now and then, and after each start. False where one cannot be had yet, as WAL is missing. */
  renewLeases(life: Life): boolean {
    if (life.isDead || !this.isCurrent(life)) {
      return true;
    }
    let areAll = true;
    for (const model of this.timelines) {
      const timeline = this.loaded(life, model);
      for (const lsn of timeline === undefined ? [] : model.leases.keys()) {
        if (!model.hasLease(lsn)) {
          model.leases.delete(lsn);
        } else if (lsn > timeline!.lastRecordLsn || !this.#isReady(timeline!)) {
          areAll = false;
        } else {
          this.#grantLease(life, model, timeline!, lsn).catch((error: unknown) =>
            this.#failed(life, `renew a lease of ${model.name}`, error),
          );
        }
      }
    }
    return areAll;
  }

  /** Whether its ancestors have taken in what it reads of them. */
  #isReady(timeline: Timeline): boolean {
    for (let next = timeline; next.ancestor !== undefined; next = next.ancestor) {
      if (next.ancestor.lastRecordLsn < next.ancestorLsn) {
        return false;
      }
    }
    return true;
  }

  async scrub(life: Life, model: ModelTimeline): Promise<void> {
    const tenant = life.tenants.tenant(model.tenantId);
    const { report } = await tenant.scrub({ fix: this.random.bool(), minAgeMs: 600_000 });
    if (this.isCurrent(life)) {
      assert.deepEqual([...report.missing, ...report.differing, ...report.damaged], []);
    }
  }

  /** New WAL comes from the compute of the pageserver that counts; the others have it from the safekeepers too. */
  async write(life: Life, model: ModelTimeline, records: number): Promise<void> {
    if (this.isCurrent(life) && (model.end - model.start) / RECORD_BYTES < MAX_RECORDS * 3) {
      for (let i = 0; i < records; i++) {
        model.write();
      }
    }
    await this.ingest(life, model);
  }

  /** All that the safekeepers have; nothing where they have no longer what comes next. */
  async ingest(life: Life, model: ModelTimeline): Promise<void> {
    const timeline = this.loaded(life, model);
    if (timeline === undefined || timeline.lastRecordLsn < model.trimmed) {
      return;
    }
    await timeline.prepareIngest();
    while (timeline.lastRecordLsn < model.end) {
      await timeline.ingestReady();
      // Somebody else may do the same meanwhile.
      const lsn = toLsn(timeline.lastRecordLsn + RECORD_BYTES);
      if (lsn <= model.end) {
        model.ingest(timeline, lsn);
      }
    }
  }

  /** Any LSN that can be read; where it is promised, it must be readable. */
  async read(life: Life, model: ModelTimeline): Promise<void> {
    const timeline = this.loaded(life, model)!;
    const low = this.random.bool(0.3) ? START : Math.max(model.start, model.cutoff);
    await this.#readAt(life, model, this.#lsnIn(low, timeline.lastRecordLsn), 3);
    for (const lsn of this.#retained(life, model)) {
      await this.#readAt(life, model, lsn, 2);
    }
  }

  /** Branch points and leases. Of a branch that is promised its start is. */
  #retained(life: Life, model: ModelTimeline): Lsn[] {
    const last = this.loaded(life, model)?.lastRecordLsn ?? INVALID_LSN;
    return [model.start, ...model.leases.keys()].filter((lsn) => lsn <= last);
  }

  #isPromised(life: Life, model: ModelTimeline, lsn: Lsn): boolean {
    const isBranchPoint = lsn === model.start && this.loaded(life, model)?.ancestor !== undefined;
    const isOwn = lsn >= model.start && (lsn >= model.cutoff || isBranchPoint);
    return model.isPromised && (isOwn || model.hasLease(lsn)) && this.isCurrent(life);
  }

  async #readAt(life: Life, model: ModelTimeline, lsn: Lsn, keys: number): Promise<void> {
    const changed = model.keyChangedAt(lsn);
    for (let i = 0; i < keys; i++) {
      const number = i === 0 ? changed : this.random.int(KEYS.length);
      await this.readKey(life, model, lsn, number);
    }
  }

  async readKey(life: Life, model: ModelTimeline, lsn: Lsn, number: number): Promise<void> {
    const { prefix, index, kind } = KEYS[number]!;
    const timeline = this.loaded(life, model);
    if (timeline === undefined) {
      return;
    }
    let value: Uint8Array | undefined;
    try {
      value = await timeline.whenResident(() =>
        kind === "value"
          ? timeline.readValue(prefix, index, lsn)
          : timeline.readPage(prefix, index, lsn),
      );
    } catch (error) {
      const isTooOld = error instanceof StorageError && error.code === "lsn-too-old";
      if (isTooOld && !this.#isPromised(life, model, lsn)) {
        return;
      }
      if (isTooOld) {
        throw new Error(`${model.name} at ${lsn - START} is owed`, { cause: error });
      }
      throw error;
    }
    const expected = model.stateAt(number, lsn);
    const isSame =
      value === undefined || expected === undefined
        ? value === expected
        : Buffer.compare(value, expected) === 0;
    if (!isSame) {
      const what = (bytes: Uint8Array | undefined) =>
        bytes === undefined ? "nothing" : `${bytes.length} bytes`;
      assert.fail(
        `${model.name} at ${lsn - START}: key ${number} reads as ${what(value)}, written were ${what(expected)}`,
      );
    }
    this.count("read of a key");
  }

  /** Reads what is owed: all keys at the end and at retained LSNs, and some of what is between. */
  async checkAll(life: Life, samples: number): Promise<void> {
    for (const model of this.timelines) {
      const timeline = this.loaded(life, model);
      if (timeline === undefined) {
        continue;
      }
      const lsns = new Set<Lsn>([...this.#retained(life, model), timeline.lastRecordLsn]);
      for (const lsn of lsns) {
        for (let key = 0; key < KEYS.length; key++) {
          await this.readKey(life, model, lsn, key);
        }
      }
      for (let i = 0; i < samples; i++) {
        const low = Math.max(model.start, model.cutoff);
        await this.#readAt(life, model, this.#lsnIn(low, timeline.lastRecordLsn), 2);
      }
    }
  }

  /** Everything that is readable, nothing skipped: all WAL is taken in. */
  async catchUp(life: Life): Promise<void> {
    for (const model of this.timelines) {
      await this.ingest(life, model);
    }
    if (this.random.bool()) {
      this.renewLeases(life);
    }
  }
}

function random40(random: SeededRandom): number {
  return random.int(random.pick([4, 40, MAX_RECORDS]));
}

/** What a pageserver that counts may answer an operation with, by its code; `unavailable` comes with any. */
const REFUSALS: Readonly<Record<string, readonly string[]>> = {
  "branch-lsn-too-old": ["branch", "reset"],
  "has-unarchived-children": ["archive", "archive again"],
  "ancestor-archived": ["unarchive"],
  "tenant-not-found": ["create root", "reset"],
  "timeline-not-found": [
    "delete",
    "branch",
    "reset",
    "archive",
    "archive again",
    "unarchive",
    "delete archived",
    "create again",
  ],
  "timeline-archived": ["branch", "reset", "create again"],
  "lsn-too-old": ["lease"],
  "timeline-exists": ["create again"],
  "timeline-deleted": ["create again"],
  "timeline-busy": [
    "delete",
    "reset",
    "archive",
    "archive again",
    "unarchive",
    "create again",
    "delete archived",
  ],
  "timeline-has-children": ["delete", "reset", "delete archived"],
};

function mayRefuse(what: string, { kind, code }: StorageError): boolean {
  const operation = what.replace(/^.*#\d+ /, "").replace(/ timeline \d+$/, "");
  return kind === "unavailable" || REFUSALS[code]?.includes(operation) === true;
}

/** One that was replaced may have lost anything, but notices no damage on its disk. */
function mayRefuseLate({ kind }: StorageError): boolean {
  return kind !== "internal";
}

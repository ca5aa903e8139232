import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { sql } from "kysely";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { StrataHome } from "../../local/home.ts";
import type { Context } from "../context.ts";
import { SealedSecrets } from "../sealed-secrets.ts";
import { Claims } from "./claims.ts";
import { Operations, type StepHook } from "./operations.ts";
import { type OperationKind, planned } from "./state-machine.ts";

async function scratch(t: TestContext): Promise<Context> {
  const { db, directory } = await scratchState(t);
  return {
    home: new StrataHome(directory),
    db,
    secrets: SealedSecrets.open(join(directory, "secret.key")),
    logger: createLogger("control_plane", "silent"),
  };
}

interface Thing {
  readonly name: string;
}

/** Its only step leaves half of a thing and fails; `undo` takes it away, or throws. */
function failing(undo: () => void): { readonly kind: OperationKind<Thing>; things: Set<string> } {
  const things = new Set<string>();
  const kind: OperationKind<Thing> = {
    name: "make",
    steps: [
      {
        name: "half",
        run: async ({ name }) => {
          things.add(name);
          throw new StorageError("invalid", "no-more", "the other half is missing");
        },
      },
    ],
    undo: async ({ name }) => {
      undo();
      things.delete(name);
    },
  };
  return { kind, things };
}

function away(): never {
  throw new StorageError("unavailable", "away", "nobody answers");
}

function operationsOf(
  context: Context,
  kind: OperationKind<Thing>,
  hook?: StepHook,
  claims = new Claims(context.db, "this one", { isAlone: true }),
): Operations {
  return new Operations(context, [kind as unknown as OperationKind<never>], claims, hook);
}

async function statusOf({ db }: Context) {
  const { status, error } = await db.selectFrom("operations").selectAll().executeTakeFirstOrThrow();
  return { status, error };
}

const OF = { action: "make", args: { name: "it" } };

test("Operations: an undo that does not get through is tried again, and only then it has failed", async (t) => {
  const context = await scratch(t);
  let left = 2;
  const { kind, things } = failing(() => left-- > 0 && away());
  const job = await operationsOf(context, kind).submit("p", [planned(kind, OF)]);
  await assert.rejects(job.done, /other half/);
  assert.equal(left, -1);
  assert.deepEqual(things, new Set());
  assert.deepEqual(await statusOf(context), {
    status: "failed",
    error: "the other half is missing",
  });
});

test("Operations: a crash between two attempts to undo: the next life undoes it, and the project is busy until then", async (t) => {
  const context = await scratch(t);
  const { kind, things } = failing(away);
  let undone = 0;
  const crash: StepHook = (point) => {
    if (point === "make undo before" && ++undone === 2) {
      throw new Error("crash");
    }
  };
  const first = operationsOf(context, kind, crash);
  await assert.rejects((await first.submit("p", [planned(kind, OF)])).done, /stops/);
  assert.equal((await statusOf(context)).status, "running");
  const { kind: mended } = failing(() => things.delete("it"));
  const next = operationsOf(context, mended);
  await assert.rejects(next.submit("p", [planned(mended, OF)]), { code: "operation-in-progress" });
  await next.resume();
  assert.deepEqual(things, new Set());
  assert.equal((await statusOf(context)).status, "failed");
});

test("Operations: an undo that can never be done ends, and the operation says what is left", async (t) => {
  const context = await scratch(t);
  const { kind, things } = failing(() => {
    throw new StorageError("conflict", "stuck", "somebody sits on it");
  });
  const job = await operationsOf(context, kind).submit("p", [planned(kind, OF)]);
  await assert.rejects(job.done, /other half/);
  assert.deepEqual(things, new Set(["it"]));
  assert.deepEqual(await statusOf(context), {
    status: "failed",
    error: "the other half is missing; not undone: somebody sits on it",
  });
});

test("Operations: a control plane that is alone writes nothing while nothing happens", async (t) => {
  const context = await scratch(t);
  const { kind } = failing(() => {});
  const operations = operationsOf(context, kind);
  operations.start();
  await operations.resume();
  operations.stop();
  assert.deepEqual(await context.db.selectFrom("control_planes").selectAll().execute(), []);
});

/** Of two steps; the second one, which is for later, ends when it is let. */
function slow(isForLater: boolean, failure?: Error) {
  const begun = Promise.withResolvers<void>();
  const end = Promise.withResolvers<void>();
  const last = {
    name: "start",
    run: async () => {
      begun.resolve();
      await end.promise;
      if (failure !== undefined) {
        throw failure;
      }
    },
    ...(isForLater ? { isForLater } : {}),
  };
  const kind: OperationKind<Thing> = {
    name: "make",
    steps: [{ name: "half", run: async () => {} }, last],
  };
  return { kind, begun: begun.promise, end: end.resolve };
}

test("Operations: a job is nearly done when its last step has begun, where that is for later; the project's next one waits", async (t) => {
  const context = await scratch(t);
  const { kind, begun, end } = slow(true);
  const operations = operationsOf(context, kind);
  const job = await operations.submit("p", [planned(kind, OF), planned(kind, OF)]);
  let isNearly = false;
  void job.nearlyDone.then(() => {
    isNearly = true;
  });
  await begun;
  // Of two operations the first one is not the last.
  assert.equal(isNearly, false);
  end();
  await job.nearlyDone;
  await job.done;

  const other = slow(true, new StorageError("invalid", "no", "it does not start"));
  const next = operationsOf(context, other.kind);
  const second = await next.submit("p", [planned(other.kind, OF)]);
  second.done.catch(() => {});
  await second.nearlyDone;
  await other.begun;
  let isSubmitted = false;
  const third = next.submit("p", [planned(other.kind, OF)]).then((one) => {
    isSubmitted = true;
    one.done.catch(() => {});
  });
  await context.db.selectFrom("operations").selectAll().execute();
  assert.equal(isSubmitted, false);
  other.end();
  await assert.rejects(second.done, /does not start/);
  await third;
});

test("Operations: a step that is not for later is waited for", async (t) => {
  const context = await scratch(t);
  const { kind, begun, end } = slow(false);
  const job = await operationsOf(context, kind).submit("p", [planned(kind, OF)]);
  const first = await Promise.race([
    job.nearlyDone.then(() => "nearly"),
    begun.then(() => "begun"),
  ]);
  assert.equal(first, "begun");
  end();
  await job.done;
});

test("Operations: what is for later and under way is not waited for; else it is for a moment", async (t) => {
  const context = await scratch(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const says of [true, false]) {
    const end = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const kind: OperationKind<Thing> = {
      name: "make",
      steps: [
        {
          name: "start",
          isForLater: true,
          run: (_args, _keep, underWay) => {
            begun.resolve();
            if (says) {
              underWay();
            }
            return end.promise;
          },
        },
      ],
    };
    const job = await operationsOf(context, kind).submit("p", [planned(kind, OF)]);
    await begun.promise;
    if (!says) {
      t.mock.timers.tick(50);
    }
    await job.nearlyDone;
    end.resolve();
    await job.done;
  }
});

test("Operations: of a job's operations one is under way, from its being asked for on", async (t) => {
  const context = await scratch(t);
  const seen: unknown[] = [];
  const kind: OperationKind<Thing> = {
    name: "make",
    steps: [
      {
        name: "look",
        run: async () => {
          const rows = context.db.selectFrom("operations").select("status").orderBy("position");
          seen.push((await rows.execute()).map(({ status }) => status));
        },
      },
    ],
  };
  const job = await operationsOf(context, kind).submit("p", [
    planned(kind, OF),
    planned(kind, OF),
    planned(kind, OF),
  ]);
  await job.done;
  assert.deepEqual(seen, [
    ["running", "scheduling", "scheduling"],
    ["finished", "running", "scheduling"],
    ["finished", "finished", "running"],
  ]);
});

test("Operations: after a crash a step is done again that is sooner seen to be done than noted; others are not", async (t) => {
  const context = await scratch(t);
  const done: string[] = [];
  const step = (name: string, isSeen?: true) => ({
    name,
    run: async () => void done.push(name),
    ...(isSeen ? { isSeen } : {}),
  });
  const kind: OperationKind<Thing> = {
    name: "make",
    steps: [step("noted"), step("seen", true), step("last")],
  };
  const crash: StepHook = (point) => {
    if (point === "make last before") {
      throw new Error("crash");
    }
  };
  const first = operationsOf(context, kind, crash);
  await assert.rejects((await first.submit("p", [planned(kind, OF)])).done, /stops/);
  await operationsOf(context, kind).resume();
  assert.deepEqual(done, ["noted", "seen", "seen", "last"]);
  assert.deepEqual(await statusOf(context), { status: "finished", error: null });
});

/** Writes to operations that the database does not take, until `mended`. */
async function refuse({ db }: Context, when: string) {
  const trigger = `CREATE TRIGGER refused BEFORE UPDATE ON operations WHEN ${when}`;
  await sql.raw(`${trigger} BEGIN SELECT RAISE(ABORT, 'disk is full'); END`).execute(db);
  return { mended: () => sql.raw("DROP TRIGGER refused").execute(db) };
}

async function statuses({ db }: Context): Promise<string[]> {
  const rows = db.selectFrom("operations").select("status").orderBy("created_at");
  return (await rows.orderBy("position").execute()).map(({ status }) => status);
}

/** What a look that the timer begins comes to. */
async function untilStatuses(t: TestContext, context: Context, wanted: readonly string[]) {
  t.mock.timers.tick(5000);
  for (let turns = 0; turns < 100 && `${await statuses(context)}` !== `${wanted}`; turns++) {
    await new Promise(setImmediate);
  }
  assert.deepEqual(await statuses(context), wanted);
}

function counting() {
  const done: string[] = [];
  const step = { name: "make", run: async ({ name }: Thing) => void done.push(name) };
  const kind: OperationKind<Thing> = { name: "make", steps: [step] };
  return { kind, done };
}

const TWO = ["one", "two"].map((name) => ({ action: "make", args: { name } }));

test("Operations: a job that cannot be noted goes on, all of it, when the database takes writes again, also of one that is alone", async (t) => {
  const context = await scratch(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { kind, done } = counting();
  const operations = operationsOf(context, kind);
  operations.start();
  await operations.resume();
  const { mended } = await refuse(context, "true");
  const job = await operations.submit(
    "p",
    TWO.map((each) => planned(kind, each)),
  );
  await assert.rejects(job.done, /disk is full/);
  assert.deepEqual(
    job.operations.map(({ status }) => status),
    ["running", "scheduling"],
  );
  await untilStatuses(t, context, ["running", "scheduling"]);
  await mended();
  await untilStatuses(t, context, ["finished", "finished"]);
  assert.equal(done.at(-1), "two");
  await (await operations.submit("p", [planned(kind, OF)])).done;
  operations.stop();
});

for (const unwritten of ["failed", "skipped"]) {
  test(`Operations: an operation has failed and the rest of its job is skipped at once: ${unwritten} cannot be noted`, async (t) => {
    const context = await scratch(t);
    const { kind, things } = failing(() => {});
    const { mended } = await refuse(context, `NEW.status = '${unwritten}'`);
    const operations = operationsOf(context, kind);
    const job = await operations.submit(
      "p",
      TWO.map((each) => planned(kind, each)),
    );
    await assert.rejects(job.done, /disk is full/);
    assert.deepEqual(await statuses(context), ["running", "scheduling"]);
    await mended();
    await operationsOf(context, kind).resume();
    assert.deepEqual(await statuses(context), ["failed", "skipped"]);
    assert.deepEqual(things, new Set());
  });
}

/** Time passes until the one operation has ended; `after` a while something happens. */
async function untilFailed(
  t: TestContext,
  context: Context,
  after = async (_ms: number) => {},
): Promise<void> {
  for (let ms = 0; `${await statuses(context)}` !== "failed"; ms += 100) {
    assert.ok(ms < 100_000, "it does not end");
    await after(ms);
    t.mock.timers.tick(100);
    await new Promise(setImmediate);
  }
}

test("Operations: attempts to undo while the database takes no writes count for nothing, whenever it takes them again", async (t) => {
  const context = await scratch(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let attempts = 0;
  let outage: { mended(): Promise<unknown> } | undefined;
  let isOver = false;
  const end = async () => {
    if (outage !== undefined && !isOver) {
      isOver = true;
      await outage.mended();
    }
  };
  const { kind, things } = failing(() => {});
  const hindered: OperationKind<Thing> = {
    ...kind,
    undo: async (thing) => {
      attempts++;
      outage ??= await refuse(context, "true");
      if (isOver) {
        await kind.undo!(thing);
        return;
      }
      // Right behind a last attempt is the worst moment for it to be back.
      await (attempts === 4 && end());
      throw new Error("disk is full");
    },
  };
  const operations = operationsOf(context, hindered);
  operations.start();
  await operations.resume();
  (await operations.submit("p", [planned(kind, OF)])).done.catch(() => {});
  await untilFailed(t, context, async (ms) => {
    await (ms >= 20_000 && end());
  });
  operations.stop();
  assert.deepEqual(things, new Set());
  const error = "the other half is missing";
  assert.deepEqual(await statusOf(context), { status: "failed", error });
});

test("Operations: an undo that something did not answer for long still has all of its other attempts", async (t) => {
  const context = await scratch(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let attempts = 0;
  const { kind, things } = failing(() => {
    attempts++;
    if (attempts <= 5) {
      away();
    }
    if (attempts <= 8) {
      throw new Error("database is locked");
    }
  });
  (await operationsOf(context, kind).submit("p", [planned(kind, OF)])).done.catch(() => {});
  await untilFailed(t, context);
  assert.equal(attempts, 9);
  assert.deepEqual(things, new Set());
});

test("Operations: a job that could not be taken over is at the next look", async (t) => {
  const context = await scratch(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { kind, done } = counting();
  const crash: StepHook = () => {
    throw new Error("crash");
  };
  const first = operationsOf(context, kind, crash);
  await assert.rejects((await first.submit("p", [planned(kind, OF)])).done, /stops/);
  const claims = new Claims(context.db, "another one", { isAlone: true });
  const failures: string[] = [];
  const once = (what: "beat" | "take") => {
    const real = claims[what].bind(claims) as (...args: never[]) => Promise<never>;
    Object.assign(claims, {
      [what]: async (...args: never[]) => {
        if (!failures.includes(what)) {
          failures.push(what);
          throw new Error(`${what} is not answered`);
        }
        return real(...args);
      },
    });
  };
  const next = operationsOf(context, kind, undefined, claims);
  next.start();
  once("beat");
  once("take");
  await assert.rejects(next.resume(), /beat is not answered/);
  await untilStatuses(t, context, ["running"]);
  assert.deepEqual(failures, ["beat", "take"]);
  await untilStatuses(t, context, ["finished"]);
  assert.deepEqual(done, ["it"]);
  next.stop();
});

test("Operations: a job that fails while nobody waits for it is no unhandled rejection", async (t) => {
  const context = await scratch(t);
  const { kind } = failing(() => {});
  await operationsOf(context, kind).submit("p", [planned(kind, OF)]);
  while (`${await statuses(context)}` !== "failed") {
    await new Promise(setImmediate);
  }
  await new Promise(setImmediate);
});

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { createNeonClient } from "@neon/sdk";
import { neon, Pool } from "@neondatabase/serverless";
import { PrismaNeon, PrismaNeonHttp } from "@prisma/adapter-neon";
import { PrismaPg } from "@prisma/adapter-pg";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { type Generated, Kysely, PostgresDialect, type PostgresPool, sql } from "kysely";
import { NeonDialect } from "kysely-neon";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { type ProxyOfHome, useProxyOfHome } from "../../testing/proxy/proxy-of-home.ts";

// Libraries of others, unmodified, on a whole Strata: Neon's SDK makes project and branch, and with the connection
// strings that it hands out Prisma's driver adapters and kysely work. (drizzle: src/proxy/serverless/serverless.pg.test.ts.)

let world: ControlPlaneWorld;
let project: string;
let main: URL;
let branch: URL;
let proxy: ProxyOfHome["address"];
let ca: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  ({ address: proxy, ca } = useProxyOfHome(world.cluster.home));
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

/** As the SDK gives it, by the address that its host name stands for. */
function poolConfig(url: URL) {
  return {
    ...proxy,
    user: url.username,
    password: decodeURIComponent(url.password),
    database: url.pathname.slice(1),
    ssl: { ca, servername: url.hostname },
    enableChannelBinding: true,
  };
}

const query = (text: string, ...args: unknown[]) => ({
  sql: text,
  args,
  argTypes: args.map((value) => ({
    scalarType: typeof value === "number" ? ("int" as const) : ("string" as const),
    arity: "scalar" as const,
  })),
});

test("@neon/sdk: createAndConnect of a project and of a branch, operations, errors by kind", async () => {
  const client = createNeonClient({
    apiKey: world.key,
    baseUrl: `http://${world.address}/api/v2`,
    wait: { pollIntervalMs: 50 },
  });
  const made = await client.projects.createAndConnect({ name: "by sdk", pooled: false });
  assert.ok(made.data, String(made.error));
  project = made.data.project.id;
  main = new URL(made.data.connectionString);
  const http = neon(main.href);
  await http`create table notes (id serial primary key, note text not null unique)`;
  await http`insert into notes (note) values (${"main"})`;

  const branched = await client.branches.createAndConnect({ projectId: project, name: "dev" });
  assert.ok(branched.data, String(branched.error));
  branch = new URL(branched.data.connectionString);
  assert.match(branch.hostname, /-pooler\./);
  assert.deepEqual(await neon(branch.href)`select note from notes`, [{ note: "main" }]);

  const all = await client.branches.list({ projectId: project }).all();
  assert.deepEqual(all.data?.map(({ name }) => name).toSorted(), ["dev", "main"]);
  const uri = await client.postgres.connectionString({
    projectId: project,
    branchId: branched.data.branch.id,
  });
  assert.equal(new URL(uri.data ?? "").hostname, branch.hostname);
  const none = await client.branches.get({ projectId: project, branchId: "br-none-at-all" });
  assert.equal(none.error?.kind, "not_found");
  const wrong = createNeonClient({ apiKey: "wrong", baseUrl: `http://${world.address}/api/v2` });
  assert.equal((await wrong.projects.get({ projectId: project })).error?.kind, "auth");
});

test("@prisma/adapter-pg: direct and pooled, transactions, errors by kind", async () => {
  for (const url of [main, branch]) {
    const adapter = await new PrismaPg(poolConfig(url)).connect();
    const inserted = query("insert into notes (note) values ($1)", "prisma");
    assert.equal(await adapter.executeRaw(inserted), 1);
    const found = await adapter.queryRaw(query("select note from notes where id > $1", 0));
    assert.deepEqual([found.columnNames, found.rows], [["note"], [["main"], ["prisma"]]]);
    const transaction = await adapter.startTransaction("SERIALIZABLE");
    await transaction.executeRaw(query("delete from notes"));
    const level = await transaction.queryRaw(query("show transaction_isolation"));
    assert.deepEqual(level.rows, [["serializable"]]);
    // Prisma's engine says COMMIT and ROLLBACK itself; the adapter gives the connection back.
    await transaction.executeRaw(query("ROLLBACK"));
    await transaction.rollback();
    assert.deepEqual(await causeOf(adapter.executeRaw(inserted)), {
      kind: "UniqueConstraintViolation",
      code: "23505",
    });
    await adapter.executeScript("delete from notes where note = 'prisma'; select 1");
    await adapter.dispose();
  }
});

/** Of Prisma's errors: what kind it takes it for, and Postgres's code. */
async function causeOf(work: Promise<unknown>): Promise<unknown> {
  const { cause } = await work.then(
    () => assert.fail("no error"),
    (error: { cause: { kind: string; originalCode: string } }) => error,
  );
  return { kind: cause.kind, code: cause.originalCode };
}

test("@prisma/adapter-neon: over WebSocket with a transaction, and over HTTP", async () => {
  const adapter = await new PrismaNeon({ connectionString: branch.href }).connect();
  const transaction = await adapter.startTransaction();
  await transaction.executeRaw(query("insert into notes (note) values ($1)", "socket"));
  await transaction.executeRaw(query("COMMIT"));
  await transaction.commit();
  await adapter.dispose();
  const http = await new PrismaNeonHttp(branch.href, {}).connect();
  const found = await http.queryRaw(query("select note from notes where note = $1", "socket"));
  assert.deepEqual(found.rows, [["socket"]]);
  // Over HTTP the adapter hands the driver's error on as it is.
  await assert.rejects(http.executeRaw(query("insert into notes (note) values ($1)", "socket")), {
    code: "23505",
  });
  await http.dispose();
});

test("neon() with a token of the project's JWKS: as its role, which has no password", async () => {
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  const keys = [{ ...(await exportJWK(publicKey)), kid: "one" }];
  const jwks = createServer((_request, response) => response.end(JSON.stringify({ keys })));
  await new Promise<void>((resolve) => jwks.listen(0, "127.0.0.1", resolve));
  const { port } = jwks.address() as AddressInfo;
  try {
    await neon(main.href)`create role web login`;
    await neon(main.href)`grant select on notes to web`;
    await world.api("POST", `/projects/${project}/jwks`, {
      ...{ jwks_url: `http://127.0.0.1:${port}/`, provider_name: "Test", role_names: ["web"] },
    });
    const authToken = await new SignJWT({})
      .setProtectedHeader({ alg: "ES256", kid: "one" })
      .setExpirationTime("5 minutes")
      .sign(privateKey);
    const url = `postgresql://web@${main.hostname}/neondb`;
    const sql = neon(url, { authToken });
    assert.deepEqual(await sql`select session_user::text as who, note from notes limit 1`, [
      { who: "web", note: "main" },
    ]);
    await assert.rejects(sql`delete from notes`, { code: "42501" });
    await assert.rejects(neon(url.replace("web", "neondb_owner"), { authToken })`select 1`, {
      code: "28000",
    });
  } finally {
    jwks.close();
  }
});

interface Tables {
  notes: { id: Generated<number>; note: string };
}

test("kysely-neon over HTTP; kysely over WebSocket with a transaction", async () => {
  const overHttp = new Kysely<Tables>({ dialect: new NeonDialect({ neon: neon(branch.href) }) });
  const { numInsertedOrUpdatedRows: added } = await overHttp
    .insertInto("notes")
    .values([{ note: "a" }, { note: "b" }])
    .executeTakeFirstOrThrow();
  assert.equal(added, 2n);
  const pool = new Pool({ connectionString: branch.href });
  // The driver's types give a client without what it resolves to.
  const dialect = new PostgresDialect({ pool: pool as unknown as PostgresPool });
  const overSocket = new Kysely<Tables>({ dialect });
  await assert.rejects(
    overSocket.transaction().execute(async (transaction) => {
      await transaction.deleteFrom("notes").execute();
      await sql`select 1 / 0`.execute(transaction);
    }),
    { code: "22012" },
  );
  await overSocket.destroy();
  const rows = await overHttp.selectFrom("notes").select("note").orderBy("note").execute();
  assert.deepEqual(
    rows.map(({ note }) => note),
    ["a", "b", "main", "socket"],
  );
});

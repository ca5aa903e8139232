import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { REAL_CLOCK, replaceClock } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { StrataHome } from "../../local/home.ts";
import { ControlPlane } from "../server.ts";

// Links, cookies and API keys of the console, over HTTP; and what pages of others get.

let directory: string;
let controlPlane: ControlPlane;
let port: number;
let ownerKey: string;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "strata-console-"));
  const home = new StrataHome(directory);
  mkdirSync(home.controlPlaneDirectory(), { recursive: true });
  controlPlane = await ControlPlane.open({
    home,
    workdir: home.controlPlaneDirectory(),
    front: { domain: "localtest.me", port: 4432, httpPort: 4444 },
    logger: createLogger("control_plane", "silent"),
  });
  port = await controlPlane.listen("127.0.0.1", 0);
  ownerKey = readFileSync(home.controlPlaneKeyFile(), "utf8").trim();
});

after(async () => {
  await controlPlane.close();
  rmSync(directory, { recursive: true });
});

interface Asked {
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
}

/** By node:http: fetch sets Host, Cookie and Sec-Fetch as it likes. */
function ask(method: string, path: string, { headers = {}, body }: Asked = {}) {
  return new Promise<{
    status: number;
    headers: Record<string, string | string[] | undefined>;
    text: string;
  }>((resolve, reject) => {
    const request = httpRequest(
      {
        ...{ host: "127.0.0.1", port, method, path },
        headers: {
          ...(method === "GET" ? {} : { "content-type": "application/json" }),
          ...headers,
        },
      },
      (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk) => {
          text += chunk;
        });
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
        );
      },
    );
    request.on("error", reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function newToken(key = ownerKey): Promise<string> {
  const headers = { authorization: `Bearer ${key}` };
  const { status, text } = await ask("POST", "/console/login_links", { headers });
  assert.equal(status, 200, text);
  return JSON.parse(text).token;
}

/** The cookie of an answer, as the browser sends it. */
function cookieOf({ headers }: { headers: Record<string, unknown> }): string {
  const [cookie = ""] = headers["set-cookie"] as string[];
  return cookie.split(";")[0]!;
}

async function logIn(body: unknown): Promise<string> {
  const answer = await ask("POST", "/console/session", { body });
  assert.equal(answer.status, 200, answer.text);
  return cookieOf(answer);
}

const session = (cookie: string) => ask("GET", "/console/session", { headers: { cookie } });

async function newKey(body: object): Promise<{ id: number; key: string }> {
  const headers = { authorization: `Bearer ${ownerKey}` };
  const asked = { headers, body: { key_name: "test", ...body } };
  return JSON.parse((await ask("POST", "/api/v2/api_keys", asked)).text);
}

test("console: a link logs in once; its cookie is not for scripts, nor for other sites", async () => {
  const token = await newToken();
  const answer = await ask("POST", "/console/session", { body: { token } });
  assert.equal(answer.status, 200);
  const [cookie = ""] = answer.headers["set-cookie"] as string[];
  assert.match(cookie, new RegExp(`^strata_session_${port}=[\\w-]{43}; Path=/; `));
  assert.match(cookie, /; HttpOnly; SameSite=Strict$/);
  assert.deepEqual(JSON.parse((await session(cookieOf(answer))).text), {
    scope: "all",
    project_id: null,
    proxy_http_port: 4444,
  });
  const again = await ask("POST", "/console/session", { body: { token } });
  assert.equal(again.status, 401);
  assert.match(again.text, /used already or is too old/);
  assert.equal((await session(`strata_session_${port}=`)).status, 401);
  assert.equal((await session(`strata_session_1=${cookieOf(answer).split("=")[1]}`)).status, 401);
});

test("console: of two who follow one link at once, one is logged in", async () => {
  const token = await newToken();
  const answers = await Promise.all(
    [1, 2, 3].map(() => ask("POST", "/console/session", { body: { token } })),
  );
  assert.deepEqual(answers.map(({ status }) => status).toSorted(), [200, 401, 401]);
});

test("console: a link is good for 15 minutes, a session for 14 days", async (t) => {
  t.after(() => replaceClock(REAL_CLOCK));
  const later = (ms: number) => {
    const from = Date.now();
    replaceClock({ ...REAL_CLOCK, nowMs: () => from + ms });
  };
  const [old, young] = [await newToken(), await newToken()];
  later(14 * 60_000);
  const cookie = await logIn({ token: young });
  later(16 * 60_000);
  assert.equal((await ask("POST", "/console/session", { body: { token: old } })).status, 401);
  later(13 * 86_400_000);
  assert.equal((await session(cookie)).status, 200);
  later(15 * 86_400_000);
  const ended = await session(cookie);
  assert.equal(ended.status, 401);
  assert.match(ended.text, /this session has ended/);
});

test("console: who logs out has a cookie that is worth nothing", async () => {
  const cookie = await logIn({ token: await newToken() });
  const other = await logIn({ token: await newToken() });
  const answer = await ask("DELETE", "/console/session", { headers: { cookie } });
  assert.equal(answer.status, 200);
  assert.match(`${answer.headers["set-cookie"]}`, /=; Path=\/; Max-Age=0/);
  assert.equal((await session(cookie)).status, 401);
  assert.equal((await session(other)).status, 200);
});

test("console: an API key logs in with its own rights, which end with it", async () => {
  const reader = await newKey({ scope: "read_only" });
  const cookie = await logIn({ api_key: reader.key });
  const headers = { cookie };
  assert.equal(JSON.parse((await session(cookie)).text).scope, "read_only");
  for (const [method, path] of [
    ["POST", "/api/v2/projects"],
    ["POST", "/console/login_links"],
    ["POST", "/console/projects/some-project-1/sql"],
    ["GET", "/api/v2/api_keys"],
  ] as const) {
    assert.equal((await ask(method, path, { headers })).status, 403, `${method} ${path}`);
  }
  const mine = await newKey({ project_id: "some-project-1" });
  const own = { cookie: await logIn({ api_key: mine.key }) };
  const foreign = await ask("GET", "/console/projects/some-project-2/tree", { headers: own });
  assert.equal(foreign.status, 403);
  const owner = { authorization: `Bearer ${ownerKey}` };
  await ask("DELETE", `/api/v2/api_keys/${reader.id}`, { headers: owner });
  assert.equal((await session(cookie)).status, 401);
  const wrong = ownerKey.replace(/.$/, (last) => (last === "A" ? "B" : "A"));
  const refused = await ask("POST", "/console/session", { body: { api_key: wrong } });
  assert.equal(refused.status, 401);
});

test("console: a page of another origin gets nothing with the cookie, not even blindly", async () => {
  const cookie = await logIn({ token: await newToken() });
  const foreign: Record<string, string>[] = [
    { origin: "http://evil.example" },
    { origin: "http://localhost:3000", "sec-fetch-site": "same-site" },
    { "sec-fetch-site": "cross-site" },
    { host: "evil.example" },
  ];
  for (const headers of foreign) {
    for (const [method, path] of [
      ["GET", "/console/session"],
      ["DELETE", "/console/session"],
      ["POST", "/console/login_links"],
      ["GET", "/console/changes"],
    ] as const) {
      const { status } = await ask(method, path, { headers: { cookie, ...headers } });
      assert.equal(status, 403, `${method} ${path} ${JSON.stringify(headers)}`);
    }
  }
  // What a form can send without asking.
  const form = { cookie, "content-type": "text/plain" };
  assert.equal((await ask("POST", "/console/login_links", { headers: form })).status, 415);
  assert.equal((await session(cookie)).status, 200);
  const token = await newToken();
  const headers = { origin: "http://evil.example" };
  const planted = await ask("POST", "/console/session", { headers, body: { token } });
  assert.equal(planted.status, 403);
});

test("console: neither a link's token nor a cookie's value is kept", async () => {
  const token = await newToken();
  const spent = await newToken();
  const cookie = await logIn({ token: spent });
  const files = ["state.db", "state.db-wal"].map((name) =>
    readFileSync(join(directory, "control_plane", name), "latin1"),
  );
  for (const secret of [token, spent, cookie.split("=")[1]!]) {
    assert.ok(files.every((text) => !text.includes(secret)));
  }
});

test("console: no path leads out of the build; the page lets nothing in from elsewhere", async () => {
  for (const path of [
    "/assets/..%2f..%2f..%2fpackage.json",
    "/assets/%2e%2e",
    "/assets/../package.json",
    "/assets/index.html%00.js",
    "/assets/constructor",
    "/assets/nosuch.js",
  ]) {
    const { status } = await ask("GET", path);
    assert.ok(status === 404 || status === 400, `${path}: ${status}`);
  }
  const { status, headers } = await ask("GET", "/");
  assert.equal(status, 200);
  assert.equal(headers["cache-control"], "no-cache");
  const policy = `${headers["content-security-policy"]}`;
  assert.match(policy, /default-src 'none'; script-src 'self'; /);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.ok(!policy.includes("unsafe") && !policy.includes("http"), policy);
  assert.equal(headers["x-content-type-options"], "nosniff");
  const foreign = await ask("GET", "/", { headers: { host: "evil.example" } });
  assert.equal(foreign.status, 403);
});

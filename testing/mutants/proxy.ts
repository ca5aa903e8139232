// Broken rules of the proxy: who gets in, and what happens when a compute is away.

import type { MutantPart } from "./mutant.ts";

const SCRAM = "src/postgres/wire/scram-exchange.ts";
const SCRAM_TEST = "src/postgres/wire/scram-exchange.test.ts";
const PROXY_TEST = "src/proxy/proxy.pg.test.ts";
const OPENING = "src/proxy/client/client-opening.ts";
const GATE = "src/proxy/client/login-gate.ts";
const SERVERLESS = "src/proxy/serverless";
const SERVERLESS_TEST = "src/proxy/serverless/serverless.pg.test.ts";

export const PROXY_MUTANTS: MutantPart = {
  part: "proxy",
  mutants: [
    {
      rule: "any proof opens",
      file: SCRAM,
      search: "if (!fits || this.#options.isMock === true) {",
      replace: "if (this.#options.isMock === true) {",
      test: SCRAM_TEST,
      name: "ScramServer: a proof with another key, and any proof for a mock, is none",
    },
    {
      rule: "a secret that is pretended can be opened",
      file: SCRAM,
      search: "if (!fits || this.#options.isMock === true) {",
      replace: "if (!fits) {",
      test: SCRAM_TEST,
      name: "ScramServer: a proof with another key, and any proof for a mock, is none",
    },
    {
      rule: "somebody between takes channel binding away",
      file: SCRAM,
      search: '} else if (gs2Header.startsWith("y") && this.#options.endPointHash !== undefined) {',
      replace: '} else if (gs2Header.startsWith("y") && this.#options.isMock === true) {',
      test: SCRAM_TEST,
      name: "ScramServer: channel binding is of this certificate, and nobody takes the offer away",
    },
    {
      rule: "a login through somebody else's certificate is one",
      file: SCRAM,
      search: "if (match[1] !== expected) {",
      replace: 'if (match[1] === "" && expected !== "") {',
      test: SCRAM_TEST,
      name: "ScramServer: channel binding is of this certificate, and nobody takes the offer away",
    },
    {
      rule: "a compute with another secret gets a proof",
      file: SCRAM,
      search:
        'if (!Buffer.from(match[2]!, "base64").equals(salt) || Number(match[3]) !== iterations) {',
      replace: "if (Number(match[3]) !== iterations) {",
      test: SCRAM_TEST,
      name: "ScramClient: gives no proof to a server with another secret of the same password",
    },
    {
      rule: "what came in the clear is taken for what came encrypted",
      file: OPENING,
      search: "if (socket.readableLength > 0) {",
      replace: "if (socket.readableLength < 0) {",
      test: PROXY_TEST,
      name: "proxy: nothing may come together with a request for TLS",
    },
    {
      rule: "direct TLS of another protocol is Postgres's",
      file: OPENING,
      search: "if (isDirect && stream.alpnProtocol !== ALPN) {",
      replace: 'if (isDirect && stream.alpnProtocol === "") {',
      test: PROXY_TEST,
      name: "proxy: direct TLS needs ALPN",
    },
    {
      rule: "a compute that went to sleep as somebody came is an error",
      file: "src/proxy/compute/wake.ts",
      search: "delayMs: (error) => (isComputeAway(error) ? 0 : retryDelayMs(error)),",
      replace: "delayMs: (error) => retryDelayMs(error),",
      test: PROXY_TEST,
      name: "proxy: a compute that falls asleep as somebody comes is woken again",
    },
    {
      rule: "a secret that did not fit is used again",
      file: GATE,
      search: "if (isStaleSecret(error)) {\n        this.#options.roles.forget(endpoint, role);",
      replace: "if (isStaleSecret(error)) {",
      test: PROXY_TEST,
      name: "proxy: a password that was changed is seen, at the latest at the second try",
    },
    {
      rule: "addresses that are not on the list come in",
      file: GATE,
      search: "if (!isAllowed(address, access.allowedIps, onBad)) {",
      replace: 'if (address === "" && !isAllowed("", access.allowedIps, onBad)) {',
      test: PROXY_TEST,
      name: "proxy: addresses that are not on the list stay out",
    },
    {
      rule: "passwords are tried without end",
      file: GATE,
      search: "this.#options.failedLogins.count(address, endpoint);",
      replace: "",
      test: PROXY_TEST,
      name: "proxy: passwords cannot be tried at leisure",
    },
    {
      rule: "whoever opens many connections keeps others out",
      file: "src/proxy/proxy-parts.ts",
      search: "oldest.destroy();",
      replace: "socket.destroy();",
      test: PROXY_TEST,
      name: "proxy: thousands that connect and say nothing keep nobody out",
    },
    {
      rule: "what a client does not read is held",
      file: "src/proxy/compute/tunnel.ts",
      search: "compute.onData = (chunk) => client.write(Buffer.from(chunk));",
      replace: "compute.onData = (chunk) => client.write(Buffer.from(chunk)) || true;",
      test: PROXY_TEST,
      name: "proxy: much goes both ways, and who does not read holds only a little of it",
    },
    {
      rule: "a guessed key cancels",
      file: "src/proxy/client/cancel-keys.ts",
      search: "timingSafeEqual(entry.key, key)",
      replace: "timingSafeEqual(key, key)",
      test: PROXY_TEST,
      name: "proxy: cancel stops the query of whoever has the key, and nobody else's",
    },
    {
      rule: "what one request over HTTP sets is there for the next",
      file: `${SERVERLESS}/sql-pool.ts`,
      search: 'connection.command("DISCARD ALL")',
      replace: 'connection.command("SELECT 1")',
      test: SERVERLESS_TEST,
      name: "/sql: what one request sets, no other sees; few connections serve many",
    },
    {
      rule: "a statement that was at work is sent again",
      file: `${SERVERLESS}/sql-over-http.ts`,
      search: "    !connection.hasAnswered &&\n",
      replace: "",
      test: SERVERLESS_TEST,
      name: "/sql: a connection that the compute has closed meanwhile is nobody's error",
    },
    {
      rule: "a connection that the compute closed is an error of who comes next",
      file: `${SERVERLESS}/sql-over-http.ts`,
      search: "    isReused &&\n",
      replace: "    !isReused &&\n",
      test: SERVERLESS_TEST,
      name: "/sql: a connection that the compute has closed meanwhile is nobody's error",
    },
    {
      rule: "a caller that goes away leaves its statement running",
      file: `${SERVERLESS}/sql-over-http.ts`,
      search: 'response.once("close", gone);',
      replace: 'response.once("pipe", gone);',
      test: SERVERLESS_TEST,
      name: "/sql: a caller that goes away stops its statement",
    },
    {
      rule: "rows are gathered without end",
      file: `${SERVERLESS}/sql-connection.ts`,
      search: "budget.leftBytes -= bytes;",
      replace: "budget.leftBytes -= 0 * bytes;",
      test: SERVERLESS_TEST,
      name: "/sql: what is too large, or no request, is refused",
    },
    {
      rule: "a failed batch is half done",
      file: `${SERVERLESS}/sql-over-http.ts`,
      search: "await connection.command(begin);",
      replace: 'await connection.command(begin.concat("; COMMIT"));',
      test: SERVERLESS_TEST,
      name: "neon().transaction: all or nothing, isolation, read only, deferrable",
    },
  ],
};

// Broken rules of the proxy: who gets in, and what happens when a compute is away.

import type { MutantPart } from "./mutant.ts";

const SCRAM = "src/postgres/wire/scram-exchange.ts";
const SCRAM_TEST = "src/postgres/wire/scram-exchange.test.ts";
const PROXY_TEST = "src/proxy/proxy.pg.test.ts";
const OPENING = "src/proxy/client/client-opening.ts";
const SESSION = "src/proxy/client/client-session.ts";

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
      file: SESSION,
      search: "if (isStaleSecret(error)) {\n        this.#parts.roles.forget(endpoint.id, role);",
      replace: "if (isStaleSecret(error)) {",
      test: PROXY_TEST,
      name: "proxy: a password that was changed is seen, at the latest at the second try",
    },
    {
      rule: "addresses that are not on the list come in",
      file: SESSION,
      search: "if (!isAllowed(this.#address, access.allowedIps, onBad)) {",
      replace: 'if (this.#address === "" && !isAllowed("", access.allowedIps, onBad)) {',
      test: PROXY_TEST,
      name: "proxy: addresses that are not on the list stay out",
    },
    {
      rule: "passwords are tried without end",
      file: SESSION,
      search: "this.#parts.failedLogins.count(this.#address, endpoint);",
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
  ],
};

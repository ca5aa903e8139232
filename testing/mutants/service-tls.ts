// Broken rules of TLS between services: who is believed, what is said in the clear, and which certificates are made.

import type { MutantPart } from "./mutant.ts";

const CLIENT = "src/base/network/service-tls.ts";
const CLIENT_TEST = "src/base/network/service-tls.test.ts";
const LISTENER = "src/base/network/tls-listener.ts";
const HTTP = "src/http/tls-port.ts";
const HTTP_TEST = "src/http/tls-port.test.ts";
const WIRE = "src/postgres/wire/wire-server.ts";
const MESSAGES = "src/postgres/wire/wire-messages.ts";
const MESSAGES_TEST = "src/postgres/wire/wire.test.ts";
const WIRE_TEST = "src/postgres/wire/wire-tls.test.ts";
const FILES = "src/local/tls/service-certificates.ts";
const FILES_TEST = "src/local/tls/service-certificates.test.ts";

export const SERVICE_TLS_MUTANTS: MutantPart = {
  part: "service-tls",
  mutants: [
    {
      rule: "a certificate of anybody's authority is believed",
      file: CLIENT,
      search: `    minVersion: "TLSv1.2",
    rejectUnauthorized: true,`,
      replace: `    minVersion: "TLSv1.2",
    rejectUnauthorized: false as true,`,
      test: WIRE_TEST,
      name: "WireConnection: who is not who he should be hears nothing, and the error says what to do",
    },
    {
      rule: "services that others can reach are called in plain text",
      file: CLIENT,
      search: "return trust.isPlaintext ? undefined : tlsTo(host, ca);",
      replace: "return trust.isPlaintext || host !== '' ? undefined : tlsTo(host, ca);",
      test: CLIENT_TEST,
      name: "clientTls: loopback is plain text, everything else TLS with the name of the host",
    },
    {
      rule: "without an authority everybody is believed",
      file: CLIENT,
      search: "if (ca.length === 0) {",
      replace: "if (ca.length < 0) {",
      test: CLIENT_TEST,
      name: "clientTls: without an authority nothing is said to others, but on a network that is trusted",
    },
    {
      rule: "a URL that says http talks a client down to plain text",
      file: CLIENT,
      search:
        "if (scheme !== undefined && !isLoopback(host) && !currentTrust().trust.isPlaintext) {",
      replace: "if (scheme === 'ftp') {",
      test: CLIENT_TEST,
      name: "serviceUrl: the address decides, and an http URL of others is refused",
    },
    {
      rule: "a certificate is no reason to listen where others can reach it",
      file: "src/base/network/listen-address.ts",
      search: "const isSafe = given.isTrusted || given.hasCertificate;",
      replace: "const isSafe = given.isTrusted;",
      test: "src/base/network/listen-address.test.ts",
      name: "checkListenAddress: others reach it only with a certificate or on a trusted network, and where tokens are asked for",
    },
    {
      rule: "a certificate makes up for not asking who calls",
      file: "src/base/network/listen-address.ts",
      search: "if (isLoopback(host) || (isSafe && given.asksForTokens)) {",
      replace:
        "if (isLoopback(host) || (isSafe && (given.asksForTokens || given.hasCertificate))) {",
      test: "src/base/network/listen-address.test.ts",
      name: "checkListenAddress: others reach it only with a certificate or on a trusted network, and where tokens are asked for",
    },
    {
      rule: "HTTP is served in plain text beside TLS",
      file: HTTP,
      search: "        options.plaintext(socket);",
      replace: `        for (const listener of listeners) {
          listener.call(server, socket);
        }
        process.nextTick(() => socket.resume());`,
      test: HTTP_TEST,
      name: "HttpServer: plain text to a port with TLS is told so, and gets nothing else",
    },
    {
      rule: "loopback pays for TLS",
      file: "src/http/server.ts",
      search: "if (certificates !== undefined && !isLoopback(host)) {",
      replace: "if (certificates !== undefined) {",
      test: HTTP_TEST,
      name: "HttpServer: with TLS where others reach it, without on loopback",
    },
    {
      rule: "a handshake may take for ever",
      file: LISTENER,
      search: " ms`)), timeoutMs);",
      replace: " ms`)), timeoutMs * 1e6);",
      test: HTTP_TEST,
      name: "HttpServer: neither silence nor half of a handshake holds a connection, nor its close",
    },
    {
      rule: "a TLS client of any protocol is taken for one of ours",
      file: LISTENER,
      search: "protocols.find((one) => offered.protocols.includes(one)),",
      replace: "offered.protocols[0] ?? protocols[0],",
      test: HTTP_TEST,
      name: "HttpServer: another protocol's TLS is refused by ALPN",
    },
    {
      rule: "a start-up packet in plain text is served where there is TLS",
      file: WIRE,
      search: "if (this.#certificates !== undefined) {\n      throw new StorageError(",
      replace: "if (this.#certificates === null) {\n      throw new StorageError(",
      test: WIRE_TEST,
      name: "WireServer: plain text is refused with what to do, and nothing of it is served",
    },
    {
      rule: "what somebody puts behind the request for TLS is taken for encrypted",
      file: WIRE,
      search: "if (startsTls && rest.length > 0) {",
      replace: "if (startsTls && rest.length > 1e6) {",
      test: WIRE_TEST,
      name: "WireServer: what came together with the request for TLS is refused (CVE-2021-23214)",
    },
    {
      rule: "direct TLS may be of another protocol",
      file: WIRE,
      search: "if (isDirect && stream.alpnProtocol !== ALPN) {",
      replace: "if (isDirect && stream.alpnProtocol === ALPN + 1) {",
      test: WIRE_TEST,
      name: "WireServer: direct TLS needs ALPN 'postgresql'",
    },
    {
      rule: "memory that TLS has not taken yet is written over",
      file: "src/postgres/wire/copy-channel.ts",
      search: "socket.write(Buffer.from(bytes.subarray(0, used)));",
      replace: "socket.write(bytes.subarray(0, used));",
      test: WIRE_TEST,
      name: "CopyChannel: what is gathered and copied arrives as it was, also through TLS",
    },
    {
      rule: "a message's memory is another one's while it is lent",
      file: MESSAGES,
      search:
        "        onMessage(this.#header[0]!, pending.subarray(0, this.#pendingLength));\n        giveBack(pending);\n",
      replace:
        "        giveBack(pending);\n        onMessage(this.#header[0]!, pending.subarray(0, this.#pendingLength));\n",
      test: MESSAGES_TEST,
      name: "MessageReader: memory of finished messages is used again, not while they are lent",
    },
    {
      rule: "a message gets less memory than it needs",
      file: MESSAGES,
      search: "spare !== undefined && spare.length >= capacity ?",
      replace: "spare !== undefined ?",
      test: MESSAGES_TEST,
      name: "MessageReader: memory of finished messages is used again, not while they are lent",
    },
    {
      rule: "memory is freed that the kernel has not taken yet",
      file: "src/postgres/wire/copy-channel.ts",
      search: "this.#socket.write(part, written);",
      replace: "this.#socket.write(part);\n        setImmediate(written);",
      test: "src/postgres/wire/copy-channel.test.ts",
      name: "CopyChannel.sendOwned: memory is freed when the kernel has it, not before",
    },
    {
      rule: "memory that others share is freed",
      file: "src/base/memory/free-memory.ts",
      search: "bytes.length === buffer.byteLength;",
      replace: "bytes.length > 0;",
      test: "src/base/memory/free-memory.test.ts",
      name: "freeMemory: what is whole and large is gone for every view of it, what others may share stays",
    },
    {
      rule: "what sockets read is left to the garbage collector",
      file: WIRE,
      search: "        freeMemory(chunk);\n",
      replace: "",
      test: MESSAGES_TEST,
      name: "WireServer: memory of what was read is freed; a copy of what was lent stays",
    },
    {
      rule: "a copy of what was lent is the memory that is freed",
      file: WIRE,
      search: "this.#receive(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));",
      replace: "this.#receive(chunk);",
      test: MESSAGES_TEST,
      name: "WireServer: memory of what was read is freed; a copy of what was lent stays",
    },
    {
      rule: "a service's certificate is for ever",
      file: "src/local/tls/certificates.ts",
      search: "x509.validToDate.getTime() - nowMs() > RENEW_BEFORE_MS &&",
      replace: "",
      test: FILES_TEST,
      name: "ensureServiceCertificates: made again for another name, or near the end; else kept",
    },
    {
      rule: "a certificate stays when the service gets another name",
      file: FILES,
      search: "!isFit(cert, caCert, (x509) => hasAll(x509, names))",
      replace: "!isFit(cert, caCert, () => true)",
      test: FILES_TEST,
      name: "ensureServiceCertificates: made again for another name, or near the end; else kept",
    },
    {
      rule: "certificates of one's own are written over",
      file: FILES,
      search: "if (!hasServiceTls(settings) || settings.serviceTls?.cert !== undefined) {",
      replace: "if (!hasServiceTls(settings)) {",
      test: FILES_TEST,
      name: "serviceTls: own certificates are named and never written; what does not fit together is refused",
    },
    {
      rule: "a home on loopback makes certificates too",
      file: FILES,
      search: "return settings.plaintextNetwork !== true && reachedHosts(addresses).length > 0;",
      replace: "return settings.plaintextNetwork !== true && addresses.length > 0;",
      test: FILES_TEST,
      name: "ensureServiceCertificates: none on loopback or in plain text, and the arguments of daemons say so",
    },
  ],
};

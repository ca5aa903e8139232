// One client, from the first byte to the last: opening, endpoint, login, compute, then its bytes.

import type { Duplex } from "node:stream";
import { monotonicMs, setTimer, type Timer } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { isLoopback } from "../../base/network/addresses.ts";
import { encodeMessage, int32, PROTOCOL_3 } from "../../postgres/wire/wire-messages.ts";
import {
  type ComputeConnection,
  type LoginProof,
  sendCancel,
} from "../compute/compute-connection.ts";
import { untilFirstWord } from "../compute/first-word.ts";
import { tunnel } from "../compute/tunnel.ts";
import type { ProxyParts } from "../proxy-parts.ts";
import type { CountedSocket } from "../transfers.ts";
import { askPassword } from "./authentication.ts";
import type { CancelKey } from "./cancel-keys.ts";
import type { OpenedClient } from "./client-opening.ts";
import {
  type ClientOptions,
  chooseEndpoint,
  type EndpointName,
  endpointOfHost,
  noEndpointNamed,
  parseClientOptions,
  parseEndpointName,
  splitPassword,
} from "./endpoint-name.ts";
import { clientError, errorResponse } from "./postgres-errors.ts";
import { type CancelPacket, readable, type StartupPacket } from "./startup-packet.ts";

/** For the client to read why it is refused, and close. */
const LINGER_MS = 1000;
const READY = encodeMessage("Z", Buffer.from("I"));
const AUTHENTICATION_OK = encodeMessage("R", int32(0));

/** Tells where errors are to be written to, once that is another stream than the connection's own. */
export type OpenClient = (onStream: (stream: Duplex) => void) => Promise<OpenedClient>;

export class ClientSession {
  readonly #connection: Duplex;
  readonly #socket: CountedSocket;
  readonly #address: string;
  readonly #parts: ProxyParts;
  /** Where errors are written to: the connection, then the TLS on it. */
  #stream: Duplex;
  #endpoint: string | undefined;

  /** `socket`: what `connection` is on. */
  constructor(
    { connection, socket }: { readonly connection: Duplex; readonly socket: CountedSocket },
    address: string,
    parts: ProxyParts,
  ) {
    this.#connection = connection;
    this.#socket = socket;
    this.#stream = connection;
    this.#address = address;
    this.#parts = parts;
    connection.on("error", () => {});
  }

  /** Resolves when the connection has ended, or is about to. Never rejects. */
  async run(open: OpenClient): Promise<void> {
    const { settings, metrics, logger, halfOpen } = this.#parts;
    const deadline = setTimer(() => this.#connection.destroy(), settings.loginTimeoutMs);
    halfOpen.add(this.#connection);
    this.#connection.once("close", () => deadline.cancel());
    try {
      const client = await open((stream) => {
        this.#stream = stream;
      });
      if (client.packet.kind === "cancel") {
        await this.#cancel(client.packet);
        return;
      }
      await this.#serve(client, client.packet, deadline);
    } catch (error) {
      const code = error instanceof StorageError ? error.code : "internal";
      metrics.refused(code);
      const fields = { endpoint: this.#endpoint, remote: this.#address };
      if (code === "internal") {
        logger.error({ ...fields, error }, "connection failed");
      } else {
        logger.info({ ...fields, code, reason: errorMessage(error) }, "connection refused");
      }
      this.#refuse(error);
    } finally {
      deadline.cancel();
      halfOpen.delete(this.#connection);
    }
  }

  async #serve(client: OpenedClient, packet: StartupPacket, deadline: Timer): Promise<void> {
    const { stream } = client;
    this.#checkEncryption(client);
    if (packet.minor > 0 || packet.protocolOptions.length > 0) {
      const unknown = packet.protocolOptions.map((name) => Buffer.from(`${name}\0`, "latin1"));
      stream.write(encodeMessage("v", int32(PROTOCOL_3), int32(unknown.length), ...unknown));
    }
    const role = readable(packet.parameters.get("user") ?? "");
    if (role === "") {
      const message = "no PostgreSQL user name specified in startup packet";
      throw clientError("28000", "no-user", message);
    }
    const options = parseClientOptions(packet.parameters.get("options") ?? "");
    const { endpoint, proof } = await this.#authenticate(client, options, role);
    deadline.cancel();
    this.#parts.halfOpen.delete(this.#connection);
    const leave = this.#parts.endpoints.enter(endpoint.id);
    const stopCounting = this.#parts.transfers.watch(endpoint.id, this.#socket);
    try {
      const startedMs = monotonicMs();
      const parameters = forPostgres(packet, options);
      const caller = this.#caller(endpoint.id, role);
      const { gate, metrics } = this.#parts;
      const login = () => gate.connect(caller, options.compute, parameters, proof);
      const loggedIn = () => metrics.loggedIn((monotonicMs() - startedMs) / 1000);
      if (endpoint.isPooled && !parameters.has("replication")) {
        const key = JSON.stringify([endpoint.id, options.compute, ...[...parameters].toSorted()]);
        await this.#pool(stream, key, login, loggedIn);
      } else {
        const compute = await login();
        loggedIn();
        await this.#pass(stream, compute, parameters.has("replication") ? undefined : login);
      }
    } finally {
      stopCounting();
      leave();
    }
  }

  #checkEncryption({ isEncrypted }: OpenedClient): void {
    const { settings, certificates } = this.#parts;
    if (!isEncrypted && (settings.requireTls || !isLoopback(this.#address))) {
      throw clientError("28000", "no-tls", "connections here need TLS", {
        hint:
          certificates === undefined
            ? "This proxy has no certificate: it takes connections of this machine only."
            : "Connect with sslmode=require, or verify-full.",
      });
    }
  }

  async #authenticate(
    client: OpenedClient,
    options: ClientOptions,
    role: string,
  ): Promise<{ endpoint: EndpointName; proof: LoginProof }> {
    const { settings, gate } = this.#parts;
    const { stream, serverName, endPointHash } = client;
    const byHost = endpointOfHost(serverName, settings.domains);
    const named = chooseEndpoint(byHost, options.endpoint);
    if (client.token !== undefined) {
      if (named === undefined) {
        throw noEndpointNamed(serverName, settings.domains[0] ?? "");
      }
      const proof = await gate.token(this.#caller(named.id, role), client.token);
      return { endpoint: named, proof };
    }
    if (named !== undefined && !client.asksPassword) {
      const proof = await gate.scram(this.#caller(named.id, role), stream, endPointHash);
      return { endpoint: named, proof };
    }
    const given = await askPassword(stream);
    // Old clients without SNI: Neon has them put the name in front of the password.
    const split = named === undefined ? splitPassword(given) : undefined;
    const endpoint = named ?? (split && parseEndpointName(split.endpoint));
    if (endpoint === undefined) {
      throw noEndpointNamed(serverName, settings.domains[0] ?? "");
    }
    const password = split?.password ?? given;
    const proof = await gate.password(this.#caller(endpoint.id, role), password);
    return { endpoint, proof };
  }

  #caller(endpoint: string, role: string) {
    this.#endpoint = endpoint;
    return { address: this.#address, endpoint, role };
  }

  /** `login`: for one that another login gives the same session as long as it has said nothing. */
  async #pass(
    stream: Duplex,
    first: ComputeConnection,
    login: (() => Promise<ComputeConnection>) | undefined,
  ): Promise<void> {
    const { cancelKeys } = this.#parts;
    let compute = first;
    const key = cancelKeys.issue(() => sendCancel(compute.cancelTarget));
    try {
      stream.write(
        Buffer.concat([AUTHENTICATION_OK, compute.greeting, backendKeyData(key), READY]),
      );
      if (login !== undefined) {
        compute = await untilFirstWord(stream, compute, login);
      }
      await tunnel(stream, compute);
    } finally {
      cancelKeys.revoke(key.pid);
    }
  }

  /** Server connections of its own only for the time of a transaction. */
  async #pool(
    stream: Duplex,
    key: string,
    login: () => Promise<ComputeConnection>,
    loggedIn: () => void,
  ): Promise<void> {
    const { pools, cancelKeys } = this.#parts;
    const { pool, greeting } = await pools.enter(key, login);
    loggedIn();
    const client = pools.client(stream, pool, login);
    const cancelKey = cancelKeys.issue(() =>
      client.cancel(({ cancelTarget }) => sendCancel(cancelTarget)),
    );
    try {
      stream.write(Buffer.concat([AUTHENTICATION_OK, greeting, backendKeyData(cancelKey), READY]));
      await client.run();
    } finally {
      cancelKeys.revoke(cancelKey.pid);
      pool.leave();
    }
  }

  /** Nobody is told whether there was anything to cancel; the client waits for the close. */
  async #cancel({ pid, key }: CancelPacket): Promise<void> {
    const { cancelKeys, gate } = this.#parts;
    gate.checkGuesses(this.#address, "cancel");
    const cancel = cancelKeys.find(pid, key);
    if (cancel === undefined) {
      gate.countGuess(this.#address, "cancel");
    } else {
      await cancel();
    }
    this.#end();
  }

  #refuse(error: unknown): void {
    if (error instanceof StorageError && error.code === "client-gone") {
      this.#connection.destroy();
      return;
    }
    if (!this.#stream.destroyed) {
      this.#stream.write(errorResponse(error));
    }
    this.#end();
  }

  /** What the client still sends is read and dropped: with unread bytes the kernel would reset, and the answer be lost. */
  #end(): void {
    const timer = setTimer(() => this.#connection.destroy(), LINGER_MS);
    this.#connection.once("close", () => timer.cancel());
    if (this.#stream.destroyed) {
      this.#connection.destroy();
      return;
    }
    this.#stream.resume();
    this.#stream.end();
  }
}

/** The client's parameters without what was meant for us. */
function forPostgres(packet: StartupPacket, options: ClientOptions): Map<string, string> {
  const parameters = new Map(packet.parameters);
  parameters.delete("options");
  if (options.rest !== "") {
    parameters.set("options", options.rest);
  }
  return parameters;
}

function backendKeyData({ pid, key }: CancelKey): Buffer {
  return encodeMessage("K", int32(pid), key);
}

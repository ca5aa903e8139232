// One client, from the first byte to the last: opening, endpoint, login, compute, then its bytes.

import type { Socket } from "node:net";
import { monotonicMs, setTimer, type Timer } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { ScramKeys } from "../../postgres/scram.ts";
import { encodeMessage, int32, PROTOCOL_3 } from "../../postgres/wire/wire-messages.ts";
import {
  type ComputeConnection,
  isStaleSecret,
  sendCancel,
} from "../compute/compute-connection.ts";
import type { AccessControl } from "../compute/control-plane.ts";
import { tunnel } from "../compute/tunnel.ts";
import type { ProxyParts } from "../proxy-parts.ts";
import { isAllowed, isLoopback, plainAddress } from "./address-list.ts";
import {
  askPassword,
  authenticateScram,
  checkPassword,
  isWrongPassword,
} from "./authentication.ts";
import type { CancelKey } from "./cancel-keys.ts";
import { type OpenedClient, openClient } from "./client-opening.ts";
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
import { clientError, errorResponse, wrongPassword } from "./postgres-errors.ts";
import { type CancelPacket, readable, type StartupPacket } from "./startup-packet.ts";

/** For the client to read why it is refused, and close. */
const LINGER_MS = 1000;
const READY = encodeMessage("Z", Buffer.from("I"));
const AUTHENTICATION_OK = encodeMessage("R", int32(0));

export class ClientSession {
  readonly #socket: Socket;
  readonly #parts: ProxyParts;
  readonly #address: string;
  /** Where errors are written to: the socket, then the TLS on it. */
  #stream: Socket;
  #endpoint: string | undefined;

  constructor(socket: Socket, parts: ProxyParts) {
    this.#socket = socket;
    this.#stream = socket;
    this.#parts = parts;
    this.#address = plainAddress(socket.remoteAddress ?? "");
    socket.setNoDelay(true);
    socket.setKeepAlive(true, parts.settings.keepAliveMs);
    socket.on("error", () => {});
  }

  /** Resolves when the connection has ended, or is about to. Never rejects. */
  async run(): Promise<void> {
    const { settings, metrics, logger, halfOpen } = this.#parts;
    const deadline = setTimer(() => this.#socket.destroy(), settings.loginTimeoutMs);
    halfOpen.add(this.#socket);
    this.#socket.once("close", () => deadline.cancel());
    try {
      const client = await openClient(this.#socket, {
        certificates: this.#parts.certificates,
        onStream: (stream) => {
          this.#stream = stream;
        },
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
      halfOpen.delete(this.#socket);
    }
  }

  async #serve(client: OpenedClient, packet: StartupPacket, deadline: Timer): Promise<void> {
    const { stream } = client;
    this.#checkEncryption(client);
    if (packet.minor > 0 || packet.protocolOptions.length > 0) {
      const unknown = packet.protocolOptions.map((name) => Buffer.from(`${name}\0`, "latin1"));
      stream.write(encodeMessage("v", int32(PROTOCOL_3), int32(unknown.length), ...unknown));
    }
    const role = packet.parameters.get("user") ?? "";
    if (role === "") {
      const message = "no PostgreSQL user name specified in startup packet";
      throw clientError("28000", "no-user", message);
    }
    const options = parseClientOptions(packet.parameters.get("options") ?? "");
    const { endpoint, keys } = await this.#authenticate(client, options, readable(role));
    deadline.cancel();
    this.#parts.halfOpen.delete(this.#socket);
    const leave = this.#parts.endpoints.enter(endpoint.id);
    try {
      const startedMs = monotonicMs();
      const compute = await this.#connect(endpoint, options, packet, keys);
      this.#parts.metrics.loggedIn((monotonicMs() - startedMs) / 1000);
      await this.#pass(stream, compute);
    } finally {
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
  ): Promise<{ endpoint: EndpointName; keys: ScramKeys }> {
    const { settings, mockSeed } = this.#parts;
    const byHost = endpointOfHost(client.serverName, settings.domains);
    const named = chooseEndpoint(byHost, options.endpoint);
    if (named !== undefined) {
      const access = await this.#access(named.id, role);
      const { stream, endPointHash } = client;
      const keys = await this.#guarded(named.id, role, () =>
        authenticateScram({ stream, endpoint: named.id, role, access, endPointHash, mockSeed }),
      );
      return { endpoint: named, keys };
    }
    // Old clients without SNI: Neon has them put the name in front of the password.
    const split = splitPassword(await askPassword(client.stream));
    if (split === undefined) {
      throw noEndpointNamed(client.serverName, settings.domains[0] ?? "");
    }
    const endpoint = parseEndpointName(split.endpoint);
    const access = await this.#access(endpoint.id, role);
    const keys = await this.#guarded(endpoint.id, role, () =>
      checkPassword(split.password, { endpoint: endpoint.id, role, access, mockSeed }),
    );
    return { endpoint, keys };
  }

  async #access(endpoint: string, role: string): Promise<AccessControl> {
    const { roles, failedLogins, logger } = this.#parts;
    this.#endpoint = endpoint;
    failedLogins.check(this.#address, endpoint);
    const access = await roles.get(endpoint, role).catch((error: unknown) => {
      throw accessFailed(error, endpoint);
    });
    const onBad = (entry: string, why: string) =>
      logger.warn({ endpoint, entry, why }, "allowed_ips has an entry that is none");
    if (!isAllowed(this.#address, access.allowedIps, onBad)) {
      throw clientError(
        "28000",
        "address-not-allowed",
        `address ${this.#address} may not connect to endpoint '${endpoint}'`,
        { hint: "The project's allowed_ips say who may." },
      );
    }
    return access;
  }

  /** Counts guesses; what did not fit may be old. */
  async #guarded<T>(endpoint: string, role: string, login: () => Promise<T>): Promise<T> {
    try {
      return await login();
    } catch (error) {
      if (isWrongPassword(error)) {
        this.#parts.failedLogins.count(this.#address, endpoint);
        this.#parts.roles.forget(endpoint, role);
      }
      throw error;
    }
  }

  async #connect(
    endpoint: EndpointName,
    options: ClientOptions,
    packet: StartupPacket,
    keys: ScramKeys,
  ): Promise<ComputeConnection> {
    const parameters = new Map(packet.parameters);
    parameters.delete("options");
    if (options.rest !== "") {
      parameters.set("options", options.rest);
    }
    const role = readable(packet.parameters.get("user") ?? "");
    try {
      return await this.#parts.computes.connect({
        endpoint: endpoint.id,
        options: options.compute,
        parameters,
        keys,
      });
    } catch (error) {
      if (isStaleSecret(error)) {
        this.#parts.roles.forget(endpoint.id, role);
        throw wrongPassword(role);
      }
      throw error;
    }
  }

  async #pass(stream: Socket, compute: ComputeConnection): Promise<void> {
    const { cancelKeys } = this.#parts;
    const key = cancelKeys.issue(() => compute.cancelTarget);
    try {
      stream.write(
        Buffer.concat([AUTHENTICATION_OK, compute.greeting, backendKeyData(key), READY]),
      );
      await tunnel(stream, compute);
    } finally {
      cancelKeys.revoke(key.pid);
    }
  }

  /** Nobody is told whether there was anything to cancel; the client waits for the close. */
  async #cancel({ pid, key }: CancelPacket): Promise<void> {
    const { cancelKeys, failedLogins } = this.#parts;
    failedLogins.check(this.#address, "cancel");
    const target = cancelKeys.find(pid, key);
    if (target === "unknown") {
      failedLogins.count(this.#address, "cancel");
    } else if (target !== undefined) {
      await sendCancel(target);
    }
    this.#end();
  }

  #refuse(error: unknown): void {
    if (error instanceof StorageError && error.code === "client-gone") {
      this.#socket.destroy();
      return;
    }
    if (!this.#stream.destroyed) {
      this.#stream.write(errorResponse(error));
    }
    this.#end();
  }

  /** What the client still sends is read and dropped: with unread bytes the kernel would reset, and the answer be lost. */
  #end(): void {
    const timer = setTimer(() => this.#socket.destroy(), LINGER_MS);
    this.#socket.once("close", () => timer.cancel());
    if (this.#stream.destroyed) {
      this.#socket.destroy();
      return;
    }
    this.#stream.resume();
    this.#stream.end();
  }
}

function backendKeyData({ pid, key }: CancelKey): Buffer {
  return encodeMessage("K", int32(pid), key);
}

function accessFailed(error: unknown, endpoint: string): unknown {
  if (error instanceof StorageError && error.kind === "not-found") {
    return clientError("28000", "unknown-endpoint", `there is no endpoint '${endpoint}' here`, {
      hint: "'strata endpoint list' shows those that are; a typo in the host name, or it has been deleted?",
      cause: error,
    });
  }
  return new StorageError(
    "unavailable",
    "control-plane-away",
    `cannot look up endpoint '${endpoint}': ${errorMessage(error)}`,
    { cause: error, fields: { sqlstate: "57P03" } },
  );
}

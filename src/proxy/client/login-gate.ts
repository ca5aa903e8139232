// What every way in has in common: who may come to an endpoint, with which password, and the connection that follows.

import type { Duplex } from "node:stream";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { isAllowed } from "../../base/network/addresses.ts";
import type { ScramKeys } from "../../postgres/scram.ts";
import { mockSecret } from "../../postgres/wire/scram-exchange.ts";
import {
  BY_SOCKET,
  type ComputeConnection,
  isStaleSecret,
  type LoginProof,
} from "../compute/compute-connection.ts";
import type { AccessControl } from "../compute/control-plane.ts";
import type { RoleAccess } from "../compute/role-access.ts";
import type { Computes } from "../compute/wake.ts";
import { authenticateScram, isWrongPassword } from "./authentication.ts";
import type { FailedLogins } from "./failed-logins.ts";
import { PasswordKeys } from "./password-keys.ts";
import { clientError, wrongPassword } from "./postgres-errors.ts";
import { isWrongToken, TokenKeys } from "./token-keys.ts";

/** Who wants in, and where. */
export interface Caller {
  /** The client's. */
  readonly address: string;
  /** Without `-pooler`. */
  readonly endpoint: string;
  readonly role: string;
}

export interface LoginGateOptions {
  readonly roles: RoleAccess;
  readonly computes: Computes;
  readonly failedLogins: FailedLogins;
  readonly logger: Logger;
  /** Of this proxy: what it pretends about roles that are not there stays the same. */
  readonly mockSeed: Uint8Array;
}

export class LoginGate {
  readonly #options: LoginGateOptions;
  readonly #passwords = new PasswordKeys();
  readonly #tokens = new TokenKeys();

  constructor(options: LoginGateOptions) {
    this.#options = options;
  }

  /** SCRAM over the client's stream. StorageError says what the client is told. */
  async scram(
    caller: Caller,
    stream: Duplex,
    endPointHash: Buffer | undefined,
  ): Promise<ScramKeys> {
    const access = await this.#access(caller);
    const secret = access.secret ?? this.#mockSecret(caller);
    const isMock = access.secret === undefined;
    return this.#counted(caller, () =>
      authenticateScram(stream, caller.role, { secret, isMock, endPointHash }),
    );
  }

  /** A role that is not there takes as long as one that is. */
  async password(caller: Caller, password: Uint8Array): Promise<ScramKeys> {
    const access = await this.#access(caller);
    const secret = access.secret ?? this.#mockSecret(caller);
    const { endpoint, role } = caller;
    return this.#counted(caller, async () => {
      const keys = await this.#passwords.keysOf(endpoint, role, password, secret);
      if (keys === undefined || access.secret === undefined) {
        throw wrongPassword(role);
      }
      return keys;
    });
  }

  /** Of a JWT. A role that is not there is Postgres's to refuse: whoever comes so far may know. */
  async token(caller: Caller, token: string): Promise<LoginProof> {
    await this.#access(caller);
    const { endpoint, role } = caller;
    await this.#counted(caller, async () => {
      const rules = await this.#options.roles.tokenRules(endpoint);
      await this.#tokens.check(token, role, rules);
    });
    return BY_SOCKET;
  }

  /** `parameters`: of the start-up packet; `options`: of `parseClientOptions`. */
  async connect(
    { endpoint, role }: Caller,
    options: readonly (readonly [string, string])[],
    parameters: ReadonlyMap<string, string>,
    proof: LoginProof,
  ): Promise<ComputeConnection> {
    try {
      return await this.#options.computes.connect({ endpoint, options, parameters, proof });
    } catch (error) {
      if (isStaleSecret(error)) {
        this.#options.roles.forget(endpoint, role);
        throw wrongPassword(role);
      }
      throw error;
    }
  }

  /** Throws StorageError 53300 where the address has failed too often; `what`: an endpoint, or another thing to guess. */
  checkGuesses(address: string, what: string): void {
    this.#options.failedLogins.check(address, what);
  }

  countGuess(address: string, what: string): void {
    this.#options.failedLogins.count(address, what);
  }

  async #access({ address, endpoint, role }: Caller): Promise<AccessControl> {
    const { roles, failedLogins, logger } = this.#options;
    failedLogins.check(address, endpoint);
    const access = await roles.get(endpoint, role).catch((error: unknown) => {
      throw accessFailed(error, endpoint);
    });
    const onBad = (entry: string, why: string) =>
      logger.warn({ endpoint, entry, why }, "allowed_ips has an entry that is none");
    if (!isAllowed(address, access.allowedIps, onBad)) {
      throw clientError(
        "28000",
        "address-not-allowed",
        `address ${address} may not connect to endpoint '${endpoint}'`,
        { hint: "The project's allowed_ips say who may." },
      );
    }
    return access;
  }

  #mockSecret({ endpoint, role }: Caller) {
    return mockSecret(this.#options.mockSeed, `${endpoint}/${role}`);
  }

  /** Counts guesses; what did not fit may be old. */
  async #counted<T>({ address, endpoint, role }: Caller, login: () => Promise<T>): Promise<T> {
    try {
      return await login();
    } catch (error) {
      if (isWrongPassword(error) || isWrongToken(error)) {
        this.#options.failedLogins.count(address, endpoint);
        this.#options.roles.forget(endpoint, role);
      }
      throw error;
    }
  }
}

function accessFailed(error: unknown, endpoint: string): StorageError {
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

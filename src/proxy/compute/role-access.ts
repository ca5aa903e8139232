// What the control plane said of a role's access and of tokens, kept for a moment.

import type { TokenRule } from "../client/token-keys.ts";
import type { AccessControl, ControlPlaneClient } from "./control-plane.ts";
import { KeptAnswers } from "./kept-answers.ts";

/** The part of the control plane that is needed here. */
export type AccessSource = Pick<ControlPlaneClient, "accessControl" | "tokenRules">;

export class RoleAccess {
  readonly #controlPlane: AccessSource;
  readonly #access: KeptAnswers<AccessControl>;
  readonly #tokenRules: KeptAnswers<readonly TokenRule[]>;

  /** `keepMs`: so late a new password, or a new list of addresses, may be seen. */
  constructor(controlPlane: AccessSource, keepMs: number) {
    this.#controlPlane = controlPlane;
    this.#access = new KeptAnswers(keepMs);
    this.#tokenRules = new KeptAnswers(keepMs);
  }

  get(endpoint: string, role: string): Promise<AccessControl> {
    return this.#access.get(keyOf(endpoint, role), () =>
      this.#controlPlane.accessControl(endpoint, role),
    );
  }

  tokenRules(endpoint: string): Promise<readonly TokenRule[]> {
    return this.#tokenRules.get(endpoint, () => this.#controlPlane.tokenRules(endpoint));
  }

  /** The next one asks again: what we know did not fit. */
  forget(endpoint: string, role: string): void {
    this.#access.forget(keyOf(endpoint, role));
  }
}

function keyOf(endpoint: string, role: string): string {
  return `${endpoint}\n${role}`;
}

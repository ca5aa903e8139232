// What the control plane said of a role's access, kept for a moment: many connections of one role ask once.

import { monotonicMs } from "../../base/clock.ts";
import { type AccessControl, type ControlPlaneClient, retryDelayMs } from "./control-plane.ts";
import { retry } from "./retry.ts";

const MAX_ENTRIES = 10_000;
/** For a control plane that is just being started again. */
const RETRY_TIMEOUT_MS = 10_000;

interface Entry {
  readonly access: Promise<AccessControl>;
  readonly sinceMs: number;
}

export class RoleAccess {
  readonly #controlPlane: Pick<ControlPlaneClient, "accessControl">;
  readonly #keepMs: number;
  /** The oldest first. */
  readonly #entries = new Map<string, Entry>();

  /** `keepMs`: so late a new password, or a new list of addresses, may be seen. */
  constructor(controlPlane: Pick<ControlPlaneClient, "accessControl">, keepMs: number) {
    this.#controlPlane = controlPlane;
    this.#keepMs = keepMs;
  }

  get(endpoint: string, role: string): Promise<AccessControl> {
    const key = `${endpoint}\n${role}`;
    const now = monotonicMs();
    const known = this.#entries.get(key);
    if (known !== undefined && now < known.sinceMs + this.#keepMs) {
      return known.access;
    }
    const access = retry(() => this.#controlPlane.accessControl(endpoint, role), {
      timeoutMs: RETRY_TIMEOUT_MS,
      delayMs: retryDelayMs,
    });
    const entry = { access, sinceMs: now };
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    access.catch(() => {
      if (this.#entries.get(key) === entry) {
        this.#entries.delete(key);
      }
    });
    if (this.#entries.size > MAX_ENTRIES) {
      this.#entries.delete(this.#entries.keys().next().value!);
    }
    return access;
  }

  /** The next one asks again: what we know did not fit. */
  forget(endpoint: string, role: string): void {
    this.#entries.delete(`${endpoint}\n${role}`);
  }
}

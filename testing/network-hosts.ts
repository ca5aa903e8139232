// Hosts on a network of their own, made of Linux network namespaces; the way between two can be cut.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";

/** Every network is alone in its namespaces, so all use the same addresses. */
const addressOf = (number: number) => `10.213.0.${number}`;

/** Runs `ip`; what it says where it fails. */
function ip(...args: string[]): string | undefined {
  const result = spawnSync("ip", args, { encoding: "utf8" });
  return result.status === 0 ? undefined : (result.error?.message ?? result.stderr.trim());
}

export class NetworkHosts<Name extends string> {
  readonly #names: readonly Name[];
  /** By `from to`. */
  readonly #cuts = new Map<string, () => void>();
  readonly #prefix = `strata${process.pid}-`;

  constructor(names: readonly Name[]) {
    this.#names = names;
  }

  /** One namespace a host, and one for the bridge between them; why not, where that is not allowed. */
  create(): string | undefined {
    const bridge = `${this.#prefix}bridge`;
    const problem =
      ip("netns", "add", bridge) ??
      ip("-n", bridge, "link", "add", "name", "switch0", "type", "bridge") ??
      ip("-n", bridge, "link", "set", "switch0", "up") ??
      this.#names.reduce<string | undefined>(
        (failed, name, i) => failed ?? this.#createHost(name, `port${i}`),
        undefined,
      );
    return problem && `network namespaces are not allowed here: ${problem}`;
  }

  #createHost(name: Name, port: string): string | undefined {
    const [bridge, host] = [`${this.#prefix}bridge`, this.#namespace(name)];
    const peer = ["peer", "name", port, "netns", bridge];
    return (
      ip("netns", "add", host) ??
      ip("-n", host, "link", "set", "lo", "up") ??
      ip("-n", host, "link", "add", "name", "eth0", "type", "veth", ...peer) ??
      ip("-n", bridge, "link", "set", port, "master", "switch0", "up") ??
      ip("-n", host, "addr", "add", `${this.address(name)}/24`, "dev", "eth0") ??
      ip("-n", host, "link", "set", "eth0", "up")
    );
  }

  #namespace(name: Name): string {
    return `${this.#prefix}${name}`;
  }

  address(name: Name): string {
    return addressOf(this.#names.indexOf(name) + 1);
  }

  /** In front of a command, runs it on that host. */
  on(name: Name): string[] {
    return ["ip", "netns", "exec", this.#namespace(name)];
  }

  /** Nothing that `from` sends reaches `to` any more; the other direction stays. */
  cut(from: Name, to: Name): void {
    if (!this.#cuts.has(`${from} ${to}`)) {
      this.#route("add", from, to);
      this.#cuts.set(`${from} ${to}`, () => this.#route("del", from, to));
    }
  }

  /** Undoes every cut. */
  heal(): void {
    for (const undo of this.#cuts.values()) {
      undo();
    }
    this.#cuts.clear();
  }

  #route(verb: "add" | "del", from: Name, to: Name): void {
    const problem = ip("-n", this.#namespace(from), "route", verb, "blackhole", this.address(to));
    assert.ok(problem === undefined, `route from ${from} to ${to}: ${problem}`);
  }

  /** When nothing runs on the hosts any more. */
  destroy(): void {
    for (const name of [...this.#names, "bridge"]) {
      ip("netns", "del", `${this.#prefix}${name}`);
    }
  }
}

// On which addresses a process of ours listens: nothing that goes from one to another is encrypted.

import { StorageError } from "../errors.ts";
import { isLoopback } from "./addresses.ts";

/**
 * `address`: HOST:PORT, of the option `--name`. StorageError `invalid` where others can reach it, unless who starts the process
 * says that the network is trusted, and callers are asked for tokens.
 */
export function checkListenAddress(
  name: string,
  address: string,
  { isTrusted, asksForTokens }: { isTrusted: boolean; asksForTokens: boolean },
): void {
  const host = address.replace(/:\d*$/, "");
  if (isLoopback(host) || (isTrusted && asksForTokens)) {
    return;
  }
  const message = isTrusted
    ? `--${name} ${address}: others can reach it, and nobody is asked who he is: service tokens are needed (--auth-keys; "serviceTokens": true in config.json)`
    : `--${name} ${address}: others can reach it, and nothing is encrypted: listen on 127.0.0.1, or say that the network is trusted (--plaintext-network; "plaintextNetwork": true in config.json)`;
  throw new StorageError("invalid", "not-loopback", message);
}

// On which addresses a process of ours listens: on those that others reach with TLS, and never without asking who calls.

import { StorageError } from "../errors.ts";
import { isLoopback } from "./addresses.ts";
import { hostOf } from "./service-tls.ts";

/**
 * `address`: HOST:PORT, of the option `--name`. StorageError `invalid` where others can reach it, unless it has a certificate, or who
 * starts the process says that the network is trusted, and callers are asked for tokens.
 */
export function checkListenAddress(
  name: string,
  address: string,
  given: { isTrusted: boolean; hasCertificate: boolean; asksForTokens: boolean },
): void {
  const host = hostOf(address);
  const isSafe = given.isTrusted || given.hasCertificate;
  if (isLoopback(host) || (isSafe && given.asksForTokens)) {
    return;
  }
  const message = isSafe
    ? `--${name} ${address}: others can reach it, and nobody is asked who he is: service tokens are needed (--auth-keys; "serviceTokens": true in config.json)`
    : `--${name} ${address}: others can reach it, and nothing is encrypted: listen on 127.0.0.1, give it a certificate (--service-cert and --service-key, which 'strata start' does), or say that the network is trusted (--plaintext-network; "plaintextNetwork": true in config.json)`;
  throw new StorageError("invalid", "not-loopback", message);
}

// Certificates of a home are made anew before they end: at each start, and each day while its control plane runs.

import { setIdleRepeatingTimer, type Timer } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { hostOf } from "../../base/network/service-tls.ts";
import type { HomeSettings } from "../config.ts";
import { withHomeLocked } from "../lock.ts";
import { DEFAULT_DOMAIN, ensureCertificates } from "./certificates.ts";
import { ensureServiceCertificates } from "./service-certificates.ts";

const DAY_MS = 24 * 3600 * 1000;

/** The part of a home that this needs. */
interface Home {
  readonly path: string;
  config(): HomeSettings;
}

/** Makes those that are missing, or end soon; call with the home locked. Who runs reads them by itself. */
export async function renewCertificates(home: Home, config = home.config()): Promise<void> {
  const { domain = DEFAULT_DOMAIN, listenPgAddr, listenHttpAddr } = config.proxy ?? {};
  const hosts = [listenPgAddr, listenHttpAddr].flatMap((one) => (one ? [hostOf(one)] : []));
  await ensureCertificates(home, domain, hosts);
  await ensureServiceCertificates(home, config);
}

/** Until it is cancelled; what fails is logged, and tried again the next time. */
export function renewDaily(home: Home, logger: Logger, intervalMs = DAY_MS): Timer {
  return setIdleRepeatingTimer(() => {
    withHomeLocked(home, () => renewCertificates(home)).catch((error: unknown) => {
      logger.warn({ error }, "certificates could not be looked after");
    });
  }, intervalMs);
}

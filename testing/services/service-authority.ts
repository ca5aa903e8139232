// Certificates of services for tests: of an authority of their own, in a temporary directory.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "../../src/base/log.ts";
import { type CertificateFiles, TlsCertificates } from "../../src/base/network/tls-certificates.ts";
import { CertificateAuthority } from "../../src/local/tls/certificate-authority.ts";

/**
 * An address that is none of loopback, so that TLS is spoken there, and which leads to this machine and no further: as a target
 * Linux takes it for loopback.
 */
export const REACHED_HOST = "0.0.0.0";

export class ServiceAuthority {
  readonly directory = mkdtempSync(join(tmpdir(), "strata-authority-"));
  readonly caFile = join(this.directory, "ca.crt");
  readonly #authority: CertificateAuthority;

  private constructor(authority: CertificateAuthority) {
    this.#authority = authority;
    writeFileSync(this.caFile, authority.pem.cert);
  }

  static async create(): Promise<ServiceAuthority> {
    return new ServiceAuthority(await CertificateAuthority.create("test"));
  }

  /** Of one host; negative `days`: it has expired. Written over what has that name. */
  async issue(name: string, host = REACHED_HOST, days = 100): Promise<CertificateFiles> {
    const isName = /[a-z]/.test(host);
    const [dns, ip] = isName ? [[host], []] : [[], [host]];
    const { cert, key } = await this.#authority.issue({ subject: host, dns, ip }, days);
    const files = {
      cert: join(this.directory, `${name}.crt`),
      key: join(this.directory, `${name}.key`),
    };
    writeFileSync(files.key, key);
    writeFileSync(files.cert, cert);
    return files;
  }

  async certificates(name: string, host?: string, days?: number): Promise<TlsCertificates> {
    return new TlsCertificates(
      [await this.issue(name, host, days)],
      createLogger("test", "silent"),
    );
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

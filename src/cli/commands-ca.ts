// `strata ca`: the certificate authority of the home, for whoever is to trust the proxy's certificate.

import { existsSync } from "node:fs";
import type { Command } from "commander";
import { StorageError } from "../base/errors.ts";
import { strataCommand } from "../local/strata-command.ts";
import { certificatePaths } from "../local/tls/certificates.ts";
import { group, jsonOption, openHome, print, printJson } from "./cli.ts";

export function addCaCommand(program: Command): void {
  group(program, "ca", "the certificate authority of the home")
    .command("trust")
    .description("how to trust it: for one program, or the whole system")
    .addOption(jsonOption())
    .action((options: { json?: boolean }) => {
      const { caCert } = certificatePaths(openHome());
      if (!existsSync(caCert)) {
        throw new StorageError(
          "not-found",
          "no-ca",
          `no certificate authority yet: '${strataCommand()} start' makes it`,
        );
      }
      const ways = trustWays(caCert);
      if (options.json === true) {
        printJson({ ca_cert: caCert, ways });
      } else {
        print(`The certificate to trust: ${caCert}`);
        print("");
        const width = Math.max(...Object.keys(ways).map((name) => name.length));
        for (const [name, way] of Object.entries(ways)) {
          print(`  ${name.padEnd(width)}  ${way}`);
        }
      }
    });
}

function trustWays(path: string): Record<string, string> {
  const quoted = /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
  return {
    "psql, libpq": `sslmode=verify-full sslrootcert=${quoted}   (or PGSSLROOTCERT=${quoted})`,
    Node: `NODE_EXTRA_CA_CERTS=${quoted}`,
    "Debian, Ubuntu": `sudo cp ${quoted} /usr/local/share/ca-certificates/strata.crt && sudo update-ca-certificates`,
    Fedora: `sudo cp ${quoted} /etc/pki/ca-trust/source/anchors/strata.crt && sudo update-ca-trust`,
    macOS: `sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain ${quoted}`,
  };
}

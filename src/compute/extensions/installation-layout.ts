// Where an installation of Postgres has its extensions and libraries, as seen from the directory of its program.
//
// Postgres finds both relative to its program's real path, as long as that ends as the one it was built for
// (make_relative_path in its path.c), and tells nobody but pg_config, which npm's packages do not have.

import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../../base/errors.ts";
import type { Installation } from "../../postgres/installation.ts";

/** Paths below `prefix`. */
export interface InstallationLayout {
  /** Absolute, without links. */
  readonly prefix: string;
  readonly bin: string;
  /** Has `extension`, `tsearch_data`, `postgres.bki`. */
  readonly share: string;
  /** `$libdir`. */
  readonly lib: string;
}

/** StorageError `unsupported` where the program lies as in no way of installing that we know. */
export function installationLayout({ binDir, major }: Installation): InstallationLayout {
  const real = realpathSync(binDir);
  const layouts = [
    // As configure has it by default: `postgresql` is left out below a prefix that says so already.
    { bin: "bin", share: "share/postgresql", lib: "lib/postgresql" },
    { bin: "bin", share: "share", lib: "lib" },
    // Debian's packages.
    {
      bin: `lib/postgresql/${major}/bin`,
      share: `share/postgresql/${major}`,
      lib: `lib/postgresql/${major}/lib`,
    },
  ];
  for (const layout of layouts) {
    const prefix = real.slice(0, -layout.bin.length - 1);
    if (
      real.endsWith(`/${layout.bin}`) &&
      existsSync(join(prefix, layout.share, "extension")) &&
      existsSync(join(prefix, layout.lib, "plpgsql.so"))
    ) {
      return { prefix, ...layout };
    }
  }
  const message = `cannot tell where the PostgreSQL in '${binDir}' has its extensions and libraries`;
  throw new StorageError("unsupported", "unknown-installation-layout", message);
}

/** What `$libdir` means there. StorageError as `installationLayout`. */
export function libraryDirectory(installation: Installation): string {
  const { prefix, lib } = installationLayout(installation);
  return join(prefix, lib);
}

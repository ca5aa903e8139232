// How a process that runs many times over on one machine has glibc's malloc keep less of what it has freed.
//
// malloc takes what is large (128 KiB) from the system, and gives it back when it is freed. But with the first such piece that is freed it
// raises that limit, up to 32 MiB, and keeps what comes later: with it what a start has read of programs and pages. A limit that is set stays
// as it is. malloc reads its settings once, when the process begins.

type Environment = Record<string, string | undefined>;

const SETTINGS: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: "1",
  MALLOC_MMAP_THRESHOLD_: "131072",
  MALLOC_TRIM_THRESHOLD_: "131072",
};

/** `environment` for such a process; what is set there already stays. */
export function withFrugalMalloc(environment: Environment): Environment {
  return { ...SETTINGS, ...environment };
}

/** In such a process: nothing that it starts, as Postgres, is told what was for itself. */
export function forgetFrugalMalloc(environment: Environment = process.env): void {
  for (const [name, value] of Object.entries(SETTINGS)) {
    if (environment[name] === value) {
      delete environment[name];
    }
  }
}

// How long an LSN lease lasts. A file of its own: who holds leases, as every compute does, loads no schemas for it.

/** As Neon's lsn_lease_length. */
export const LSN_LEASE_MS = 600_000;

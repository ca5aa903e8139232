// The superuser that every database of ours is made with.

/** Neon's name for it. */
export const SUPERUSER = "cloud_admin";

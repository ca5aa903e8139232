// How SLRUs lie on pages and in segments: transaction status, multixacts, commit timestamps.
//
// Sources: access/slru.h, access/transam/clog.c, multixact.c, commit_ts.c, 14-18.

export const SLRU_PAGES_PER_SEGMENT = 32;
/** Two bits a transaction. */
export const CLOG_XACTS_PER_PAGE = 32_768;
/** A timestamp of 8 bytes and an origin of 2. */
export const COMMIT_TS_XACTS_PER_PAGE = 819;
/** A number of 4 bytes. */
export const MULTIXACT_OFFSETS_PER_PAGE = 2048;
/** Four flag bytes, then the four numbers that they are of. */
export const MULTIXACT_MEMBERS_PER_GROUP = 4;
/** 409 such groups of 20 bytes. */
export const MULTIXACT_MEMBERS_PER_PAGE = 409 * MULTIXACT_MEMBERS_PER_GROUP;
/** FirstMultiXactId: 0 is none. */
export const FIRST_MULTIXACT_ID = 1;
/** MaxMultiXactStatus (access/multixact.h): lock modes and updates are 0 to 5. */
export const MAX_MULTIXACT_STATUS = 5;

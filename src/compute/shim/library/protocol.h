/*
 * protocol.h: the messages between this library and the compute agent; ../shim-protocol.ts is the other side.
 *
 * Version 4. Little-endian, over a unix stream socket, one connection a process, at most one question
 * outstanding; W and P have no reply. All requests have one size.
 *
 * request:  0 u32 length, 48 | 4 u8 type | 5 u8 version | 6 u8 kind | 7 u8 fork
 *           8 u32 spcOid | 12 u32 dbOid | 16 u32 relNumber | 20 u32 segment
 *          24 u64 lsn | 32 u64 a | 40 u32 b | 44 u32 c
 *   kind 1   a fork's segment of a relation; of a directory (L) only spcOid and dbOid count
 *   kind 2   an SLRU segment: relNumber = 0 pg_xact, 1 multixact members, 2 multixact offsets,
 *            3 pg_commit_ts; the rest of the key is 0
 *   kind 0   no file: the key is 0
 *   lsn      0
 *   H hello        a = pid                          -> ok, a = entries, payload; when all files are placed
 *   S stat         key                              -> ok, a = bytes | absent, a = 1: as all files of that relation,
 *                                                     or n << 32 | 1: of all of its directory's numbered n or higher
 *   G get pages    key, b = first block, c = count  -> ok, payload = count * 8192
 *   C compare      key, b = first block, c = count up to 32, a = bit set of them: which are in storage as
 *                  they are in the file            -> ok, a = bit set; from now on the file's pages are as of then
 *                                                     | absent: none of that file, ever
 *   L list         key of a directory               -> ok, a = entries, payload
 *   P prefetch     key, b = first block, c = count
 *   W WAL written  a = segment number, b = offset, c = length: by now, with all WAL before it
 *   F flush WAL    a = segment number, b = end offset in it -> ok, a = microseconds to wait for each block
 *                  that makes a relation longer | fenced, as late as it takes
 *   O old WAL      a = segment number               -> ok, when its file is in pg_wal | absent
 * reply:    0 u32 length | 4 u8 status | 5 u8 type | 6 u16 0 | 8 u64 a | 16 payload
 * list entry, 24 bytes:
 *           0 u32 relNumber | 4 u32 segment | 8 u8 fork | 9 u8[7] 0 | 16 u64 bytes
 * hello entry:
 *           0 u8 kind | 1 u8 fork | 2 u16 runs | 4 u32 spcOid | 8 u32 dbOid | 12 u32 relNumber
 *          16 u32 segment | 20 u32 0 | 24 u64 bytes, 2^64 - 1 = storage has no such file
 *          32 per run of blocks that are in the file already: u32 first, u32 count
 */
#pragma once
#include <stdint.h>

#define PROTOCOL_VERSION 4
#define MAX_PAGES 32u /* a request; io_combine_limit of Postgres 17 is at most 32 */
#define NO_SUCH_FILE UINT64_MAX
#define NO_FILE_OF_RELATION 1u
/* Postgres's own OIDs (pg_tablespace.dat). */
#define DEFAULT_TABLESPACE 1663
#define GLOBAL_TABLESPACE 1664

enum { WIRE_NONE, WIRE_RELATION, WIRE_SLRU };
enum { STATUS_OK, STATUS_ABSENT, STATUS_ERROR, STATUS_FENCED };

struct wire_request {
  uint32_t length;
  uint8_t type, version, kind, fork;
  uint32_t spc_oid, db_oid, rel_number, segment;
  uint64_t lsn, a;
  uint32_t b, c;
} __attribute__((packed));

struct wire_reply {
  uint32_t length;
  uint8_t status, type;
  uint16_t zero;
  uint64_t a;
} __attribute__((packed));

struct wire_listed {
  uint32_t rel_number, segment;
  uint8_t fork, zero[7];
  uint64_t bytes;
} __attribute__((packed));

struct wire_placed {
  uint8_t kind, fork;
  uint16_t runs;
  uint32_t spc_oid, db_oid, rel_number, segment, zero;
  uint64_t bytes;
} __attribute__((packed));

_Static_assert(sizeof(struct wire_request) == 48 && sizeof(struct wire_reply) == 16 &&
                   sizeof(struct wire_listed) == 24 && sizeof(struct wire_placed) == 32,
               "the layouts above");

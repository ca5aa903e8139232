/*
 * shim.h: what the files of this library share. It gives an unmodified Postgres remote pages and quorum WAL.
 *
 * Preloaded (LD_PRELOAD), it replaces libc's file functions (entry_points.c).
 *
 * Pages. The data directory starts almost empty. A relation or SLRU segment appears as a sparse file
 * of the right size when it is first named; an 8 kB block of it is fetched from the compute agent
 * when it is first read. A block that is absent here was never changed by this compute, so the page
 * as of the start LSN is always the right one, and the agent needs no idea of what happens here.
 *
 * WAL. fdatasync() of a WAL segment returns when the agent says that a quorum has the WAL. Every
 * other sync in the data directory is a no-op: the directory is a cache and is thrown away. WAL from before
 * the start, which logical decoding reads, is fetched a segment at a time. What a crash would take of logical
 * decoding's own files goes into WAL (aux_files.c).
 *
 * Invariants
 *  1. A read never returns bytes that neither a write here nor the agent supplied.
 *  2. A late fill never overwrites a newer write: a block is filled or written only by the process
 *     that moved it out of ABSENT by compare-and-swap; everybody else waits.
 *  3. The agent writes no file once hello is answered. What it prefetches stays in its memory, so that
 *     a prefetch cannot race with a write, a truncation or a re-extension. The files that it made before
 *     are named in that answer, with the blocks that they hold; nothing of Postgres has run by then.
 *  4. A path of storage's that is unlinked here, or was here before us, is LOCAL for ever: a reused file
 *     number never brings back storage's old content. One that storage does not have is LOCAL in any case;
 *     storage is as of the start LSN, so it may be forgotten and asked again (slots.c).
 *  5. A sync of WAL succeeds or does not return. Postgres panics on an error, and a lie loses data.
 *  6. Whoever stops waiting, and whoever ends by exit(), gives back what it has claimed.
 *  7. Only what storage has, but for what Postgres may lose, is given back to the disk, and a reader that it happened to reads
 *     again. Of a block that was written here the agent has seen so while nobody wrote it (compare.c).
 *
 * States in shared memory (one anonymous mapping made by the postmaster, inherited through fork):
 *  path of storage's, or a directory:
 *         NEW -> RESOLVING -> LAZY (sparse file, blocks tracked) | LOCAL (plain file, or none)
 *         RESOLVING is the lock of one path; LAZY -> RESOLVING -> LOCAL on unlink.
 *  block: CUT (0: plainly here) or ABSENT -> FILLING (by a reader) | WRITING (by a writer) -> PRESENT. Blocks at or above
 *         `nremote` count as PRESENT, without a limit of the cache; truncation lowers nremote and extension never raises it, and
 *         what is cut off becomes CUT.
 *         Where the cache has a limit, FILLING -> CLEAN in the main forks of relations: as storage has it.
 *         CLEAN -> EVICTING -> ABSENT (evict.c), or CLEAN -> HINTING -> CLEAN (hints.c). A writer claims what is there, too:
 *         CLEAN | PRESENT | COMPARING -> REWRITING -> PRESENT. PRESENT -> COMPARING -> PRESENT, or where storage has the
 *         block by now -> CLEAN (compare.c). What is written anew of what was cut off such a file, or added to it, from
 *         EVICTION_GROUP blocks on, gets a state when it is written: CUT -> REWRITING -> PRESENT. So does all of a file
 *         that is made here, which is LAZY then.
 *  Whoever waits for a block holds only claims on lower blocks of the same file, and a filler never
 *  waits while it holds one: so no cycle.
 *
 * Everything here is system calls and the few libc functions that need no newer glibc than 2.17: no
 * malloc, no stdio, no dlsym. Postgres is single-threaded, so per-process state has no locks; but a
 * signal handler may end the process anywhere (bgworker_die), with file accesses on its way out.
 */
#pragma once
#define _GNU_SOURCE
#include "protocol.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 8192u
#define SEGMENT_BLOCKS 131072u
#define MAX_FD 65536
#define SLOTS (1u << 24)        /* paths that storage has */
#define SLOT_GROUP 128u         /* a page of memory */
#define ABSENT_PATHS (1u << 20) /* paths that it does not have, the last ones */
#define MAX_PATH 128 /* of what is in the data directory */
#define MAX_LOCATION 4096
#define SPARE_WORDS 16 /* 64 spares each */
#define MAX_VERSION_DIRECTORY 32
#define FIRST_NORMAL_OBJECT_ID 16384
#define EXPORT __attribute__((visibility("default")))
/* Of what each process has for itself, of which some belongs to whoever calls: the stress makes it each thread's (claim_stress.c). */
#ifndef PER_PROCESS
#define PER_PROCESS
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum { SLOT_EMPTY, SLOT_CLAIMED, SLOT_NEW, SLOT_RESOLVING, SLOT_LAZY, SLOT_LOCAL };
enum { CUT, ABSENT, FILLING, WRITING, PRESENT, CLEAN, EVICTING, HINTING, REWRITING, COMPARING };
/* SLRUs in the order of the protocol. */
enum { KIND_REL = 1, KIND_XACT, KIND_MEMBERS, KIND_OFFSETS, KIND_COMMIT_TS, KIND_DIR, KIND_NEW_RELATIONS };
enum { NAME_OTHER, NAME_FOREIGN, NAME_BLOCKS, NAME_DIR, NAME_WAL };
enum { FORK_MAIN, FORK_FSM, FORK_VM, FORK_INIT };

/*
 * A file or directory of storage. KIND_REL: db 0 is `global`, forkseg is fork << 29 | segment, spc a tablespace
 * of the user's or 0. An SLRU: rel is the segment. KIND_DIR: of a database in a tablespace; or db is UINT32_MAX,
 * and rel the kind of an SLRU. KIND_NEW_RELATIONS, among absent paths only: all relations of a directory from number rel on.
 */
struct key {
  u32 kind, db, rel, forkseg, spc;
};

#define SEGMENT_MASK ((1u << 29) - 1)

/*
 * Of the clock's hand: how many turns a block stays that was used once, or more often. With it of a block that is absent: whether
 * it was given back; of one that is CLEAN: whether it was written here.
 */
#define USED_ONCE 1
#define MOST_USED 2
#define WAS_EVICTED 0x80
#define WAS_WRITTEN 0x40
#define USE_FLAGS (WAS_EVICTED | WAS_WRITTEN)

/* Blocks that share a count of evictions. */
#define EVICTION_GROUP 64u

struct file {
  u32 nremote;  /* blocks that storage has and that were not cut off here */
  u32 nabsent;  /* how many of them are not here; 0 = plain system calls from here on, unless evictable */
  u32 changes;  /* futex word: bumped when blocks change state while someone waits */
  u32 waiters;
  u32 capacity; /* nremote at the start: how many block states there are */
  struct key key;
  u64 inode;
  u8 *states;
  int64_t clean, kept; /* CLEAN blocks; PRESENT ones below nremote */
  bool evictable;
  /* The rest where it is evictable only. */
  u8 *used;            /* by block: turns of the hand that it stays, and USE_FLAGS */
  u32 *evictions;      /* by group: raised before a block's content goes */
  u8 *compared;        /* by block: when it was last found not to be as storage has it */
  struct added *added; /* the same of blocks from `capacity` on, once there are some; else NULL, and they stay */
  u32 end;             /* of the blocks that have a state there */
  struct slot *slot;
  struct file *next;   /* evictable one */
  /* Of the process that compares. */
  u64 next_turn;       /* clock_ms() */
  u32 pause_ms;
  bool never_given;
};

/* Of blocks that were added here, from a file's `capacity` on; allotted by the system when they are used. */
struct added {
  u8 states[SEGMENT_BLOCKS], used[SEGMENT_BLOCKS], compared[SEGMENT_BLOCKS];
  u32 evictions[SEGMENT_BLOCKS / EVICTION_GROUP];
};

struct slot {
  u32 state;
  struct key key;
  struct file *file;
};

struct absent_path {
  u32 version; /* odd: somebody writes the key */
  struct key key;
};

/* What the agent reads of the file STRATA_SHIM_CACHE_COUNTERS, little-endian; blocks but for the last. */
struct cache_counters {
  int64_t clean;     /* here, and may be given back */
  int64_t kept;      /* here, and written or of files that are never given back */
  u64 evicted;       /* given back so far */
  u64 fetched_again; /* of those, fetched anew */
  u64 reread;        /* reads that were repeated because a block went meanwhile */
  u64 written_evicted; /* of those given back, the ones that had been written here */
  u64 unlike;          /* comparisons of a written block that found it not to be as storage has it */
};

/* What SQL reads of the file STRATA_SHIM_READ_COUNTS, little-endian; of blocks of relations that storage has. */
#define WAIT_BUCKETS 24
struct read_counts {
  u64 reads;   /* blocks that were read */
  u64 misses;  /* of those, the ones that were not here */
  u64 fetched; /* blocks that were brought, with what is read ahead */
  u64 waits;   /* for one answer of the agent's, or for another reader's */
  u64 wait_us; /* of all of them, microseconds */
  u64 waits_below[WAIT_BUCKETS]; /* [i]: that took at least 2^(i-1) and less than 2^i microseconds; the last: or more */
};

struct region {
  u64 arena_next;    /* bytes of the arena handed out */
  u64 wal_writes;    /* WAL pwrites so far. A sequence, not an LSN: the same partial page is rewritten */
  u64 wal_durable;   /* value of wal_writes that is known to be durable on a quorum */
  u64 wal_high;      /* highest byte position pwritten, as an LSN */
  u64 wal_told;      /* up to where a message has told of it, or is about to */
  u64 pace;          /* microseconds that a process waits for each block that it adds to a relation */
  u64 paced_at;      /* clock_ms() at which the agent said so */
  u64 waits;         /* times a process had to wait for another one's block; for tests */
  struct file *evictable; /* list of all that ever were */
  struct file *hand;      /* evict.c, under the lock `evicting`: where to look next */
  u32 hand_block;
  u32 evicting, cannot_evict;
  u32 tracked_new;        /* files made here whose blocks may be given back */
  u32 new_from;           /* the least number of a KIND_NEW_RELATIONS; 0: the agent has named none */
  u32 compare_calls;      /* futex word: bumped to wake the process that sleeps */
  u32 comparer_sleeps;
  u32 spares; /* spares.c: whether there are some */
  u64 spare_names[SPARE_WORDS]; /* by number, bit 1: the name is taken */
  u64 spare_ready[SPARE_WORDS]; /* and an empty file is there */
  struct cache_counters counters; /* where the agent has given no file for them */
  u8 slot_groups[(SLOTS + SLOT_GROUP - 1) / SLOT_GROUP]; /* 1: a slot of the group was taken once */
  struct slot slots[SLOTS];
  struct absent_path absent_paths[ABSENT_PATHS];
};

struct fd_entry {
  struct file *file; /* lazily filled file, or NULL */
  u64 segno;         /* WAL segment number */
  u32 next_fault;    /* block after the last fetch: another fetch there is a sequential one */
  u32 window;        /* blocks to fetch at once, while it goes on like that */
  u8 is_wal, sync_writes, foreign, writable, is_relation;
};

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
#define swap_if(p, was, to)                                                                     \
  ({                                                                                            \
    __typeof__(*(p)) was_ = (was);                                                              \
    __atomic_compare_exchange_n((p), &was_, (to), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);   \
  })

/* start.c: what the process was started with; NULL and 0 in programs that are not Postgres. */
extern struct region *region;
extern u8 *arena;
extern u64 arena_size;
extern const char *data_dir, *socket_path;
extern size_t data_dir_length;
extern bool wal_hook;
extern u64 wal_segment_size;
extern u64 cache_limit; /* blocks; 0: none */
extern struct cache_counters *counters;
extern char version_directory[MAX_VERSION_DIRECTORY]; /* PG_..., in which a tablespace of the user's has all */
extern pid_t postmaster_pid;
extern bool is_postmaster; /* this process, and not one that it has forked */

/* system.c: system calls under their own names, because libc's names are ours here. */
int sys_open(const char *path, int flags, mode_t mode);
int sys_close(int fd);
ssize_t sys_pwrite(int fd, const void *data, size_t n, off_t at);
int sys_stat(const char *path, struct stat *out, int flags);
void say(const char *text, const char *more);
__attribute__((noreturn)) void die(const char *text, const char *more);
void pause_ms(long ms);
u64 clock_ms(void);
void wait_word(u32 *word, u32 value);
void wake_word(u32 *word);
void hold_signals(sigset_t *before);
void release_signals(const sigset_t *before);

/* interrupts.c */
extern PER_PROCESS bool waits_must_end_well; /* nobody would handle a failure: see unlink() */
extern PER_PROCESS bool reads_relation;      /* the call is a read of a relation's file */
bool interrupted(u64 *since);
int give_up(void);
void expect_no_error(void);
bool is_recovering(void);

/* start.c */
void *map_shared_file(const char *path, size_t bytes, const char *what);

/* agent.c */
struct question {
  u8 type;
  const struct key *key; /* NULL: about no file */
  u64 a;
  u32 b, c;
};
extern PER_PROCESS u8 pages[MAX_PAGES * BLOCK]; /* the last answer that had a payload */
extern PER_PROCESS bool talking;
void disconnect(void);
#define MAX_NOTIFIED 8u
void notify(struct question question);
void notify_all(const struct question *questions, u32 count);
int ask(struct question question, void *into, size_t room, void **big, struct wire_reply *reply);

/* names.c */
int classify(const char *path, struct key *key, u64 *segno, const char **local);
void format_path(const struct key *key, char out[MAX_PATH]);
char *put_number(char *at, u32 value);
const char *after(const char *path, const char *prefix);
const char *parse_number(const char *at, u32 *out);
const char *inside(const char *path);
bool is_temporary_relation(const char *path);
bool is_relation_file(const char *path, bool first);

/* tablespaces.c */
bool is_tablespace_link(const char *path, u32 *oid);
bool is_version_directory(const char *path);
const char *own_path(const char *path, char into[MAX_LOCATION]);
int make_tablespace(const char *location, const char *link, u32 oid);
void forget_tablespace(u32 oid);
ssize_t read_tablespace_link(u32 oid, char *into, size_t room);

/* slots.c */
void *arena_take(u64 bytes);
struct slot *known_slot(const struct key *key);
struct slot *find_slot(const struct key *key);
bool is_absent(const struct key *key);
void note_absent(const struct key *key);
void settle(struct slot *slot, u32 state);
u32 settled_state(struct slot *slot);
bool try_lock_slot(struct slot *slot, u32 from);
u32 lock_slot(struct slot *slot);
void unlock_slot(u32 state);

/* held.c */
struct held_blocks {
  struct file *file; /* NULL: no blocks */
  u32 from, to;      /* among [from, to), what is in `state` is ours */
  u32 from_cut;      /* and was CUT, from here on: perhaps the file does not come so far */
  u8 state;  /* WRITING: REWRITING, too */
  u8 before; /* they had, and have when they are given back; REWRITING ones are PRESENT then, or CUT */
};
struct held_slot {
  struct slot *slot;
  u32 was;
};
extern PER_PROCESS struct held_blocks held_blocks;
extern PER_PROCESS struct held_slot held_slots[2];
extern PER_PROCESS u32 held_slot_count;
extern PER_PROCESS u32 abandoned; /* waits that a signal handler on its way to exit() has ended */
void blocks_changed(struct file *file);
void give_back_blocks(void);
void give_back_all(void);
void begin_wait(u32 expected_slots);
void end_wait(u32 abandoned_before);

/* announce.c */
void announce(const struct file *file, u32 from, u32 count);
void before_fetch(const struct file *file, u32 from, u32 count);

/* files.c */
void say_hello(void);
struct slot *resolve(const struct key *key, const char *path, int64_t bytes);
int create_tracked(const struct key *key, const char *path, int flags, mode_t mode);
int list_directory(const char *path);
void mark_directory_local(const char *path, bool made);

/* spares.c */
bool removals_are_told(void);
int remove_plain(const char *path);
bool leave_name(const char *path);
int open_spare(const char *path, int flags, mode_t mode);

/* blocks.c */
extern PER_PROCESS struct fd_entry fds[MAX_FD];
u32 block_of(u64 at);
u32 block_end(u64 end);
int before_read(int fd, off_t at, size_t n, u64 *evictions);
int before_write(struct file *file, int fd, off_t at, size_t n);
ssize_t after_write(struct file *file, int fd, off_t at, ssize_t written);
void forget_blocks(struct file *file, u32 keep);
bool claim_for_hints(struct file *file, u32 block);

/* hints.c */
ssize_t write_hints(struct file *file, int fd, const u8 *data, off_t at);

/* evict.c */
void make_evictable(struct slot *slot);
bool may_track(const struct key *key);
void track_added(struct file *file, u32 to);
void count_blocks(struct file *file, int clean, int kept);
void drop_counts(struct file *file);
void note_filled(struct file *file, u32 block);
void note_used(struct file *file, u32 block);
void note_written(struct file *file, u32 block);
u64 evictions_of(const struct file *file, off_t at, size_t n);
bool evicted_since(int fd, off_t at, size_t n, u64 evictions);
bool note_same(struct file *file, u32 block);
void make_room(void);
void make_room_when_idle(void);

/* compare.c */
void start_comparer(void);
void see_to_comparer(void);
void call_comparer(void);

static inline u8 *state_of(const struct file *file, u32 block) {
  return block < file->capacity ? &file->states[block] : &file->added->states[block - file->capacity];
}
static inline u8 *used_of(const struct file *file, u32 block) {
  return block < file->capacity ? &file->used[block] : &file->added->used[block - file->capacity];
}
static inline u8 *compared_of(const struct file *file, u32 block) {
  return block < file->capacity ? &file->compared[block] : &file->added->compared[block - file->capacity];
}

/* Blocks that have states from the start on. Where blocks may go those that were cut off count, too: what is written there anew is to go. */
static inline u32 stored_end(const struct file *file) { return file->evictable ? file->capacity : load(&file->nremote); }
/* Blocks below it have states that count; what was added may. */
static inline u32 tracked_end(const struct file *file) {
  return load(&file->added) != NULL ? SEGMENT_BLOCKS : stored_end(file);
}
/* As far as there is anything to look for. */
static inline u32 used_end(const struct file *file) {
  u32 stored = stored_end(file), end = load(&file->end);
  return end > stored ? end : stored;
}

/* The file behind a descriptor, while blocks of it may be absent. */
static inline struct file *lazy_file(int fd) {
  if (fd < 0 || fd >= MAX_FD) {
    return NULL;
  }
  struct file *file = fds[fd].file;
  return file != NULL && (file->evictable || load(&file->nabsent) > 0) ? file : NULL;
}

/* read_counts.c */
void set_read_counts(const char *path);
void tell_reads(void);
void note_reads(int fd, u64 blocks);
u64 clock_us(void);
void note_wait(const struct file *file, u64 since, u32 missed, u32 fetched);

/* own_extension.c */
void set_extension_dir(const char *path);
const char *extension_path(const char *path, char into[MAX_LOCATION]);

/* unused_memory.c */
void give_back_unused_memory(void);

/* wal.c */
void wal_written(const struct fd_entry *entry, off_t at, size_t n);
int sync_file(int fd, int number);
bool fetch_wal_segment(u64 segno);

/* pace.c */
void note_pace(u64 microseconds);
void keep_pace(int fd, off_t at, size_t n);

/* aux_files.c */
int before_rename(const char *from, const char *to);
void after_rename(const char *from, const char *to);
void after_unlink(const char *path);

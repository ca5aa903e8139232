/*
 * strata_shim.c: an LD_PRELOAD library that gives an unmodified Postgres remote pages and quorum WAL.
 *
 * Pages. The data directory starts almost empty. A relation or SLRU segment appears as a sparse file
 * of the right size when it is first named; an 8 kB block of it is fetched from the compute agent
 * when it is first read. A block that is absent here was never changed by this compute, so the page
 * as of the start LSN is always the right one, and the agent needs no idea of what happens here.
 *
 * WAL. fdatasync() of a WAL segment returns when the agent says that a quorum has the WAL. Every
 * other sync in the data directory is a no-op: the directory is a cache and is thrown away.
 *
 * Invariants
 *  1. A read never returns bytes that neither a write here nor the agent supplied.
 *  2. A late fill never overwrites a newer write: a block is filled or written only by the process
 *     that moved it out of ABSENT by compare-and-swap; everybody else waits.
 *  3. The agent writes no file once hello is answered. What it prefetches stays in its memory, so that
 *     a prefetch cannot race with a write, a truncation or a re-extension. The files that it made before
 *     are named in that answer, with the blocks that they hold; nothing of Postgres has run by then.
 *  4. A path once unlinked here, created here or found absent in storage is LOCAL for ever: a reused
 *     file number never brings back storage's old content.
 *  5. A sync of WAL succeeds or does not return. Postgres panics on an error, and a lie loses data.
 *  6. Whoever stops waiting, and whoever ends by exit(), gives back what it has claimed.
 *
 * States in shared memory (one anonymous mapping made by the postmaster, inherited through fork):
 *  path:  NEW -> RESOLVING -> LAZY (sparse file, blocks tracked) | LOCAL (plain file, or none)
 *         RESOLVING is the lock of one path; LAZY -> RESOLVING -> LOCAL on unlink.
 *  block: ABSENT -> FILLING (by a reader) | WRITING (by a writer) -> PRESENT. Blocks at or above
 *         `nremote` count as PRESENT; truncation lowers nremote and extension never raises it.
 *  Whoever waits for a block holds only claims on lower blocks of the same file, and a filler never
 *  waits while it holds one: so no cycle.
 *
 * Everything here is system calls and the few libc functions that need no newer glibc than 2.17: no
 * malloc, no stdio, no dlsym. Postgres is single-threaded, so per-process state has no locks; but a
 * signal handler may end the process anywhere (bgworker_die), with file accesses on its way out.
 *
 * Protocol (src/compute/shim-protocol.ts is the other side): little-endian, one connection a process,
 * at most one request outstanding; W and P have no reply.
 *  request: u32 length | u8 type | u8 version | u16 path length | u64 a | u32 b | u32 c | path
 *   H hello        a = pid                  -> ok, a = entries, payload; when all files are placed
 *   S stat         path                                        -> ok, a = bytes | absent
 *   G get pages    path, b = first block, c = count            -> ok, payload = count * 8192
 *   L list         path of a directory                         -> ok, a = entries, payload
 *   P prefetch     path, b = first block, c = count
 *   W WAL written  a = segment number, b = offset, c = length: by now, with all WAL before it
 *   F flush WAL    a = segment number, b = end offset in it    -> ok | fenced, as late as it takes
 *  reply: u32 length | u8 status | u8 type | u16 0 | u64 a | payload
 *  list entry: u64 bytes | u16 name length | name
 *  hello entry: u64 bytes, 2^64 - 1 = storage has no such file | u16 path length | u16 runs | path |
 *               per run of blocks that are in the file already: u32 first, u32 count
 */
#define _GNU_SOURCE
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

#define PROTOCOL_VERSION 2
#define BLOCK 8192u
#define SEGMENT_BLOCKS 131072u
#define MAX_PAGES 32u /* a request; io_combine_limit of Postgres 17 is at most 32 */
#define MAX_FD 65536
#define SLOTS (1u << 24)
#define MAX_PATH 64
#define EXPORT __attribute__((visibility("default")))

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum { SLOT_EMPTY, SLOT_CLAIMED, SLOT_NEW, SLOT_RESOLVING, SLOT_LAZY, SLOT_LOCAL };
enum { ABSENT, FILLING, WRITING, PRESENT };
enum { KIND_REL = 1, KIND_XACT, KIND_OFFSETS, KIND_MEMBERS, KIND_COMMIT_TS, KIND_DIR };
enum { NAME_OTHER, NAME_FOREIGN, NAME_BLOCKS, NAME_DIR, NAME_WAL };
enum { STATUS_OK, STATUS_ABSENT, STATUS_ERROR, STATUS_FENCED };
enum { FORK_MAIN, FORK_FSM, FORK_VM, FORK_INIT };

struct key {
  u32 kind, db, rel, forkseg; /* forkseg: fork << 29 | segment number */
};

struct file {
  u32 nremote;  /* blocks that storage has and that were not cut off here */
  u32 nabsent;  /* how many of them are not PRESENT; 0 = plain system calls from here on */
  u32 changes;  /* futex word: bumped when blocks change state while someone waits */
  u32 waiters;
  u32 capacity; /* nremote at the start: how many block states there are */
  struct key key;
  u64 inode;
  u8 *states;
};

struct slot {
  u32 state;
  struct key key;
  u32 unused;
  struct file *file;
};

struct region {
  u64 arena_next;    /* bytes of the arena handed out */
  u64 wal_writes;    /* WAL pwrites so far. A sequence, not an LSN: the same partial page is rewritten */
  u64 wal_durable;   /* value of wal_writes that is known to be durable on a quorum */
  u64 wal_high;      /* highest byte position pwritten, as an LSN */
  u64 wal_told;      /* up to where a message has told of it, or is about to */
  u64 waits;         /* times a process had to wait for another one's block; for tests */
  struct slot slots[SLOTS];
};

struct message {
  u32 length;
  u8 type, version;
  uint16_t path_length;
  u64 a;
  u32 b, c;
} __attribute__((packed));

struct reply {
  u32 length;
  u8 status, type;
  uint16_t zero;
  u64 a;
} __attribute__((packed));

struct fd_entry {
  struct file *file; /* lazily filled file, or NULL */
  u64 segno;         /* WAL segment number */
  u32 next_fault;    /* block after the last fetch: another fetch there is a sequential one */
  u32 window;        /* blocks to fetch at once, while it goes on like that */
  u8 is_wal, sync_writes, foreign, writable;
};

static struct fd_entry fds[MAX_FD];
static struct region *region;
static u8 *arena;
static u64 arena_size;
static const char *data_dir, *socket_path;
static size_t data_dir_length;
static bool wal_hook, greeted;
static u64 wal_segment_size = 16u << 20;
static pid_t postmaster_pid, forker_pid;
static int agent_fd = -1;
static bool talking;
static u32 abandoned; /* waits that a signal handler on its way to exit() has ended */
static u8 pages[MAX_PAGES * BLOCK];

/*
 * Postgres's own variables and functions, as it has them for extensions: the same in 14 to 18, but where
 * a comment says otherwise. Absent in other programs.
 */
#define POSTGRES __attribute__((weak))
struct context_callback {
  struct context_callback *previous;
  void (*callback)(void *);
  void *argument;
};
extern bool InRecovery POSTGRES; /* true only in the process that replays WAL */
extern bool proc_exit_inprogress POSTGRES;
extern volatile sig_atomic_t InterruptPending POSTGRES, QueryCancelPending POSTGRES, ProcDiePending POSTGRES;
extern volatile sig_atomic_t CheckClientConnectionPending POSTGRES, ClientConnectionLost POSTGRES;
extern volatile sig_atomic_t TransactionTimeoutPending POSTGRES; /* from 17 on */
extern volatile sig_atomic_t ShutdownRequestPending POSTGRES;
extern volatile u32 InterruptHoldoffCount POSTGRES, QueryCancelHoldoffCount POSTGRES, CritSectionCount POSTGRES;
extern int client_connection_check_interval POSTGRES, MyBackendType POSTGRES;
extern struct context_callback *error_context_stack POSTGRES;
extern void ProcessInterrupts(void) POSTGRES;
extern bool IsTransactionState(void) POSTGRES;
extern bool pq_check_connection(void) POSTGRES;
extern int geterrcode(void) POSTGRES;
extern const char *GetBackendTypeDesc(int) POSTGRES;
extern void pgaio_io_perform_synchronously(void *) POSTGRES; /* from 18 on */

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
#define swap_if(p, was, to)                                                                     \
  ({                                                                                            \
    __typeof__(*(p)) was_ = (was);                                                              \
    __atomic_compare_exchange_n((p), &was_, (to), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);   \
  })

/* ---- system calls under their own names, because libc's names are ours here ---- */

static int sys_open(const char *path, int flags, mode_t mode) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
static int sys_close(int fd) { return (int)syscall(SYS_close, fd); }
static ssize_t sys_pwrite(int fd, const void *data, size_t n, off_t at) {
  return syscall(SYS_pwrite64, fd, data, n, at);
}
static int sys_stat(const char *path, struct stat *out, int flags) {
  return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, flags);
}

static void say(const char *text, const char *more) {
  struct iovec parts[4] = {{(void *)"strata shim: ", 13},
                           {(void *)text, strlen(text)},
                           {(void *)more, strlen(more)},
                           {(void *)"\n", 1}};
  syscall(SYS_writev, 2, parts, 4);
}

__attribute__((noreturn)) static void die(const char *text, const char *more) {
  say(text, more);
  _exit(2);
}

static void pause_ms(long ms) {
  struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
  syscall(SYS_nanosleep, &time, NULL);
}

/* Waits while *word is `value`. The timeout makes a lost wake-up a delay, not a hang. */
static void wait_word(u32 *word, u32 value) {
  struct timespec time = {0, 20 * 1000000};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &time, NULL, 0);
}

static void wake_word(u32 *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

static u64 clock_ms(void) {
  struct timespec time;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
  return (u64)time.tv_sec * 1000 + (u64)time.tv_nsec / 1000000;
}

/* No signal handler runs, and so none ends the process, until release_signals(). */
static void hold_signals(sigset_t *before) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, before);
}

static void release_signals(const sigset_t *before) {
  int saved = errno;
  sigprocmask(SIG_SETMASK, before, NULL);
  errno = saved;
}

/* ---- giving up ----
 *
 * A wait for the agent, or for a process that waits for it, ends when Postgres wants this process to do
 * something else: the read, open or stat fails with ECANCELED, as it could fail with EIO, and Postgres
 * raises an error. While it does, act_on_interrupt() lets it look at its interrupts first, so that the
 * client hears what CHECK_FOR_INTERRUPTS() would have said, with its SQLSTATE.
 * docs/decisions/0014-reads-that-wait-can-be-cancelled.md says why not otherwise.
 */

/* A process that is ending still reads, for example to drop its temporary tables: it need not succeed. */
#define EXIT_PATIENCE_MS 500
/* MAKE_SQLSTATE('X', 'X', '0', '0', '0'): what errcode_for_file_access() makes of ECANCELED. */
#define ERRCODE_INTERNAL_ERROR 2600

static bool waits_must_end_well; /* nobody would handle a failure: see unlink() */
static bool reads_relation;      /* the call is a read of a relation's file */
static bool gave_up;             /* and Postgres has not raised its error yet */

/*
 * Whether an error raised now would be a plain error. In a critical section it would be a panic, during
 * commit and abort worse, and processes without transactions (checkpointer, startup) have work that must
 * be done. From 18 on every synchronous read of a relation is in a critical section of its own, outside
 * of which its error is raised.
 */
static bool may_fail(void) {
  u32 own = reads_relation && pgaio_io_perform_synchronously != NULL ? 1 : 0;
  return !waits_must_end_well && CritSectionCount <= own && IsTransactionState();
}

/* ProcessInterrupts() would look once and arm its timer again; until then we look at each turn. */
static bool client_is_gone(void) {
  return ClientConnectionLost || (CheckClientConnectionPending && client_connection_check_interval > 0 &&
                                  !pq_check_connection());
}

/* SIGTERM is no interrupt to it, and nobody needs what it reads. */
static bool is_launcher_that_stops(void) {
  return ShutdownRequestPending && strcmp(GetBackendTypeDesc(MyBackendType), "autovacuum launcher") == 0;
}

/* Whether to end a wait. `since` is 0 at its begin and ours from then on. */
static bool interrupted(u64 *since) {
  /* All of them or none: other programs than Postgres wait for ever. */
  if (ProcessInterrupts == NULL || IsTransactionState == NULL || !may_fail()) {
    return false;
  }
  if (proc_exit_inprogress) {
    *since = *since == 0 ? clock_ms() : *since;
    return clock_ms() - *since >= EXIT_PATIENCE_MS;
  }
  return (InterruptPending &&
          (ProcDiePending || (QueryCancelPending && QueryCancelHoldoffCount == 0) ||
           (&TransactionTimeoutPending != NULL && TransactionTimeoutPending) || client_is_gone())) ||
         is_launcher_that_stops();
}

/* Called by errfinish() for each report, like the functions that add context to it. */
static void act_on_interrupt(void *argument) {
  (void)argument;
  if (!gave_up || CritSectionCount != 0 || geterrcode() != ERRCODE_INTERNAL_ERROR) {
    return;
  }
  gave_up = false;
  if (!proc_exit_inprogress) {
    /* As errfinish() is about to do for this error; locks that are held are released with it. */
    InterruptHoldoffCount = 0;
    ProcessInterrupts();
  }
}

/* The result of a call whose wait interrupted() has ended. */
static int give_up(void) {
  static struct context_callback callback = {NULL, act_on_interrupt, NULL};
  struct context_callback *at = error_context_stack;
  while (at != NULL && at != &callback) {
    at = at->previous;
  }
  if (at == NULL) {
    /* Whoever put the one below there takes us off with it, as does whoever catches the error. */
    callback.previous = error_context_stack;
    error_context_stack = &callback;
  }
  gave_up = true;
  errno = ECANCELED;
  return -1;
}

/* ---- talking to the agent ---- */

static void disconnect(void) {
  if (agent_fd >= 0) {
    sys_close(agent_fd);
  }
  agent_fd = -1;
}

static bool try_connect(void) {
  if (agent_fd >= 0) {
    return true;
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return false;
  }
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
  /* With them a signal ends recv() and send() in spite of SA_RESTART, and one that came before is noticed. */
  struct timeval turn = {0, 100 * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &turn, sizeof turn);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &turn, sizeof turn);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    sys_close(fd);
    return false;
  }
  agent_fd = fd;
  return true;
}

/* What became of sending or receiving. */
enum { DONE, BROKEN, INTERRUPTED };

/* After a send() or recv() that did nothing: go on, or how it ended. */
static int next_turn(u64 *since) {
  if (errno != EINTR && errno != EAGAIN) {
    return BROKEN;
  }
  return interrupted(since) ? INTERRUPTED : DONE;
}

static int send_all(const void *data, size_t n, u64 *since) {
  const u8 *at = data;
  while (n > 0) {
    ssize_t sent = send(agent_fd, at, n, MSG_NOSIGNAL);
    if (sent <= 0) {
      int turn = sent < 0 ? next_turn(since) : BROKEN;
      if (turn != DONE) {
        return turn;
      }
      continue;
    }
    at += sent;
    n -= (size_t)sent;
  }
  return DONE;
}

static int receive_all(void *data, size_t n, u64 *since) {
  u8 *at = data;
  while (n > 0) {
    ssize_t got = recv(agent_fd, at, n, MSG_WAITALL);
    if (got <= 0) {
      int turn = got < 0 ? next_turn(since) : BROKEN;
      if (turn != DONE) {
        return turn;
      }
      continue;
    }
    at += got;
    n -= (size_t)got;
  }
  return DONE;
}

static int send_message(u8 type, const char *path, u64 a, u32 b, u32 c, u64 *since) {
  u8 buffer[sizeof(struct message) + MAX_PATH];
  size_t path_length = strlen(path);
  struct message head = {
      .length = (u32)(sizeof head + path_length),
      .type = type,
      .version = PROTOCOL_VERSION,
      .path_length = (uint16_t)path_length,
      .a = a,
      .b = b,
      .c = c,
  };
  memcpy(buffer, &head, sizeof head);
  memcpy(buffer + sizeof head, path, path_length);
  return send_all(buffer, head.length, since);
}

/*
 * Sends what has no reply. A message lost to a dead agent, or to an interrupt, is lost: P is a hint and F
 * repeats what W said.
 */
static void notify(u8 type, const char *path, u64 a, u32 b, u32 c) {
  int saved = errno;
  u64 since = 0;
  if (try_connect() && send_message(type, path, a, b, c, &since) != DONE) {
    disconnect();
  }
  errno = saved;
}

/* One question and its answer, which goes where ask() says. Anything but DONE leaves the connection useless. */
static int converse(u8 type, const char *path, u64 a, u32 b, u32 c, void *into, size_t room, void **big,
                    struct reply *reply, u64 *since) {
  int result = send_message(type, path, a, b, c, since);
  if (result == DONE) {
    result = receive_all(reply, sizeof *reply, since);
  }
  if (result != DONE) {
    return result;
  }
  if (reply->length < sizeof *reply || reply->type != type || reply->status > STATUS_FENCED) {
    die("the agent's reply makes no sense for ", path);
  }
  size_t payload = reply->length - sizeof *reply;
  void *target = into;
  if (payload > room) {
    if (big == NULL) {
      die("the agent's reply is too long for ", path);
    }
    target = *big = mmap(NULL, payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (target == MAP_FAILED) {
      die("no memory to list ", path);
    }
  }
  result = receive_all(target, payload, since);
  if (result != DONE && target != into) {
    munmap(target, payload);
  }
  return result;
}

/*
 * Asks until there is an answer: when the agent goes away, connects and asks again (all requests may be
 * repeated). The payload goes to `into` when it fits in `room`, else into a fresh mapping at *big.
 * -1 with errno when interrupted: the connection is closed, so that no later question gets this answer.
 */
static int ask(u8 type, const char *path, u64 a, u32 b, u32 c, void *into, size_t room, void **big,
               struct reply *reply) {
  int saved = errno;
  u64 since = 0;
  talking = true;
  for (int tries = 0;; tries++) {
    if (tries > 0) {
      pause_ms(tries < 20 ? 5 : 100);
      if (tries == 70) {
        say("waiting for the compute agent at ", socket_path);
      }
      if (interrupted(&since)) {
        break;
      }
    }
    if (!try_connect()) {
      continue;
    }
    int result = converse(type, path, a, b, c, into, room, big, reply, &since);
    if (result == DONE) {
      talking = false;
      errno = saved;
      return 0;
    }
    disconnect();
    if (result == INTERRUPTED) {
      break;
    }
  }
  talking = false;
  return give_up();
}

/* ---- names ---- */

static const char *parse_number(const char *at, u32 *out) {
  u64 value = 0;
  const char *start = at;
  for (; *at >= '0' && *at <= '9'; at++) {
    value = value * 10 + (u64)(*at - '0');
    if (value > UINT32_MAX) {
      return NULL;
    }
  }
  *out = (u32)value;
  return at == start || *start == '0' ? NULL : at;
}

static int hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static const char *parse_hex(const char *at, int digits, u64 *out) {
  u64 value = 0;
  for (; digits > 0; digits--, at++) {
    int digit = hex_digit(*at);
    if (digit < 0) {
      return NULL;
    }
    value = value << 4 | (u64)digit;
  }
  *out = value;
  return at;
}

/* A relation file's name: N[_fsm|_vm|_init][.segment] (relpath.c). */
static bool parse_relation(const char *at, struct key *key) {
  static const char *const suffixes[] = {"_fsm", "_vm", "_init"};
  u32 fork = FORK_MAIN, segment = 0;
  at = parse_number(at, &key->rel);
  if (at == NULL) {
    return false;
  }
  for (u32 i = 0; *at == '_' && i < 3; i++) {
    size_t n = strlen(suffixes[i]);
    if (strncmp(at, suffixes[i], n) == 0) {
      fork = i + 1;
      at += n;
      break;
    }
  }
  if (*at == '.') {
    at = parse_number(at + 1, &segment);
    if (at == NULL || segment >= 1u << 29) {
      return false;
    }
  }
  key->kind = KIND_REL;
  key->forkseg = fork << 29 | segment;
  return *at == 0;
}

static int parse_slru(const char *name, u32 kind, struct key *key) {
  u64 segment;
  size_t n = strlen(name);
  if (n == 0) {
    *key = (struct key){KIND_DIR, UINT32_MAX, kind, 0};
    return NAME_DIR;
  }
  if (n < 4 || n > 7 || parse_hex(name, (int)n, &segment) == NULL) {
    return NAME_OTHER;
  }
  *key = (struct key){kind, 0, (u32)segment, 0};
  return NAME_BLOCKS;
}

static const char *after(const char *path, const char *prefix) {
  size_t n = strlen(prefix);
  return strncmp(path, prefix, n) == 0 ? path + n : NULL;
}

/* What a path is to us. `local` becomes the path inside the data directory (the current directory). */
static int classify(const char *path, struct key *key, u64 *segno, const char **local) {
  const char *at;
  if (region == NULL || path == NULL) {
    return NAME_OTHER;
  }
  if (path[0] == '/') {
    if (strncmp(path, data_dir, data_dir_length) != 0 || path[data_dir_length] != '/') {
      return NAME_FOREIGN;
    }
    path += data_dir_length + 1;
  }
  while (path[0] == '.' && path[1] == '/') {
    path += 2;
  }
  *local = path;
  *key = (struct key){0};
  if ((at = after(path, "base/")) != NULL) {
    at = parse_number(at, &key->db);
    if (at == NULL) {
      return NAME_OTHER;
    }
    if (*at == 0 || (*at == '/' && at[1] == 0)) {
      key->kind = KIND_DIR;
      return NAME_DIR;
    }
    return *at == '/' && parse_relation(at + 1, key) ? NAME_BLOCKS : NAME_OTHER;
  }
  if (strcmp(path, "global") == 0) {
    key->kind = KIND_DIR;
    return NAME_DIR;
  }
  if ((at = after(path, "global/")) != NULL) {
    return parse_relation(at, key) ? NAME_BLOCKS : NAME_OTHER;
  }
  if ((at = after(path, "pg_wal/")) != NULL) {
    u64 timeline, high, low;
    if ((at = parse_hex(at, 8, &timeline)) == NULL || (at = parse_hex(at, 8, &high)) == NULL ||
        (at = parse_hex(at, 8, &low)) == NULL || *at != 0) {
      return NAME_OTHER;
    }
    *segno = high * ((1ull << 32) / wal_segment_size) + low;
    return NAME_WAL;
  }
  static const char *const slrus[] = {"pg_xact", "pg_multixact/offsets", "pg_multixact/members",
                                      "pg_commit_ts"};
  for (u32 i = 0; i < 4; i++) {
    if ((at = after(path, slrus[i])) != NULL && (*at == 0 || *at == '/')) {
      return parse_slru(*at == '/' ? at + 1 : at, KIND_XACT + i, key);
    }
  }
  return NAME_OTHER;
}

static char *put_number(char *at, u32 value) {
  char digits[10];
  int n = 0;
  do {
    digits[n++] = (char)('0' + value % 10);
  } while ((value /= 10) > 0);
  while (n > 0) {
    *at++ = digits[--n];
  }
  return at;
}

/* The path inside the data directory that classify() read this key from. */
static void format_path(const struct key *key, char out[MAX_PATH]) {
  static const char *const forks[] = {"", "_fsm", "_vm", "_init"};
  static const char *const slrus[] = {"pg_xact/", "pg_multixact/offsets/", "pg_multixact/members/",
                                      "pg_commit_ts/"};
  char *at = out;
  if (key->kind == KIND_REL) {
    u32 segment = key->forkseg & ((1u << 29) - 1);
    at = stpcpy(at, key->db == 0 ? "global/" : "base/");
    if (key->db != 0) {
      at = put_number(at, key->db);
      *at++ = '/';
    }
    at = stpcpy(put_number(at, key->rel), forks[key->forkseg >> 29]);
    if (segment > 0) {
      *at++ = '.';
      at = put_number(at, segment);
    }
  } else {
    int digits = key->rel > 0xfffff ? 6 : key->rel > 0xffff ? 5 : 4;
    digits = key->rel > 0xffffff ? 7 : digits;
    at = stpcpy(at, slrus[key->kind - KIND_XACT]);
    for (int i = digits - 1; i >= 0; i--) {
      *at++ = "0123456789ABCDEF"[key->rel >> (4 * i) & 15];
    }
  }
  *at = 0;
}

/* ---- shared tables ---- */

static void *arena_take(u64 bytes) {
  u64 end = add(&region->arena_next, (bytes + 63) & ~63ull);
  if (end > arena_size) {
    die("out of room for block states", "");
  }
  return arena + end - ((bytes + 63) & ~63ull);
}

/*
 * The slot of a path, made when there is none. Open addressing; slots are never freed. Forks and
 * neighbouring file numbers land side by side, so that few pages of the table are ever touched.
 */
static struct slot *find_slot(const struct key *key) {
  u32 segment = key->forkseg & ((1u << 29) - 1), fork = key->forkseg >> 29;
  u32 at = key->rel * 4 + fork + segment * 0x9e3779b1u + key->db * 0x85ebca6bu + key->kind * 0xc2b2ae35u;
  for (u32 probe = 0; probe < SLOTS; probe++, at++) {
    struct slot *slot = &region->slots[at & (SLOTS - 1)];
    u32 state = load(&slot->state);
    if (state == SLOT_EMPTY && swap_if(&slot->state, SLOT_EMPTY, SLOT_CLAIMED)) {
      slot->key = *key;
      store(&slot->state, SLOT_NEW);
      return slot;
    }
    while ((state = load(&slot->state)) == SLOT_CLAIMED) {
      syscall(SYS_sched_yield);
    }
    if (memcmp(&slot->key, key, sizeof *key) == 0) {
      return slot;
    }
  }
  die("out of room for file names", "");
}

static void settle(struct slot *slot, u32 state) {
  store(&slot->state, state);
  wake_word(&slot->state);
}

/* ---- what this process has claimed ----
 *
 * Kept so that a claim does not outlive its process. A claim and its note are made with signals held,
 * so that exactly what is noted is ours.
 */

static struct {
  struct file *file; /* NULL: no blocks */
  u32 from, to;      /* among [from, to), what is in `state` is ours */
  u8 state;
} held_blocks;

/* A path that is being resolved, perhaps for the listing of its directory, which is the first then. */
static struct {
  struct slot *slot;
  u32 was;
} held_slots[2];
static u32 held_slot_count;

static void blocks_changed(struct file *file) {
  add(&file->changes, 1);
  if (load(&file->waiters) > 0) {
    wake_word(&file->changes);
  }
}

static void give_back_blocks(void) {
  struct file *file = held_blocks.file;
  if (file == NULL) {
    return;
  }
  for (u32 block = held_blocks.from; block < held_blocks.to; block++) {
    swap_if(&file->states[block], held_blocks.state, ABSENT);
  }
  held_blocks.file = NULL;
  blocks_changed(file);
}

static void give_back_all(void) {
  give_back_blocks();
  while (held_slot_count > 0) {
    held_slot_count--;
    settle(held_slots[held_slot_count].slot, held_slots[held_slot_count].was);
  }
}

/*
 * At the begin of what may wait. When something is held already we are in a signal handler that has
 * interrupted a wait and is about to end the process; the wait never goes on.
 */
static void begin_wait(u32 expected_slots) {
  gave_up = false;
  if (talking || held_blocks.file != NULL || held_slot_count > expected_slots) {
    disconnect();
    give_back_all();
    talking = waits_must_end_well = reads_relation = false;
    abandoned++;
  }
}

/* After it, on the way out. */
static void end_wait(u32 abandoned_before) {
  if (abandoned != abandoned_before) {
    die("file access from a signal handler that returned", "");
  }
}

/* The state of a path when nobody works on it; SLOT_EMPTY with errno when interrupted. */
static u32 settled_state(struct slot *slot) {
  u64 since = 0;
  u32 state;
  while ((state = load(&slot->state)) == SLOT_RESOLVING) {
    if (interrupted(&since)) {
      give_up();
      return SLOT_EMPTY;
    }
    wait_word(&slot->state, state);
  }
  return state;
}

/* RESOLVING instead of `from`; false where another one was faster. */
static bool try_lock_slot(struct slot *slot, u32 from) {
  sigset_t signals;
  hold_signals(&signals);
  bool locked = swap_if(&slot->state, from, SLOT_RESOLVING);
  if (locked) {
    held_slots[held_slot_count].slot = slot;
    held_slots[held_slot_count++].was = from;
  }
  release_signals(&signals);
  return locked;
}

/*
 * Takes the lock of a path: returns the state it had, which is now RESOLVING; SLOT_EMPTY with errno when
 * interrupted.
 */
static u32 lock_slot(struct slot *slot) {
  for (;;) {
    u32 state = settled_state(slot);
    if (state == SLOT_EMPTY || try_lock_slot(slot, state)) {
      return state;
    }
  }
}

/* Ends the lock that was taken last. */
static void unlock_slot(u32 state) {
  sigset_t signals;
  hold_signals(&signals);
  held_slot_count--;
  settle(held_slots[held_slot_count].slot, state);
  release_signals(&signals);
}

/* Gives a path that is ours alone the states of its file's blocks: all ABSENT. */
static void track(struct slot *slot, u64 inode, u64 bytes) {
  u32 blocks = (u32)(bytes / BLOCK);
  struct file *file = arena_take(sizeof *file);
  file->key = slot->key;
  file->inode = inode;
  file->states = blocks > 0 ? arena_take(blocks) : NULL;
  file->nabsent = file->capacity = blocks;
  store(&file->nremote, blocks);
  slot->file = file;
}

/*
 * Makes the sparse file of a NEW path whose lock we hold; returns the next state, or 0 with errno. With
 * signals held: a file that is there but not tracked would be taken for a LOCAL one.
 */
static u32 materialize(struct slot *slot, const char *path, u64 bytes) {
  int fd = sys_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    /* ENOENT: the directory is gone or not made yet; then nothing of storage's can be in it. */
    return errno == EEXIST || errno == ENOENT ? SLOT_LOCAL : 0;
  }
  struct stat stat;
  if (syscall(SYS_ftruncate, fd, (off_t)bytes) != 0 ||
      syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0) {
    int saved = errno;
    syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    sys_close(fd);
    errno = saved;
    return 0;
  }
  sys_close(fd);
  track(slot, stat.st_ino, bytes);
  return SLOT_LAZY;
}

static bool directory_is_local(const struct key *key) {
  struct key directory = {KIND_DIR, key->db, 0, 0};
  return key->kind == KIND_REL && key->db != 0 && load(&find_slot(&directory)->state) == SLOT_LOCAL;
}

/* Marks a file that the agent made before hello was answered, and its blocks that are there. */
static void adopt_file(struct slot *slot, int directory, const char *path, u64 bytes, const u8 *runs, u32 count) {
  struct stat stat;
  if (bytes % BLOCK != 0 || bytes > (u64)SEGMENT_BLOCKS * BLOCK ||
      syscall(SYS_newfstatat, directory, path, &stat, AT_SYMLINK_NOFOLLOW) != 0 || (u64)stat.st_size != bytes) {
    die("the agent says it has made a file, but has not: ", path);
  }
  track(slot, stat.st_ino, bytes);
  for (u32 i = 0; i < count; i++) {
    u32 run[2];
    memcpy(run, runs + i * sizeof run, sizeof run);
    for (u64 block = run[0]; block < (u64)run[0] + run[1]; block++) {
      if (block >= slot->file->nremote || slot->file->states[block] == PRESENT) {
        die("the agent filled a block that is not there, or twice: ", path);
      }
      slot->file->states[block] = PRESENT;
      slot->file->nabsent--;
    }
  }
  settle(slot, SLOT_LAZY);
}

/* Takes over what the answer to hello lists; no other process of Postgres exists yet. */
static void adopt_files(const u8 *at, const u8 *end, u64 entries) {
  int directory = sys_open(data_dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  for (; entries > 0; entries--) {
    u64 bytes, segno;
    uint16_t length, runs;
    char path[MAX_PATH];
    if (end - at < 12) {
      die("the agent's list of files ends in the middle", "");
    }
    memcpy(&bytes, at, 8);
    memcpy(&length, at + 8, 2);
    memcpy(&runs, at + 10, 2);
    at += 12;
    if (length >= sizeof path || end - at < length + runs * 8) {
      die("the agent's list of files ends in the middle", "");
    }
    memcpy(path, at, length);
    path[length] = 0;
    struct key key;
    const char *local;
    if (classify(path, &key, &segno, &local) != NAME_BLOCKS || local != path) {
      die("not a file of storage: ", path);
    }
    struct slot *slot = find_slot(&key);
    if (load(&slot->state) != SLOT_NEW) {
      die("the agent names a file twice: ", path);
    }
    if (bytes == UINT64_MAX) {
      settle(slot, SLOT_LOCAL);
    } else {
      adopt_file(slot, directory, path, bytes, at + length, runs);
    }
    at += length + runs * 8;
  }
  if (directory >= 0) {
    sys_close(directory);
  }
}

/*
 * Once, in the postmaster, before it forks or names a file of storage: until then it reads its settings
 * and makes its shared memory, and the agent may still be filling files.
 */
static void say_hello(void) {
  if (greeted) {
    return;
  }
  greeted = true;
  void *big = NULL;
  struct reply reply;
  ask('H', "", (u64)postmaster_pid, 0, 0, pages, sizeof pages, &big, &reply);
  if (reply.status != STATUS_OK) {
    die("the compute agent refused us", "");
  }
  const u8 *files = big != NULL ? big : pages;
  adopt_files(files, files + (reply.length - sizeof reply), reply.a);
  if (big != NULL) {
    munmap(big, reply.length - sizeof reply);
  }
  disconnect();
}

/* What a NEW path whose lock we hold is to become; 0 with errno when the agent cannot say. */
static u32 next_state(struct slot *slot, const char *path, int64_t bytes) {
  const struct key *key = &slot->key;
  struct stat stat;
  int saved = errno;
  bool local = directory_is_local(key) || sys_stat(path, &stat, AT_SYMLINK_NOFOLLOW) == 0;
  errno = saved;
  if (local) {
    return SLOT_LOCAL;
  }
  if (bytes < 0) {
    char name[MAX_PATH];
    struct reply reply;
    format_path(key, name);
    if (ask('S', name, 0, 0, 0, NULL, 0, NULL, &reply) != 0) {
      return 0;
    }
    if (reply.status == STATUS_ABSENT) {
      return SLOT_LOCAL;
    }
    if (reply.status != STATUS_OK) {
      errno = EIO;
      return 0;
    }
    bytes = (int64_t)reply.a;
  }
  if (bytes % BLOCK != 0 || bytes > (int64_t)SEGMENT_BLOCKS * BLOCK) {
    die("storage's size is not one of a segment: ", path);
  }
  sigset_t signals;
  hold_signals(&signals);
  u32 next = materialize(slot, path, (u64)bytes);
  if (next != 0) {
    errno = saved;
    unlock_slot(next);
  }
  release_signals(&signals);
  return next;
}

/*
 * Brings a path to LAZY or LOCAL; NULL with errno when the agent cannot say. `bytes` is its size in
 * storage where a listing told it, else -1. A file that lies here before we ever looked is LOCAL.
 */
static struct slot *resolve(const struct key *key, const char *path, int64_t bytes) {
  say_hello();
  struct slot *slot = find_slot(key);
  u32 state = load(&slot->state);
  if (state == SLOT_LAZY || state == SLOT_LOCAL) {
    return slot;
  }
  u32 listing = bytes < 0 ? 0 : 1, before;
  begin_wait(listing);
  before = abandoned;
  state = lock_slot(slot);
  if (state == SLOT_EMPTY) {
    return NULL;
  }
  if (state != SLOT_NEW) {
    unlock_slot(state);
    return slot;
  }
  u32 next = next_state(slot, path, bytes);
  end_wait(before);
  if (held_slot_count > listing) {
    int why = errno;
    unlock_slot(next == 0 ? SLOT_NEW : next);
    errno = why;
  }
  return next == 0 ? NULL : slot;
}

/* ---- blocks ---- */

/* Waits until another process is done with a block it claimed; false when interrupted. */
static bool wait_block(struct file *file, u32 block) {
  u64 since = 0;
  bool done = false;
  add(&region->waits, 1);
  add(&file->waiters, 1);
  for (;;) {
    u32 changes = load(&file->changes);
    u8 state = load(&file->states[block]);
    done = state != FILLING && state != WRITING;
    if (done || interrupted(&since)) {
      break;
    }
    wait_word(&file->changes, changes);
  }
  add(&file->waiters, (u32)-1);
  return done;
}

/*
 * ABSENT -> `to` for blocks from `from` on, at most `count`, until one is not ABSENT; how many. Blocks that a
 * truncation is cutting off meanwhile may be among them: it waits for them before it cuts the file.
 */
static u32 claim(struct file *file, u32 from, u32 count, u8 to) {
  sigset_t signals;
  u32 claimed = 0;
  hold_signals(&signals);
  if (held_blocks.file == NULL) {
    held_blocks.from = from;
    held_blocks.state = to;
  }
  while (claimed < count && swap_if(&file->states[from + claimed], ABSENT, to)) {
    claimed++;
  }
  if (claimed > 0) {
    held_blocks.to = from + claimed;
    held_blocks.file = file;
  }
  release_signals(&signals);
  return claimed;
}

static int pwrite_all(int fd, const u8 *data, size_t n, off_t at) {
  while (n > 0) {
    ssize_t done = sys_pwrite(fd, data, n, at);
    if (done < 0 && errno == EINTR) {
      continue;
    }
    if (done <= 0) {
      return -1;
    }
    data += done;
    at += done;
    n -= (size_t)done;
  }
  return 0;
}

/* Opens the file behind a read-only descriptor for writing: by descriptor, as the path may be another file now. */
static int open_writable(int fd) {
  char path[32];
  *put_number(stpcpy(path, "/proc/self/fd/"), (u32)fd) = 0;
  return sys_open(path, O_WRONLY | O_CLOEXEC, 0);
}

/* Fetches claimed blocks [block, block + count) and releases the claims; -1 with errno leaves them ABSENT. */
static int fill(struct file *file, int fd, u32 block, u32 count) {
  char name[MAX_PATH];
  struct reply reply;
  int result, target = fd;
  u32 before = abandoned;
  format_path(&file->key, name);
  result = ask('G', name, 0, block, count, pages, sizeof pages, NULL, &reply);
  end_wait(before);
  if (result == 0 && (reply.status != STATUS_OK || reply.length - sizeof reply != (u64)count * BLOCK)) {
    errno = EIO;
    result = -1;
  } else if (result == 0 && !fds[fd].writable) {
    target = open_writable(fd);
    result = target < 0 ? -1 : 0;
  }
  if (result == 0) {
    result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);
  }
  int why = errno;
  if (target != fd && target >= 0) {
    sys_close(target);
  }
  for (u32 i = 0; result == 0 && i < count; i++) {
    store(&file->states[block + i], PRESENT);
  }
  if (result == 0) {
    /* After the states, here and elsewhere: at 0 nobody looks at them any more. */
    add(&file->nabsent, -count);
  }
  give_back_blocks();
  errno = why;
  return result;
}

/*
 * How many blocks to fetch for a read of [from, to): more than asked, twice as many each time, when the
 * process reads this descriptor in order. VACUUM and old majors read scans block by block, and then
 * the round trip to the agent is what takes the time.
 */
static u32 blocks_to_fetch(struct fd_entry *entry, u32 from, u32 to) {
  u32 window = from == entry->next_fault && from > 0 ? entry->window * 2 : 1;
  entry->window = window > MAX_PAGES ? MAX_PAGES : window < 1 ? 1 : window;
  return to - from > entry->window ? to - from : entry->window;
}

/* Makes blocks [from, to) present. */
static int fault(struct file *file, int fd, u32 from, u32 to) {
  bool exactly = false;
  begin_wait(0);
  while (from < to) {
    u32 end = load(&file->nremote), count;
    if (from >= end) {
      return 0;
    }
    u8 state = load(&file->states[from]);
    if (state == PRESENT) {
      from++;
      continue;
    }
    if (state != ABSENT) {
      if (!wait_block(file, from)) {
        return give_up();
      }
      continue;
    }
    u32 wanted = exactly ? to - from : blocks_to_fetch(&fds[fd], from, to);
    wanted = wanted > MAX_PAGES ? MAX_PAGES : wanted;
    count = claim(file, from, wanted > end - from ? end - from : wanted, FILLING);
    if (count > 0 && fill(file, fd, from, count) != 0) {
      if (exactly || from + count <= to || errno == ECANCELED) {
        return -1;
      }
      /* A block that nobody asked for may be the one that storage cannot give. */
      exactly = true;
      continue;
    }
    from += count;
    fds[fd].next_fault = from;
  }
  return 0;
}

static struct file *lazy_file(int fd) {
  if (fd < 0 || fd >= MAX_FD) {
    return NULL;
  }
  struct file *file = fds[fd].file;
  return file != NULL && load(&file->nabsent) > 0 ? file : NULL;
}

/* The block that holds byte `at`, and the one after the last byte before `end`; capped, never wrapped. */
static u32 block_of(u64 at) { return at / BLOCK > SEGMENT_BLOCKS ? SEGMENT_BLOCKS : (u32)(at / BLOCK); }
static u32 block_end(u64 end) { return block_of(end + BLOCK - 1); }

static int before_read(int fd, off_t at, size_t n) {
  struct file *file = lazy_file(fd);
  if (file == NULL || at < 0 || n == 0) {
    return 0;
  }
  reads_relation = file->key.kind == KIND_REL;
  int result = fault(file, fd, block_of((u64)at), block_end((u64)at + n));
  reads_relation = false;
  return result;
}

/* Claims the absent blocks that [at, at + n) covers; a block covered in part is fetched first. */
static int before_write(struct file *file, int fd, off_t at, size_t n) {
  u32 from = block_of((u64)at), to = block_end((u64)at + n);
  if (at % BLOCK != 0 && fault(file, fd, from, from + 1) != 0) {
    return -1;
  }
  if (((u64)at + n) % BLOCK != 0 && to > from && fault(file, fd, to - 1, to) != 0) {
    return -1;
  }
  begin_wait(0);
  for (u32 block = from; block < to && block < load(&file->nremote);) {
    u8 state = load(&file->states[block]);
    if (state == PRESENT || (state == ABSENT && claim(file, block, 1, WRITING) == 1)) {
      block++;
    } else if (state != ABSENT && !wait_block(file, block)) {
      give_back_blocks();
      return give_up();
    }
  }
  return 0;
}

/* Releases before_write()'s claims: blocks that were written whole become PRESENT, others ABSENT again. */
static void after_write(struct file *file, off_t at, ssize_t written) {
  u64 done = (u64)at + (written > 0 ? (u64)written : 0);
  if (held_blocks.file == NULL) {
    return;
  }
  for (u32 block = held_blocks.from; block < held_blocks.to && ((u64)block + 1) * BLOCK <= done; block++) {
    if (swap_if(&file->states[block], WRITING, PRESENT)) {
      add(&file->nabsent, (u32)-1);
    }
  }
  give_back_blocks();
}

/*
 * Cuts off blocks from `keep` on: no fill can start there when this returns, and none is under way. A
 * claimer that has seen the old nremote is either faster than the loop, which waits for it, or finds PRESENT.
 */
static void forget_blocks(struct file *file, u32 keep) {
  u32 old = load(&file->nremote), now = old;
  bool must = waits_must_end_well;
  waits_must_end_well = true;
  while (now > keep && !swap_if(&file->nremote, now, keep)) {
    now = load(&file->nremote);
  }
  for (u32 block = keep; block < old;) {
    u8 state = load(&file->states[block]);
    if (state == FILLING || state == WRITING) {
      wait_block(file, block); /* and look again */
    } else if (state == PRESENT) {
      block++;
    } else if (swap_if(&file->states[block], ABSENT, PRESENT)) {
      add(&file->nabsent, (u32)-1);
      block++;
    }
  }
  if (old > keep) {
    blocks_changed(file);
  }
  waits_must_end_well = must;
}

/* ---- WAL ---- */

/* WAL of a bulk load is told of when there is so much of it, to be on its way before the sync. */
#define WAL_NOTICE_BYTES (128u << 10)

/* Raises *word to `value`; true where it was below. */
static bool raise_to(u64 *word, u64 value) {
  u64 old = load(word);
  while (old < value) {
    if (swap_if(word, old, value)) {
      return true;
    }
    old = load(word);
  }
  return false;
}

/* Returns when a quorum has all WAL written before the call; does nothing for syncs of new, empty segments. */
static void flush_wal(u64 segno) {
  if (!wal_hook) {
    return;
  }
  /* Order matters: a write counted in `writes` is below `high`. */
  u64 writes = load(&region->wal_writes);
  u64 high = load(&region->wal_high);
  u64 durable = load(&region->wal_durable);
  if (durable >= writes || segno * wal_segment_size >= high) {
    return;
  }
  raise_to(&region->wal_told, high);
  u64 last = (high - 1) / wal_segment_size;
  struct reply reply;
  waits_must_end_well = true;
  ask('F', "", last, (u32)(high - last * wal_segment_size), 0, NULL, 0, NULL, &reply);
  waits_must_end_well = false;
  if (reply.status != STATUS_OK) {
    if (getpid() != postmaster_pid) {
      kill(postmaster_pid, SIGQUIT);
    }
    die("fenced: another compute owns this timeline now", "");
  }
  raise_to(&region->wal_durable, writes);
}

static void wal_written(const struct fd_entry *entry, off_t at, size_t n) {
  u64 end = entry->segno * wal_segment_size + (u64)at + n;
  if (!wal_hook) {
    return;
  }
  raise_to(&region->wal_high, end);
  add(&region->wal_writes, 1);
  /* A commit's write is followed by its sync, which says the same: no message, no wake-up for it. */
  if (end >= load(&region->wal_told) + WAL_NOTICE_BYTES && raise_to(&region->wal_told, end)) {
    notify('W', "", entry->segno, (u32)at, (u32)n);
  }
  if (entry->sync_writes) {
    flush_wal(entry->segno);
  }
}

/* fsync and fdatasync of anything. Never an error: Postgres panics on one. */
static int sync_file(int fd, int number) {
  if (region == NULL || (fd >= 0 && fd < MAX_FD && fds[fd].foreign)) {
    return (int)syscall(number, fd);
  }
  if (fd >= 0 && fd < MAX_FD && fds[fd].is_wal) {
    flush_wal(fds[fd].segno);
  }
  return 0;
}

/* ---- what libc's names do now ---- */

static int open_lazy(const struct key *key, const char *path, int flags, mode_t mode, struct file **file) {
  struct slot *slot = resolve(key, path, -1);
  if (slot == NULL) {
    return -1;
  }
  u32 state = settled_state(slot);
  if (state != SLOT_LAZY) {
    return state == SLOT_EMPTY ? -1 : sys_open(path, flags, mode);
  }
  struct file *lazy = slot->file;
  if (flags & O_TRUNC) {
    forget_blocks(lazy, 0);
  }
  int fd = sys_open(path, flags & ~O_DIRECT, mode);
  if (fd >= 0 && load(&slot->state) != SLOT_LAZY) {
    /* Unlinked meanwhile, perhaps made anew: which of the two files did we get? */
    struct stat stat;
    if (syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0 || stat.st_ino != lazy->inode) {
      return fd;
    }
  }
  *file = lazy;
  return fd;
}

static int open_file(const char *path, int flags, mode_t mode) {
  struct key key;
  u64 segno = 0;
  const char *local = path;
  int kind = classify(path, &key, &segno, &local), fd;
  struct fd_entry entry = {.segno = segno, .foreign = kind == NAME_FOREIGN};
  if (kind == NAME_BLOCKS) {
    fd = open_lazy(&key, local, flags, mode, &entry.file);
  } else if (kind == NAME_WAL) {
    entry.is_wal = 1;
    entry.sync_writes = (flags & (O_DSYNC | O_SYNC)) != 0;
    fd = sys_open(path, flags & ~(O_DSYNC | O_SYNC | O_DIRECT), mode);
  } else {
    fd = sys_open(path, flags, mode);
  }
  if (fd < 0) {
    return fd;
  }
  if (fd >= MAX_FD) {
    if (kind == NAME_OTHER || kind == NAME_FOREIGN) {
      return fd;
    }
    sys_close(fd);
    errno = EMFILE;
    return -1;
  }
  entry.writable = (flags & O_ACCMODE) != O_RDONLY;
  fds[fd] = entry;
  return fd;
}

#define OPEN_BODY                                                                               \
  mode_t mode = 0;                                                                              \
  if (flags & (O_CREAT | O_TMPFILE)) {                                                          \
    va_list list;                                                                               \
    va_start(list, flags);                                                                      \
    mode = va_arg(list, mode_t);                                                                \
    va_end(list);                                                                               \
  }                                                                                             \
  return open_file(path, flags, mode);

EXPORT int open(const char *path, int flags, ...) { OPEN_BODY }
EXPORT int open64(const char *path, int flags, ...) { OPEN_BODY }
EXPORT int __open_2(const char *path, int flags) { return open_file(path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_file(path, flags, 0); }
EXPORT int creat(const char *path, mode_t mode) {
  return open_file(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT int close(int fd) {
  if (fd >= 0 && fd < MAX_FD) {
    fds[fd] = (struct fd_entry){0};
  }
  return sys_close(fd);
}

EXPORT int dup(int fd) {
  int copy = (int)syscall(SYS_dup, fd);
  if (copy >= 0 && copy < MAX_FD) {
    fds[copy] = fd < MAX_FD ? fds[fd] : (struct fd_entry){0};
  }
  return copy;
}

EXPORT ssize_t pread(int fd, void *into, size_t n, off_t at) {
  return before_read(fd, at, n) != 0 ? -1 : syscall(SYS_pread64, fd, into, n, at);
}
EXPORT ssize_t pread64(int fd, void *into, size_t n, off_t at) { return pread(fd, into, n, at); }
EXPORT ssize_t __pread_chk(int fd, void *into, size_t n, off_t at, size_t room) {
  return n > room ? (abort(), -1) : pread(fd, into, n, at);
}
EXPORT ssize_t __pread64_chk(int fd, void *into, size_t n, off_t at, size_t room) {
  return __pread_chk(fd, into, n, at, room);
}

EXPORT ssize_t read(int fd, void *into, size_t n) {
  if (lazy_file(fd) != NULL && before_read(fd, (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR), n) != 0) {
    return -1;
  }
  return syscall(SYS_read, fd, into, n);
}
EXPORT ssize_t __read_chk(int fd, void *into, size_t n, size_t room) {
  return n > room ? (abort(), -1) : read(fd, into, n);
}

static size_t total(const struct iovec *parts, int count) {
  size_t n = 0;
  for (int i = 0; i < count; i++) {
    n += parts[i].iov_len;
  }
  return n;
}

EXPORT ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) {
  return before_read(fd, at, total(parts, count)) != 0
             ? -1
             : syscall(SYS_preadv, fd, parts, (long)count, at, 0L);
}
EXPORT ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t at) {
  return preadv(fd, parts, count, at);
}

/* All writes: `data` of `n` bytes, or `count` parts of together `n` bytes. */
static ssize_t write_at(int fd, const void *data, int count, size_t n, off_t at) {
  struct file *file = at < 0 || n == 0 ? NULL : lazy_file(fd);
  if (file != NULL && before_write(file, fd, at, n) != 0) {
    return -1;
  }
  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)
                           : syscall(SYS_pwritev, fd, data, (long)count, at, 0L);
  int saved = errno;
  if (file != NULL) {
    after_write(file, at, done);
  } else if (done > 0 && fd < MAX_FD && fds[fd].is_wal) {
    wal_written(&fds[fd], at, (size_t)done);
  }
  errno = saved;
  return done;
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return write_at(fd, data, -1, n, at); }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return pwrite(fd, data, n, at); }
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
  return write_at(fd, parts, count, total(parts, count), at);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
  return pwritev(fd, parts, count, at);
}

EXPORT ssize_t write(int fd, const void *data, size_t n) {
  if (fd < 0 || fd >= MAX_FD || (fds[fd].file == NULL && !fds[fd].is_wal)) {
    return syscall(SYS_write, fd, data, n);
  }
  off_t at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
  ssize_t done = at < 0 ? -1 : write_at(fd, data, -1, n, at);
  if (done > 0) {
    syscall(SYS_lseek, fd, at + done, SEEK_SET);
  }
  return done;
}

EXPORT ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags) {
  off_t from = in_at != NULL ? *in_at : (off_t)syscall(SYS_lseek, in, 0, SEEK_CUR);
  off_t to = out_at != NULL ? *out_at : (off_t)syscall(SYS_lseek, out, 0, SEEK_CUR);
  struct file *file = to < 0 ? NULL : lazy_file(out);
  size_t step = n > (64u << 20) ? (64u << 20) : n;
  if (before_read(in, from, step) != 0 || (file != NULL && before_write(file, out, to, step) != 0)) {
    return -1;
  }
  ssize_t done = syscall(SYS_copy_file_range, in, in_at, out, out_at, step, flags);
  int saved = errno;
  if (file != NULL) {
    after_write(file, to, done);
  }
  errno = saved;
  return done;
}

/* Cuts a lazy file to `bytes` by the given system call; past the point of no return it works or we stop. */
static int cut(struct file *file, int fd, const char *path, off_t bytes) {
  if (file != NULL && bytes >= 0) {
    forget_blocks(file, block_end((u64)bytes));
  }
  for (;;) {
    long result = path != NULL ? syscall(SYS_truncate, path, bytes) : syscall(SYS_ftruncate, fd, bytes);
    if (result == 0 || file == NULL) {
      return (int)result;
    }
    if (errno != EINTR) {
      die("cannot truncate ", path != NULL ? path : "a relation file");
    }
  }
}

EXPORT int ftruncate(int fd, off_t bytes) {
  struct file *file = lazy_file(fd);
  if (file != NULL && bytes > 0 && bytes % BLOCK != 0 && before_read(fd, bytes, 1) != 0) {
    return -1;
  }
  return cut(file, fd, NULL, bytes);
}
EXPORT int ftruncate64(int fd, off_t bytes) { return ftruncate(fd, bytes); }

/* The path's slot when it names a relation or SLRU segment; *failed when storage could not say. */
static struct slot *resolve_path(const char *path, const char **local, bool *failed) {
  struct key key;
  u64 segno;
  *failed = false;
  if (classify(path, &key, &segno, local) != NAME_BLOCKS) {
    return NULL;
  }
  struct slot *slot = resolve(&key, *local, -1);
  *failed = slot == NULL;
  return slot;
}

EXPORT int truncate(const char *path, off_t bytes) {
  const char *local;
  bool failed;
  struct slot *slot = resolve_path(path, &local, &failed);
  if (failed) {
    return -1;
  }
  u32 state = slot != NULL ? settled_state(slot) : SLOT_LOCAL;
  if (state == SLOT_EMPTY) {
    return -1;
  }
  struct file *file = state == SLOT_LAZY ? slot->file : NULL;
  if (file != NULL && bytes % BLOCK != 0) {
    errno = EINVAL;
    return -1;
  }
  return cut(file, -1, path, bytes);
}
EXPORT int truncate64(const char *path, off_t bytes) { return truncate(path, bytes); }

/* What a commit has promised to remove goes, however long the agent takes: a failure would only be a warning. */
static int unlink_lazy(const char *path) {
  const char *local;
  bool failed;
  struct slot *slot = resolve_path(path, &local, &failed);
  if (failed) {
    return -1;
  }
  if (slot == NULL) {
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  }
  /* Locked, so that nobody opens it as LAZY between the tombstone and the unlink. */
  sigset_t signals;
  u32 was = lock_slot(slot);
  hold_signals(&signals);
  int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0), saved = errno;
  unlock_slot(result == 0 ? SLOT_LOCAL : was);
  errno = saved;
  release_signals(&signals);
  return result;
}

EXPORT int unlink(const char *path) {
  waits_must_end_well = true;
  int result = unlink_lazy(path);
  waits_must_end_well = false;
  return result;
}

EXPORT int access(const char *path, int mode) {
  const char *local;
  bool failed;
  resolve_path(path, &local, &failed);
  return failed ? -1 : (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

static int stat_file(const char *path, struct stat *out, int flags) {
  const char *local;
  bool failed;
  resolve_path(path, &local, &failed);
  return failed ? -1 : sys_stat(path, out, flags);
}

EXPORT int stat(const char *path, struct stat *out) { return stat_file(path, out, 0); }
EXPORT int stat64(const char *path, struct stat64 *out) { return stat_file(path, (struct stat *)out, 0); }
EXPORT int lstat(const char *path, struct stat *out) { return stat_file(path, out, AT_SYMLINK_NOFOLLOW); }
EXPORT int lstat64(const char *path, struct stat64 *out) {
  return stat_file(path, (struct stat *)out, AT_SYMLINK_NOFOLLOW);
}
/* Before glibc 2.33; `version` is the kernel's layout on both of our platforms. */
EXPORT int __xstat(int version, const char *path, struct stat *out) {
  (void)version;
  return stat_file(path, out, 0);
}
EXPORT int __xstat64(int version, const char *path, struct stat64 *out) {
  return __xstat(version, path, (struct stat *)out);
}
EXPORT int __lxstat(int version, const char *path, struct stat *out) {
  (void)version;
  return stat_file(path, out, AT_SYMLINK_NOFOLLOW);
}
EXPORT int __lxstat64(int version, const char *path, struct stat64 *out) {
  return __lxstat(version, path, (struct stat *)out);
}

static void mark_directory_local(const char *path) {
  struct key key;
  u64 segno;
  const char *local;
  if (classify(path, &key, &segno, &local) == NAME_DIR) {
    settle(find_slot(&key), SLOT_LOCAL);
  }
}

/*
 * Storage keeps no tablespaces but Postgres's own two: a file in another would be gone at the next
 * start. CREATE TABLESPACE makes its link (or its directory, for one in place) before any WAL.
 */
static int refuse_tablespace(const char *path) {
  if (region == NULL || after(path, "pg_tblspc/") == NULL) {
    return 0;
  }
  errno = EOPNOTSUPP;
  return -1;
}

EXPORT int symlink(const char *target, const char *path) {
  if (refuse_tablespace(path) != 0) {
    return -1;
  }
  return (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

/* A database directory made or removed here holds nothing of storage's. */
EXPORT int mkdir(const char *path, mode_t mode) {
  if (refuse_tablespace(path) != 0) {
    return -1;
  }
  int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  if (result == 0) {
    mark_directory_local(path);
  }
  return result;
}

EXPORT int rmdir(const char *path) {
  int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
  if (result == 0) {
    mark_directory_local(path);
  }
  return result;
}

/* Makes every file of a listing that is not here yet, as a sparse file. */
static int materialize_listed(const char *directory, const u8 *at, const u8 *end, u64 entries) {
  char path[MAX_PATH];
  for (; entries > 0; entries--) {
    u64 bytes;
    uint16_t length;
    if (end - at < 10) {
      die("a listing ends in the middle: ", directory);
    }
    memcpy(&bytes, at, 8);
    memcpy(&length, at + 8, 2);
    at += 10;
    size_t prefix = strlen(directory);
    if (end - at < length || prefix + 1 + length >= sizeof path) {
      die("a listing has a name that is too long: ", directory);
    }
    memcpy(path, directory, prefix);
    path[prefix] = '/';
    memcpy(path + prefix + 1, at, length);
    path[prefix + 1 + length] = 0;
    at += length;
    struct key key;
    u64 segno;
    const char *local;
    if (classify(path, &key, &segno, &local) == NAME_BLOCKS && resolve(&key, local, (int64_t)bytes) == NULL) {
      return -1;
    }
  }
  return 0;
}

/* Makes what storage has in a directory whose lock we hold. */
static int list_locked(const char *directory) {
  void *big = NULL;
  struct reply reply;
  u32 before = abandoned;
  if (ask('L', directory, 0, 0, 0, pages, sizeof pages, &big, &reply) != 0) {
    return -1;
  }
  end_wait(before);
  size_t payload = reply.length - sizeof reply;
  int result = -1;
  if (reply.status == STATUS_OK) {
    /* resolve() of an entry asks whether the directory is LOCAL, which RESOLVING is not. No request
     * is made while entries are read, so `pages` stays as it is. */
    const u8 *start = big != NULL ? big : pages;
    result = materialize_listed(directory, start, start + payload, reply.a);
  } else if (reply.status == STATUS_ABSENT) {
    result = 0;
  } else {
    errno = EIO;
  }
  int why = errno;
  if (big != NULL) {
    munmap(big, payload);
  }
  errno = why;
  return result;
}

/*
 * Before somebody reads a directory: all files that storage has in it appear. Not in the postmaster,
 * which only looks for temporary files at its start, and not in the start of a read-only endpoint,
 * which looks for unlogged relations to reset and is served their initial content anyway: start-up
 * must not grow with the number of relations.
 */
static int list_directory(const char *path) {
  struct key key;
  u64 segno;
  const char *local;
  if (classify(path, &key, &segno, &local) != NAME_DIR || getpid() == postmaster_pid ||
      (!wal_hook && &InRecovery != NULL && InRecovery)) {
    return 0;
  }
  /* Not lock_slot(): a LOCAL directory must look LOCAL at every moment. */
  struct slot *slot = find_slot(&key);
  begin_wait(0);
  while (!try_lock_slot(slot, SLOT_NEW)) {
    u32 state = settled_state(slot);
    if (state != SLOT_NEW) {
      return state == SLOT_EMPTY ? -1 : 0;
    }
  }
  char directory[MAX_PATH];
  size_t length = strnlen(local, sizeof directory - 1);
  while (length > 0 && local[length - 1] == '/') {
    length--;
  }
  memcpy(directory, local, length);
  directory[length] = 0;
  int result = list_locked(directory), why = errno;
  /* Unless a rmdir made it LOCAL meanwhile. */
  sigset_t signals;
  hold_signals(&signals);
  held_slot_count = 0;
  swap_if(&slot->state, SLOT_RESOLVING, result == 0 ? SLOT_LAZY : SLOT_NEW);
  wake_word(&slot->state);
  release_signals(&signals);
  if (result != 0) {
    errno = why;
  }
  return result;
}

EXPORT DIR *opendir(const char *path) {
  if (list_directory(path) != 0) {
    return NULL;
  }
  int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) {
    return NULL;
  }
  if (fd < MAX_FD) {
    fds[fd] = (struct fd_entry){0};
  }
  DIR *directory = fdopendir(fd);
  if (directory == NULL) {
    sys_close(fd);
  }
  return directory;
}

EXPORT int posix_fadvise(int fd, off_t at, off_t n, int advice) {
  struct file *file = lazy_file(fd);
  if (file == NULL || advice != POSIX_FADV_WILLNEED || at < 0 || n <= 0) {
    int saved = errno;
    int result = (int)syscall(SYS_fadvise64, fd, at, n, advice);
    result = result == 0 ? 0 : errno;
    errno = saved;
    return result;
  }
  u32 from = block_of((u64)at), to = block_end((u64)at + (u64)n), end = load(&file->nremote);
  to = to < end ? to : end;
  while (from < to && load(&file->states[from]) == PRESENT) {
    from++;
  }
  if (from < to) {
    char name[MAX_PATH];
    format_path(&file->key, name);
    notify('P', name, 0, from, to - from);
  }
  return 0;
}
EXPORT int posix_fadvise64(int fd, off_t at, off_t n, int advice) { return posix_fadvise(fd, at, n, advice); }

EXPORT int fsync(int fd) { return sync_file(fd, SYS_fsync); }
EXPORT int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
EXPORT int syncfs(int fd) { return region == NULL ? (int)syscall(SYS_syncfs, fd) : 0; }
EXPORT void sync(void) {
  if (region == NULL) {
    syscall(SYS_sync);
  }
}
EXPORT int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags) {
  return region == NULL ? (int)syscall(SYS_sync_file_range, fd, at, n, flags) : 0;
}

/* For tests: how often a process waited for a block that another one had claimed. */
EXPORT u64 strata_shim_waits(void) { return region == NULL ? 0 : load(&region->waits); }

/* ---- start ---- */

static void before_fork(void) {
  forker_pid = getpid();
  say_hello();
}

static void set_death_signal(int signal) { syscall(SYS_prctl, PR_SET_PDEATHSIG, signal, 0, 0, 0); }

/*
 * Each Postgres process asks for a signal of its own when its postmaster dies (PostmasterDeathSignalInit,
 * storage/ipc/pmsignal.c) and notices it where it waits for a latch: not while it waits in here. Ours stays.
 */
EXPORT int prctl(int option, ...) {
  unsigned long arguments[4];
  va_list list;
  va_start(list, option);
  for (int i = 0; i < 4; i++) {
    arguments[i] = va_arg(list, unsigned long);
  }
  va_end(list);
  if (region != NULL && option == PR_SET_PDEATHSIG) {
    return 0;
  }
  return (int)syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2], arguments[3]);
}

/* Of the parent's. */
static void forget_claims(void) {
  held_blocks.file = NULL;
  held_slot_count = 0;
}

static void after_fork_in_child(void) {
  disconnect();
  forget_claims();
  talking = false;
  if (forker_pid != postmaster_pid) {
    return;
  }
  /* A backend that waits in here never notices that its postmaster died. */
  set_death_signal(SIGKILL);
  if (getppid() != postmaster_pid) {
    _exit(2);
  }
}

static const char *setting(const char *name) {
  const char *value = getenv(name);
  /* A copy: Postgres overwrites its environment to show process titles. */
  return value == NULL || *value == 0 ? NULL : strdup(value);
}

static void map_region(void) {
  for (arena_size = 16ull << 30; arena_size >= 256u << 20; arena_size /= 4) {
    /* Anonymous: it lives and dies with the process tree, so that none is ever stale. Mostly never touched. */
    void *at = mmap(NULL, sizeof(struct region) + arena_size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) {
      madvise(at, sizeof(struct region) + arena_size, MADV_DONTDUMP);
      arena = (u8 *)at + sizeof(struct region);
      region = at;
      return;
    }
  }
  die("cannot reserve shared memory", "");
}

static bool is_our_program(void) {
  char path[4096];
  const char *wanted = getenv("STRATA_SHIM_PROGRAM");
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 1);
  if (n <= 0) {
    return false;
  }
  path[n] = 0;
  const char *name = strrchr(path, '/');
  return strcmp(name == NULL ? path : name + 1, wanted == NULL ? "postgres" : wanted) == 0;
}

__attribute__((constructor)) static void start(void) {
  /* Programs on the way to Postgres, such as setpriv, keep the environment and stay as they are. */
  if (!is_our_program()) {
    return;
  }
  data_dir = setting("STRATA_SHIM_DATA_DIR");
  socket_path = setting("STRATA_SHIM_SOCKET");
  const char *wal = setting("STRATA_SHIM_WAL");
  const char *segment_size = setting("STRATA_SHIM_WAL_SEGMENT_SIZE");
  const char *parent = setting("STRATA_SHIM_PARENT_PID");
  if (data_dir == NULL || data_dir[0] != '/' || socket_path == NULL || wal == NULL) {
    die("STRATA_SHIM_DATA_DIR, STRATA_SHIM_SOCKET and STRATA_SHIM_WAL must be set", "");
  }
  struct sockaddr_un address;
  if (strlen(socket_path) >= sizeof address.sun_path) {
    die("the socket's path is too long: ", socket_path);
  }
  wal_hook = strcmp(wal, "quorum") == 0;
  if (!wal_hook && strcmp(wal, "none") != 0) {
    die("STRATA_SHIM_WAL must be quorum or none, not ", wal);
  }
  if (segment_size != NULL) {
    wal_segment_size = strtoull(segment_size, NULL, 10);
    if (wal_segment_size < 1u << 20 || wal_segment_size > 1u << 30 ||
        (wal_segment_size & (wal_segment_size - 1)) != 0) {
      die("bad STRATA_SHIM_WAL_SEGMENT_SIZE ", segment_size);
    }
  }
  data_dir_length = strlen(data_dir);
  while (data_dir_length > 1 && data_dir[data_dir_length - 1] == '/') {
    data_dir_length--;
  }
  postmaster_pid = getpid();
  set_death_signal(SIGQUIT);
  /* The agent may have died before the line above. */
  if (parent != NULL && getppid() != (pid_t)strtol(parent, NULL, 10)) {
    die("the compute agent is gone", "");
  }
  /* Programs that Postgres starts (COPY PROGRAM, archive commands) run without us. */
  unsetenv("LD_PRELOAD");
  map_region();
  pthread_atfork(before_fork, NULL, after_fork_in_child);
}

/* exit(), also out of a signal handler that interrupted us. After _exit() and a crash Postgres ends as a whole. */
__attribute__((destructor)) static void finish(void) {
  if (region != NULL) {
    give_back_all();
  }
}

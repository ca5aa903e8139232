/*
 * compare.c: finds out which of the blocks that were written here storage has by now. A process of its own does that.
 *
 * When a block that was written may go is not told by an LSN: not all of what Postgres notes in a page is in WAL, and what is
 * missing there is still needed, such as the command ids of a transaction that runs, the cycle id of a btree page that was split
 * during a VACUUM, an index that is being built and goes into WAL at its end. So storage is asked: the agent compares
 * the page in the file with storage's of a moment ago (../../pages/page-comparison.ts), and only where both are the same but for
 * what Postgres may lose at any time the block is CLEAN, and goes like any other (evict.c). From then on the agent gives pages
 * of that file as of that moment or later.
 *
 * A block that is being compared is COMPARING. Its readers read it, and a writer just takes it: then the answer counts for
 * nothing, as the block is not COMPARING any more. It cannot be so again, as there is one process that makes it so, which has
 * one question open. That process is a child of the postmaster that Postgres does not know, without its signal handlers, and
 * is killed by the kernel when the postmaster ends. It may be killed at any time, too: nobody waits for it or for what it has
 * made COMPARING, and the postmaster starts another one.
 */
#include "shim.h"

#include <sched.h>
#include <sys/wait.h>

/* Written blocks may take half of the limit before it begins. */
static bool too_much_is_kept(void) { return load(&counters->kept) > (int64_t)cache_limit / 2; }

/* After a turn that found little, as blocks are in use, or storage is behind. */
#define PAUSE_MS 50
#define LONGEST_PAUSE_MS 20000
/* A block that was not as storage has it is not asked about again for so many seconds. */
#define PATIENCE_S 3

/* Seconds, 1 to 255. */
static u8 now_in_seconds(void) { return (u8)(clock_ms() / 1000 % 255 + 1); }

/* Whether a block that was written has not been used for a turn, nor compared a moment ago. */
static bool is_cold(struct file *file, u32 block, u8 now) {
  u8 used = load(used_of(file, block)) & (u8)~USE_FLAGS, compared = load(compared_of(file, block));
  if (used > 0) {
    store(used_of(file, block), used - 1);
    return false;
  }
  return compared == 0 || (u8)(now - compared) >= PATIENCE_S;
}

/* Makes cold ones of `count` blocks from `first` on COMPARING; which, as a bit set. */
static u32 claim_cold(struct file *file, u32 first, u32 count, u8 now) {
  u32 claimed = 0;
  for (u32 i = 0; i < count; i++) {
    u8 *state = state_of(file, first + i);
    if (load(state) == PRESENT && is_cold(file, first + i, now) && swap_if(state, PRESENT, COMPARING)) {
      claimed |= 1u << i;
    }
  }
  return claimed;
}

/* Of the claimed blocks those that are the same are as storage has them from now on; how many. */
static u32 settle_claimed(struct file *file, u32 first, u32 claimed, u32 same, u8 now) {
  u32 given = 0;
  for (u32 i = 0; i < MAX_PAGES; i++) {
    if ((claimed & same) >> i & 1) {
      given += note_same(file, first + i);
    } else if (claimed >> i & 1 && swap_if(state_of(file, first + i), COMPARING, PRESENT)) {
      store(compared_of(file, first + i), now);
      add(&counters->unlike, 1);
    }
  }
  return given;
}

/* One turn through a file's blocks, or until enough may go. */
static u32 compare_blocks(struct file *file) {
  u32 given = 0, end = used_end(file);
  for (u32 first = 0; first < end && load(&file->kept) > 0 && too_much_is_kept(); first += MAX_PAGES) {
    u8 now = now_in_seconds();
    u32 count = end - first < MAX_PAGES ? end - first : MAX_PAGES, claimed = claim_cold(file, first, count, now);
    if (claimed == 0) {
      continue;
    }
    struct wire_reply reply;
    ask((struct question){.type = 'C', .key = &file->key, .a = claimed, .b = first, .c = count}, NULL, 0, NULL, &reply);
    given += settle_claimed(file, first, claimed, reply.status == STATUS_OK ? (u32)reply.a : 0, now);
    if (reply.status == STATUS_ABSENT) {
      file->never_given = true;
      break;
    }
  }
  return given;
}

/*
 * A turn through a file, unless one before has found nothing to give a moment ago, or an unlogged relation. What a long transaction
 * has written would be asked about without end; so each turn without a result makes the next pause longer.
 */
static u32 compare_file(struct file *file) {
  u64 now = clock_ms();
  if (load(&file->slot->state) != SLOT_LAZY || load(&file->kept) <= 0 || file->never_given || now < file->next_turn) {
    return 0;
  }
  u32 given = compare_blocks(file);
  u32 longer = file->pause_ms * 2 < LONGEST_PAUSE_MS ? file->pause_ms * 2 + PAUSE_MS : LONGEST_PAUSE_MS;
  file->pause_ms = given > 0 ? 0 : longer;
  file->next_turn = now + file->pause_ms;
  return given;
}

/* What another one, which was killed, has left: nobody else makes a block COMPARING. */
static void end_comparisons(void) {
  for (struct file *file = load(&region->evictable); file != NULL; file = file->next) {
    for (u32 block = 0, end = used_end(file); block < end; block++) {
      swap_if(state_of(file, block), COMPARING, PRESENT);
    }
  }
}

/* Until somebody calls. */
static void sleep_until_called(u32 calls) {
  store(&region->comparer_sleeps, 1);
  /* Who has written since we looked either finds us asleep or is seen here. */
  if (!too_much_is_kept() || load(&region->cannot_evict)) {
    syscall(SYS_futex, &region->compare_calls, FUTEX_WAIT, calls, NULL, NULL, 0);
  }
  store(&region->comparer_sleeps, 0);
}

__attribute__((noreturn)) static void compare_for_ever(void) {
  end_comparisons();
  for (;;) {
    u32 calls = load(&region->compare_calls), given = 0;
    if (!too_much_is_kept() || load(&region->cannot_evict)) {
      sleep_until_called(calls);
      continue;
    }
    for (struct file *file = load(&region->evictable); file != NULL; file = file->next) {
      given += compare_file(file);
    }
    if (given == 0) {
      pause_ms(PAUSE_MS);
    }
  }
}

/* Somebody is about to bring or write a block. */
void call_comparer(void) {
  if (too_much_is_kept() && load(&region->comparer_sleeps) && swap_if(&region->comparer_sleeps, 1, 0)) {
    add(&region->compare_calls, 1);
    wake_word(&region->compare_calls);
  }
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* Of the kernel, which glibc has no name for. */
struct directory_entry {
  u64 inode;
  int64_t next;
  uint16_t length;
  u8 type;
  char name[];
};

/* Nobody is to find a port or a file in use because of us; what is said goes where Postgres's goes. */
static void close_all(void) {
  if (syscall(SYS_close_range, 3, UINT32_MAX, 0) == 0) {
    return;
  }
  static char entries[4096] __attribute__((aligned(8)));
  int directory = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  long n;
  while ((n = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0) {
    for (long at = 0; at < n;) {
      const struct directory_entry *entry = (const void *)(entries + at);
      u32 fd;
      const char *end = parse_number(entry->name, &fd);
      if (end != NULL && *end == 0 && fd >= 3 && fd != (u32)directory) {
        sys_close((int)fd);
      }
      at += entry->length;
    }
  }
  sys_close(directory);
}

/* In the process that start_comparer() has made. */
__attribute__((noreturn)) static void be_comparer(void) {
  sigset_t none;
  sigemptyset(&none);
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != postmaster_pid) {
    _exit(0);
  }
  syscall(SYS_prctl, PR_SET_NAME, "strata-evictor", 0, 0, 0);
  for (int number = 1; number < _NSIG; number++) {
    signal(number, SIG_DFL);
  }
  sigprocmask(SIG_SETMASK, &none, NULL);
  is_postmaster = false;
  disconnect();
  close_all();
  compare_for_ever();
}

/* 0: there is none. Of the postmaster alone, as is the time of the last try. */
static pid_t comparer;
static u64 tried_ms;

/*
 * In the postmaster: before it has children, and when the process has ended. Not by fork(): nobody is to run what Postgres has asked
 * for at a fork. Without a signal at its end, so that no wait() of Postgres's finds a child that it does not know.
 */
void start_comparer(void) {
  if (cache_limit == 0 || !wal_hook) {
    return;
  }
  sigset_t signals;
  hold_signals(&signals);
  tried_ms = clock_ms();
  long pid = syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (pid == 0) {
    be_comparer();
  }
  comparer = pid < 0 ? 0 : (pid_t)pid;
  release_signals(&signals);
  if (pid < 0) {
    say("cannot start the process that asks whether storage has what was written, which stays until then", "");
  }
}

/* A second at least between two that end at once, or cannot be started. */
#define RESTART_MS 1000

/*
 * In the postmaster, at each fork and each open(), which is once a minute at least (RecheckDataDirLockFile, postmaster.c). Where the
 * kernel was out of memory and has killed it, say.
 */
void see_to_comparer(void) {
  if (!is_postmaster || cache_limit == 0 || !wal_hook || tried_ms == 0) {
    return;
  }
  sigset_t signals;
  int saved = errno;
  /* Up to 15 a signal handler may fork, too. */
  hold_signals(&signals);
  if (comparer != 0 && syscall(SYS_wait4, comparer, NULL, WNOHANG | __WCLONE, NULL) == comparer) {
    comparer = 0;
    say("the process that asks whether storage has what was written was killed: another one is started", "");
  }
  if (comparer == 0 && clock_ms() - tried_ms >= RESTART_MS) {
    start_comparer();
  }
  errno = saved;
  release_signals(&signals);
  make_room_when_idle();
}

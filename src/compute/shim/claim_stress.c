/*
 * claim_stress.c: many processes against one lazily filled file, under the shim, checked by content.
 *
 * Every 512-byte sector says which block and sector it is and which version of it. The agent's version
 * is 1, and that of what is added to its file before the processes start; each write here makes the next. `done` (shared memory) holds the newest version of a sector
 * whose write has returned. Checked at each read: the sector is the one asked for, and its version is
 * at least what `done` said before the read. So a lost write, a late fill over a write, a zero page and
 * a resurrected truncated block are all seen.
 *
 * usage: claim_stress FILE BLOCKS PROCESSES OPERATIONS SEED PASSES WRITES; exit code 0, or 1 with a line on stderr.
 * Prints how often a process had to wait for another one's block, which must not be never. With more than one
 * pass the processes come again to what they have read: for a cache that has a limit. One of WRITES operations writes.
 *
 * Compiled with AS_THREADS, and with the shim's sources instead of under the shim, the processes are threads: for the thread
 * sanitizer, which sees no memory that processes share. What each process has for itself is each thread's then (PER_PROCESS).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 8192
#define SECTOR 512
#define SECTORS (BLOCK / SECTOR)
#define MAX_RUN 16
#define MAX_PROCESSES 64
#ifndef PER_PROCESS
#define PER_PROCESS
#endif
#define MAGIC 0x73747261746121ull

struct sector {
  uint64_t magic;
  uint32_t block, index, version, sum;
};

struct shared {
  uint32_t gate;  /* readers-writer lock of the file's size: 1 << 31 for a truncation */
  uint32_t size;  /* blocks */
  uint32_t failed;
  uint32_t done[]; /* per sector: lock bit 31, version below */
};

static struct shared *shared;
static PER_PROCESS uint64_t seed;
static PER_PROCESS uint32_t number; /* of this process, from 1 on */
static uint32_t passes, writes;

static uint32_t roll(uint32_t limit) {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(seed >> 33) % limit;
}

static void fail(const char *what, uint32_t block, uint32_t index, uint32_t a, uint32_t b) {
  fprintf(stderr, "claim_stress: %s: block %u sector %u: %u, wanted %u (errno %d)\n", what, block, index, a,
          b, errno);
  __atomic_store_n(&shared->failed, 1, __ATOMIC_SEQ_CST);
  _exit(1);
}

static void stamp(uint8_t *at, uint32_t block, uint32_t index, uint32_t version) {
  struct sector sector = {MAGIC, block, index, version, block * 31 + index * 7 + version};
  memset(at, (int)version & 0xff, SECTOR);
  memcpy(at, &sector, sizeof sector);
}

static void enter(bool alone) {
  for (;;) {
    uint32_t now = __atomic_load_n(&shared->gate, __ATOMIC_SEQ_CST);
    uint32_t next = alone ? 1u << 31 : now + 1;
    bool open = alone ? now == 0 : now < 1u << 31;
    if (open && __atomic_compare_exchange_n(&shared->gate, &now, next, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST)) {
      return;
    }
    /* Whoever failed may have done so inside. */
    if (__atomic_load_n(&shared->failed, __ATOMIC_SEQ_CST)) {
      _exit(1);
    }
    sched_yield();
  }
}

static void leave(bool alone) {
  if (alone) {
    __atomic_store_n(&shared->gate, 0, __ATOMIC_SEQ_CST);
  } else {
    __atomic_sub_fetch(&shared->gate, 1, __ATOMIC_SEQ_CST);
  }
}

static uint32_t *state_of(uint32_t block, uint32_t index) { return &shared->done[block * SECTORS + index]; }
static uint32_t version_of(uint32_t block, uint32_t index) {
  return __atomic_load_n(state_of(block, index), __ATOMIC_SEQ_CST) & 0x7fffffff;
}

/* One writer a sector at a time, as Postgres has one writer a page. */
static bool lock_sector(uint32_t block, uint32_t index) {
  uint32_t now = version_of(block, index);
  return __atomic_compare_exchange_n(state_of(block, index), &now, now | 1u << 31, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST);
}

/* By another file, as CREATE DATABASE may copy. */
static ssize_t read_by_copy(int fd, uint8_t *into, size_t n, off_t at) {
  static PER_PROCESS int copy = -1;
  char name[32];
  snprintf(name, sizeof name, "copy.%u", number);
  copy = copy >= 0 ? copy : open(name, O_RDWR | O_CREAT, 0600);
  off64_t from = at, to = 0;
  while (to < (off64_t)n) {
    ssize_t done = copy_file_range(fd, &from, copy, &to, n - (size_t)to, 0);
    if (done <= 0) {
      return done;
    }
  }
  return pread(copy, into, n, 0);
}

/* By one of the calls that read. */
static ssize_t read_somehow(int fd, uint8_t *into, size_t n, off_t at) {
  struct iovec parts[2] = {{into, BLOCK}, {into + BLOCK, n - BLOCK}};
  switch (roll(6)) {
    case 0:
      return lseek(fd, at, SEEK_SET) != at ? -1 : read(fd, into, n);
    case 1:
      return read_by_copy(fd, into, n, at);
    case 2:
      return pread(fd, into, n, at);
    default:
      return preadv(fd, parts, 2, at);
  }
}

static void check_read(int fd, uint32_t block, uint32_t count) {
  static PER_PROCESS uint8_t data[MAX_RUN * BLOCK];
  static PER_PROCESS uint32_t before[MAX_RUN * SECTORS];
  for (uint32_t i = 0; i < count * SECTORS; i++) {
    before[i] = version_of(block + i / SECTORS, i % SECTORS);
  }
  struct iovec parts[2] = {{data, BLOCK}, {data + BLOCK, (count - 1) * BLOCK}};
  ssize_t want = (ssize_t)count * BLOCK;
  ssize_t got = passes > 1   ? read_somehow(fd, data, (size_t)want, (off_t)block * BLOCK)
                : count == 1 ? pread(fd, data, BLOCK, (off_t)block * BLOCK)
                             : preadv(fd, parts, 2, (off_t)block * BLOCK);
  if (got != want) {
    fail("short read", block, 0, (uint32_t)got, (uint32_t)want);
  }
  for (uint32_t i = 0; i < count * SECTORS; i++) {
    struct sector sector;
    uint32_t at = block + i / SECTORS, index = i % SECTORS;
    memcpy(&sector, data + i * SECTOR, sizeof sector);
    if (sector.magic != MAGIC || sector.block != at || sector.index != index) {
      fail(sector.magic == 0 ? "zeros" : "foreign bytes", at, index, sector.block, at);
    }
    if (sector.sum != at * 31 + index * 7 + sector.version) {
      fail("torn sector", at, index, sector.sum, sector.version);
    }
    if (sector.version < before[i]) {
      fail("lost write", at, index, sector.version, before[i]);
    }
  }
}

/* Writes sectors [first, end) counted from block 0, if nobody else writes one of them. */
static void write_sectors(int fd, uint32_t first, uint32_t end) {
  static PER_PROCESS uint8_t data[MAX_RUN * BLOCK];
  uint32_t locked = first;
  while (locked < end && lock_sector(locked / SECTORS, locked % SECTORS)) {
    locked++;
  }
  bool all = locked == end;
  for (uint32_t i = first; all && i < end; i++) {
    stamp(data + (i - first) * SECTOR, i / SECTORS, i % SECTORS, version_of(i / SECTORS, i % SECTORS) + 1);
  }
  if (all && pwrite(fd, data, (end - first) * SECTOR, (off_t)first * SECTOR) != (ssize_t)(end - first) * SECTOR) {
    fail("short write", first / SECTORS, first % SECTORS, 0, 0);
  }
  for (uint32_t i = first; i < locked; i++) {
    __atomic_store_n(state_of(i / SECTORS, i % SECTORS), version_of(i / SECTORS, i % SECTORS) + (all ? 1 : 0),
                     __ATOMIC_SEQ_CST);
  }
}

static void truncate_and_extend(int fd) {
  uint32_t size = shared->size, keep = size - roll(size / 64 + 1);
  if (ftruncate(fd, (off_t)keep * BLOCK) != 0) {
    fail("truncate", keep, 0, 0, 0);
  }
  /* Extended again by a hole, as posix_fallocate does: what was cut off must not come back. */
  if (ftruncate(fd, (off_t)size * BLOCK) != 0) {
    fail("extend", size, 0, 0, 0);
  }
  for (uint32_t block = keep; block < size; block++) {
    uint64_t word = 0;
    if (pread(fd, &word, sizeof word, (off_t)block * BLOCK) != sizeof word || word != 0) {
      fail("resurrected block", block, 0, 0, 0);
    }
    write_sectors(fd, block * SECTORS, (block + 1) * SECTORS);
  }
}

static void work(const char *path, uint32_t operations) {
  int fd = open(path, O_RDWR | O_CLOEXEC), readonly = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || readonly < 0) {
    fail("open", 0, 0, 0, 0);
  }
  for (uint32_t i = 0; i < operations; i++) {
    bool alone = roll(1000) == 0;
    uint32_t step = (uint32_t)((uint64_t)i * passes % operations);
    enter(alone);
    uint32_t size = shared->size;
    /* All processes move through the file together: where they are, blocks are still absent. */
    uint32_t count = 1 + roll(MAX_RUN), window = count + 2 * MAX_RUN;
    uint32_t block = (uint32_t)((uint64_t)step * (size - window) / operations) + roll(2 * MAX_RUN);
    if (alone) {
      truncate_and_extend(fd);
    } else if (roll(writes) > 0) {
      check_read(roll(2) ? fd : readonly, block, count);
    } else if (roll(2)) {
      write_sectors(fd, block * SECTORS, (block + count) * SECTORS);
    } else {
      uint32_t first = block * SECTORS + roll(SECTORS);
      write_sectors(fd, first, first + 1 + roll(SECTORS - first % SECTORS));
    }
    if (roll(8) == 0) {
      posix_fadvise(fd, (off_t)block * BLOCK, (off_t)count * BLOCK, POSIX_FADV_WILLNEED);
    }
    leave(alone);
  }
}

/* Version 1 of what the agent does not have of the file. */
static void extend(const char *path, uint32_t blocks) {
  static uint8_t data[BLOCK];
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
  if (size < 0) {
    fail("open", 0, 0, 0, 0);
  }
  for (uint32_t block = (uint32_t)(size / BLOCK); block < blocks; block++) {
    for (uint32_t index = 0; index < SECTORS; index++) {
      stamp(data + index * SECTOR, block, index, 1);
    }
    if (pwrite(fd, data, BLOCK, (off_t)block * BLOCK) != BLOCK) {
      fail("extend", block, 0, 0, 0);
    }
  }
  close(fd);
}

/* As the process, or thread, `p`. */
static void run_one(uint32_t p, char **argv) {
  number = p + 1;
  seed = (uint64_t)atoll(argv[5]) * 1000 + p;
  work(argv[1], (uint32_t)atoi(argv[4]));
}

#ifdef AS_THREADS
struct thread {
  pthread_t id;
  uint32_t number;
  char **argv;
};

static void *run_thread(void *argument) {
  struct thread *thread = argument;
  run_one(thread->number, thread->argv);
  return NULL;
}

/* Runs all; 0 where they are content. Else the process has ended. */
static int run_all(uint32_t threads, char **argv) {
  static struct thread all[MAX_PROCESSES];
  for (uint32_t p = 0; p < threads; p++) {
    all[p] = (struct thread){.number = p, .argv = argv};
    if (pthread_create(&all[p].id, NULL, run_thread, &all[p]) != 0) {
      fail("thread", p, 0, 0, 0);
    }
  }
  for (uint32_t p = 0; p < threads; p++) {
    pthread_join(all[p].id, NULL);
  }
  return 0;
}

static void *call(void *function) {
  void (*called)(void) = (void (*)(void))function;
  called();
  return NULL;
}

/* In place of the process of the shim's own; as a pid. */
long start_thread(void (*function)(void)) {
  pthread_t id;
  return pthread_create(&id, NULL, call, (void *)function) == 0 ? 1 : -1;
}
#else
static int run_all(uint32_t processes, char **argv) {
  pid_t pids[MAX_PROCESSES];
  for (uint32_t p = 0; p < processes; p++) {
    pids[p] = fork();
    if (pids[p] == 0) {
      run_one(p, argv);
      _exit(0);
    }
  }
  int status, result = 0;
  for (pid_t ended; (ended = wait(&status)) > 0;) {
    result |= status != 0;
    for (uint32_t p = 0; p < processes; p++) {
      if (pids[p] == ended) {
        pids[p] = 0;
      } else if (status != 0 && pids[p] != 0) {
        kill(pids[p], SIGKILL); /* One fault is enough. */
      }
    }
  }
  return result;
}
#endif

int main(int argc, char **argv) {
  if (argc != 8 || atoi(argv[3]) > MAX_PROCESSES || chdir(getenv("STRESS_DIR")) != 0) {
    return 2;
  }
  uint32_t blocks = (uint32_t)atoi(argv[2]), processes = (uint32_t)atoi(argv[3]);
  passes = (uint32_t)atoi(argv[6]);
  writes = (uint32_t)atoi(argv[7]);
  size_t bytes = sizeof *shared + (size_t)blocks * SECTORS * sizeof(uint32_t);
  shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  shared->size = blocks;
  for (uint32_t i = 0; i < blocks * SECTORS; i++) {
    shared->done[i] = 1;
  }
  extend(argv[1], blocks);
  int result = run_all(processes, argv);
  seed = 1;
  int fd = open(argv[1], O_RDONLY);
  for (uint32_t block = 0; result == 0 && block < blocks; block++) {
    check_read(fd, block, 1);
  }
  uint64_t (*waits)(void) = (uint64_t (*)(void))dlsym(RTLD_DEFAULT, "strata_shim_waits");
  printf("%llu\n", waits == NULL ? 0ull : (unsigned long long)waits());
  return result;
}

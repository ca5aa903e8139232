/*
 * read_counts.c: how many blocks of storage's relations were read, how many of them were not here, and how long readers
 * waited; in a file that SQL reads (../../extensions/strata-extension.ts). A reader whose blocks are here counts in its own
 * memory, and tells the others now and then and when it ends.
 */
#include "shim.h"

/* Reads that a process keeps to itself. */
#define TOLD_EACH 64u

static struct read_counts none;
static struct read_counts *counts = &none;
static PER_PROCESS u64 untold;

/* STRATA_SHIM_READ_COUNTS: a file of zeros that the agent has made; without one nobody hears of the counts. */
void set_read_counts(const char *path) {
  if (path != NULL) {
    counts = map_shared_file(path, sizeof *counts, "counts of reads");
  }
}

void tell_reads(void) {
  add(&counts->reads, untold);
  untold = 0;
}

/* Of blocks of a relation that storage has, whether they are here or not. */
void note_reads(int fd, u64 blocks) {
  const struct file *file = fd < 0 || fd >= MAX_FD ? NULL : fds[fd].file;
  if (file == NULL || file->key.kind != KIND_REL) {
    return;
  }
  untold += blocks;
  if (untold >= TOLD_EACH) {
    tell_reads();
  }
}

u64 clock_us(void) {
  struct timespec time;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
  return (u64)time.tv_sec * 1000000 + (u64)time.tv_nsec / 1000;
}

/* A reader has waited since then: `missed` blocks that it wants were not here; for them `fetched` were brought, 0 by others. */
void note_wait(const struct file *file, u64 since, u32 missed, u32 fetched) {
  if (file->key.kind != KIND_REL) {
    return;
  }
  u64 us = clock_us() - since;
  u32 bucket = us == 0 ? 0 : 64 - (u32)__builtin_clzll(us);
  add(&counts->misses, missed);
  add(&counts->fetched, fetched);
  add(&counts->waits, 1);
  add(&counts->wait_us, us);
  add(&counts->waits_below[bucket < WAIT_BUCKETS ? bucket : WAIT_BUCKETS - 1], 1);
}

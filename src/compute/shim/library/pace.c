/*
 * pace.c: how fast relations may grow while storage is behind.
 *
 * A load makes WAL about as fast as it adds blocks to relations, and when it does that it holds no lock that commits of
 * others need. So it is slowed there, block by block: a wait in a sync of WAL would hold up whoever commits.
 */
#include "shim.h"

/* What an answer to a flush said counts so long: where nobody writes WAL, nobody asks again. */
#define PACE_LASTS_MS 2000
/* In one call, however much is added; the rest counts for the next one. */
#define LONGEST_WAIT_US 400000
/* What is less is waited for together with the next blocks. */
#define SHORTEST_WAIT_US 1000

static PER_PROCESS u64 owed_us;

/* What the agent said with the answer to a flush. */
void note_pace(u64 microseconds) {
  store(&region->pace, microseconds);
  if (microseconds > 0) {
    store(&region->paced_at, clock_ms());
  }
}

/* Before a write of [at, at + n): waits where it makes a relation longer. A signal ends the wait. */
void keep_pace(int fd, off_t at, size_t n) {
  u64 pace = region == NULL ? 0 : load(&region->pace);
  if (pace == 0 || fd < 0 || fd >= MAX_FD || !fds[fd].is_relation) {
    return;
  }
  int saved = errno;
  struct stat stat;
  if (clock_ms() - load(&region->paced_at) > PACE_LASTS_MS) {
    owed_us = 0;
  } else if (syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) == 0 && at + (off_t)n > stat.st_size) {
    u64 grown = (u64)(at + (off_t)n - (stat.st_size > at ? stat.st_size : at));
    owed_us += pace * ((grown + BLOCK - 1) / BLOCK);
  }
  if (owed_us >= SHORTEST_WAIT_US) {
    u64 wait_us = owed_us < LONGEST_WAIT_US ? owed_us : LONGEST_WAIT_US;
    struct timespec time = {(time_t)(wait_us / 1000000), (long)(wait_us % 1000000) * 1000};
    syscall(SYS_nanosleep, &time, NULL);
    owed_us = owed_us - wait_us < LONGEST_WAIT_US ? owed_us - wait_us : LONGEST_WAIT_US;
  }
  errno = saved;
}

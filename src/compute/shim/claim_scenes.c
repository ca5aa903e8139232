/* claim_scenes.c: scenes of claims on blocks and paths, and of what the agent is asked. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "scenes.h"

static char other_path[256];

static void read_file(void) { check_block(open_file(), 3); }

static void exit_at_once(int signal) {
  (void)signal;
  exit(0);
}

/* As bgworker_die(): on the way out it reads what it was reading. */
static void exit_after_reading(int signal) {
  (void)signal;
  read_file();
  exit(0);
}

/* Of the directory that the file is in. */
static void list(void) {
  char directory[256];
  strcpy(directory, path);
  *strrchr(directory, '/') = 0;
  DIR *listing = opendir(directory);
  if (listing == NULL) {
    fail("opendir");
  }
  closedir(listing);
}

/* `child` ends well and waits for nobody: whoever could let it go on is gone. */
static void expect_no_wait(pid_t child, uint64_t before, const char *otherwise) {
  int status;
  pid_t ended;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
    if (waits() != before) {
      kill(child, SIGKILL);
      fail(otherwise);
    }
    usleep(1000);
  }
  if (ended != child || status != 0) {
    fail(otherwise);
  }
}

/* A child that waits for the agent gets SIGTERM; then another one does what it did. */
static void end_while_waiting(void (*handler)(int), void (*work)(void)) {
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, handler);
    arm();
    work();
    fail("the agent did not hold back its answer");
  }
  wait_for("held");
  uint64_t before = waits();
  kill(child, SIGTERM);
  expect_no_wait(child, before, "who was to end has not ended well");
  expect_no_wait(begin(work), before, "the next one could not do it");
}

static void expect_none(const char *name, const char *otherwise) {
  if (open(name, O_RDONLY) >= 0 || errno != ENOENT) {
    fail(otherwise);
  }
}

/* A directory that storage does not have, as of a database. */
static void churn_directory(int number) {
  char directory[64], name[96];
  sprintf(directory, "base/%d", number);
  sprintf(name, "%s/100", directory);
  if (mkdir(directory, 0700) != 0) {
    fail("a new directory");
  }
  expect_none(name, "a new directory is not empty");
  DIR *listed = opendir(directory);
  if (listed == NULL || closedir(listed) != 0 || rmdir(directory) != 0) {
    fail("a removed directory");
  }
}

/*
 * Makes and removes more files and directories than there is room for names. What storage has stays what it is: the
 * file, one that was removed and a directory's, which do not come back, and one that nobody has asked for yet.
 */
static void churn(void) {
  /* In a child: the first process, which would be the postmaster, lists no directories. */
  int status;
  pid_t child = fork();
  if (child != 0) {
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      _exit(1);
    }
    return;
  }
  char name[256], removed[256];
  sprintf(removed, "%s.1", path);
  if (unlink(removed) != 0) {
    fail("unlink of a file of storage");
  }
  if (rmdir("base/6") != 0 || mkdir("base/6", 0700) != 0) {
    fail("a directory of storage that is made anew");
  }
  for (int i = 0; i < 1000; i++) {
    sprintf(name, "%s%d", path, i);
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || pwrite(fd, "x", 1, 0) != 1 || close(fd) != 0) {
      fail("a new file");
    }
    fd = open(name, O_RDONLY);
    char byte = 0;
    if (fd < 0 || pread(fd, &byte, 1, 0) != 1 || byte != 'x' || close(fd) != 0) {
      fail("a new file is not what was written");
    }
    if (unlink(name) != 0 || open(name, O_RDONLY) >= 0 || errno != ENOENT) {
      fail("a removed file");
    }
    churn_directory(20000 + i);
    if (i % 100 == 0) {
      read_file();
      expect_none(removed, "a removed file of storage is back");
      expect_none("base/6/100", "a file of a removed directory of storage is back");
    }
  }
  sprintf(name, "%s9999", path);
  path = name;
  read_file();
  _exit(0);
}

/* As on a disk that has room for the file's first `room` bytes only. */
static ssize_t write_on_full_disk(int fd, const void *data, size_t n, off_t at, rlim_t room) {
  struct rlimit limit, old;
  getrlimit(RLIMIT_FSIZE, &old);
  limit = (struct rlimit){room, old.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &limit);
  ssize_t done = pwrite(fd, data, n, at);
  int saved = errno;
  setrlimit(RLIMIT_FSIZE, &old);
  errno = saved;
  return done;
}

/* A write that the disk took a part of: what it did not take whole is still to be fetched. */
static void short_write(void) {
  static uint8_t data[4 * BLOCK];
  int fd = open_file();
  memset(data, 0xee, sizeof data);
  if (write_on_full_disk(fd, data, sizeof data, 0, BLOCK + BLOCK / 2) <= 0) {
    fail("the write was not cut short");
  }
  for (int block = 1; block < 4; block++) {
    check_block(fd, block);
  }
  if (pread(fd, data, BLOCK, 0) != BLOCK || data[0] != 0xee || data[BLOCK - 1] != 0xee) {
    fail("a block that was written is lost");
  }
}

/* As mdwritev() of Postgres 17: goes on where a short write has ended, and by then the disk has room. */
static void short_write_continued(void) {
  static uint8_t data[2 * BLOCK];
  int fd = open_file();
  memset(data, 0xee, sizeof data);
  ssize_t done = write_on_full_disk(fd, data, sizeof data, 0, BLOCK + BLOCK / 2);
  ssize_t rest = (ssize_t)sizeof data - done;
  if (done <= 0 || rest <= 0 || pwrite(fd, data + done, (size_t)rest, done) != rest) {
    fail("the write did not go on");
  }
  memset(data, 0, sizeof data);
  if (pread(fd, data, sizeof data, 0) != sizeof data) {
    fail("short read");
  }
  for (size_t i = 0; i < sizeof data; i++) {
    if (data[i] != 0xee) {
      fail("a part that was written is lost");
    }
  }
  if (write_on_full_disk(fd, data, BLOCK, 3 * BLOCK, 3 * BLOCK + BLOCK / 2) != -1 || errno != ENOSPC) {
    fail("less than a block was written");
  }
  check_block(fd, 3);
}

/* Of what is absent: a whole block; the middle of one; a block and the begin of the next one; and the end of one and all of the next. */
static void write_absent(void) {
  int fd = open_file();
  write_block(fd, 0, 0xee);
  check_written(fd, 0, 0xee);
  write_bytes(fd, 1 * BLOCK + 512, 1 * BLOCK + 1024, 0xee);
  check_bytes(fd, 1 * BLOCK, 1 * BLOCK + 512, 2, "the rest of a block is lost");
  check_bytes(fd, 1 * BLOCK + 512, 1 * BLOCK + 1024, 0xee, "a part that was written is lost");
  check_bytes(fd, 1 * BLOCK + 1024, 2 * BLOCK, 2, "the rest of a block is lost");
  write_bytes(fd, 2 * BLOCK, 3 * BLOCK + 512, 0xee);
  check_bytes(fd, 2 * BLOCK, 3 * BLOCK + 512, 0xee, "a part that was written is lost");
  check_bytes(fd, 3 * BLOCK + 512, 4 * BLOCK, 4, "the rest of a block is lost");
  write_bytes(fd, 5 * BLOCK - 512, 6 * BLOCK, 0xee);
  check_bytes(fd, 4 * BLOCK, 5 * BLOCK - 512, 5, "the rest of a block is lost");
  check_bytes(fd, 5 * BLOCK - 512, 6 * BLOCK, 0xee, "a part that was written is lost");
}

/* What is cut off does not come back. */
static void cut_off(void) {
  int fd = open_file();
  if (ftruncate(fd, 4 * BLOCK) != 0 || ftruncate(fd, 8 * BLOCK) != 0) {
    fail("truncate");
  }
  check_bytes(fd, 4 * BLOCK, 8 * BLOCK, 0, "a block that was cut off is back");
  check_block(fd, 3);
}

static void fetch_5(void) {
  uint8_t data[BLOCK];
  int fd = open_file();
  arm();
  if (pread(fd, data, BLOCK, 5 * BLOCK) != BLOCK) {
    fail("short read");
  }
}

static void read_5(void) { check_block(open_file(), 5); }
static void write_5(void) { write_block(open_file(), 5, 0xee); }

/* Whoever reads or writes a block that is being fetched waits for that. */
static void read_while_fetching(void) { play_two(fetch_5, read_5); }

static void write_while_fetching(void) {
  play_two(fetch_5, write_5);
  check_written(open_file(), 5, 0xee);
}

/* Blocks that are cut off while one of them is being fetched do not come back with the answer. */
static void truncate_while_fetching(void) {
  play_two(fetch_5, cut_off);
  check_bytes(open_file(), 4 * BLOCK, 8 * BLOCK, 0, "a block that was cut off is back");
}

/* Storage has nothing of the relation N1, of which all is looked for, and of N2 a fork alone. */
static void look_for_forks(void) {
  static const char *const names[] = {"", "_fsm", "_vm", "_init", ".1", "_fsm.1"};
  char name[256];
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
    sprintf(name, "%s1%s", path, names[i]);
    expect_none(name, "a relation that storage does not have");
  }
  sprintf(name, "%s2", path);
  expect_none(name, "a main fork that storage does not have");
  strcat(name, "_fsm");
  path = name;
  read_file();
}

/* The agent says of base/5 that storage has nothing from 10055 on. What is below, in base/6 or an SLRU is asked for. */
static void look_for_new_numbers(void) {
  static const char *const names[] = {"base/5/10055", "base/5/10055_fsm", "base/5/10056.1",  "base/5/4294967295_init",
                                      "base/5/10054", "base/6/10055",     "global/10055",    "base/5/4294967295",
                                      "base/5/10060", "base/6/10056",     "pg_xact/FFFFFFF"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
    expect_none(names[i], names[i]);
  }
}

static void announce_block(int fd, int block) {
  if (posix_fadvise(fd, (off_t)block * BLOCK, BLOCK, POSIX_FADV_WILLNEED) != 0) {
    fail("posix_fadvise");
  }
}

/* Who is eight announcements ahead holds back more, until there are eight again, its reads come near or another file is announced. */
static void announce_some(void) {
  int fd = open_file();
  strcat(strcpy(other_path, path), ".1");
  path = other_path;
  int other = open_file();
  for (int block = 0; block < 8; block++) {
    announce_block(fd, block);
  }
  for (int block = 7; block >= 4; block--) {
    announce_block(fd, block);
  }
  check_block(other, 0);
  check_block(fd, 4);
  for (int i = 0; i < 8; i++) {
    announce_block(fd, i % 4);
  }
  check_block(other, 1);
  announce_block(fd, 5);
  announce_block(other, 7);
  check_block(other, 6);
}

#define WAL_SEGMENT "pg_wal/000000010000000000000001"

/* On the way out WAL is written and synced, which ends us otherwise: the test's agent says of it that we are fenced. */
static void exit_after_syncing(int signal) {
  (void)signal;
  int fd = open_path(WAL_SEGMENT, 0);
  write_block(fd, 0, 0xee);
  fdatasync(fd);
  fail("a sync of WAL has succeeded without a quorum");
}

/* A process that is in the middle of an answer about a page syncs WAL on its way out. */
static void sync_on_exit(void) {
  if (mkdir("pg_wal", 0700) != 0) {
    fail("mkdir");
  }
  make(WAL_SEGMENT);
  /* Who is fenced sends it to the postmaster. */
  signal(SIGQUIT, SIG_IGN);
  int status;
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, exit_after_syncing);
    fetch_5();
    fail("nobody has ended it");
  }
  wait_for("held");
  kill(child, SIGTERM);
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 2) {
    fail("who is fenced goes on");
  }
}

/* A handler ends a process that is about to write a new path into the table: where that cannot be, once it is done. */
static void exit_naming(void) {
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, exit_at_once);
    arm();
    read_file();
    fail("nobody has ended it");
  }
  wait_for("held");
  uint64_t before = waits();
  kill(child, SIGTERM);
  make("go");
  expect_no_wait(child, before, "who was to end has not ended well");
  expect_no_wait(begin(read_file), before, "the next one could not do it");
}

static int open_source(void) {
  int fd = open_path("source", O_CREAT);
  write_block(fd, 0, 0xee);
  return fd;
}

static void copy_one_block(void) {
  int source = open_source(), fd = open_file();
  off64_t from = 0, to = 0;
  while (copy_file_range(source, &from, fd, &to, 8 * BLOCK, 0) > 0) {
  }
  if (from != BLOCK || to != BLOCK) {
    fail("copy");
  }
  check_written(fd, 0, 0xee);
}

/* A copy of one block, for which more is asked, as Postgres does, while a block behind it is being fetched. */
static void copy_while_fetching(void) {
  pid_t other = begin(fetch_5);
  wait_for("held");
  expect_no_wait(begin(copy_one_block), waits(), "a copy waits for what it does not come to");
  make("go");
  expect_well(other);
}

static void exit_reading(void) { end_while_waiting(exit_at_once, read_file); }
static void exit_listing(void) { end_while_waiting(exit_at_once, list); }
static void read_on_exit(void) { end_while_waiting(exit_after_reading, read_file); }

static const struct scene scenes[] = {
    {"write", write_absent},
    {"cut", cut_off},
    {"exit-reading", exit_reading},
    {"exit-listing", exit_listing},
    {"read-on-exit", read_on_exit},
    {"churn", churn},
    {"announce", announce_some},
    {"forks", look_for_forks},
    {"new-numbers", look_for_new_numbers},
    {"short-write", short_write},
    {"short-write-continued", short_write_continued},
    {"fetch-read", read_while_fetching},
    {"fetch-write", write_while_fetching},
    {"fetch-truncate", truncate_while_fetching},
    {"fetch-copy", copy_while_fetching},
    {"sync-on-exit", sync_on_exit},
    {"exit-naming", exit_naming},
};

int main(int argc, char **argv) { return play(argc, argv, scenes, sizeof scenes / sizeof *scenes); }

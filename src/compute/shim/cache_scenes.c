/* cache_scenes.c: scenes of blocks that are given back to the disk. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "scenes.h"

static char other_path[256];

/* Blocks that the agent has, read so that none is fetched ahead, are as many as the cache may hold. */
static int fill_cache(void) {
  int fd = open_file();
  for (int block = 3; block >= 0; block--) {
    check_block(fd, block);
  }
  return fd;
}

/* Reads more, for which the first block has to go. */
static void evict_first(void) {
  char byte;
  int fd = open_file();
  if (pread(fd, &byte, 1, 7 * BLOCK) != 1 || pread(fd, &byte, 1, 5 * BLOCK) != 1) {
    fail("short read");
  }
}

static void evict_and_stop(void) {
  arm();
  evict_first();
}

static void write_anew(int fd) {
  write_bytes(fd, 0, 8 * BLOCK, 0xee);
}

static void check_anew(void) {
  check_bytes(open_file(), 0, 8 * BLOCK, 0xee, "a block that was written is lost");
}

static void cut_and_write(void) {
  int fd = open_file();
  if (ftruncate(fd, 0) != 0 || ftruncate(fd, 8 * BLOCK) != 0) {
    fail("truncate");
  }
  write_anew(fd);
}

/* Blocks that are cut off and written anew while one of them is being given back. */
static void truncate_while_evicting(void) {
  fill_cache();
  play_two(evict_and_stop, cut_and_write);
  check_anew();
}

static void remove_and_write(void) {
  if (unlink(path) != 0) {
    fail("unlink");
  }
  write_anew(open_path(path, O_CREAT | O_EXCL));
}

/* A file that is removed and made anew while a block of it is about to be given back. */
static void remove_while_evicting(void) {
  fill_cache();
  play_two(evict_and_stop, remove_and_write);
  check_anew();
}

/* A block that is given back between a reader's look whether it is here and the reading, by each of the calls that read. */
static void stop_reading(void) {
  int fd = open_file();
  arm();
  check_block(fd, 0);
}

static void stop_reading_vector(void) {
  static uint8_t data[BLOCK];
  struct iovec parts[2] = {{data, 512}, {data + 512, BLOCK - 512}};
  int fd = open_file();
  arm();
  if (preadv(fd, parts, 2, 0) != BLOCK || data[0] != 1 || data[BLOCK - 1] != 1) {
    fail("not what the agent has");
  }
}

static void stop_copying(void) {
  int fd = open_file(), copy = open_path("copy", O_CREAT);
  off64_t from = 0, to = 0;
  arm();
  if (copy_file_range(fd, &from, copy, &to, BLOCK, 0) != BLOCK) {
    fail("copy");
  }
  check_block(copy, 0);
}

/* A block that is given back between a writer's claim and its write, or before it, of a part of it. */
static void stop_writing(void) {
  int fd = open_file();
  arm();
  write_block(fd, 0, 0xee);
}

static void stop_writing_part(void) {
  int fd = open_file();
  arm();
  write_bytes(fd, 512, 1024, 0xee);
}

static void evict_while(void (*first)(void)) {
  fill_cache();
  play_two(first, evict_first);
}

/* What was written stays, however much is read beside it. */
static void read_beside_written(void) {
  static const int order[] = {7, 5, 3, 1, 6, 4, 2};
  int fd = open_file();
  write_block(fd, 0, 0xee);
  for (unsigned i = 0; i < sizeof order / sizeof *order; i++) {
    check_block(fd, order[i]);
  }
  check_written(fd, 0, 0xee);
}

/* While somebody makes room, another one leaves it to him: here all the rest is written meanwhile. */
static void write_others(void) {
  int fd = open_file();
  for (int block = 1; block < 8; block++) {
    if (block != 5) {
      write_block(fd, block, 0xee);
    }
  }
}

static void evict_twice(void) {
  fill_cache();
  play_two(evict_and_stop, write_others);
  int fd = open_file();
  check_written(fd, 1, 0xee);
  check_written(fd, 7, 0xee);
  check_block(fd, 0);
}

/* One of cache-counters.ts. */
static uint64_t count_of(int number) {
  int counters = open_path("counters", 0);
  uint64_t count;
  if (pread(counters, &count, sizeof count, number * (off_t)sizeof count) != sizeof count) {
    fail("counters");
  }
  close(counters);
  return count;
}

/* Written blocks that have gone: `writtenEvicted`. */
static uint64_t written_blocks_gone(void) { return count_of(5); }

/* Reads what is not here, the last five blocks, for which more than is written has to go, until so many written blocks have gone. */
static void read_until_gone(int fd, uint64_t blocks) {
  for (int i = 0; written_blocks_gone() < blocks; i++) {
    check_block(fd, 7 - i % 5);
    usleep(1000);
  }
}

/* A block is written while the agent compares it: the others go, and it stays. */
static void write_while_comparing(void) {
  int fd = open_file();
  arm();
  write_bytes(fd, 0, 3 * BLOCK, 0xee);
  while (access("held", F_OK) != 0) {
    for (int block = 7; block > 4; block--) {
      check_block(fd, block);
    }
    usleep(1000);
  }
  write_block(fd, 0, 0xdd);
  make("go");
  read_until_gone(fd, 2);
  check_written(fd, 0, 0xdd);
  check_written(fd, 1, 0xee);
  check_written(fd, 2, 0xee);
}

/* A block is being written, and was so before, when the others are compared: it is not. */
static void stop_writing_again(void) {
  int fd = open_file();
  arm();
  write_block(fd, 0, 0xdd);
}

static void compare_while_writing(void) {
  int fd = open_file();
  write_bytes(fd, 0, 2 * BLOCK, 0xee);
  pid_t writer = begin(stop_writing_again);
  wait_for("held");
  write_block(fd, 2, 0xee);
  read_until_gone(fd, 2);
  make("go");
  expect_well(writer);
  check_written(fd, 0, 0xdd);
  check_written(fd, 1, 0xee);
  check_written(fd, 2, 0xee);
}

/* Of three blocks storage does not have the first one as it is. */
static void compare_unlike(void) {
  int fd = open_file();
  write_bytes(fd, 0, 3 * BLOCK, 0xee);
  read_until_gone(fd, 2);
  for (int block = 0; block < 3; block++) {
    check_written(fd, block, 0xee);
  }
}

/* The process that compares; 0: there is none. */
static pid_t comparer(void) {
  char name[300], text[300];
  pid_t found = 0;
  DIR *processes = opendir("/proc");
  for (struct dirent *entry; processes != NULL && (entry = readdir(processes)) != NULL;) {
    int pid, parent;
    char state;
    snprintf(name, sizeof name, "/proc/%s/stat", entry->d_name);
    FILE *file = fopen(name, "r");
    if (file == NULL) {
      continue;
    }
    if (fgets(text, sizeof text, file) != NULL &&
        sscanf(text, "%d (strata-evictor) %c %d", &pid, &state, &parent) == 3 && parent == getpid() && state != 'Z') {
      found = pid;
    }
    fclose(file);
  }
  closedir(processes);
  return found;
}

static void do_nothing(void) {}

/* Until there is one that is not `other`: who forks sees to it. */
static pid_t another_comparer(pid_t other) {
  pid_t found;
  while ((found = comparer()) == 0 || found == other) {
    expect_well(begin(do_nothing));
    usleep(10 * 1000);
  }
  return found;
}

/* The process that compares is killed in the middle; another one does what it did, and it holds nobody up. */
static void kill_while_comparing(void) {
  int fd = open_file();
  arm();
  write_bytes(fd, 0, 3 * BLOCK, 0xee);
  pid_t killed = another_comparer(0);
  while (access("held", F_OK) != 0) {
    for (int block = 7; block > 4; block--) {
      check_block(fd, block);
    }
    usleep(1000);
  }
  kill(killed, SIGKILL);
  make("go");
  write_block(fd, 0, 0xdd);
  another_comparer(killed);
  read_until_gone(fd, 3);
  check_written(fd, 0, 0xdd);
  check_written(fd, 1, 0xee);
  check_written(fd, 2, 0xee);
}

/* Nobody needs room: what is above the limit goes as the postmaster goes on. */
static void give_back_when_idle(void) {
  int fd = open_file();
  write_bytes(fd, 0, 6 * BLOCK, 0xee);
  for (int tries = 0; written_blocks_gone() < 2; tries++) {
    if (tries > 500) {
      fail("nothing is given back");
    }
    expect_well(begin(do_nothing));
    usleep(10 * 1000);
  }
  for (int block = 0; block < 6; block++) {
    check_written(fd, block, 0xee);
  }
}

/*
 * A block goes that was added, while somebody reads it with those before it, whose content stays: the first one that was added, with the last one
 * that the agent has; and one with others that were added, and are counted with those of another group.
 */
static void stop_reading_across(void) {
  int fd = open_file();
  arm();
  check_bytes(fd, 7 * BLOCK, 9 * BLOCK, 0xee, "a block that was written is lost");
}

static void stop_reading_added(void) {
  int fd = open_file();
  arm();
  check_bytes(fd, 70 * BLOCK, 73 * BLOCK, 0xee, "a block that was written is lost");
}

/* Of the blocks that have been written until somebody stops none has to go. */
static void evict_added_while(void (*reading)(void), int goes) {
  int fd = open_file();
  for (int block = 8; block <= 72; block++) {
    write_block(fd, block, 0xee);
  }
  write_block(fd, 7, 0xee);
  write_block(fd, goes, 0xee);
  pid_t reader = begin(reading);
  wait_for("held");
  for (int block = 73; block < 78; block++) {
    write_block(fd, block, 0xee);
  }
  while (written_blocks_gone() == 0) {
    write_block(fd, 110, 0xee);
    usleep(1000);
  }
  make("go");
  expect_well(reader);
}

static void read_across(void) { evict_added_while(stop_reading_across, 8); }
static void read_added(void) { evict_added_while(stop_reading_added, 72); }

/*
 * Where no process compares, what is added could never go: it has no states, and takes no room from what is read. A file that is made is
 * one like any, so that its removal leaves a spare.
 */
static void add_without_comparer(void) {
  char name[256];
  int fd = fill_cache();
  for (int block = 8; block < 80; block++) {
    write_block(fd, block, 0xee);
  }
  check_block(fd, 7);
  check_block(fd, 5);
  sprintf(name, "%s1", path);
  close(open_path(name, O_CREAT | O_EXCL));
  if (unlink(name) != 0 || access("pgsql_tmp_removed/0", F_OK) != 0) {
    fail("a file that was made and removed is no spare");
  }
}

/* What was cut off and is written anew goes like any, though the file gets no longer than it is in storage. */
static void grow_again(void) {
  int fd = open_file();
  if (ftruncate(fd, 0) != 0) {
    fail("truncate");
  }
  write_bytes(fd, 0, 8 * BLOCK, 0xee);
  for (int tries = 0; written_blocks_gone() < 4; tries++) {
    if (tries > 500) {
      fail("nothing is given back");
    }
    write_block(fd, 7, 0xee);
    usleep(10 * 1000);
  }
  check_bytes(fd, 0, 8 * BLOCK, 0xee, "a block that was written is lost");
}

/* It has none of its parent's files open, whatever their numbers. */
static void see_what_is_open(void) {
  char name[64];
  open_file();
  if (fcntl(0, F_DUPFD, 3000) < 0 || fcntl(0, F_DUPFD, 70) < 0) {
    fail("dup");
  }
  expect_well(begin(do_nothing));
  pid_t pid = another_comparer(0);
  sprintf(name, "/proc/%d/fd", pid);
  /* Its name is there before they are closed. */
  for (int open = 99; open > 3;) {
    DIR *files = opendir(name);
    open = 0;
    while (files != NULL && readdir(files) != NULL) {
      open++;
    }
    closedir(files);
    open -= 2;
    usleep(1000);
  }
}

/* Where no process can be made for it: all that was written stays, and all goes on; then one can be made after all. */
static void compare_later(void) {
  int fd = open_file();
  write_bytes(fd, 0, 3 * BLOCK, 0xee);
  expect_well(begin(do_nothing));
  if (comparer() != 0) {
    fail("there is a process that compares");
  }
  another_comparer(0);
  read_until_gone(fd, 2);
  for (int block = 0; block < 3; block++) {
    check_written(fd, block, 0xee);
  }
}

/* Whoever opens a file while it is being made finds out, though it was not there before, that blocks of it may go. */
static void open_while_made(void) {
  char name[256];
  sprintf(name, "%s1", path);
  int fd = open(name, O_RDWR);
  if (fd >= 0) {
    fail("a file that nobody has made");
  }
  arm();
  fd = open_path(name, 0);
  make("opened");
  wait_for("gone");
  check_bytes(fd, 64 * BLOCK, 67 * BLOCK, 0xee, "a block that was written is lost");
}

static void make_while_opened(void) {
  char name[256];
  int stored = open_file();
  sprintf(name, "%s1", path);
  pid_t other = begin(open_while_made);
  wait_for("held");
  int fd = open_path(name, O_CREAT | O_EXCL);
  make("go");
  wait_for("opened");
  /* Of what is added the first 64 blocks always stay. */
  for (int block = 0; block < 67; block++) {
    write_block(fd, block, 0xee);
  }
  read_until_gone(stored, 3);
  make("gone");
  expect_well(other);
}

/* A map of a relation: none of it is given back. */
static void read_all(void) {
  int fd = open_file();
  for (int block = 7; block >= 0; block--) {
    check_block(fd, block);
  }
}

/* Adds hint bits to a table's page, as the agent has it in every block but the last, or changes it otherwise. */
static void change(int block, uint8_t *page) {
  uint8_t *mask = page + BLOCK - 64 + 20;
  switch (block) {
    case 0: mask[1] |= 0x01; break; /* xmin has committed: the only hint */
    case 1: mask[0] |= 0x10; break;
    case 2: mask[1] |= 0x03; break; /* frozen */
    case 3: page[4]++; break;       /* LSN */
    case 4: page[10] |= 4; break;   /* all visible */
    case 5: mask[1] = 0; break;
    case 6: page[BLOCK - 2]++; break;
    case 7: mask[1] |= 0x01; break; /* of an index */
  }
}

/* The same of the page's header, in which the agent has PD_PAGE_FULL. */
static void change_header(int block, uint8_t *page) {
  switch (block) {
    case 0: page[20]++; break;              /* pd_prune_xid */
    case 1: page[10] ^= 2; break;           /* has room */
    case 2: page[20]++, page[4]++; break;   /* LSN */
    case 3: page[10] |= 1; break;           /* has free line pointers */
    case 4: page[10] ^= 2 | 4; break;       /* has room, all visible */
    case 5: page[12] += 4; break;           /* pd_lower */
    case 6: page[20]++, page[BLOCK - 2]++; break;
    case 7: page[20]++; break;              /* of an index */
  }
}

static void write_changes(void (*change)(int, uint8_t *)) {
  uint8_t page[BLOCK], again[BLOCK];
  int fd = open_file();
  for (int block = 7; block >= 0; block--) {
    off_t at = (off_t)block * BLOCK;
    if (pread(fd, page, BLOCK, at) != BLOCK) {
      fail("read");
    }
    change(block, page);
    if (pwrite(fd, page, BLOCK, at) != BLOCK || pread(fd, again, BLOCK, at) != BLOCK ||
        memcmp(page, again, BLOCK) != 0) {
      fail("what was written is not there");
    }
  }
}

static void write_hints(void) { write_changes(change); }
static void write_header_hints(void) { write_changes(change_header); }

/* Blocks that are cut off and written anew while a hint is written to one of them. */
static void stop_hinting(void) {
  uint8_t page[BLOCK];
  int fd = open_file();
  if (pread(fd, page, BLOCK, 0) != BLOCK) {
    fail("short read");
  }
  change(0, page);
  arm();
  if (pwrite(fd, page, BLOCK, 0) != BLOCK) {
    fail("write");
  }
}

static void truncate_while_hinting(void) {
  play_two(stop_hinting, cut_and_write);
  check_anew();
}

/* A file that is made here and grows by six blocks, of which the disk has room for one and a half. */
static void grow_on_full_disk(void) {
  static uint8_t data[6 * BLOCK];
  char name[256];
  struct rlimit before, limit;
  sprintf(name, "%s1", path);
  int fd = open_path(name, O_CREAT | O_EXCL);
  getrlimit(RLIMIT_FSIZE, &before);
  limit = (struct rlimit){65 * BLOCK + BLOCK / 2, before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  /* Of what is added the first 64 blocks have no states, unless more comes. */
  for (int block = 0; block < 64; block++) {
    write_block(fd, block, 0xee);
  }
  setrlimit(RLIMIT_FSIZE, &limit);
  ssize_t done = pwrite(fd, data, sizeof data, 64 * BLOCK);
  setrlimit(RLIMIT_FSIZE, &before);
  if (done != BLOCK + BLOCK / 2) {
    fail("the write was not cut short");
  }
  if (count_of(1) != 2) {
    fail("blocks that were not added count");
  }
}

/* As bgworker_die(). */
static void exit_at_once(int signal) {
  (void)signal;
  exit(0);
}

static void add_one_block(void) {
  int fd = open_path(other_path, 0);
  arm();
  write_block(fd, 70, 0xee);
}

/* The first of them is there. */
static void write_six_blocks(void) {
  signal(SIGTERM, exit_at_once);
  write_bytes(open_path(other_path, 0), 65 * BLOCK, 71 * BLOCK, 0xee);
  fail("a writer has not waited");
}

/* Who is about to add blocks to a file that is made here waits for another one that adds the last of them, and ends. */
static void end_while_adding(void) {
  sprintf(other_path, "%s1", path);
  int fd = open_path(other_path, O_CREAT | O_EXCL);
  for (int block = 0; block < 66; block++) {
    write_block(fd, block, 0xee);
  }
  pid_t first = begin(add_one_block);
  wait_for("held");
  uint64_t before = waits(), kept = count_of(1);
  pid_t second = begin(write_six_blocks);
  while (waits() == before) {
    usleep(1000);
  }
  kill(second, SIGTERM);
  expect_well(second);
  if (count_of(1) != kept) {
    fail("blocks that were not added count");
  }
  make("go");
  expect_well(first);
  write_bytes(fd, 65 * BLOCK, 71 * BLOCK, 0xdd);
  check_bytes(fd, 65 * BLOCK, 71 * BLOCK, 0xdd, "a block that was written is lost");
  if (count_of(1) != kept + 4) {
    fail("blocks that were added do not count");
  }
}

/* A process that is to make a file, and nobody else, finds that another one was faster. */
static void make_late(void) {
  arm();
  if (open(other_path, O_RDWR | O_CREAT | O_EXCL, 0600) >= 0 || errno != EEXIST) {
    fail("two have made one file");
  }
}

static void make_file(void) { open_path(other_path, O_CREAT | O_EXCL); }

static void make_twice(void) {
  sprintf(other_path, "%s1", path);
  play_two(make_late, make_file);
}

/* The disk has no space for the first hole; then there is some again. */
static void evict_on_full_disk(void) {
  int fd = fill_cache();
  evict_first();
  for (int round = 0; round < 4; round++) {
    for (int block = 7; block >= 0; block--) {
      check_block(fd, block);
    }
  }
  struct stat stat;
  if (fstat(fd, &stat) != 0 || stat.st_blocks > 7 * BLOCK / 512) {
    fail("the file has all its blocks");
  }
}

static void evict_read(void) { evict_while(stop_reading); }
static void evict_read_vector(void) { evict_while(stop_reading_vector); }
static void evict_copy(void) { evict_while(stop_copying); }

static void evict_write(void) {
  evict_while(stop_writing);
  check_written(open_file(), 0, 0xee);
}

static void evict_write_part(void) {
  evict_while(stop_writing_part);
  check_bytes(open_file(), 0, 512, 1, "the rest of a block is lost");
  check_bytes(open_file(), 512, 1024, 0xee, "a part that was written is lost");
}

/* What was read does not count any more when its file is gone. */
static void evict_none(void) {
  fill_cache();
  if (unlink(path) != 0) {
    fail("unlink");
  }
}

static const struct scene scenes[] = {
    {"evict-none", evict_none},
    {"evict-map", read_all},
    {"evict-written", read_beside_written},
    {"evict-twice", evict_twice},
    {"evict-read", evict_read},
    {"evict-read-vector", evict_read_vector},
    {"evict-copy", evict_copy},
    {"evict-added", add_without_comparer},
    {"evict-write", evict_write},
    {"evict-write-part", evict_write_part},
    {"evict-truncate", truncate_while_evicting},
    {"evict-remove", remove_while_evicting},
    {"evict-hints", write_hints},
    {"evict-hints-header", write_header_hints},
    {"evict-hints-truncate", truncate_while_hinting},
    {"compare-write", write_while_comparing},
    {"compare-writing", compare_while_writing},
    {"compare-unlike", compare_unlike},
    {"compare-regrown", grow_again},
    {"compare-read-across", read_across},
    {"compare-read-added", read_added},
    {"compare-made", make_while_opened},
    {"compare-killed", kill_while_comparing},
    {"compare-idle", give_back_when_idle},
    {"compare-files", see_what_is_open},
    {"compare-later", compare_later},
    {"compare-full", grow_on_full_disk},
    {"compare-ended", end_while_adding},
    {"compare-made-twice", make_twice},
    {"evict-full", evict_on_full_disk},
};

int main(int argc, char **argv) { return play(argc, argv, scenes, sizeof scenes / sizeof *scenes); }

/*
 * claim_scenes.c: single scenes under the shim that need a precise order, where claim_stress.c only tries much.
 *
 * Order by files in the working directory, not by time. A process makes `arm` before what the scene is about. Where it is
 * to stop, in the shim that was built for the scene (stopAt() in testing/compute/broken-shim.ts) or at a question whose
 * answer the test's agent holds back, `arm` becomes `held`; and it goes on once there is `go`: for ever not where a process
 * ends over it, else when another process has done its part, or waits for it.
 *
 * usage: claim_scenes SCENE FILE; exit code 0, or 1 with a line on stderr.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 8192

static const char *path;
static char other_path[256];

static void fail(const char *what) {
  fprintf(stderr, "claim_scenes: %s (errno %d)\n", what, errno);
  _exit(1);
}

/* [from, to) of the file holds `byte`. */
static void check_bytes(int fd, off_t from, off_t to, uint8_t byte, const char *otherwise) {
  static uint8_t data[8 * BLOCK];
  if (pread(fd, data, (size_t)(to - from), from) != to - from) {
    fail("short read");
  }
  for (off_t i = 0; i < to - from; i++) {
    if (data[i] != byte) {
      fail(otherwise);
    }
  }
}

/* The test's agent fills block N with bytes N + 1. */
static void check_block(int fd, int block) {
  check_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, (uint8_t)(block + 1), "not what the agent has");
}

static void check_written(int fd, int block, uint8_t byte) {
  check_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, byte, "a block that was written is lost");
}

static void write_bytes(int fd, off_t from, off_t to, uint8_t byte) {
  static uint8_t data[8 * BLOCK];
  memset(data, byte, (size_t)(to - from));
  if (pwrite(fd, data, (size_t)(to - from), from) != to - from) {
    fail("write");
  }
}

static void write_block(int fd, int block, uint8_t byte) {
  write_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, byte);
}

static int open_path(const char *name, int flags) {
  int fd = open(name, O_RDWR | flags, 0600);
  if (fd < 0) {
    fail("open");
  }
  return fd;
}

static int open_file(void) { return open_path(path, 0); }

static void make(const char *name) { close(open_path(name, O_CREAT)); }

/* Until another process has made it. Whoever waits for ever is ended by main()'s alarm, or by its parent's end. */
static void wait_for(const char *name) {
  while (access(name, F_OK) != 0) {
    usleep(1000);
  }
}

/* From here on somebody is held where the scene says. */
static void arm(void) { make("arm"); }

static void expect_well(pid_t child) {
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
}

/* Of a part of a scene that another process plays. */
static pid_t begin(void (*work)(void)) {
  pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  return child;
}

/* How often a process has waited for what another one had claimed. */
static uint64_t waits(void) {
  uint64_t (*counted)(void) = (uint64_t(*)(void))dlsym(RTLD_DEFAULT, "strata_shim_waits");
  return counted();
}

/* One process is held somewhere; then the other one does its part, and the first goes on when that is done or waits for it. */
static void play_two(void (*first)(void), void (*second)(void)) {
  pid_t held = begin(first);
  wait_for("held");
  uint64_t before = waits();
  pid_t other = begin(second);
  siginfo_t info = {0};
  while (waits() == before && waitid(P_PID, (id_t)other, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0) {
    usleep(1000);
  }
  make("go");
  expect_well(other);
  expect_well(held);
}

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

/* Written blocks that have gone: `writtenEvicted` of cache-counters.ts. */
static uint64_t written_blocks_gone(void) {
  int counters = open_path("counters", 0);
  uint64_t gone;
  if (pread(counters, &gone, sizeof gone, 5 * sizeof gone) != sizeof gone) {
    fail("counters");
  }
  close(counters);
  return gone;
}

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

static void write_hints(void) {
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

static void exit_reading(void) { end_while_waiting(exit_at_once, read_file); }
static void exit_listing(void) { end_while_waiting(exit_at_once, list); }
static void read_on_exit(void) { end_while_waiting(exit_after_reading, read_file); }
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

static const struct {
  const char *name;
  void (*play)(void);
} scenes[] = {
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
    {"evict-none", evict_none},
    {"evict-map", read_all},
    {"evict-written", read_beside_written},
    {"evict-twice", evict_twice},
    {"evict-read", evict_read},
    {"evict-read-vector", evict_read_vector},
    {"evict-copy", evict_copy},
    {"evict-write", evict_write},
    {"evict-write-part", evict_write_part},
    {"evict-truncate", truncate_while_evicting},
    {"evict-remove", remove_while_evicting},
    {"evict-hints", write_hints},
    {"evict-hints-truncate", truncate_while_hinting},
    {"compare-write", write_while_comparing},
    {"compare-writing", compare_while_writing},
    {"compare-unlike", compare_unlike},
    {"compare-made", make_while_opened},
    {"compare-killed", kill_while_comparing},
    {"compare-idle", give_back_when_idle},
    {"compare-files", see_what_is_open},
    {"compare-later", compare_later},
};

int main(int argc, char **argv) {
  if (argc != 3 || chdir(getenv("SCENE_DIR")) != 0) {
    return 2;
  }
  path = argv[2];
  for (unsigned i = 0; i < sizeof scenes / sizeof *scenes; i++) {
    if (strcmp(argv[1], scenes[i].name) == 0) {
      /* Who waits for ever must not hold up the test; with us our children end. */
      alarm(60);
      scenes[i].play();
      return 0;
    }
  }
  return 2;
}

/*
 * claim_scenes.c: single scenes under the shim that need a precise order, where claim_stress.c only tries much.
 *
 * The agent of the test holds back its first answer to the question that the scene is about, and only that
 * one: for ever where a process ends over it, else for half a second.
 *
 * usage: claim_scenes SCENE FILE; exit code 0, or 1 with a line on stderr.
 */
#define _GNU_SOURCE
#include <dirent.h>
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
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 8192

static const char *path;

static void fail(const char *what) {
  fprintf(stderr, "claim_scenes: %s (errno %d)\n", what, errno);
  _exit(1);
}

/* The test's agent fills block N with bytes N + 1. */
static void check_block(int fd, int block) {
  uint8_t data[BLOCK];
  if (pread(fd, data, BLOCK, (off_t)block * BLOCK) != BLOCK) {
    fail("short read");
  }
  for (int i = 0; i < BLOCK; i++) {
    if (data[i] != block + 1) {
      fail("not what the agent has");
    }
  }
}

static int open_file(void) {
  int fd = open(path, O_RDWR);
  if (fd < 0) {
    fail("open");
  }
  return fd;
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

/* A child that waits for the agent gets SIGTERM; then another one does what it did. */
static void end_while_waiting(void (*handler)(int), void (*work)(void)) {
  int status;
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, handler);
    work();
    fail("the agent did not hold back its answer");
  }
  usleep(300 * 1000);
  kill(child, SIGTERM);
  /* Who waits for ever must not hold up the test. */
  alarm(5);
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
  child = fork();
  if (child == 0) {
    alarm(5);
    work();
    _exit(0);
  }
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the next one could not do it");
  }
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

/* Blocks that are cut off while one of them is being fetched do not come back with the answer. */
static void truncate_while_fetching(void) {
  uint8_t data[BLOCK];
  int fd = open_file(), status;
  pid_t child = fork();
  if (child == 0) {
    ssize_t got = pread(fd, data, BLOCK, 5 * BLOCK);
    _exit(got < 0);
  }
  usleep(200 * 1000);
  if (ftruncate(fd, 4 * BLOCK) != 0 || ftruncate(fd, 8 * BLOCK) != 0) {
    fail("truncate");
  }
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
  if (pread(fd, data, BLOCK, 5 * BLOCK) != BLOCK || data[0] != 0 || data[BLOCK - 1] != 0) {
    fail("a block that was cut off is back");
  }
  check_block(fd, 3);
}

/* Blocks that the agent has, read so that none is fetched ahead, are as many as the cache may hold. */
static int fill_cache(void) {
  int fd = open_file();
  for (int block = 3; block >= 0; block--) {
    check_block(fd, block);
  }
  return fd;
}

/* A child that reads more, for which a block has to go; it takes long over that in the test's shim. */
static pid_t evict_in_child(int fd) {
  pid_t child = fork();
  if (child == 0) {
    char byte;
    _exit(pread(fd, &byte, 1, 7 * BLOCK) != 1 || pread(fd, &byte, 1, 5 * BLOCK) < 0);
  }
  usleep(200 * 1000);
  return child;
}

static void write_anew(int fd, pid_t child) {
  static uint8_t data[8 * BLOCK];
  int status;
  memset(data, 0xee, sizeof data);
  if (pwrite(fd, data, sizeof data, 0) != sizeof data) {
    fail("write");
  }
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
  memset(data, 0, sizeof data);
  if (pread(fd, data, sizeof data, 0) != sizeof data) {
    fail("short read");
  }
  for (size_t i = 0; i < sizeof data; i++) {
    if (data[i] != 0xee) {
      fail("a block that was written is lost");
    }
  }
}

/* Blocks that are cut off and written anew while one of them is being given back. */
static void truncate_while_evicting(void) {
  int fd = fill_cache();
  pid_t child = evict_in_child(fd);
  if (ftruncate(fd, 0) != 0 || ftruncate(fd, 8 * BLOCK) != 0) {
    fail("truncate");
  }
  write_anew(fd, child);
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
static void truncate_while_hinting(void) {
  uint8_t page[BLOCK];
  int fd = open_file();
  pid_t child = fork();
  if (child == 0) {
    bool read = pread(fd, page, BLOCK, 0) == BLOCK;
    change(0, page);
    _exit(!read || pwrite(fd, page, BLOCK, 0) != BLOCK);
  }
  usleep(200 * 1000);
  if (ftruncate(fd, 0) != 0 || ftruncate(fd, 8 * BLOCK) != 0) {
    fail("truncate");
  }
  write_anew(fd, child);
}

/* A file that is removed and made anew while a block of it is about to be given back. */
static void remove_while_evicting(void) {
  pid_t child = evict_in_child(fill_cache());
  if (unlink(path) != 0) {
    fail("unlink");
  }
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) {
    fail("a new file");
  }
  write_anew(fd, child);
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

int main(int argc, char **argv) {
  if (argc != 3 || chdir(getenv("SCENE_DIR")) != 0) {
    return 2;
  }
  path = argv[2];
  if (strcmp(argv[1], "exit-reading") == 0) {
    end_while_waiting(exit_at_once, read_file);
  } else if (strcmp(argv[1], "exit-listing") == 0) {
    end_while_waiting(exit_at_once, list);
  } else if (strcmp(argv[1], "read-on-exit") == 0) {
    end_while_waiting(exit_after_reading, read_file);
  } else if (strcmp(argv[1], "churn") == 0) {
    churn();
  } else if (strcmp(argv[1], "forks") == 0) {
    look_for_forks();
  } else if (strcmp(argv[1], "short-write") == 0) {
    short_write();
  } else if (strcmp(argv[1], "short-write-continued") == 0) {
    short_write_continued();
  } else if (strcmp(argv[1], "evict-truncate") == 0) {
    truncate_while_evicting();
  } else if (strcmp(argv[1], "evict-hints") == 0) {
    write_hints();
  } else if (strcmp(argv[1], "evict-hints-truncate") == 0) {
    truncate_while_hinting();
  } else if (strcmp(argv[1], "evict-none") == 0) {
    /* What was read does not count any more when its file is gone. */
    fill_cache();
    return unlink(path) != 0;
  } else if (strcmp(argv[1], "evict-remove") == 0) {
    remove_while_evicting();
  } else if (strcmp(argv[1], "truncate") == 0) {
    truncate_while_fetching();
  } else {
    return 2;
  }
  return 0;
}

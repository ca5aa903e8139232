/*
 * claim_scenes.c: single scenes under the shim that need a precise order, where claim_stress.c only tries much.
 *
 * The agent of the test holds back its first answer to the question that the scene is about, and only that
 * one: for ever where a process ends over it, else for half a second.
 *
 * usage: claim_scenes SCENE FILE; exit code 0, or 1 with a line on stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

static void exit_at_once(int signal) {
  (void)signal;
  exit(0);
}

/* As bgworker_die(): on the way out it reads what it was reading. */
static void exit_after_reading(int signal) {
  (void)signal;
  check_block(open_file(), 3);
  exit(0);
}

/* A child that waits for the agent gets SIGTERM; then we do what it did. */
static void end_while_waiting(void (*handler)(int), int reading) {
  int fd = reading ? open_file() : -1, status;
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, handler);
    check_block(reading ? fd : open_file(), 3);
    fail("the agent did not hold back its answer");
  }
  usleep(300 * 1000);
  kill(child, SIGTERM);
  /* Who waits for ever must not hold up the test. */
  alarm(5);
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
  check_block(reading ? fd : open_file(), 3);
}

/* A write that the disk took half of: what it did not take is still to be fetched. */
static void short_write(void) {
  static uint8_t data[4 * BLOCK];
  int fd = open_file();
  struct rlimit limit, old;
  getrlimit(RLIMIT_FSIZE, &old);
  limit = (struct rlimit){BLOCK + BLOCK / 2, old.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  memset(data, 0xee, sizeof data);
  setrlimit(RLIMIT_FSIZE, &limit);
  if (pwrite(fd, data, sizeof data, 0) != BLOCK + BLOCK / 2) {
    fail("the write was not cut short");
  }
  setrlimit(RLIMIT_FSIZE, &old);
  for (int block = 1; block < 4; block++) {
    check_block(fd, block);
  }
  if (pread(fd, data, BLOCK, 0) != BLOCK || data[0] != 0xee || data[BLOCK - 1] != 0xee) {
    fail("a block that was written is lost");
  }
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

int main(int argc, char **argv) {
  if (argc != 3 || chdir(getenv("SCENE_DIR")) != 0) {
    return 2;
  }
  path = argv[2];
  if (strcmp(argv[1], "exit-reading") == 0) {
    end_while_waiting(exit_at_once, 1);
  } else if (strcmp(argv[1], "exit-opening") == 0) {
    end_while_waiting(exit_at_once, 0);
  } else if (strcmp(argv[1], "read-on-exit") == 0) {
    end_while_waiting(exit_after_reading, 1);
  } else if (strcmp(argv[1], "short-write") == 0) {
    short_write();
  } else if (strcmp(argv[1], "truncate") == 0) {
    truncate_while_fetching();
  } else {
    return 2;
  }
  return 0;
}

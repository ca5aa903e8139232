/*
 * scenes.h: what scenes under the shim are made of that need a precise order, where claim_stress.c only tries much.
 *
 * Order by files in the working directory, not by time. A process makes `arm` before what the scene is about. Where it is
 * to stop, in the shim that was built for the scene (stopAt() in testing/compute/broken-shim.ts) or at a question whose
 * answer the test's agent holds back, `arm` becomes `held`; and it goes on once there is `go`: for ever not where a process
 * ends over it, else when another process has done its part, or waits for it.
 *
 * usage of a program of scenes: PROGRAM SCENE FILE; exit code 0, or 1 with a line on stderr.
 */
#pragma once
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 8192

static const char *path;

static inline void fail(const char *what) {
  fprintf(stderr, "scene: %s (errno %d)\n", what, errno);
  _exit(1);
}

/* [from, to) of the file holds `byte`. */
static inline void check_bytes(int fd, off_t from, off_t to, uint8_t byte, const char *otherwise) {
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
static inline void check_block(int fd, int block) {
  check_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, (uint8_t)(block + 1), "not what the agent has");
}

static inline void check_written(int fd, int block, uint8_t byte) {
  check_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, byte, "a block that was written is lost");
}

static inline void write_bytes(int fd, off_t from, off_t to, uint8_t byte) {
  static uint8_t data[8 * BLOCK];
  memset(data, byte, (size_t)(to - from));
  if (pwrite(fd, data, (size_t)(to - from), from) != to - from) {
    fail("write");
  }
}

static inline void write_block(int fd, int block, uint8_t byte) {
  write_bytes(fd, (off_t)block * BLOCK, (off_t)(block + 1) * BLOCK, byte);
}

static inline int open_path(const char *name, int flags) {
  int fd = open(name, O_RDWR | flags, 0600);
  if (fd < 0) {
    fail("open");
  }
  return fd;
}

static inline int open_file(void) { return open_path(path, 0); }

static inline void make(const char *name) { close(open_path(name, O_CREAT)); }

/* Until another process has made it. Whoever waits for ever is ended by main()'s alarm, or by its parent's end. */
static inline void wait_for(const char *name) {
  while (access(name, F_OK) != 0) {
    usleep(1000);
  }
}

/* From here on somebody is held where the scene says. */
static inline void arm(void) { make("arm"); }

static inline void expect_well(pid_t child) {
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) {
    fail("the child did not end well");
  }
}

/* Of a part of a scene that another process plays. */
static inline pid_t begin(void (*work)(void)) {
  pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  return child;
}

/* How often a process has waited for what another one had claimed. */
static inline uint64_t waits(void) {
  uint64_t (*counted)(void) = (uint64_t(*)(void))dlsym(RTLD_DEFAULT, "strata_shim_waits");
  return counted();
}

/* One process is held somewhere; then the other one does its part, and the first goes on when that is done or waits for it. */
static inline void play_two(void (*first)(void), void (*second)(void)) {
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

struct scene {
  const char *name;
  void (*play)(void);
};

static inline int play(int argc, char **argv, const struct scene *scenes, unsigned count) {
  if (argc != 3 || chdir(getenv("SCENE_DIR")) != 0) {
    return 2;
  }
  path = argv[2];
  for (unsigned i = 0; i < count; i++) {
    if (strcmp(argv[1], scenes[i].name) == 0) {
      /* Who waits for ever must not hold up the test; with us our children end. */
      alarm(240);
      scenes[i].play();
      return 0;
    }
  }
  return 2;
}

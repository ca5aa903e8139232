/* spare_scenes.c: scenes of files that were removed and become others. */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/stat.h>
#include "scenes.h"

#define PROCESSES 4
#define ROUNDS 1000

static struct stat stat_of(const char *name) {
  struct stat found;
  if (lstat(name, &found) != 0) {
    fail(name);
  }
  return found;
}

static int make_new(const char *name) { return open_path(name, O_CREAT | O_EXCL); }

/* A file with one block of `byte`; its inode. */
static ino_t make_with_block(const char *name, uint8_t byte) {
  int fd = make_new(name);
  if (stat_of(name).st_size != 0) {
    fail("a new file is not empty");
  }
  write_block(fd, 0, byte);
  close(fd);
  return stat_of(name).st_ino;
}

static void drop(const char *name) {
  if (unlink(name) != 0) {
    fail("unlink");
  }
}

static void expect_gone(const char *name) {
  if (open(name, O_RDWR) >= 0 || errno != ENOENT || unlink(name) == 0 || errno != ENOENT) {
    fail("a removed file is there");
  }
}

static void reuse(void) {
  ino_t first = make_with_block("base/5/900", 1);
  drop("base/5/900");
  expect_gone("base/5/900");
  if (make_with_block("base/5/901_fsm", 2) != first) {
    fail("a removed file has not become the next one");
  }
  expect_gone("base/5/900");
  ino_t temporary = make_with_block("base/5/t3_902_vm.1", 3);
  /* So that the file system cannot give its number out again. */
  open_path("base/5/t3_902_vm.1", 0);
  drop("base/5/t3_902_vm.1");
  if (make_with_block("base/5/t4_903", 4) != temporary) {
    fail("a removed temporary file has not become the next one");
  }
}

/* As mdunlinkfork(): the name stays until a checkpoint. */
static void leave_names(void) {
  ino_t first = make_with_block("base/5/900", 1);
  for (int i = 0; i < 2; i++) {
    if (truncate("base/5/900", 0) != 0 || stat_of("base/5/900").st_size != 0 || stat_of("base/5/900").st_ino == first) {
      fail("the name of a dropped relation is not left to an empty file");
    }
    if (open("base/5/900", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0 || errno != EEXIST) {
      fail("the name of a dropped relation is free");
    }
  }
  if (make_with_block("base/5/901", 2) != first) {
    fail("a dropped file has not become the next one");
  }
  ino_t empty = stat_of("base/5/900").st_ino;
  drop("base/5/900");
  ino_t next = make_with_block("base/5/902", 3);
  if (next == empty) {
    fail("the empty file has become a relation's");
  }
  if (truncate("base/5/902", 0) != 0 || stat_of("base/5/902").st_size != 0) {
    fail("the empty file is not empty");
  }
}

/* Who makes what is there already, or has no descriptor left, leaves all as it is. */
static void fail_to_make(void) {
  make_with_block("base/5/900", 1);
  make_with_block("base/5/901", 2);
  drop("base/5/901");
  if (open("base/5/900", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0 || errno != EEXIST) {
    fail("a file is made over another one");
  }
  int fd = open_path("base/5/900", 0);
  check_written(fd, 0, 1);
  close(fd);
  struct rlimit before, none;
  getrlimit(RLIMIT_NOFILE, &before);
  none = before;
  none.rlim_cur = (rlim_t)fd;
  setrlimit(RLIMIT_NOFILE, &none);
  if (open("base/5/902", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0 || errno != EMFILE) {
    fail("a file beyond the last descriptor");
  }
  setrlimit(RLIMIT_NOFILE, &before);
  make_with_block("base/5/902", 3);
}

/* Removes a file that others have open; no file that is made then is the same. */
static void expect_kept_out(const char *name) {
  ino_t inode = stat_of(name).st_ino;
  open_path(name, 0);
  drop(name);
  static int number = 910;
  for (int i = 0; i < 4; i++) {
    char made[64];
    sprintf(made, "base/5/%d", number++);
    if (make_with_block(made, 5) == inode) {
      fail("a file that others may use has become a relation's");
    }
  }
}

/* What may be no spare: a file of storage's, which others may be about to fill; one with another mode; one of another name. */
static void keep_out(void) {
  int fd = open_file();
  expect_kept_out(path);
  check_block(fd, 3);
  make_with_block("base/5/901", 1);
  if (chmod("base/5/901", 0640) != 0) {
    fail("chmod");
  }
  expect_kept_out("base/5/901");
  make_with_block("base/5/902", 2);
  if (link("base/5/902", "base/5/other") != 0) {
    fail("link");
  }
  expect_kept_out("base/5/902");
  check_written(open_path("base/5/other", 0), 0, 2);
}

/* As files of a database that is moved in 14; those of a relation that is dropped, and temporary ones, are the next ones there, too. */
static void keep_moved(void) {
  make_with_block("base/5/900", 1);
  expect_kept_out("base/5/900");
  ino_t dropped = make_with_block("base/5/901", 2);
  if (truncate("base/5/901", 0) != 0 || make_with_block("base/5/902", 3) != dropped) {
    fail("a dropped file has not become the next one");
  }
  ino_t temporary = make_with_block("base/5/t3_903", 4);
  open_path("base/5/t3_903", 0);
  drop("base/5/t3_903");
  if (make_with_block("base/5/904", 5) != temporary) {
    fail("a removed temporary file has not become the next one");
  }
}

static int process;

static void work(void) {
  char name[64];
  for (int i = 0; i < ROUNDS; i++) {
    sprintf(name, "base/%d/%d", 5 + i % 2, 100000 + process * ROUNDS + i);
    int fd = make_new(name);
    if (stat_of(name).st_size != 0) {
      fail("a new file is not empty");
    }
    write_block(fd, 1, (uint8_t)(process + 1));
    check_bytes(fd, 0, BLOCK, 0, "a new file is another one, too");
    write_block(fd, 0, (uint8_t)(process + 11));
    check_bytes(fd, BLOCK, 2 * BLOCK, (uint8_t)(process + 1), "a new file is another one, too");
    close(fd);
    if (i % 3 == 0 && truncate(name, 0) != 0) {
      fail("truncate");
    }
    drop(name);
  }
}

static void at_once(void) {
  pid_t children[PROCESSES];
  for (process = 0; process < PROCESSES; process++) {
    children[process] = begin(work);
  }
  for (int i = 0; i < PROCESSES; i++) {
    expect_well(children[i]);
  }
}

static void make_while_held(void) {
  arm();
  int fd = make_new("base/5/901");
  write_block(fd, 0, 7);
  check_written(open_path("base/5/901", 0), 0, 7);
}

static void remove_another(void) { drop("base/5/902"); }

/* One has a spare open that has no name of a relation yet, when another one removes a file. */
static void take(void) {
  make_with_block("base/5/900", 1);
  make_with_block("base/5/902", 2);
  drop("base/5/900");
  play_two(make_while_held, remove_another);
}

/* More than there are names for spares. */
static void many(void) {
  char name[64];
  for (int i = 0; i < 1100; i++) {
    sprintf(name, "base/5/%d", 100000 + i);
    close(make_new(name));
  }
  for (int i = 0; i < 1100; i++) {
    sprintf(name, "base/5/%d", 100000 + i);
    drop(name);
  }
}

static const struct scene scenes[] = {
    {"spare-reuse", reuse}, {"spare-names", leave_names}, {"spare-failures", fail_to_make},
    {"spare-others", keep_out}, {"spare-at-once", at_once}, {"spare-many", many}, {"spare-taken", take},
    {"spare-moved", keep_moved},
};

int main(int argc, char **argv) { return play(argc, argv, scenes, sizeof scenes / sizeof *scenes); }

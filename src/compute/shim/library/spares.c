/*
 * spares.c: files of relations that were removed here, kept empty to become those that are made next.
 *
 * To make a file ext4 looks through all numbers of files that were deleted within the last minutes, as it gives none of them out
 * again (recently_deleted(), fs/ext4/ialloc.c): up to a millisecond each where tables come and go, which is more than the rest of
 * CREATE TABLE. To rename one takes hundredths of that, and deletes nothing. So a file that is removed is emptied and moved to
 * SPARE_DIRECTORY, and who makes one takes it from there. A relation's first file stays under its name until Postgres's next
 * checkpoint, empty, so that nobody takes its number (mdunlinkfork(), md.c): then the name becomes one more of a single
 * empty file's, and the relation's own can go at once.
 *
 * Whoever still has the removed file open has the new one: Postgres has dropped its buffers before, and nobody reads, writes
 * or cuts a relation without a lock on it, or a pinned buffer, that its removal has waited for. But a database that is moved to
 * another tablespace and back has the same relations again; from 15 on all have closed their files by then.
 *
 *  - Of storage's files, and of those whose blocks may be given back, none becomes a spare: others may have claims on their
 *    blocks. What is LOCAL has none.
 *  - A spare has one name, or it would be two relations' at once, and Postgres's mode.
 *  - A name is taken by compare-and-swap before anything is moved to it or from it; one that its taker leaves by ending
 *    is lost, as are its few bytes, until the data directory goes.
 *  - Where any of it fails, or there is no spare, it is as without spares.
 */
#include "shim.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

/* Base backups leave out what is called pgsql_tmp... */
#define SPARE_DIRECTORY "pgsql_tmp_removed"
/* The one whose names are those of relations that are gone. */
#define EMPTY_FILE SPARE_DIRECTORY "/empty"
#define SPARE_MODE 0600

/*
 * Whether all processes close their files before those of a whole database are removed (PROCSIGNAL_BARRIER_SMGRRELEASE, from 15 on). In 14
 * the background writer goes on with what it has open of a database that has come back, which would be another relation's by
 * now; so what is unlinked there is no spare. What mdunlinkfork() removes is one by its truncate(), which a removal of
 * a database does not call.
 */
bool removals_are_told(void) { return after(version_directory, "PG_14_") == NULL; }

enum { UNTRIED, USABLE, UNUSABLE };

static bool usable(void) {
  u32 state = region == NULL ? UNUSABLE : load(&region->spares);
  if (state != UNTRIED) {
    return state == USABLE;
  }
  bool made = syscall(SYS_mkdirat, AT_FDCWD, SPARE_DIRECTORY, 0700) == 0 || errno == EEXIST;
  int fd = made ? sys_open(EMPTY_FILE, O_RDONLY | O_CREAT | O_CLOEXEC, SPARE_MODE) : -1;
  if (fd >= 0) {
    sys_close(fd);
  }
  store(&region->spares, fd >= 0 ? USABLE : UNUSABLE);
  return fd >= 0;
}

/* Changes a bit that is `from` in a set of them; which, or -1: there is none. */
static int take_bit(u64 *words, bool from) {
  for (int i = 0; i < SPARE_WORDS; i++) {
    u64 word;
    while ((word = load(&words[i]) ^ (from ? 0 : ~0ull)) != 0) {
      u64 now = word ^ (from ? 0 : ~0ull), bit = word & -word;
      if (swap_if(&words[i], now, now ^ bit)) {
        return i * 64 + __builtin_ctzll(bit);
      }
    }
  }
  return -1;
}

static void set_bit(u64 *words, int number) { __atomic_fetch_or(&words[number / 64], 1ull << number % 64, __ATOMIC_SEQ_CST); }
static void clear_bit(u64 *words, int number) { __atomic_fetch_and(&words[number / 64], ~(1ull << number % 64), __ATOMIC_SEQ_CST); }

static void spare_path(int number, char out[MAX_PATH]) { *put_number(stpcpy(out, SPARE_DIRECTORY "/"), (u32)number) = 0; }

static int rename_with(const char *from, const char *to, unsigned how) {
  return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, how);
}

/* Whether what is at a path may be a spare. */
static bool may_be_spare(const struct stat *stat) {
  return S_ISREG(stat->st_mode) && stat->st_nlink == 1 && (stat->st_mode & 07777) == SPARE_MODE && usable();
}

/* What is in a spare goes, before anybody can take it. */
static void make_ready(int number, const char *spare, const struct stat *was) {
  if ((was->st_size == 0 && was->st_blocks == 0) || syscall(SYS_truncate, spare, 0L) == 0) {
    set_bit(region->spare_ready, number);
  } else {
    syscall(SYS_unlinkat, AT_FDCWD, spare, 0);
    clear_bit(region->spare_names, number);
  }
}

/* As unlink() of a relation's plain file, which is a spare then where it can be. With signals held. */
int remove_plain(const char *path) {
  char spare[MAX_PATH];
  struct stat stat;
  if (sys_stat(path, &stat, AT_SYMLINK_NOFOLLOW) != 0) {
    return -1;
  }
  int number = may_be_spare(&stat) ? take_bit(region->spare_names, false) : -1;
  if (number < 0) {
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  }
  spare_path(number, spare);
  if (rename_with(path, spare, 0) != 0) {
    clear_bit(region->spare_names, number);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  }
  make_ready(number, spare, &stat);
  return 0;
}

/* In place of truncate() to nothing of a relation's plain file, which is being dropped: true where its name is left, and it is a spare. */
bool leave_name(const char *path) {
  char spare[MAX_PATH];
  struct stat stat;
  sigset_t signals;
  if (sys_stat(path, &stat, AT_SYMLINK_NOFOLLOW) != 0 || !may_be_spare(&stat)) {
    return false;
  }
  hold_signals(&signals);
  int number = take_bit(region->spare_names, false);
  bool left = false;
  if (number >= 0) {
    spare_path(number, spare);
    left = syscall(SYS_linkat, AT_FDCWD, EMPTY_FILE, AT_FDCWD, spare, 0) == 0;
    if (left && rename_with(path, spare, RENAME_EXCHANGE) != 0) {
      syscall(SYS_unlinkat, AT_FDCWD, spare, 0);
      left = false;
    }
    if (left) {
      make_ready(number, spare, &stat);
    } else {
      clear_bit(region->spare_names, number);
    }
  }
  release_signals(&signals);
  return left;
}

/* As open() of what is to be made, for a relation's plain file, with a spare; -1: as without spares. */
int open_spare(const char *path, int flags, mode_t mode) {
  char spare[MAX_PATH];
  sigset_t signals;
  if ((flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL) || mode != SPARE_MODE || region == NULL) {
    return -1;
  }
  hold_signals(&signals);
  int number = take_bit(region->spare_ready, true), fd = -1;
  if (number >= 0) {
    spare_path(number, spare);
    /* Opened before it has the name: who has no descriptor left tries again, and must not find it there. */
    fd = sys_open(spare, flags & ~(O_CREAT | O_EXCL), 0);
    if (fd >= 0 && rename_with(spare, path, RENAME_NOREPLACE) != 0) {
      sys_close(fd);
      fd = -1;
    }
    if (fd >= 0) {
      clear_bit(region->spare_names, number);
    } else {
      set_bit(region->spare_ready, number);
    }
  }
  release_signals(&signals);
  return fd;
}

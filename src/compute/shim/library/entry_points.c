/* entry_points.c: what libc's names for files do now. */
#include "shim.h"

/* A file without block states. */
static int open_plain(const char *path, int flags, mode_t mode) {
  int fd = open_spare(path, flags, mode);
  return fd >= 0 ? fd : sys_open(path, flags, mode);
}

static int open_lazy(const struct key *key, const char *path, int flags, mode_t mode, struct file **file) {
  struct slot *slot = resolve(key, path, -1);
  if (slot == NULL) {
    return -1;
  }
  u32 state = settled_state(slot);
  if (state == SLOT_LOCAL && may_track(key) && known_slot(key) == NULL) {
    int made = (flags & O_CREAT) ? create_tracked(key, path, flags, mode) : 0;
    if (made < 0) {
      return -1;
    }
    int plain = known_slot(key) != NULL ? -1 : sys_open(path, flags, mode);
    /* A slot is there before its file: none now means that this is no file whose blocks may go. */
    if (known_slot(key) == NULL) {
      return plain;
    }
    if (plain >= 0) {
      sys_close(plain);
    }
    return open_lazy(key, path, made ? flags & ~O_EXCL : flags, mode, file);
  }
  if (state != SLOT_LAZY) {
    return state == SLOT_EMPTY ? -1 : open_plain(path, flags, mode);
  }
  struct file *lazy = slot->file;
  if (flags & O_TRUNC) {
    forget_blocks(lazy, 0);
  }
  int fd = sys_open(path, flags & ~O_DIRECT, mode);
  if (fd >= 0 && load(&slot->state) != SLOT_LAZY) {
    /* Unlinked meanwhile, perhaps made anew: which of the two files did we get? */
    struct stat stat;
    if (syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0 || stat.st_ino != lazy->inode) {
      return fd;
    }
  }
  *file = lazy;
  return fd;
}

static int open_file(const char *path, int flags, mode_t mode) {
  see_to_comparer();
  struct key key;
  u64 segno = 0;
  char own[MAX_LOCATION];
  path = own_path(path, own);
  const char *local = path;
  int kind = classify(path, &key, &segno, &local), fd;
  struct fd_entry entry = {.segno = segno, .foreign = kind == NAME_FOREIGN};
  if (kind == NAME_BLOCKS) {
    entry.is_relation = key.kind == KIND_REL;
    fd = open_lazy(&key, local, flags, mode, &entry.file);
  } else if (kind == NAME_WAL) {
    entry.is_wal = 1;
    entry.sync_writes = (flags & (O_DSYNC | O_SYNC)) != 0;
    flags &= ~(O_DSYNC | O_SYNC | O_DIRECT);
    fd = sys_open(path, flags, mode);
    if (fd < 0 && errno == ENOENT && (flags & O_ACCMODE) == O_RDONLY && fetch_wal_segment(segno)) {
      fd = sys_open(path, flags, mode);
    }
  } else {
    fd = is_temporary_relation(path) ? open_plain(path, flags, mode) : sys_open(path, flags, mode);
  }
  if (fd < 0) {
    return fd;
  }
  if (fd >= MAX_FD) {
    if (kind == NAME_OTHER || kind == NAME_FOREIGN) {
      return fd;
    }
    sys_close(fd);
    errno = EMFILE;
    return -1;
  }
  entry.writable = (flags & O_ACCMODE) != O_RDONLY;
  fds[fd] = entry;
  return fd;
}

#define OPEN_BODY                                                                               \
  mode_t mode = 0;                                                                              \
  if (flags & (O_CREAT | O_TMPFILE)) {                                                          \
    va_list list;                                                                               \
    va_start(list, flags);                                                                      \
    mode = va_arg(list, mode_t);                                                                \
    va_end(list);                                                                               \
  }                                                                                             \
  return open_file(path, flags, mode);

EXPORT int open(const char *path, int flags, ...) { OPEN_BODY }
EXPORT int open64(const char *path, int flags, ...) { OPEN_BODY }
EXPORT int __open_2(const char *path, int flags) { return open_file(path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_file(path, flags, 0); }
EXPORT int creat(const char *path, mode_t mode) {
  return open_file(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT int close(int fd) {
  if (fd >= 0 && fd < MAX_FD) {
    fds[fd] = (struct fd_entry){0};
  }
  return sys_close(fd);
}

EXPORT int dup(int fd) {
  int copy = (int)syscall(SYS_dup, fd);
  if (copy >= 0 && copy < MAX_FD) {
    fds[copy] = fd < MAX_FD ? fds[fd] : (struct fd_entry){0};
  }
  return copy;
}

EXPORT ssize_t pread(int fd, void *into, size_t n, off_t at) {
  u64 evictions = 0;
  ssize_t got;
  do {
    if (before_read(fd, at, n, &evictions) != 0) {
      return -1;
    }
    got = syscall(SYS_pread64, fd, into, n, at);
  } while (evicted_since(fd, at, n, evictions));
  return got;
}
EXPORT ssize_t pread64(int fd, void *into, size_t n, off_t at) { return pread(fd, into, n, at); }
EXPORT ssize_t __pread_chk(int fd, void *into, size_t n, off_t at, size_t room) {
  return n > room ? (abort(), -1) : pread(fd, into, n, at);
}
EXPORT ssize_t __pread64_chk(int fd, void *into, size_t n, off_t at, size_t room) {
  return __pread_chk(fd, into, n, at, room);
}

EXPORT ssize_t read(int fd, void *into, size_t n) {
  if (lazy_file(fd) == NULL) {
    return syscall(SYS_read, fd, into, n);
  }
  off_t at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
  ssize_t got = at < 0 ? -1 : pread(fd, into, n, at);
  if (got > 0) {
    syscall(SYS_lseek, fd, at + got, SEEK_SET);
  }
  return got;
}
EXPORT ssize_t __read_chk(int fd, void *into, size_t n, size_t room) {
  return n > room ? (abort(), -1) : read(fd, into, n);
}

static size_t total(const struct iovec *parts, int count) {
  size_t n = 0;
  for (int i = 0; i < count; i++) {
    n += parts[i].iov_len;
  }
  return n;
}

EXPORT ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) {
  size_t n = total(parts, count);
  u64 evictions = 0;
  ssize_t got;
  do {
    if (before_read(fd, at, n, &evictions) != 0) {
      return -1;
    }
    got = syscall(SYS_preadv, fd, parts, (long)count, at, 0L);
  } while (evicted_since(fd, at, n, evictions));
  return got;
}
EXPORT ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t at) {
  return preadv(fd, parts, count, at);
}

/* All writes: `data` of `n` bytes, or `count` parts of together `n` bytes. */
static ssize_t write_at(int fd, const void *data, int count, size_t n, off_t at) {
  keep_pace(fd, at, n);
  struct file *file = at < 0 || n == 0 ? NULL : lazy_file(fd);
  if (file != NULL && n == BLOCK && count <= 1) {
    ssize_t hinted = write_hints(file, fd, count < 0 ? data : ((const struct iovec *)data)->iov_base, at);
    if (hinted == BLOCK) {
      return hinted;
    }
  }
  if (file != NULL && before_write(file, fd, at, n) != 0) {
    return -1;
  }
  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)
                           : syscall(SYS_pwritev, fd, data, (long)count, at, 0L);
  if (file != NULL) {
    return after_write(file, fd, at, done);
  }
  if (done > 0 && fd < MAX_FD && fds[fd].is_wal) {
    int saved = errno;
    wal_written(&fds[fd], at, (size_t)done);
    errno = saved;
  }
  return done;
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return write_at(fd, data, -1, n, at); }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return pwrite(fd, data, n, at); }
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
  return write_at(fd, parts, count, total(parts, count), at);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
  return pwritev(fd, parts, count, at);
}

EXPORT ssize_t write(int fd, const void *data, size_t n) {
  if (fd < 0 || fd >= MAX_FD || (fds[fd].file == NULL && !fds[fd].is_wal)) {
    return syscall(SYS_write, fd, data, n);
  }
  off_t at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
  ssize_t done = at < 0 ? -1 : write_at(fd, data, -1, n, at);
  if (done > 0) {
    syscall(SYS_lseek, fd, at + done, SEEK_SET);
  }
  return done;
}

/* A copy that began at an offset of its own, or at the descriptor's position, has come to `at`. */
static void move_on(int fd, off64_t *offset, off_t at) {
  if (offset != NULL) {
    *offset = at;
  } else {
    syscall(SYS_lseek, fd, at, SEEK_SET);
  }
}

/* At most `n` bytes from `from` on, and no more than a regular file has there. */
static size_t bytes_left(int fd, off_t from, size_t n) {
  struct stat stat;
  if (from < 0 || syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0 || !S_ISREG(stat.st_mode)) {
    return n;
  }
  u64 left = stat.st_size > from ? (u64)(stat.st_size - from) : 0;
  return left < n ? (size_t)left : n;
}

EXPORT ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags) {
  off_t from = in_at != NULL ? *in_at : (off_t)syscall(SYS_lseek, in, 0, SEEK_CUR);
  off_t to = out_at != NULL ? *out_at : (off_t)syscall(SYS_lseek, out, 0, SEEK_CUR);
  struct file *file = to < 0 ? NULL : lazy_file(out);
  struct file *source = lazy_file(in);
  /* No more of what may be given back meanwhile than there is room for. */
  size_t most = source != NULL && source->evictable ? MAX_PAGES * BLOCK : 64u << 20;
  size_t step = n > most ? most : n;
  if (file != NULL) {
    /* Postgres asks for a megabyte until nothing is left: what the copy does not come to is not claimed for it. */
    step = bytes_left(in, from, step);
    if (step == 0) {
      return 0;
    }
  }
  u64 evictions = 0;
  ssize_t done;
  for (;;) {
    if (before_read(in, from, step, &evictions) != 0 || (file != NULL && before_write(file, out, to, step) != 0)) {
      return -1;
    }
    off64_t in_here = from, out_here = to;
    done = from < 0 || to < 0 ? syscall(SYS_copy_file_range, in, in_at, out, out_at, step, flags)
                              : syscall(SYS_copy_file_range, in, &in_here, out, &out_here, step, flags);
    if (!evicted_since(in, from, step, evictions)) {
      break;
    }
    if (file != NULL) {
      after_write(file, out, to, -1);
    }
  }
  if (done > 0 && from >= 0 && to >= 0) {
    move_on(in, in_at, from + done);
    move_on(out, out_at, to + done);
  }
  if (file != NULL && after_write(file, out, to, done) != done) {
    /* The file positions are past what counts: nothing to go on with. */
    errno = ENOSPC;
    return -1;
  }
  return done;
}

/* Cuts a lazy file to `bytes` by the given system call; past the point of no return it works or we stop. */
static int cut(struct file *file, int fd, const char *path, off_t bytes) {
  if (file != NULL && bytes >= 0) {
    forget_blocks(file, block_end((u64)bytes));
  }
  for (;;) {
    long result = path != NULL ? syscall(SYS_truncate, path, bytes) : syscall(SYS_ftruncate, fd, bytes);
    if (result == 0 || file == NULL) {
      return (int)result;
    }
    if (errno != EINTR) {
      die("cannot truncate ", path != NULL ? path : "a relation file");
    }
  }
}

EXPORT int ftruncate(int fd, off_t bytes) {
  struct file *file = lazy_file(fd);
  off_t rest = bytes > 0 && bytes % BLOCK != 0 ? BLOCK - bytes % BLOCK : 0;
  if (file == NULL || rest == 0) {
    return cut(file, fd, NULL, bytes);
  }
  /* A part of a block goes, which is a write of it. */
  if (before_write(file, fd, bytes, (size_t)rest) != 0) {
    return -1;
  }
  int result = cut(file, fd, NULL, bytes);
  after_write(file, fd, bytes, rest);
  return result;
}
EXPORT int ftruncate64(int fd, off_t bytes) { return ftruncate(fd, bytes); }

/* The path's slot when it names a relation or SLRU segment; *failed when storage could not say. */
static struct slot *resolve_path(const char *path, const char **local, bool *failed) {
  struct key key;
  u64 segno;
  *failed = false;
  if (classify(path, &key, &segno, local) != NAME_BLOCKS) {
    return NULL;
  }
  struct slot *slot = resolve(&key, *local, -1);
  *failed = slot == NULL;
  return slot;
}

EXPORT int truncate(const char *path, off_t bytes) {
  const char *local;
  bool failed;
  struct slot *slot = resolve_path(path, &local, &failed);
  if (failed) {
    return -1;
  }
  u32 state = slot != NULL ? settled_state(slot) : SLOT_LOCAL;
  if (state == SLOT_EMPTY) {
    return -1;
  }
  struct file *file = state == SLOT_LAZY ? slot->file : NULL;
  if (bytes == 0 && file == NULL && is_relation_file(path, true) && leave_name(path)) {
    return 0;
  }
  if (file != NULL && bytes % BLOCK != 0) {
    errno = EINVAL;
    return -1;
  }
  return cut(file, -1, path, bytes);
}
EXPORT int truncate64(const char *path, off_t bytes) { return truncate(path, bytes); }

/* What a commit has promised to remove goes, however long the agent takes: a failure would only be a warning. */
static int unlink_lazy(const char *path) {
  const char *local;
  bool failed;
  struct slot *slot = resolve_path(path, &local, &failed);
  if (failed) {
    return -1;
  }
  sigset_t signals;
  if (slot == NULL) {
    hold_signals(&signals);
    int done = is_temporary_relation(path) ? remove_plain(path) : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    release_signals(&signals);
    return done;
  }
  /* Locked, so that nobody opens it as LAZY between the tombstone and the unlink. */
  u32 was = lock_slot(slot);
  if (was == SLOT_EMPTY) {
    /* A signal handler on its way to exit(), whose wait may end: begin_wait(). */
    return -1;
  }
  hold_signals(&signals);
  bool plain = was == SLOT_LOCAL && is_relation_file(path, false) && removals_are_told();
  int result = plain ? remove_plain(path) : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0), saved = errno;
  unlock_slot(result == 0 ? SLOT_LOCAL : was);
  if (result == 0 && slot->file != NULL) {
    drop_counts(slot->file);
  }
  errno = saved;
  release_signals(&signals);
  return result;
}

EXPORT int unlink(const char *path) {
  waits_must_end_well = true;
  int result = unlink_lazy(path);
  waits_must_end_well = false;
  u32 oid;
  if (result == 0 && is_tablespace_link(path, &oid)) {
    forget_tablespace(oid);
  }
  if (result == 0) {
    after_unlink(path);
  }
  return result;
}

EXPORT int rename(const char *from, const char *to) {
  if (before_rename(from, to) != 0) {
    return -1;
  }
  int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (result == 0) {
    after_rename(from, to);
  }
  return result;
}

EXPORT int access(const char *path, int mode) {
  const char *local;
  bool failed;
  resolve_path(path, &local, &failed);
  return failed ? -1 : (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

static int stat_file(const char *path, struct stat *out, int flags) {
  char own[MAX_LOCATION], extension[MAX_LOCATION];
  const char *local;
  path = extension_path(own_path(path, own), extension);
  bool failed;
  resolve_path(path, &local, &failed);
  return failed ? -1 : sys_stat(path, out, flags);
}

EXPORT int stat(const char *path, struct stat *out) { return stat_file(path, out, 0); }
EXPORT int stat64(const char *path, struct stat64 *out) { return stat_file(path, (struct stat *)out, 0); }
EXPORT int lstat(const char *path, struct stat *out) { return stat_file(path, out, AT_SYMLINK_NOFOLLOW); }
EXPORT int lstat64(const char *path, struct stat64 *out) {
  return stat_file(path, (struct stat *)out, AT_SYMLINK_NOFOLLOW);
}
/* Before glibc 2.33; `version` is the kernel's layout on both of our platforms. */
EXPORT int __xstat(int version, const char *path, struct stat *out) {
  (void)version;
  return stat_file(path, out, 0);
}
EXPORT int __xstat64(int version, const char *path, struct stat64 *out) {
  return __xstat(version, path, (struct stat *)out);
}
EXPORT int __lxstat(int version, const char *path, struct stat *out) {
  (void)version;
  return stat_file(path, out, AT_SYMLINK_NOFOLLOW);
}
EXPORT int __lxstat64(int version, const char *path, struct stat64 *out) {
  return __lxstat(version, path, (struct stat *)out);
}

EXPORT int symlink(const char *target, const char *path) {
  u32 oid;
  return is_tablespace_link(path, &oid) ? make_tablespace(target, path, oid)
                                        : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

EXPORT ssize_t readlink(const char *path, char *into, size_t room) {
  u32 oid;
  if (is_tablespace_link(path, &oid)) {
    ssize_t n = read_tablespace_link(oid, into, room);
    if (n >= 0) {
      return n;
    }
  }
  return syscall(SYS_readlinkat, AT_FDCWD, path, into, room);
}
EXPORT ssize_t __readlink_chk(const char *path, char *into, size_t n, size_t room) {
  return n > room ? (abort(), -1) : readlink(path, into, n);
}

/* A database directory made or removed here holds nothing of storage's. */
EXPORT int mkdir(const char *path, mode_t mode) {
  if (is_version_directory(path)) {
    /* CREATE TABLESPACE, which has seen that there is none: nothing is made in a location. */
    return 0;
  }
  int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  if (result == 0) {
    mark_directory_local(path, true);
  }
  return result;
}

EXPORT int rmdir(const char *path) {
  int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
  if (result == 0) {
    mark_directory_local(path, false);
  }
  return result;
}

EXPORT DIR *opendir(const char *path) {
  char own[MAX_LOCATION];
  path = own_path(path, own);
  if (list_directory(path) != 0) {
    return NULL;
  }
  int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) {
    return NULL;
  }
  if (fd < MAX_FD) {
    fds[fd] = (struct fd_entry){0};
  }
  DIR *directory = fdopendir(fd);
  if (directory == NULL) {
    sys_close(fd);
  }
  return directory;
}

EXPORT int posix_fadvise(int fd, off_t at, off_t n, int advice) {
  struct file *file = lazy_file(fd);
  if (file == NULL || advice != POSIX_FADV_WILLNEED || at < 0 || n <= 0) {
    int saved = errno;
    int result = (int)syscall(SYS_fadvise64, fd, at, n, advice);
    result = result == 0 ? 0 : errno;
    errno = saved;
    return result;
  }
  u32 from = block_of((u64)at), to = block_end((u64)at + (u64)n), end = tracked_end(file);
  to = to < end ? to : end;
  while (from < to && load(state_of(file, from)) != ABSENT) {
    from++;
  }
  if (from < to) {
    announce(file, from, to - from);
  }
  return 0;
}
EXPORT int posix_fadvise64(int fd, off_t at, off_t n, int advice) { return posix_fadvise(fd, at, n, advice); }

/* Postgres writes zeros itself where the file system cannot do it. */
EXPORT int posix_fallocate(int fd, off_t at, off_t n) {
  int saved = errno;
  keep_pace(fd, at, (size_t)n);
  int result = syscall(SYS_fallocate, fd, 0, at, n) == 0 ? 0 : errno;
  errno = saved;
  return result;
}
EXPORT int posix_fallocate64(int fd, off_t at, off_t n) { return posix_fallocate(fd, at, n); }

EXPORT int fsync(int fd) { return sync_file(fd, SYS_fsync); }
EXPORT int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
EXPORT int syncfs(int fd) { return region == NULL ? (int)syscall(SYS_syncfs, fd) : 0; }
EXPORT void sync(void) {
  if (region == NULL) {
    syscall(SYS_sync);
  }
}
EXPORT int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags) {
  return region == NULL ? (int)syscall(SYS_sync_file_range, fd, at, n, flags) : 0;
}

/* For tests: how often a process waited for a block that another one had claimed. */
EXPORT u64 strata_shim_waits(void) { return region == NULL ? 0 : load(&region->waits); }

/*
 * tablespaces.c: the user's tablespaces, whose files are in the data directory wherever their location is.
 *
 * Two computes, as of a branch and its parent, have tablespaces of the same locations and must never write
 * into one directory; and what storage has appears in the data directory only. So a location is a name:
 *   pg_tblspc/N                       -> ../pgsql_tmp_tablespaces/N, a link as in any Postgres
 *   pgsql_tmp_tablespaces/N/PG_...    the files. Base backups leave out what is called pgsql_tmp...
 *   pgsql_tmp_tablespaces/N.location  a link to the location: readlink() of pg_tblspc/N tells that
 * LOCATION/PG_... is never made; where Postgres itself asks for it (whether it is in use, and a base backup, which
 * goes by locations) it is the tablespace's own. One in place is a directory pg_tblspc/N and needs none of this.
 * ../../../data-directory/tablespace-directories.ts makes the same before a start.
 */
#include "shim.h"

#define TABLESPACES "pgsql_tmp_tablespaces/"
#define LOCATION_SUFFIX ".location"

/* pg_tblspc/N itself. */
bool is_tablespace_link(const char *path, u32 *oid) {
  const char *at = region == NULL ? NULL : inside(path);
  at = at == NULL ? NULL : after(at, "pg_tblspc/");
  at = at == NULL ? NULL : parse_number(at, oid);
  return at != NULL && *at == 0;
}

static void name_in_tablespaces(u32 oid, const char *suffix, char out[MAX_PATH]) {
  stpcpy(put_number(stpcpy(out, TABLESPACES), oid), suffix);
}

/* In a path that is none of the data directory's: where its LOCATION ends, if PG_... follows; or NULL. */
static const char *location_end(const char *path) {
  if (region == NULL || path == NULL || path[0] != '/' || inside(path) != NULL) {
    return NULL;
  }
  size_t n = strlen(version_directory);
  for (const char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
    if (strncmp(at + 1, version_directory, n) == 0 && (at[1 + n] == '/' || at[1 + n] == 0)) {
      return at;
    }
  }
  return NULL;
}

bool is_version_directory(const char *path) {
  const char *end = location_end(path);
  return end != NULL && end[1 + strlen(version_directory)] == 0;
}

/* The tablespace of a location of `length` bytes; 0: none. */
static u32 tablespace_at(const char *location, size_t length) {
  struct entry {
    u64 inode, offset;
    unsigned short size;
    unsigned char type;
    char name[];
  };
  char listed[4096] __attribute__((aligned(8))), path[MAX_PATH + 300], target[MAX_LOCATION];
  u32 found = 0;
  int directory = sys_open(TABLESPACES, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (directory < 0) {
    return 0;
  }
  long n;
  while (found == 0 && (n = syscall(SYS_getdents64, directory, listed, sizeof listed)) > 0) {
    for (long at = 0; at < n && found == 0;) {
      const struct entry *entry = (const struct entry *)(listed + at);
      u32 oid;
      const char *suffix = parse_number(entry->name, &oid);
      at += entry->size;
      if (suffix == NULL || strcmp(suffix, LOCATION_SUFFIX) != 0) {
        continue;
      }
      name_in_tablespaces(oid, LOCATION_SUFFIX, path);
      ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, path, target, sizeof target);
      found = got == (ssize_t)length && memcmp(target, location, length) == 0 ? oid : 0;
    }
  }
  sys_close(directory);
  return found;
}

/* The path that Postgres means: LOCATION/PG_... of a tablespace is written to `into`, all others are as they are. */
const char *own_path(const char *path, char into[MAX_LOCATION]) {
  const char *end = location_end(path);
  if (end == NULL) {
    return path;
  }
  int saved = errno;
  u32 oid = tablespace_at(path, (size_t)(end - path));
  errno = saved;
  if (oid == 0 || strlen(end) + MAX_PATH > MAX_LOCATION) {
    return path;
  }
  stpcpy(put_number(stpcpy(into, "pg_tblspc/"), oid), end);
  return into;
}

/* symlink() of pg_tblspc/N to a location. */
int make_tablespace(const char *location, const char *link, u32 oid) {
  char directory[MAX_PATH], inner[MAX_PATH + 40], name[MAX_PATH], target[MAX_PATH + 3];
  name_in_tablespaces(oid, "", directory);
  name_in_tablespaces(oid, LOCATION_SUFFIX, name);
  stpcpy(stpcpy(stpcpy(inner, directory), "/"), version_directory);
  stpcpy(stpcpy(target, "../"), directory);
  if ((syscall(SYS_mkdirat, AT_FDCWD, TABLESPACES, 0700) != 0 && errno != EEXIST) ||
      syscall(SYS_mkdirat, AT_FDCWD, directory, 0700) != 0) {
    return -1;
  }
  if (syscall(SYS_mkdirat, AT_FDCWD, inner, 0700) == 0 &&
      syscall(SYS_symlinkat, location, AT_FDCWD, name) == 0 &&
      syscall(SYS_symlinkat, target, AT_FDCWD, link) == 0) {
    return 0;
  }
  int saved = errno;
  syscall(SYS_unlinkat, AT_FDCWD, inner, AT_REMOVEDIR);
  forget_tablespace(oid);
  errno = saved;
  return -1;
}

/* pg_tblspc/N is gone, and before it all that was in it. */
void forget_tablespace(u32 oid) {
  char path[MAX_PATH];
  int saved = errno;
  name_in_tablespaces(oid, "", path);
  syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
  name_in_tablespaces(oid, LOCATION_SUFFIX, path);
  syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  errno = saved;
}

ssize_t read_tablespace_link(u32 oid, char *into, size_t room) {
  char path[MAX_PATH];
  name_in_tablespaces(oid, LOCATION_SUFFIX, path);
  return syscall(SYS_readlinkat, AT_FDCWD, path, into, room);
}

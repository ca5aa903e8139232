/*
 * own_extension.c: the files of our extension, which no installation of Postgres has: `strata`, in SQL only. Where the
 * installation's `extension` directory has no such file, ours of STRATA_SHIM_EXTENSION_DIR is read in its place.
 */
#include "shim.h"

#define DIRECTORY "/extension"
#define NAME "/strata"

static const char *extension_dir;

void set_extension_dir(const char *path) {
  extension_dir = path != NULL && strlen(path) < MAX_LOCATION / 2 ? path : NULL;
}

/* `path`, or that of our file, in `into`. */
const char *extension_path(const char *path, char into[MAX_LOCATION]) {
  const char *name = extension_dir == NULL || path == NULL ? NULL : strrchr(path, '/');
  if (name == NULL || strncmp(name, NAME, strlen(NAME)) != 0 || strlen(name) > MAX_LOCATION / 4) {
    return path;
  }
  size_t before = (size_t)(name - path);
  const char *rest = name + strlen(NAME);
  struct stat stat;
  if (before < strlen(DIRECTORY) || memcmp(name - strlen(DIRECTORY), DIRECTORY, strlen(DIRECTORY)) != 0 ||
      (strcmp(rest, ".control") != 0 && strncmp(rest, "--", 2) != 0)) {
    return path;
  }
  int saved = errno;
  if (sys_stat(path, &stat, 0) != 0) {
    stpcpy(stpcpy(into, extension_dir), name);
    path = into;
  }
  errno = saved;
  return path;
}

/* What glibc calls its fopen besides: dlsym() for the next one of that name is newer than what we may need. */
FILE *_IO_fopen(const char *path, const char *mode);

EXPORT FILE *fopen(const char *path, const char *mode) {
  char own[MAX_LOCATION];
  return _IO_fopen(extension_path(path, own), mode);
}
EXPORT FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

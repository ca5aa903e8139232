/* names.c: what a path is: of a relation or SLRU segment, a directory of them, a WAL segment, or none of ours. */
#include "shim.h"

const char *parse_number(const char *at, u32 *out) {
  u64 value = 0;
  const char *start = at;
  for (; *at >= '0' && *at <= '9'; at++) {
    value = value * 10 + (u64)(*at - '0');
    if (value > UINT32_MAX) {
      return NULL;
    }
  }
  *out = (u32)value;
  return at == start || *start == '0' ? NULL : at;
}

static int hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static const char *parse_hex(const char *at, int digits, u64 *out) {
  u64 value = 0;
  for (; digits > 0; digits--, at++) {
    int digit = hex_digit(*at);
    if (digit < 0) {
      return NULL;
    }
    value = value << 4 | (u64)digit;
  }
  *out = value;
  return at;
}

/* A relation file's name: N[_fsm|_vm|_init][.segment] (relpath.c). */
static bool parse_relation(const char *at, struct key *key) {
  static const char *const suffixes[] = {"_fsm", "_vm", "_init"};
  u32 fork = FORK_MAIN, segment = 0;
  at = parse_number(at, &key->rel);
  if (at == NULL) {
    return false;
  }
  for (u32 i = 0; *at == '_' && i < 3; i++) {
    size_t n = strlen(suffixes[i]);
    if (strncmp(at, suffixes[i], n) == 0) {
      fork = i + 1;
      at += n;
      break;
    }
  }
  if (*at == '.') {
    at = parse_number(at + 1, &segment);
    if (at == NULL || segment >= 1u << 29) {
      return false;
    }
  }
  key->kind = KIND_REL;
  key->forkseg = fork << 29 | segment;
  return *at == 0;
}

static int parse_slru(const char *name, u32 kind, struct key *key) {
  u64 segment;
  size_t n = strlen(name);
  if (n == 0) {
    *key = (struct key){.kind = KIND_DIR, .db = UINT32_MAX, .rel = kind};
    return NAME_DIR;
  }
  if (n < 4 || n > 7 || parse_hex(name, (int)n, &segment) == NULL) {
    return NAME_OTHER;
  }
  *key = (struct key){.kind = kind, .rel = (u32)segment};
  return NAME_BLOCKS;
}

const char *after(const char *path, const char *prefix) {
  size_t n = strlen(prefix);
  return strncmp(path, prefix, n) == 0 ? path + n : NULL;
}

/* A path relative to the data directory, which is the current one; NULL for one outside of it. */
const char *inside(const char *path) {
  if (path[0] == '/') {
    if (strncmp(path, data_dir, data_dir_length) != 0 || path[data_dir_length] != '/') {
      return NULL;
    }
    path += data_dir_length + 1;
  }
  while (path[0] == '.' && path[1] == '/') {
    path += 2;
  }
  return path;
}

/* What follows base/ or pg_tblspc/N/PG_.../: a database's directory, or a file in it. */
static int parse_database(const char *at, struct key *key) {
  at = parse_number(at, &key->db);
  if (at == NULL) {
    return NAME_OTHER;
  }
  if (*at == 0 || (*at == '/' && at[1] == 0)) {
    key->kind = KIND_DIR;
    return NAME_DIR;
  }
  return *at == '/' && parse_relation(at + 1, key) ? NAME_BLOCKS : NAME_OTHER;
}

/* What follows pg_tblspc/. */
static int parse_tablespace(const char *at, struct key *key) {
  at = parse_number(at, &key->spc);
  if (at == NULL || key->spc < FIRST_NORMAL_OBJECT_ID || *at != '/') {
    return NAME_OTHER;
  }
  at = after(at + 1, version_directory);
  return at != NULL && *at == '/' ? parse_database(at + 1, key) : NAME_OTHER;
}

/* What a path is to us. `local` becomes the path inside the data directory (the current directory). */
int classify(const char *path, struct key *key, u64 *segno, const char **local) {
  const char *at;
  if (region == NULL || path == NULL) {
    return NAME_OTHER;
  }
  path = inside(path);
  if (path == NULL) {
    return NAME_FOREIGN;
  }
  *local = path;
  *key = (struct key){0};
  if ((at = after(path, "base/")) != NULL) {
    return parse_database(at, key);
  }
  if ((at = after(path, "pg_tblspc/")) != NULL) {
    return parse_tablespace(at, key);
  }
  if (strcmp(path, "global") == 0) {
    key->kind = KIND_DIR;
    return NAME_DIR;
  }
  if ((at = after(path, "global/")) != NULL) {
    return parse_relation(at, key) ? NAME_BLOCKS : NAME_OTHER;
  }
  if ((at = after(path, "pg_wal/")) != NULL) {
    u64 timeline, high, low;
    if ((at = parse_hex(at, 8, &timeline)) == NULL || (at = parse_hex(at, 8, &high)) == NULL ||
        (at = parse_hex(at, 8, &low)) == NULL || *at != 0) {
      return NAME_OTHER;
    }
    *segno = high * ((1ull << 32) / wal_segment_size) + low;
    return NAME_WAL;
  }
  static const char *const slrus[] = {"pg_xact", "pg_multixact/members", "pg_multixact/offsets",
                                      "pg_commit_ts"};
  for (u32 i = 0; i < 4; i++) {
    if ((at = after(path, slrus[i])) != NULL && (*at == 0 || *at == '/')) {
      return parse_slru(*at == '/' ? at + 1 : at, KIND_XACT + i, key);
    }
  }
  return NAME_OTHER;
}

/* Of a session alone: tBACKEND_N..., beside the others of its database (relpath.c). */
bool is_temporary_relation(const char *path) {
  struct key key;
  u32 backend;
  const char *at = region == NULL ? NULL : inside(path), *name = at == NULL ? NULL : strrchr(at, '/');
  if (name == NULL || name[1] != 't' || (after(at, "base/") == NULL && after(at, "pg_tblspc/") == NULL)) {
    return false;
  }
  name = parse_number(name + 2, &backend);
  return name != NULL && *name == '_' && parse_relation(name + 1, &key);
}

/* Of one that is everybody's; `first`: its first file, which keeps its name for a while after it is dropped. */
bool is_relation_file(const char *path, bool first) {
  struct key key;
  u64 segno;
  const char *local;
  return classify(path, &key, &segno, &local) == NAME_BLOCKS && key.kind == KIND_REL && (!first || key.forkseg == 0);
}

char *put_number(char *at, u32 value) {
  char digits[10];
  int n = 0;
  do {
    digits[n++] = (char)('0' + value % 10);
  } while ((value /= 10) > 0);
  while (n > 0) {
    *at++ = digits[--n];
  }
  return at;
}

/* The path inside the data directory that classify() read this key from. */
void format_path(const struct key *key, char out[MAX_PATH]) {
  static const char *const forks[] = {"", "_fsm", "_vm", "_init"};
  static const char *const slrus[] = {"pg_xact/", "pg_multixact/members/", "pg_multixact/offsets/",
                                      "pg_commit_ts/"};
  char *at = out;
  if (key->kind == KIND_REL) {
    u32 segment = key->forkseg & SEGMENT_MASK;
    at = stpcpy(at, key->db == 0 ? "global/" : key->spc == 0 ? "base/" : "pg_tblspc/");
    if (key->spc != 0) {
      at = put_number(at, key->spc);
      *at++ = '/';
      at = stpcpy(at, version_directory);
      *at++ = '/';
    }
    if (key->db != 0) {
      at = put_number(at, key->db);
      *at++ = '/';
    }
    at = stpcpy(put_number(at, key->rel), forks[key->forkseg >> 29]);
    if (segment > 0) {
      *at++ = '.';
      at = put_number(at, segment);
    }
  } else {
    int digits = key->rel > 0xfffff ? 6 : key->rel > 0xffff ? 5 : 4;
    digits = key->rel > 0xffffff ? 7 : digits;
    at = stpcpy(at, slrus[key->kind - KIND_XACT]);
    for (int i = digits - 1; i >= 0; i--) {
      *at++ = "0123456789ABCDEF"[key->rel >> (4 * i) & 15];
    }
  }
  *at = 0;
}

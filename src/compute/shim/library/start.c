/* start.c: finds out whether this is Postgres, makes the shared memory, and sees to forks and the end. */
#include "shim.h"

struct region *region;
u8 *arena;
u64 arena_size;
const char *data_dir, *socket_path;
size_t data_dir_length;
bool wal_hook;
u64 wal_segment_size = 16u << 20;
u64 cache_limit;
struct cache_counters *counters;
char version_directory[MAX_VERSION_DIRECTORY];
pid_t postmaster_pid;
bool is_postmaster;
static pid_t forker_pid;

static void set_death_signal(int signal) { syscall(SYS_prctl, PR_SET_PDEATHSIG, signal, 0, 0, 0); }

static void before_fork(void) {
  static bool has_forked;
  forker_pid = getpid();
  if (is_postmaster && !has_forked) {
    give_back_unused_memory();
  }
  see_to_comparer();
  /* Else its children would tell them again. */
  tell_reads();
  say_hello();
  if (is_postmaster && !has_forked) {
    has_forked = true;
    /* From now on it has processes to end. */
    set_death_signal(SIGQUIT);
  }
}

/*
 * Each Postgres process asks for a signal of its own when its postmaster dies (PostmasterDeathSignalInit,
 * storage/ipc/pmsignal.c) and notices it where it waits for a latch: not while it waits in here. Ours stays.
 */
EXPORT int prctl(int option, ...) {
  unsigned long arguments[4];
  va_list list;
  va_start(list, option);
  for (int i = 0; i < 4; i++) {
    arguments[i] = va_arg(list, unsigned long);
  }
  va_end(list);
  if (region != NULL && option == PR_SET_PDEATHSIG) {
    return 0;
  }
  return (int)syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2], arguments[3]);
}

/* Of the parent's. */
static void forget_claims(void) {
  held_blocks.file = NULL;
  held_slot_count = 0;
}

static void after_fork_in_child(void) {
  is_postmaster = false;
  disconnect();
  forget_claims();
  talking = false;
  if (forker_pid != postmaster_pid) {
    return;
  }
  /* A backend that waits in here never notices that its postmaster died. */
  set_death_signal(SIGKILL);
  if (getppid() != postmaster_pid) {
    _exit(2);
  }
}

static const char *setting(const char *name) {
  const char *value = getenv(name);
  /* A copy: Postgres overwrites its environment to show process titles. */
  return value == NULL || *value == 0 ? NULL : strdup(value);
}

static void map_region(void) {
  for (arena_size = 16ull << 30; arena_size >= 256u << 20; arena_size /= 4) {
    /* Anonymous: it lives and dies with the process tree, so that none is ever stale. Mostly never touched. */
    void *at = mmap(NULL, sizeof(struct region) + arena_size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) {
      madvise(at, sizeof(struct region) + arena_size, MADV_DONTDUMP);
      arena = (u8 *)at + sizeof(struct region);
      region = at;
      return;
    }
  }
  die("cannot reserve shared memory", "");
}

/* The first `bytes` of a file that the agent has made to be shared; `what` it is for. */
void *map_shared_file(const char *path, size_t bytes, const char *what) {
  char why[128];
  struct stat stat;
  int fd = sys_open(path, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0 || syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0 || stat.st_size < (off_t)bytes) {
    stpcpy(stpcpy(stpcpy(why, "the agent has made no file for "), what), ": ");
    die(why, path);
  }
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  sys_close(fd);
  if (at == MAP_FAILED) {
    stpcpy(stpcpy(stpcpy(why, "cannot map the file for "), what), ": ");
    die(why, path);
  }
  return at;
}

/* How much of storage's files may be here, and where the agent looks for what is. */
static void set_cache(const char *bytes, const char *counters_path) {
  char *end;
  errno = 0;
  cache_limit = bytes == NULL ? 0 : strtoull(bytes, &end, 10) / BLOCK;
  if (bytes != NULL && (errno != 0 || *end != 0 || cache_limit == 0)) {
    die("bad STRATA_SHIM_CACHE_BYTES ", bytes);
  }
  counters = &region->counters;
  if (counters_path == NULL) {
    return;
  }
  counters = map_shared_file(counters_path, sizeof *counters, "counters");
}

static bool is_our_program(void) {
  char path[4096];
  const char *wanted = getenv("STRATA_SHIM_PROGRAM");
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 1);
  if (n <= 0) {
    return false;
  }
  path[n] = 0;
  const char *name = strrchr(path, '/');
  return strcmp(name == NULL ? path : name + 1, wanted == NULL ? "postgres" : wanted) == 0;
}

__attribute__((constructor)) static void start(void) {
  /* Programs on the way to Postgres, such as setpriv, keep the environment and stay as they are. */
  if (!is_our_program()) {
    return;
  }
  data_dir = setting("STRATA_SHIM_DATA_DIR");
  socket_path = setting("STRATA_SHIM_SOCKET");
  const char *wal = setting("STRATA_SHIM_WAL");
  const char *segment_size = setting("STRATA_SHIM_WAL_SEGMENT_SIZE");
  const char *version = setting("STRATA_SHIM_VERSION_DIRECTORY");
  const char *parent = setting("STRATA_SHIM_PARENT_PID");
  if (data_dir == NULL || data_dir[0] != '/' || socket_path == NULL || wal == NULL) {
    die("STRATA_SHIM_DATA_DIR, STRATA_SHIM_SOCKET and STRATA_SHIM_WAL must be set", "");
  }
  struct sockaddr_un address;
  if (strlen(socket_path) >= sizeof address.sun_path) {
    die("the socket's path is too long: ", socket_path);
  }
  wal_hook = strcmp(wal, "quorum") == 0;
  if (!wal_hook && strcmp(wal, "none") != 0) {
    die("STRATA_SHIM_WAL must be quorum or none, not ", wal);
  }
  if (segment_size != NULL) {
    wal_segment_size = strtoull(segment_size, NULL, 10);
    if (wal_segment_size < 1u << 20 || wal_segment_size > 1u << 30 ||
        (wal_segment_size & (wal_segment_size - 1)) != 0) {
      die("bad STRATA_SHIM_WAL_SEGMENT_SIZE ", segment_size);
    }
  }
  if (version == NULL || strlen(version) >= sizeof version_directory) {
    die("STRATA_SHIM_VERSION_DIRECTORY must be set to what tablespaces have all in, such as PG_17_202406281", "");
  }
  stpcpy(version_directory, version);
  data_dir_length = strlen(data_dir);
  while (data_dir_length > 1 && data_dir[data_dir_length - 1] == '/') {
    data_dir_length--;
  }
  postmaster_pid = getpid();
  is_postmaster = true;
  /* While it waits for the answer to hello it looks at no signal. */
  set_death_signal(SIGKILL);
  /* The agent may have died before the line above. */
  if (parent != NULL && getppid() != (pid_t)strtol(parent, NULL, 10)) {
    die("the compute agent is gone", "");
  }
  /* Programs that Postgres starts (COPY PROGRAM, archive commands) run without us. */
  unsetenv("LD_PRELOAD");
  map_region();
  set_cache(setting("STRATA_SHIM_CACHE_BYTES"), setting("STRATA_SHIM_CACHE_COUNTERS"));
  set_read_counts(setting("STRATA_SHIM_READ_COUNTS"));
  set_extension_dir(setting("STRATA_SHIM_EXTENSION_DIR"));
  pthread_atfork(before_fork, NULL, after_fork_in_child);
}

/* exit(), also out of a signal handler that interrupted us. After _exit() and a crash Postgres ends as a whole. */
__attribute__((destructor)) static void finish(void) {
  if (region != NULL) {
    give_back_all();
    tell_reads();
  }
}

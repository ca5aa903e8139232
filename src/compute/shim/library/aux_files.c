/*
 * aux_files.c: files of logical decoding, which are in no WAL: what becomes of them is put into WAL, so that storage keeps it.
 *
 * Neon's Postgres does so where it writes them and calls them auxiliary files. Here it is done where Postgres gives a
 * file its name or takes it away, in that process, which is outside of critical sections then:
 *   pg_replslot/NAME/state       renamed from state.tmp. Before that its content is in WAL on a quorum: whoever has made or
 *                                moved a slot hears of it when it is durable. Logical slots that outlive their session only.
 *   pg_replslot/NAME             renamed to NAME.tmp, which is how a slot is dropped: on a quorum before the call returns.
 *   pg_logical/snapshots/X.snap  renamed from X.snap.PID.tmp: in WAL before. The slot's state that needs it comes behind it
 *                                in WAL, so this one waits for nobody.
 *   that, and pg_logical/mappings/X, unlinked: in WAL behind that. What is in a mapping is in WAL anyway
 *                                (XLOG_HEAP2_REWRITE).
 * Each is a logical message (replication/message.h) of database 0, which no session has: so no user can write one, and no
 * slot shows it. Its prefix is "strata_file:PATH", the message the content, none where the file is gone; the reader is
 * ../../../wal-decoder/logical-message-records.ts. It is marked as unimportant, or each snapshot would be the activity for
 * which the background writer logs the next running transactions, which make a snapshot.
 *
 * Once a shutdown checkpoint has begun nobody may write WAL: the agent finds the files when Postgres has ended.
 */
#include "shim.h"

/* Postgres's own, as it has them for extensions: the same in 14 to 18. Absent in other programs. */
#define POSTGRES __attribute__((weak))
extern bool RecoveryInProgress(void) POSTGRES;
extern void XLogBeginInsert(void) POSTGRES;
extern void XLogRegisterData(const void *data, u32 n) POSTGRES;
extern void XLogSetRecordFlags(u8 flags) POSTGRES;
extern u64 XLogInsert(u8 manager, u8 info) POSTGRES;
extern void XLogFlush(u64 lsn) POSTGRES;

#define RM_LOGICALMSG_ID 21
#define XLOG_LOGICAL_MESSAGE 0
#define XLOG_MARK_UNIMPORTANT 2
/* pg_control.h */
#define CONTROL_FILE_STATE 16
#define DB_IN_PRODUCTION 6
/* slot.c, ReplicationSlotOnDisk */
#define SLOT_DATABASE 80
#define SLOT_PERSISTENCY 84
#define RS_PERSISTENT 0

#define SLOTS_DIRECTORY "pg_replslot/"
#define PREFIX "strata_file:"

/* xl_logical_message */
struct logical_message {
  u32 database;
  u8 transactional, zero[3];
  u64 prefix_size, message_size;
};
_Static_assert(sizeof(struct logical_message) == 24, "its layout");

struct content {
  const u8 *bytes; /* NULL: none */
  size_t n;
};

/* Not while Postgres recovers, nor once a shutdown checkpoint has begun, of which pg_control tells first. */
static bool may_write_wal(void) {
  u32 state;
  if (XLogInsert == NULL || RecoveryInProgress()) {
    return false;
  }
  int fd = sys_open("global/pg_control", O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0 || syscall(SYS_pread64, fd, &state, sizeof state, (off_t)CONTROL_FILE_STATE) != sizeof state) {
    die("cannot read ", "global/pg_control");
  }
  sys_close(fd);
  return state == DB_IN_PRODUCTION;
}

/* A whole file, to be given back by forget(); false with errno. */
static bool map_content(const char *path, struct content *content) {
  struct stat stat;
  int fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) {
    return false;
  }
  void *at = MAP_FAILED;
  if (syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) == 0) {
    /* Of no byte there is no mapping: an error, as none is ever empty, and empty means gone. */
    at = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  }
  int saved = errno;
  sys_close(fd);
  errno = saved;
  *content = at == MAP_FAILED ? (struct content){NULL, 0} : (struct content){at, (size_t)stat.st_size};
  return at != MAP_FAILED;
}

static void forget(struct content content) { munmap((void *)content.bytes, content.n); }

/* Returns where the message's record ends. Postgres may leave it by an error. */
static u64 put_into_wal(const char *path, struct content content) {
  char prefix[sizeof PREFIX + MAX_PATH];
  stpcpy(stpcpy(prefix, PREFIX), path);
  struct logical_message head = {.prefix_size = strlen(prefix) + 1, .message_size = content.n};
  XLogBeginInsert();
  XLogRegisterData(&head, sizeof head);
  XLogRegisterData(prefix, (u32)head.prefix_size);
  if (content.n > 0) {
    XLogRegisterData(content.bytes, (u32)content.n);
  }
  XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
  return XLogInsert(RM_LOGICALMSG_ID, XLOG_LOGICAL_MESSAGE);
}

/*
 * Of pg_replslot/NAME followed by `rest`: writes pg_replslot/NAME/state to `state`. A slot that is being made or
 * dropped is in NAME.tmp; `rest` tells which.
 */
static bool is_of_slot(const char *path, const char *rest, char state[MAX_PATH]) {
  const char *name = after(path, SLOTS_DIRECTORY);
  size_t n = name == NULL ? 0 : strcspn(name, "/.");
  if (n == 0 || n > 63 || strcmp(name + n, rest) != 0) {
    return false;
  }
  char *at = stpcpy(state, SLOTS_DIRECTORY);
  memcpy(at, name, n);
  stpcpy(at + n, "/state");
  return true;
}

/* Whether a slot's state is of one that storage keeps: logical, and there for longer than its session. */
static bool is_kept_slot(struct content content) {
  u32 database, persistency;
  if (content.n < SLOT_PERSISTENCY + sizeof persistency) {
    return false;
  }
  memcpy(&database, content.bytes + SLOT_DATABASE, sizeof database);
  memcpy(&persistency, content.bytes + SLOT_PERSISTENCY, sizeof persistency);
  return database != 0 && persistency == RS_PERSISTENT;
}

static bool is_snapshot(const char *path) {
  const char *name = after(path, "pg_logical/snapshots/");
  size_t n = name == NULL ? 0 : strlen(name);
  return n > 5 && n < 64 && strcmp(name + n - 5, ".snap") == 0;
}

static bool is_mapping(const char *path) {
  const char *name = after(path, "pg_logical/mappings/map-");
  return name != NULL && strlen(name) < 80;
}

/* A path of the data directory's of a Postgres that writes WAL; or NULL. */
static const char *aux_path(const char *path) { return region == NULL || !wal_hook ? NULL : inside(path); }

/* What is about to be called `to` is in WAL on return; -1 with errno where its content cannot be read. */
int before_rename(const char *from, const char *to) {
  char state[MAX_PATH];
  struct content content;
  const char *path = aux_path(to);
  if (path == NULL) {
    return 0;
  }
  bool slot = is_of_slot(path, "/state", state) || is_of_slot(path, ".tmp/state", state);
  if ((!slot && !is_snapshot(path)) || !may_write_wal()) {
    return 0;
  }
  if (!map_content(from, &content)) {
    return -1;
  }
  if (!slot) {
    put_into_wal(path, content);
  } else if (is_kept_slot(content)) {
    XLogFlush(put_into_wal(state, content));
  }
  forget(content);
  return 0;
}

/* A slot that was dropped is gone for storage too. */
void after_rename(const char *from, const char *to) {
  char state[MAX_PATH], dropped[MAX_PATH];
  struct content content;
  const char *path = aux_path(from), *target = aux_path(to);
  if (path == NULL || target == NULL || !is_of_slot(path, "", state) || !is_of_slot(target, ".tmp", dropped) ||
      strcmp(state, dropped) != 0) {
    return;
  }
  stpcpy(stpcpy(dropped, target), "/state");
  if (!may_write_wal()) {
    return;
  }
  if (!map_content(dropped, &content)) {
    say("cannot read the state of a slot that is being dropped, which the next start will have again: ", dropped);
    return;
  }
  if (is_kept_slot(content)) {
    XLogFlush(put_into_wal(state, (struct content){NULL, 0}));
  }
  forget(content);
}

void after_unlink(const char *path) {
  path = aux_path(path);
  if (path != NULL && (is_snapshot(path) || is_mapping(path)) && may_write_wal()) {
    put_into_wal(path, (struct content){NULL, 0});
  }
}

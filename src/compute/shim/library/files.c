/* files.c: how paths get their files: adopted from the agent, made when they are first named, or listed. */
#include "shim.h"

/* Of what is made here: the names of files that were removed are kept, too. What is made beyond that stays on the disk. */
#define MAX_TRACKED_NEW (1u << 18)

static bool greeted;

/* Gives a path that is ours alone the states of its file's blocks: all ABSENT. */
static void track(struct slot *slot, u64 inode, u64 bytes) {
  u32 blocks = (u32)(bytes / BLOCK);
  struct file *file = arena_take(sizeof *file);
  file->key = slot->key;
  file->inode = inode;
  file->states = blocks > 0 ? arena_take(blocks) : NULL;
  if (blocks > 0) {
    memset(file->states, ABSENT, blocks);
  }
  file->nabsent = file->capacity = blocks;
  store(&file->nremote, blocks);
  slot->file = file;
  make_evictable(slot);
}

/*
 * Makes the sparse file of a NEW path whose lock we hold; returns the next state, or 0 with errno. With
 * signals held: a file that is there but not tracked would be taken for a LOCAL one.
 */
static u32 materialize(struct slot *slot, const char *path, u64 bytes) {
  int fd = sys_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    /* ENOENT: the directory is gone or not made yet; then nothing of storage's can be in it. */
    return errno == EEXIST || errno == ENOENT ? SLOT_LOCAL : 0;
  }
  struct stat stat;
  if (syscall(SYS_ftruncate, fd, (off_t)bytes) != 0 ||
      syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0) {
    int saved = errno;
    syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    sys_close(fd);
    errno = saved;
    return 0;
  }
  sys_close(fd);
  track(slot, stat.st_ino, bytes);
  return SLOT_LAZY;
}

/* Whether nothing of storage's is in the directory of a key. */
static bool directory_is_local(const struct key *key) {
  struct key directory = {KIND_DIR, key->db, 0, 0, key->spc};
  if (key->kind != KIND_REL || key->db == 0) {
    return false;
  }
  struct slot *slot = known_slot(&directory);
  return slot != NULL ? load(&slot->state) == SLOT_LOCAL : is_absent(&directory);
}

/* Marks a file that the agent made before hello was answered, and its blocks that are there. */
static void adopt_file(struct slot *slot, int directory, const char *path, u64 bytes, const u8 *runs, u32 count) {
  struct stat stat;
  if (bytes % BLOCK != 0 || bytes > (u64)SEGMENT_BLOCKS * BLOCK ||
      syscall(SYS_newfstatat, directory, path, &stat, AT_SYMLINK_NOFOLLOW) != 0 || (u64)stat.st_size != bytes) {
    die("the agent says it has made a file, but has not: ", path);
  }
  track(slot, stat.st_ino, bytes);
  for (u32 i = 0; i < count; i++) {
    u32 run[2];
    memcpy(run, runs + i * sizeof run, sizeof run);
    for (u64 block = run[0]; block < (u64)run[0] + run[1]; block++) {
      if (block >= slot->file->nremote || slot->file->states[block] != ABSENT) {
        die("the agent filled a block that is not there, or twice: ", path);
      }
      note_filled(slot->file, (u32)block);
      slot->file->nabsent--;
    }
  }
  settle(slot, SLOT_LAZY);
}

/* The key that the agent's numbers mean; a wrong one ends us. classify() has to agree, or it names another file. */
static struct key placed_key(const struct wire_placed *entry, char path[MAX_PATH]) {
  struct key key = {0}, again;
  const char *local;
  u64 segno;
  bool in_range = entry->zero == 0 && entry->fork <= FORK_INIT && entry->segment <= SEGMENT_MASK;
  if (entry->kind == WIRE_RELATION) {
    u32 built_in = entry->db_oid == 0 ? GLOBAL_TABLESPACE : DEFAULT_TABLESPACE;
    u32 spc = entry->spc_oid == built_in ? 0 : entry->spc_oid;
    key = (struct key){KIND_REL, entry->db_oid, entry->rel_number, (u32)entry->fork << 29 | entry->segment, spc};
    in_range = in_range && (spc == 0 || (spc >= FIRST_NORMAL_OBJECT_ID && entry->db_oid != 0));
  } else if (entry->kind == WIRE_SLRU && entry->rel_number <= KIND_COMMIT_TS - KIND_XACT) {
    key = (struct key){.kind = KIND_XACT + entry->rel_number, .rel = entry->segment};
    in_range = in_range && entry->spc_oid == 0 && entry->db_oid == 0 && entry->fork == 0;
  } else {
    in_range = false;
  }
  if (in_range) {
    format_path(&key, path);
  }
  if (!in_range || classify(path, &again, &segno, &local) != NAME_BLOCKS ||
      memcmp(&key, &again, sizeof key) != 0) {
    die("the agent has placed what is no file of storage", "");
  }
  return key;
}

/* Takes over what the answer to hello lists; no other process of Postgres exists yet. */
static void adopt_files(const u8 *at, const u8 *end, u64 entries) {
  int directory = sys_open(data_dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  for (; entries > 0; entries--) {
    struct wire_placed entry;
    char path[MAX_PATH];
    if ((size_t)(end - at) < sizeof entry) {
      die("the agent's list of files ends in the middle", "");
    }
    memcpy(&entry, at, sizeof entry);
    at += sizeof entry;
    if (end - at < (ptrdiff_t)entry.runs * 8) {
      die("the agent's list of files ends in the middle", "");
    }
    struct key key = placed_key(&entry, path);
    if (known_slot(&key) != NULL || is_absent(&key)) {
      die("the agent names a file twice: ", path);
    }
    if (entry.bytes == NO_SUCH_FILE) {
      note_absent(&key);
    } else {
      adopt_file(find_slot(&key), directory, path, entry.bytes, at, entry.runs);
    }
    at += entry.runs * 8;
  }
  if (at != end) {
    die("the agent's list of files goes on behind its end", "");
  }
  if (directory >= 0) {
    sys_close(directory);
  }
}

/*
 * Once, in the postmaster, before it forks or names a file of storage: until then it reads its settings
 * and makes its shared memory, and the agent may still be filling files.
 */
void say_hello(void) {
  if (greeted) {
    return;
  }
  greeted = true;
  void *big = NULL;
  struct wire_reply reply;
  ask((struct question){.type = 'H', .a = (u64)postmaster_pid}, pages, sizeof pages, &big, &reply);
  if (reply.status != STATUS_OK) {
    die("the compute agent refused us", "");
  }
  const u8 *files = big != NULL ? big : pages;
  adopt_files(files, files + (reply.length - sizeof reply), reply.a);
  if (big != NULL) {
    munmap(big, reply.length - sizeof reply);
  }
  disconnect();
  start_comparer();
}

#define NO_ANSWER -1
#define NOT_THERE -2

/* What stands for all forks and segments of a key's relation, in the cache of what storage does not have. */
static struct key whole_relation(const struct key *key) {
  struct key whole = *key;
  whole.forkseg = UINT32_MAX;
  return whole;
}

/* All relations of a key's directory from number `from` on, in the same cache: Postgres numbers new ones upwards. */
static struct key new_relations(const struct key *key, u32 from) {
  return (struct key){KIND_NEW_RELATIONS, key->db, from, 0, key->spc};
}

/* Most relations that are made here have five names, and storage none of them: one answer is for all, mostly of all relations. */
static bool is_known_absent(const struct key *key) {
  if (key->kind != KIND_REL) {
    return is_absent(key);
  }
  u32 from = load(&region->new_from);
  struct key whole = whole_relation(key), new = new_relations(key, from);
  return (from != 0 && key->rel >= from && is_absent(&new)) || is_absent(&whole) || is_absent(key);
}

/* What an answer says that storage does not have. */
static void note_answer_absent(const struct key *key, u64 answer) {
  u32 from = (u32)(answer >> 32);
  struct key whole = whole_relation(key), new = new_relations(key, from);
  if (key->kind == KIND_REL && from != 0 && key->rel >= from) {
    store(&region->new_from, from);
    note_absent(&new);
  } else {
    note_absent(answer == NO_FILE_OF_RELATION && key->kind == KIND_REL ? &whole : key);
  }
}

/* How many bytes of a path storage has; NOT_THERE, or NO_ANSWER with errno. */
static int64_t ask_size(const struct key *key) {
  struct wire_reply reply;
  begin_wait(0);
  u32 before = abandoned;
  int result = ask((struct question){.type = 'S', .key = key}, NULL, 0, NULL, &reply);
  end_wait(before);
  if (result != 0) {
    return NO_ANSWER;
  }
  if (reply.status == STATUS_ABSENT) {
    note_answer_absent(key, reply.a);
    return NOT_THERE;
  }
  if (reply.status != STATUS_OK) {
    errno = EIO;
    return NO_ANSWER;
  }
  return (int64_t)reply.a;
}

/* What a NEW path of storage's whose lock we hold is to become; 0 with errno where its file cannot be made. */
static u32 next_state(struct slot *slot, const char *path, int64_t bytes) {
  struct stat stat;
  if (bytes < 0 || bytes % BLOCK != 0 || bytes > (int64_t)SEGMENT_BLOCKS * BLOCK) {
    die("storage's size is not one of a segment: ", path);
  }
  if (directory_is_local(&slot->key) || sys_stat(path, &stat, AT_SYMLINK_NOFOLLOW) == 0) {
    return SLOT_LOCAL;
  }
  return materialize(slot, path, (u64)bytes);
}

/* Of every path that storage does not have. Of this process alone: nobody waits for such a path's lock. */
static struct slot not_of_storage = {.state = SLOT_LOCAL};

/* Of a path that storage does not have; NULL with errno when interrupted. There is one while its file is made here, and from then on. */
static struct slot *slot_of_absent(const struct key *key) {
  struct slot *slot = may_track(key) ? known_slot(key) : NULL;
  if (slot == NULL) {
    return &not_of_storage;
  }
  begin_wait(0);
  if (try_lock_slot(slot, SLOT_NEW)) {
    /* Before its file, by somebody who may have ended: it becomes a plain one, or we would open it as it comes into being. */
    unlock_slot(SLOT_LOCAL);
  }
  return settled_state(slot) == SLOT_EMPTY ? NULL : slot;
}

/*
 * Brings a path to LAZY or LOCAL; NULL with errno when the agent cannot say. `bytes` is its size in
 * storage where a listing told it, else -1. A file that lies here before we ever looked is LOCAL.
 */
struct slot *resolve(const struct key *key, const char *path, int64_t bytes) {
  say_hello();
  struct slot *slot = known_slot(key);
  u32 state = slot == NULL ? SLOT_NEW : load(&slot->state);
  if (state == SLOT_LAZY || state == SLOT_LOCAL) {
    return slot;
  }
  u32 held = bytes < 0 ? 0 : 1; /* the directory that is being listed */
  if (bytes < 0) {
    if (is_known_absent(key) || directory_is_local(key)) {
      return slot_of_absent(key);
    }
    bytes = ask_size(key);
    if (bytes == NOT_THERE) {
      return slot_of_absent(key);
    }
    if (bytes == NO_ANSWER) {
      return NULL;
    }
  }
  slot = find_slot(key);
  begin_wait(held);
  u32 before = abandoned;
  int saved = errno;
  state = lock_slot(slot);
  if (state == SLOT_EMPTY) {
    return NULL;
  }
  sigset_t signals;
  hold_signals(&signals);
  end_wait(before);
  u32 next = state == SLOT_NEW ? next_state(slot, path, bytes) : state;
  int why = next == 0 ? errno : saved;
  unlock_slot(next == 0 ? SLOT_NEW : next);
  release_signals(&signals);
  errno = why;
  return next == 0 ? NULL : slot;
}

/*
 * Makes a file that storage does not have such that what is written to it may be given back: its slot is there first, so that
 * whoever opens it finds that. 1: it is made; 0: another one makes it, or it is there, or is to be a plain file, without a slot; -1 with errno.
 */
int create_tracked(const struct key *key, const char *path, int flags, mode_t mode) {
  if (!wal_hook || add(&region->tracked_new, 1) > MAX_TRACKED_NEW) {
    return 0;
  }
  struct slot *slot = find_slot(key);
  begin_wait(0);
  if (!try_lock_slot(slot, SLOT_NEW)) {
    /* Another one makes it. */
    return settled_state(slot) == SLOT_EMPTY ? -1 : 0;
  }
  sigset_t signals;
  struct stat stat;
  hold_signals(&signals);
  int fd = sys_open(path, flags | O_EXCL | O_CLOEXEC, mode), why = errno;
  bool made = fd >= 0 && syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) == 0;
  if (made) {
    track(slot, stat.st_ino, 0);
  }
  if (fd >= 0) {
    sys_close(fd);
  }
  /* One that is there already is a plain one, and so is what cannot be made now. */
  unlock_slot(made ? SLOT_LAZY : SLOT_LOCAL);
  release_signals(&signals);
  errno = why;
  return fd >= 0 ? 1 : why != EEXIST || (flags & O_EXCL) ? -1 : 0;
}

/*
 * After mkdir() or rmdir(): nothing in the directory is storage's. Those that storage has are made before the start,
 * so one that could be made is not among them, or was removed here, which its slot says: else it needs none.
 */
void mark_directory_local(const char *path, bool made) {
  struct key key;
  u64 segno;
  const char *local;
  if (classify(path, &key, &segno, &local) != NAME_DIR) {
    return;
  }
  struct slot *slot = known_slot(&key);
  if (slot != NULL) {
    settle(slot, SLOT_LOCAL);
  } else if (made) {
    note_absent(&key);
  } else if (!is_absent(&key)) {
    /* Storage's, or made here so long ago that it was forgotten. */
    settle(find_slot(&key), SLOT_LOCAL);
  }
}

/* Makes every file of a listing that is not here yet, as a sparse file. */
static int materialize_listed(const struct key *directory, const u8 *at, const u8 *end, u64 entries) {
  bool slru = directory->db == UINT32_MAX;
  for (; entries > 0; entries--) {
    struct wire_listed entry;
    char path[MAX_PATH];
    if ((size_t)(end - at) < sizeof entry) {
      die("a listing ends in the middle", "");
    }
    memcpy(&entry, at, sizeof entry);
    at += sizeof entry;
    if (entry.fork > FORK_INIT || entry.segment > SEGMENT_MASK || entry.bytes > INT64_MAX ||
        (slru ? entry.rel_number != 0 || entry.fork != 0 : entry.rel_number == 0)) {
      die("a listing has what is no file of storage", "");
    }
    struct key key = slru ? (struct key){.kind = directory->rel, .rel = entry.segment}
                          : (struct key){KIND_REL, directory->db, entry.rel_number,
                                         (u32)entry.fork << 29 | entry.segment, directory->spc};
    format_path(&key, path);
    if (resolve(&key, path, (int64_t)entry.bytes) == NULL) {
      return -1;
    }
  }
  return 0;
}

/* Makes what storage has in a directory whose lock we hold. */
static int list_locked(const struct key *directory) {
  void *big = NULL;
  struct wire_reply reply;
  u32 before = abandoned;
  if (ask((struct question){.type = 'L', .key = directory}, pages, sizeof pages, &big, &reply) != 0) {
    return -1;
  }
  end_wait(before);
  size_t payload = reply.length - sizeof reply;
  int result = -1;
  if (reply.status == STATUS_OK) {
    /* resolve() of an entry asks whether the directory is LOCAL, which RESOLVING is not. No request
     * is made while entries are read, so `pages` stays as it is. */
    const u8 *start = big != NULL ? big : pages;
    result = materialize_listed(directory, start, start + payload, reply.a);
  } else if (reply.status == STATUS_ABSENT) {
    result = 0;
  } else {
    errno = EIO;
  }
  int why = errno;
  if (big != NULL) {
    munmap(big, payload);
  }
  errno = why;
  return result;
}

/*
 * Before somebody reads a directory: all files that storage has in it appear. Not in the postmaster,
 * which only looks for temporary files at its start, and not in the start of a read-only endpoint,
 * which looks for unlogged relations to reset and is served their initial content anyway: start-up
 * must not grow with the number of relations.
 */
int list_directory(const char *path) {
  struct key key;
  u64 segno;
  const char *local;
  if (classify(path, &key, &segno, &local) != NAME_DIR || getpid() == postmaster_pid ||
      (!wal_hook && is_recovering())) {
    return 0;
  }
  if (known_slot(&key) == NULL && is_absent(&key)) {
    return 0;
  }
  /* Not lock_slot(): a LOCAL directory must look LOCAL at every moment. */
  struct slot *slot = find_slot(&key);
  begin_wait(0);
  while (!try_lock_slot(slot, SLOT_NEW)) {
    u32 state = settled_state(slot);
    if (state != SLOT_NEW) {
      return state == SLOT_EMPTY ? -1 : 0;
    }
  }
  int result = list_locked(&key), why = errno;
  /* Unless a rmdir made it LOCAL meanwhile. */
  sigset_t signals;
  hold_signals(&signals);
  held_slot_count = 0;
  swap_if(&slot->state, SLOT_RESOLVING, result == 0 ? SLOT_LAZY : SLOT_NEW);
  wake_word(&slot->state);
  release_signals(&signals);
  if (result != 0) {
    errno = why;
  }
  return result;
}

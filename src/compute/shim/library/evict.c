/*
 * evict.c: gives blocks back to the disk where the cache has a limit. CLEAN ones: as storage has them, not written here since
 * they came or since storage was found to have them (compare.c), and so fetched again like any that is absent.
 *
 * Whoever is about to bring a block makes room first; the postmaster where nobody does. A clock's hand goes through all evictable files, one process
 * at a time; a block stays for as many turns as it was used lately. Against whoever else is at the block:
 *
 *  writer      makes CLEAN into REWRITING before it writes; the hand takes CLEAN blocks only, both by compare-and-swap.
 *  reader      claims nothing. The count of the block's group is raised before content goes, and the reader that
 *              finds another count behind its read than before it reads again.
 *  truncation  waits for EVICTING blocks as for all that are claimed; what is cut off is CUT, and never taken.
 *  removal     a path that is LAZY after we have opened it was not removed before: we have the file that was meant.
 *
 * The limit is soft: nobody waits for room for long, and nothing fails for want of it.
 */
#include "shim.h"

#ifndef FALLOC_FL_KEEP_SIZE
#define FALLOC_FL_KEEP_SIZE 1
#define FALLOC_FL_PUNCH_HOLE 2
#endif

/* Of one pass, in which no signal is handled. */
#define PASS_BLOCKS 1024u
#define PASS_LOOKS (1u << 20)
/* Freed beyond what is over the limit, so that not each fetch has to look. */
#define SLACK_BLOCKS 256u
#define MOST_PAUSES 10

/* Whether blocks may be given back of a file: the main fork of a relation. The others are small, and have rules of their own. */
bool may_track(const struct key *key) {
  return cache_limit > 0 && key->kind == KIND_REL && key->forkseg >> 29 == FORK_MAIN;
}

/*
 * Before a write up to block `to`: what is added to a file that grows gets states, as long as there is room for some. Of a small
 * one it stays.
 */
void track_added(struct file *file, u32 to) {
  if (!file->evictable || !wal_hook || to <= file->capacity) {
    return;
  }
  if (load(&file->added) == NULL) {
    if (to <= file->capacity + EVICTION_GROUP || load(&region->arena_next) > arena_size / 4 * 3) {
      return;
    }
    struct added *added = arena_take(sizeof *added), *none = NULL;
    __atomic_compare_exchange_n(&file->added, &none, added, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
  u32 end = load(&file->end);
  while (end < to && !swap_if(&file->end, end, to)) {
    end = load(&file->end);
  }
}

void make_evictable(struct slot *slot) {
  struct file *file = slot->file;
  if (!may_track(&file->key)) {
    return;
  }
  file->used = arena_take(file->capacity);
  file->compared = arena_take(file->capacity);
  file->evictions = arena_take(((file->capacity + EVICTION_GROUP - 1) / EVICTION_GROUP) * sizeof(u32));
  file->slot = slot;
  file->evictable = true;
  struct file *first;
  do {
    first = load(&region->evictable);
    file->next = first;
  } while (!swap_if(&region->evictable, first, file));
}

void count_blocks(struct file *file, int clean, int kept) {
  if (clean != 0) {
    add(&file->clean, clean);
    add(&counters->clean, clean);
  }
  if (kept != 0) {
    add(&file->kept, kept);
    add(&counters->kept, kept);
  }
}

/* Its blocks are not in the data directory any more. */
void drop_counts(struct file *file) {
  add(&counters->clean, -__atomic_exchange_n(&file->clean, 0, __ATOMIC_SEQ_CST));
  add(&counters->kept, -__atomic_exchange_n(&file->kept, 0, __ATOMIC_SEQ_CST));
}

/* A block that we have claimed has its content from storage. */
void note_filled(struct file *file, u32 block) {
  if (!file->evictable) {
    count_blocks(file, 0, 1);
    store(state_of(file, block), PRESENT);
    return;
  }
  if (load(used_of(file, block)) & WAS_EVICTED) {
    add(&counters->fetched_again, 1);
  }
  store(used_of(file, block), USED_ONCE);
  count_blocks(file, 1, 0);
  store(state_of(file, block), CLEAN);
}

/* A block that was here is read. A use that is lost to another process at the same time is no loss. */
void note_used(struct file *file, u32 block) {
  u8 used = file->evictable ? load(used_of(file, block)) : MOST_USED;
  if ((used & ~USE_FLAGS) < MOST_USED) {
    store(used_of(file, block), (used & USE_FLAGS) | MOST_USED);
  }
}

/* A block that we have claimed was written: Postgres has it no more in its buffers, or has it and will write it again. */
void note_written(struct file *file, u32 block) {
  if (file->evictable) {
    store(used_of(file, block), USED_ONCE);
    store(compared_of(file, block), 0);
  }
}

/* A written block that was COMPARING is the same in storage. False where it was written meanwhile, or cut off. */
bool note_same(struct file *file, u32 block) {
  /* Before it may go; a writer that comes in between says otherwise behind it. */
  store(used_of(file, block), WAS_WRITTEN);
  if (!swap_if(state_of(file, block), COMPARING, CLEAN)) {
    return false;
  }
  count_blocks(file, 1, -1);
  return true;
}

static u32 *evictions_at(const struct file *file, u32 block) {
  return block < file->capacity ? &file->evictions[block / EVICTION_GROUP]
                                : &file->added->evictions[(block - file->capacity) / EVICTION_GROUP];
}

/* How often blocks were taken from what [at, at + n) is among. Each count only grows, so that an equal sum means none. */
u64 evictions_of(const struct file *file, off_t at, size_t n) {
  u64 sum = 0;
  if (!file->evictable) {
    return 0;
  }
  u32 from = block_of((u64)at), to = block_end((u64)at + n);
  bool added = load(&file->added) != NULL;
  while (from < to && (from < file->capacity || (added && from < SEGMENT_BLOCKS))) {
    bool stored = from < file->capacity;
    u32 first = stored ? 0 : file->capacity;
    sum += load(evictions_at(file, from));
    from = first + ((from - first) / EVICTION_GROUP + 1) * EVICTION_GROUP;
    from = stored && from > file->capacity ? file->capacity : from;
  }
  return sum;
}

/* Whether what was read since before_read() has to be read again. */
bool evicted_since(int fd, off_t at, size_t n, u64 evictions) {
  struct file *file = fd < 0 || fd >= MAX_FD ? NULL : fds[fd].file;
  if (file == NULL || !file->evictable || at < 0 || n == 0) {
    return false;
  }
  /* The content that was read is not younger than the count that is read now. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (evictions_of(file, at, n) == evictions) {
    return false;
  }
  add(&counters->reread, 1);
  return true;
}

/* Opens what an evictable file is on the disk; -1 where it was removed, or cannot be opened. */
static int open_to_evict(const struct file *file) {
  char path[MAX_PATH];
  format_path(&file->key, path);
  int fd = sys_open(path, O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) {
    return -1;
  }
  /* In this order: a path that is still LAZY was so when it was opened, as none becomes that again, and no other file has its name. */
  if (load(&file->slot->state) != SLOT_LAZY) {
    sys_close(fd);
    return -1;
  }
  return fd;
}

/* Takes the content of blocks [from, to), which we have made EVICTING. */
static void punch(struct file *file, int fd, u32 from, u32 to) {
  long result;
  for (u32 block = from; block < to; block++) {
    add(evictions_at(file, block), 1);
    add(&counters->written_evicted, load(used_of(file, block)) & WAS_WRITTEN ? 1 : 0);
  }
  /* Whoever reads a hole also reads the new counts. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  do {
    result = syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from * BLOCK,
                     (off_t)(to - from) * BLOCK);
  } while (result != 0 && errno == EINTR);
  /*
   * Absent in any case: what is left of their content is written over before it is read. For a hole a file system may need
   * space itself, so that of a full one nothing is concluded.
   */
  bool never = result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS);
  if (never && swap_if(&region->cannot_evict, 0, 1)) {
    say("cannot make holes in files, so the cache has no limit: ", data_dir);
  }
  add(&file->nabsent, to - from);
  count_blocks(file, -(int)(to - from), 0);
  add(&counters->evicted, to - from);
  for (u32 block = from; block < to; block++) {
    store(used_of(file, block), WAS_EVICTED);
    store(state_of(file, block), ABSENT);
  }
  blocks_changed(file);
}

/* Whether the hand takes a block, which is EVICTING then. */
static bool take(struct file *file, u32 block) {
  if (load(state_of(file, block)) != CLEAN) {
    return false;
  }
  u8 used = load(used_of(file, block));
  if ((used & ~USE_FLAGS) > 0) {
    store(used_of(file, block), used - 1);
    return false;
  }
  return swap_if(state_of(file, block), CLEAN, EVICTING);
}

typedef u64 __attribute__((may_alias)) eight_states;

/* From `block`, which the hand does not take, to where it looks next: most blocks of most files are absent, or plainly here. */
static u32 skip(const struct file *file, u32 block) {
  const u8 *state = state_of(file, block);
  if ((uintptr_t)state % 8 != 0 || (block < file->capacity && block + 8 > file->capacity)) {
    return 1;
  }
  /* In one access of all eight, as others change them. */
  u64 eight = load((const eight_states *)state);
  return (eight & ~(0x0101010101010101ull * ABSENT)) == 0 ? 8 : 1;
}

/* Moves the hand through one file from *at on; how many blocks it took of at most `wanted`. */
static u32 evict_from(struct file *file, u32 *at, u32 wanted, u32 *looks) {
  u32 block = *at, end = used_end(file), taken = 0;
  int fd = -1;
  *at = end;
  if (load(&file->slot->state) == SLOT_LOCAL) {
    drop_counts(file);
    return 0;
  }
  if (load(&file->clean) <= 0 || (fd = open_to_evict(file)) < 0) {
    return 0;
  }
  while (block < end && taken < wanted && *looks < PASS_LOOKS) {
    u32 from = block;
    while (block < end && taken + (block - from) < wanted && take(file, block)) {
      block++;
    }
    if (block > from) {
      punch(file, fd, from, block);
      taken += block - from;
    } else {
      block += skip(file, block);
      ++*looks;
    }
  }
  sys_close(fd);
  *at = block;
  return taken;
}

/* One pass of the hand, with the lock and no signals. */
static void evict(u32 wanted) {
  u32 looks = 0, rounds = 0;
  while (wanted > 0 && looks < PASS_LOOKS && rounds <= MOST_USED + 1) {
    if (region->hand == NULL) {
      region->hand = load(&region->evictable);
      region->hand_block = 0;
      rounds++;
    }
    wanted -= evict_from(region->hand, &region->hand_block, wanted, &looks);
    looks++;
    if (region->hand_block >= used_end(region->hand)) {
      region->hand = region->hand->next;
      region->hand_block = 0;
    }
  }
}

/*
 * CLEAN blocks above what they may be: what the others leave of the limit, and an eighth of it at least, or all that is
 * read would go at once where much was written.
 */
static u64 excess(void) {
  int64_t clean = load(&counters->clean), kept = load(&counters->kept), limit = (int64_t)cache_limit;
  int64_t room = limit - kept > limit / 8 ? limit - kept : limit / 8;
  return clean > room ? (u64)(clean - room) : 0;
}

/* Before a block is brought. */
void make_room(void) {
  u64 over;
  if (cache_limit == 0) {
    return;
  }
  call_comparer();
  for (int pauses = 0; (over = excess()) > 0 && load(&region->evictable) != NULL && !load(&region->cannot_evict);) {
    sigset_t signals;
    int saved = errno;
    hold_signals(&signals);
    bool mine = swap_if(&region->evicting, 0, 1);
    if (mine) {
      u64 slack = cache_limit / 16 < SLACK_BLOCKS ? cache_limit / 16 : SLACK_BLOCKS;
      evict(over + slack < PASS_BLOCKS ? (u32)(over + slack) : PASS_BLOCKS);
      store(&region->evicting, 0);
    }
    release_signals(&signals);
    errno = saved;
    /* Another one makes room: only who is far ahead of it waits. */
    if (mine || over <= cache_limit / 16 || ++pauses > MOST_PAUSES) {
      return;
    }
    pause_ms(1);
  }
}

#define IDLE_PASSES 8

/*
 * In the postmaster, now and then: nobody may need room for long after much was written, and what storage has by now goes all the
 * same. A little above the limit is left to whoever brings a block.
 */
void make_room_when_idle(void) {
  call_comparer();
  for (int passes = 0; excess() > cache_limit / 16 && passes < IDLE_PASSES; passes++) {
    make_room();
  }
}

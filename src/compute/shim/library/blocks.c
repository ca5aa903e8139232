/* blocks.c: the claims on blocks: fetched when they are first read, written past that, or cut off. */
#include "shim.h"

PER_PROCESS struct fd_entry fds[MAX_FD];

static bool is_claimed(u8 state) {
  return state == FILLING || state == WRITING || state == REWRITING || state == HINTING || state == EVICTING;
}
static bool is_here(u8 state) {
  return state == PRESENT || state == CLEAN || state == HINTING || state == CUT || state == REWRITING || state == COMPARING;
}

/* Waits until another process is done with a block it claimed; false when interrupted. */
static bool wait_block(struct file *file, u32 block) {
  u64 since = 0, began = clock_us();
  bool done = false;
  add(&region->waits, 1);
  add(&file->waiters, 1);
  for (;;) {
    u32 changes = load(&file->changes);
    done = !is_claimed(load(state_of(file, block)));
    if (done || interrupted(&since)) {
      break;
    }
    wait_word(&file->changes, changes);
  }
  add(&file->waiters, (u32)-1);
  if (reads_relation) {
    note_wait(file, began, 1, 0);
  }
  return done;
}

/*
 * `before` -> `to` for blocks from `from` on, at most `count`, until one is another; how many. Blocks that a
 * truncation is cutting off meanwhile may be among them: it waits for them before it cuts the file.
 */
static u32 claim_as(struct file *file, u32 from, u32 count, u8 before, u8 to) {
  sigset_t signals;
  u32 claimed = 0;
  hold_signals(&signals);
  if (held_blocks.file == NULL) {
    held_blocks.from = held_blocks.from_cut = from;
    held_blocks.state = to == REWRITING ? WRITING : to;
    held_blocks.before = to == REWRITING ? ABSENT : before;
  }
  while (claimed < count && swap_if(state_of(file, from + claimed), before, to)) {
    claimed++;
  }
  if (claimed > 0) {
    held_blocks.to = from + claimed;
    held_blocks.file = file;
    if (before != CUT) {
      held_blocks.from_cut = held_blocks.to;
    }
    if (to == REWRITING) {
      count_blocks(file, before == CLEAN ? -1 : 0, before == CLEAN || before == CUT ? 1 : 0);
    }
  }
  release_signals(&signals);
  return claimed;
}

static u32 claim(struct file *file, u32 from, u32 count, u8 to) { return claim_as(file, from, count, ABSENT, to); }

/* Of a block that is there and stays as storage has it. */
bool claim_for_hints(struct file *file, u32 block) {
  return load(state_of(file, block)) == CLEAN && claim_as(file, block, 1, CLEAN, HINTING) == 1;
}

static int pwrite_all(int fd, const u8 *data, size_t n, off_t at) {
  while (n > 0) {
    ssize_t done = sys_pwrite(fd, data, n, at);
    if (done < 0 && errno == EINTR) {
      continue;
    }
    if (done <= 0) {
      return -1;
    }
    data += done;
    at += done;
    n -= (size_t)done;
  }
  return 0;
}

/* Opens the file behind a read-only descriptor for writing: by descriptor, as the path may be another file now. */
static int open_writable(int fd) {
  char path[32];
  *put_number(stpcpy(path, "/proc/self/fd/"), (u32)fd) = 0;
  return sys_open(path, O_WRONLY | O_CLOEXEC, 0);
}

/* Fetches claimed blocks [block, block + count) and releases the claims; -1 with errno leaves them ABSENT. */
static int fill(struct file *file, int fd, u32 block, u32 count) {
  struct wire_reply reply;
  int result, target = fd;
  u32 before = abandoned;
  before_fetch(file, block, count);
  result = ask((struct question){'G', &file->key, 0, block, count}, pages, sizeof pages, NULL, &reply);
  end_wait(before);
  if (result == 0 && (reply.status != STATUS_OK || reply.length - sizeof reply != (u64)count * BLOCK)) {
    errno = EIO;
    result = -1;
  } else if (result == 0 && !fds[fd].writable) {
    target = open_writable(fd);
    result = target < 0 ? -1 : 0;
  }
  if (result == 0) {
    result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);
  }
  int why = errno;
  if (target != fd && target >= 0) {
    sys_close(target);
  }
  if (result == 0) {
    sigset_t signals;
    hold_signals(&signals);
    for (u32 i = 0; i < count; i++) {
      note_filled(file, block + i);
    }
    /* From here on they may be another's claims: nothing is given back. */
    held_blocks.file = NULL;
    release_signals(&signals);
    /* After the states, here and elsewhere: at 0 nobody looks at them any more. */
    add(&file->nabsent, -count);
    blocks_changed(file);
  }
  give_back_blocks();
  errno = why;
  return result;
}

/*
 * How many blocks to fetch for a read of [from, to): more than asked, twice as many each time, when the
 * process reads this descriptor in order. VACUUM and old majors read scans block by block, and then
 * the round trip to the agent is what takes the time.
 */
static u32 blocks_to_fetch(struct fd_entry *entry, u32 from, u32 to) {
  u32 window = from == entry->next_fault && from > 0 ? entry->window * 2 : 1;
  entry->window = window > MAX_PAGES ? MAX_PAGES : window < 1 ? 1 : window;
  return to - from > entry->window ? to - from : entry->window;
}

/* Makes blocks [from, to) present. */
static int fault(struct file *file, int fd, u32 from, u32 to) {
  bool exactly = false;
  begin_wait(0);
  while (from < to) {
    u32 end = tracked_end(file), count;
    if (from >= end) {
      return 0;
    }
    u8 state = load(state_of(file, from));
    if (is_here(state)) {
      note_used(file, from);
      from++;
      continue;
    }
    if (state != ABSENT) {
      if (!wait_block(file, from)) {
        return give_up();
      }
      continue;
    }
    u64 began = clock_us();
    make_room();
    u32 wanted = exactly ? to - from : blocks_to_fetch(&fds[fd], from, to);
    wanted = wanted > MAX_PAGES ? MAX_PAGES : wanted;
    count = claim(file, from, wanted > end - from ? end - from : wanted, FILLING);
    if (count > 0 && fill(file, fd, from, count) != 0) {
      if (exactly || from + count <= to || errno == ECANCELED) {
        return -1;
      }
      /* A block that nobody asked for may be the one that storage cannot give. */
      exactly = true;
      continue;
    }
    if (count > 0) {
      note_wait(file, began, from + count < to ? count : to - from, count);
    }
    from += count;
    fds[fd].next_fault = from;
  }
  return 0;
}

/* The block that holds byte `at`, and the one after the last byte before `end`; capped, never wrapped. */
u32 block_of(u64 at) { return at / BLOCK > SEGMENT_BLOCKS ? SEGMENT_BLOCKS : (u32)(at / BLOCK); }
u32 block_end(u64 end) { return block_of(end + BLOCK - 1); }

static bool all_here(const struct file *file, u32 from, u32 to) {
  u32 end = tracked_end(file);
  for (u32 block = from; block < to && block < end; block++) {
    if (!is_here(load(state_of(file, block)))) {
      return false;
    }
  }
  return true;
}

/* What evicted_since() is to be given after the read is put into *evictions. */
int before_read(int fd, off_t at, size_t n, u64 *evictions) {
  struct file *file = lazy_file(fd);
  note_reads(fd, n / BLOCK);
  if (file == NULL || at < 0 || n == 0) {
    return 0;
  }
  u32 from = block_of((u64)at), to = block_end((u64)at + n);
  int result;
  reads_relation = file->key.kind == KIND_REL;
  do {
    result = fault(file, fd, from, to);
    /* Before the look at the states: whoever evicts after that look raises it, and then only takes the content. */
    *evictions = evictions_of(file, at, n);
  } while (result == 0 && file->evictable && !all_here(file, from, to));
  reads_relation = false;
  return result;
}

/* Claims one block, which has `state`, for a write: false where it has another one by now. */
static bool claim_to_write(struct file *file, u32 block, u8 state) {
  if (state == ABSENT) {
    return claim(file, block, 1, WRITING) == 1;
  }
  if ((state == CUT || state == PRESENT) && !file->evictable) {
    return true; /* It stays as it is. */
  }
  return claim_as(file, block, 1, state, REWRITING) == 1;
}

enum { CLAIMED, FETCH_FIRST, GIVEN_UP };

/* Claims blocks [from, to) for a write that covers `first` and `last` in part; of such a block the rest has to be there. */
static int claim_all_to_write(struct file *file, u32 from, u32 to, bool first, bool last) {
  begin_wait(0);
  track_added(file, to);
  for (u32 block = from; block < to && block < tracked_end(file);) {
    u8 state = load(state_of(file, block));
    if (state == ABSENT && ((first && block == from) || (last && block == to - 1))) {
      give_back_blocks();
      return FETCH_FIRST;
    }
    if (!is_claimed(state)) {
      block += claim_to_write(file, block, state);
    } else if (!wait_block(file, block)) {
      give_back_blocks();
      return GIVEN_UP;
    }
  }
  return CLAIMED;
}

/*
 * Claims the blocks that [at, at + n) covers, so that nothing takes them while they are written; a block covered in part is
 * fetched first.
 */
int before_write(struct file *file, int fd, off_t at, size_t n) {
  u32 from = block_of((u64)at), to = block_end((u64)at + n);
  bool first = at % BLOCK != 0, last = ((u64)at + n) % BLOCK != 0 && to > from;
  make_room();
  for (;;) {
    if ((first && fault(file, fd, from, from + 1) != 0) || (last && fault(file, fd, to - 1, to) != 0)) {
      return -1;
    }
    int result = claim_all_to_write(file, from, to, first, last);
    if (result != FETCH_FIRST) {
      return result == CLAIMED ? 0 : give_up();
    }
  }
}

/* Where a file that was written to byte `done` ends, that byte at least; where we cannot know, behind all. */
static u64 end_of_file(int fd, u64 done) {
  struct stat stat;
  if (syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0) {
    return UINT64_MAX;
  }
  return (u64)stat.st_size > done ? (u64)stat.st_size : done;
}

/*
 * Ends the claims of a write that has come to byte `done` of a file that ends at byte `end`. Each block is another's from its
 * swap on. A block behind the end that was to be added is not there, and does not count.
 */
static void release_written(struct file *file, u64 done, u64 end) {
  sigset_t signals;
  hold_signals(&signals);
  for (u32 block = held_blocks.from; block < held_blocks.to; block++) {
    if (((u64)block + 1) * BLOCK <= done) {
      note_written(file, block);
    }
    if (((u64)block + 1) * BLOCK <= done && swap_if(state_of(file, block), WRITING, PRESENT)) {
      add(&file->nabsent, (u32)-1);
      count_blocks(file, 0, 1);
    } else if (swap_if(state_of(file, block), WRITING, ABSENT)) {
      continue;
    } else if ((u64)block * BLOCK < end) {
      swap_if(state_of(file, block), REWRITING, PRESENT);
    } else if (swap_if(state_of(file, block), REWRITING, CUT)) {
      count_blocks(file, 0, -1);
    }
  }
  held_blocks.file = NULL;
  release_signals(&signals);
  blocks_changed(file);
}

/*
 * Releases before_write()'s claims: blocks that were written whole become PRESENT, others what they were. What
 * the caller is to be told of `written`: it ends before an absent block that was written in part, which is to
 * be written again whole. A write of its rest alone would fetch it first, and that takes the first part away.
 */
ssize_t after_write(struct file *file, int fd, off_t at, ssize_t written) {
  int why = errno;
  u64 done = (u64)at + (written > 0 ? (u64)written : 0);
  if (held_blocks.file == NULL) {
    return written;
  }
  u32 last = block_of(done);
  if (last >= held_blocks.from && last < held_blocks.to && (u64)last * BLOCK < done &&
      load(state_of(file, last)) == WRITING) {
    written = (ssize_t)((u64)last * BLOCK - (u64)at);
    if (written == 0) {
      /* As the next try would be told. */
      why = ENOSPC;
      written = -1;
    }
  }
  release_written(file, done, (u64)held_blocks.to * BLOCK > done ? end_of_file(fd, done) : done);
  errno = why;
  return written;
}

/*
 * Cuts off blocks from `keep` on: no fill can start there when this returns, and none is under way. A
 * claimer that has seen the old nremote is either faster than the loop, which waits for it, or finds CUT.
 */
void forget_blocks(struct file *file, u32 keep) {
  u32 old = used_end(file), now = load(&file->nremote);
  bool must = waits_must_end_well;
  waits_must_end_well = true;
  while (now > keep && !swap_if(&file->nremote, now, keep)) {
    now = load(&file->nremote);
  }
  for (u32 block = keep; block < old;) {
    u8 state = load(state_of(file, block));
    if (is_claimed(state)) {
      wait_block(file, block); /* and look again */
    } else if (state == CUT || swap_if(state_of(file, block), state, CUT)) {
      if (state == ABSENT) {
        add(&file->nabsent, (u32)-1);
      }
      count_blocks(file, state == CLEAN ? -1 : 0, state == PRESENT || state == COMPARING ? -1 : 0);
      block++;
    }
  }
  if (old > keep) {
    blocks_changed(file);
  }
  waits_must_end_well = must;
}

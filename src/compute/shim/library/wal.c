/* wal.c: WAL: what was written is told, a sync of it waits for a quorum, and old WAL is fetched. */
#include "shim.h"

/* WAL of a bulk load is told of when there is so much of it, to be on its way before the sync. */
#define WAL_NOTICE_BYTES (128u << 10)

/* Raises *word to `value`; true where it was below. */
static bool raise_to(u64 *word, u64 value) {
  u64 old = load(word);
  while (old < value) {
    if (swap_if(word, old, value)) {
      return true;
    }
    old = load(word);
  }
  return false;
}

/* Returns when a quorum has all WAL written before the call; does nothing for syncs of new, empty segments. */
static void flush_wal(u64 segno) {
  if (!wal_hook) {
    return;
  }
  /* Order matters: a write counted in `writes` is below `high`. */
  u64 writes = load(&region->wal_writes);
  u64 high = load(&region->wal_high);
  u64 durable = load(&region->wal_durable);
  if (durable >= writes || segno * wal_segment_size >= high) {
    return;
  }
  raise_to(&region->wal_told, high);
  u64 last = (high - 1) / wal_segment_size;
  struct wire_reply reply;
  waits_must_end_well = true;
  ask((struct question){.type = 'F', .a = last, .b = (u32)(high - last * wal_segment_size)}, NULL, 0, NULL, &reply);
  waits_must_end_well = false;
  if (reply.status != STATUS_OK) {
    /* The postmaster hands its signal on to us: not before we have said why. */
    sigset_t before;
    hold_signals(&before);
    if (getpid() != postmaster_pid) {
      kill(postmaster_pid, SIGQUIT);
    }
    die("fenced: another compute owns this timeline now", "");
  }
  note_pace(reply.a);
  raise_to(&region->wal_durable, writes);
}

void wal_written(const struct fd_entry *entry, off_t at, size_t n) {
  u64 end = entry->segno * wal_segment_size + (u64)at + n;
  if (!wal_hook) {
    return;
  }
  raise_to(&region->wal_high, end);
  add(&region->wal_writes, 1);
  /* A commit's write is followed by its sync, which says the same: no message, no wake-up for it. */
  if (end >= load(&region->wal_told) + WAL_NOTICE_BYTES && raise_to(&region->wal_told, end)) {
    notify((struct question){.type = 'W', .a = entry->segno, .b = (u32)at, .c = (u32)n});
  }
  if (entry->sync_writes) {
    flush_wal(entry->segno);
  }
}

/* fsync and fdatasync of anything. Never an error: Postgres panics on one. */
int sync_file(int fd, int number) {
  if (region == NULL || (fd >= 0 && fd < MAX_FD && fds[fd].foreign)) {
    return (int)syscall(number, fd);
  }
  if (fd >= 0 && fd < MAX_FD && fds[fd].is_wal) {
    flush_wal(fds[fd].segno);
  }
  return 0;
}

/* A segment from before the start, for who wants to read it: true where it is here now, else false with errno. */
bool fetch_wal_segment(u64 segno) {
  if (!wal_hook) {
    return false;
  }
  struct wire_reply reply;
  begin_wait(0);
  u32 before = abandoned;
  int result = ask((struct question){.type = 'O', .a = segno}, NULL, 0, NULL, &reply);
  end_wait(before);
  if (result != 0) {
    return false;
  }
  errno = reply.status == STATUS_ABSENT ? ENOENT : EIO;
  return reply.status == STATUS_OK;
}

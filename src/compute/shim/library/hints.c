/*
 * hints.c: writes that only give hints to a table's page, after which a block is still CLEAN.
 *
 * The first scan of new rows notes on them which transactions have committed, and then Postgres writes the page. Nobody
 * needs that back: hints are in no WAL (storage/buffer/README, "MarkBufferDirtyHint"), and who misses one asks pg_xact. So the
 * block may go as if it had never been written. Each scan also looks for rows to prune where the header says so; storage's
 * copy still says it after they were pruned, as replay leaves that be (heap_xlog_prune), and who finds none takes it back
 * (pruneheap.c, "do_hint"). What counts as a hint is looked up in the page itself, byte by byte against what the file has;
 * the LSN alone does not tell, as VACUUM sets a page's all-visible flag without one.
 */
#include "shim.h"

/* bufpage.h, htup_details.h: the same in 14 to 18. */
#define PAGE_HEADER 24
#define PD_FLAGS 10
#define PD_LOWER 12
#define PD_SPECIAL 16
#define PD_PRUNE_XID 20
#define PD_PAGE_FULL 0x0002
#define TUPLE_HEADER 23
#define T_INFOMASK 20
#define LP_NORMAL 1
#define HEAP_XMIN_FROZEN 0x0300 /* both hints of xmin: no hint, and set with WAL */
#define HINT_BITS 0x0f00        /* HEAP_XMIN_COMMITTED, _INVALID, HEAP_XMAX_COMMITTED, _INVALID */

static u32 u16_at(const u8 *page, u32 at) { return page[at] | (u32)page[at + 1] << 8; }

/* Whether `now` is `before` with other hints; makes them in `now` as they are there. Indexes and sequences have a special area. */
static bool gives_hints_only(const u8 *before, u8 *now) {
  u32 lower = u16_at(before, PD_LOWER);
  memcpy(now + PD_PRUNE_XID, before + PD_PRUNE_XID, 4);
  now[PD_FLAGS] |= before[PD_FLAGS] & PD_PAGE_FULL;
  if (u16_at(before, PD_SPECIAL) != BLOCK || lower < PAGE_HEADER || lower > BLOCK ||
      memcmp(before, now, lower) != 0) {
    return false;
  }
  for (u32 at = PAGE_HEADER; at + 4 <= lower; at += 4) {
    u32 pointer = u16_at(before, at) | u16_at(before, at + 2) << 16;
    u32 tuple = pointer & 0x7fff, mask = tuple + T_INFOMASK;
    if ((pointer >> 15 & 3) != LP_NORMAL || tuple < lower || tuple + TUPLE_HEADER > BLOCK) {
      continue;
    }
    u32 old = u16_at(before, mask), new = u16_at(now, mask);
    bool freezes = (new & HEAP_XMIN_FROZEN) == HEAP_XMIN_FROZEN && (old & HEAP_XMIN_FROZEN) != HEAP_XMIN_FROZEN;
    if ((old & ~new) == 0 && (new & ~old & ~HINT_BITS) == 0 && !freezes) {
      memcpy(now + mask, before + mask, 2);
    }
  }
  return memcmp(before, now, BLOCK) == 0;
}

/*
 * Writes one whole block that is CLEAN and stays so; -1 where it is no such write, and nothing was done. While it is HINTING nobody
 * takes it or cuts it off, and whoever reads it finds what storage has, with hints or without.
 */
ssize_t write_hints(struct file *file, int fd, const u8 *data, off_t at) {
  static PER_PROCESS u8 before[BLOCK], now[BLOCK], compared[BLOCK];
  u32 block = block_of((u64)at);
  begin_wait(0);
  if (!file->evictable || at % BLOCK != 0 || block >= tracked_end(file) || !claim_for_hints(file, block)) {
    return -1;
  }
  /* A copy, as other processes go on adding hints to the page while it is written. */
  memcpy(now, data, BLOCK);
  memcpy(compared, now, BLOCK);
  ssize_t done = -1;
  if (syscall(SYS_pread64, fd, before, (size_t)BLOCK, at) == BLOCK && gives_hints_only(before, compared)) {
    done = sys_pwrite(fd, now, BLOCK, at);
  }
  int saved = errno;
  give_back_blocks();
  errno = saved;
  return done;
}

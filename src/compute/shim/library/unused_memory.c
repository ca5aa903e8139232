/*
 * unused_memory.c: gives back what Postgres's start has filled with zeros.
 *
 * The postmaster clears all WAL buffers, 4 MB as a rule, and other parts of its shared memory (XLOGShmemInit(), xlog.c), which an
 * endpoint that does little never uses. A page of zeros that is given back is one of zeros when it is next looked at. Done
 * before the first fork, when this process has one thread and that memory nobody else.
 */
#include "shim.h"

#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif

#define PAGE 4096ul
/* Of /proc/self/pagemap: one word of it a page. */
#define PRESENT_PAGE (1ull << 63)
#define MAPS_BYTES (256u << 10)

static const char *parse_address(const char *at, u64 *out) {
  for (*out = 0;; at++) {
    u64 digit = *at >= '0' && *at <= '9' ? (u64)(*at - '0') : *at >= 'a' && *at <= 'f' ? (u64)(*at - 'a' + 10) : 16;
    if (digit == 16) {
      return at;
    }
    *out = *out << 4 | digit;
  }
}

static bool is_zero(const u64 *page) {
  for (unsigned i = 0; i < PAGE / sizeof *page; i++) {
    if (page[i] != 0) {
      return false;
    }
  }
  return true;
}

/* Shared memory without a file, of pages of 4 kB, in [from, to). A page that was never used must not be looked at: that would allot it. */
static void give_back_zeros(int pagemap, u64 from, u64 to) {
  u64 words[512], run = from;
  for (u64 at = from; at < to;) {
    u64 n = (to - at) / PAGE < 512 ? (to - at) / PAGE : 512;
    if (syscall(SYS_pread64, pagemap, words, n * sizeof *words, at / PAGE * sizeof *words) != (long)(n * sizeof *words)) {
      return;
    }
    for (u64 i = 0; i < n; i++, at += PAGE) {
      bool zeros = (words[i] & PRESENT_PAGE) != 0 && is_zero((const u64 *)at);
      if (!zeros && run < at) {
        madvise((void *)run, at - run, MADV_REMOVE);
      }
      run = zeros ? run : at + PAGE;
    }
  }
  if (run < to) {
    madvise((void *)run, to - run, MADV_REMOVE);
  }
}

/* One line of /proc/self/maps: where it is memory as above, and not ours. */
static void look_at_mapping(int pagemap, const char *line) {
  u64 from, to;
  const char *at = parse_address(line, &from);
  at = parse_address(at + 1, &to);
  if (strncmp(at, " rw-s", 5) == 0 && strstr(at, " /dev/zero (deleted)") != NULL && from != (u64)(uintptr_t)region) {
    give_back_zeros(pagemap, from, to);
  }
}

/* In the postmaster, before it has a child. Where anything of it cannot be had, memory stays. */
void give_back_unused_memory(void) {
  if (sysconf(_SC_PAGESIZE) != (long)PAGE) {
    return;
  }
  sigset_t signals;
  int saved = errno;
  hold_signals(&signals);
  int maps = sys_open("/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
  int pagemap = sys_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);
  char *text = mmap(NULL, MAPS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (maps >= 0 && pagemap >= 0 && text != MAP_FAILED) {
    size_t n = 0;
    long got;
    while (n < MAPS_BYTES - 1 && (got = syscall(SYS_read, maps, text + n, MAPS_BYTES - 1 - n)) > 0) {
      n += (size_t)got;
    }
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
      *end = 0;
      look_at_mapping(pagemap, line);
    }
  }
  if (text != MAP_FAILED) {
    munmap(text, MAPS_BYTES);
  }
  if (maps >= 0) {
    sys_close(maps);
  }
  if (pagemap >= 0) {
    sys_close(pagemap);
  }
  release_signals(&signals);
  errno = saved;
}

/* system.c: system calls under their own names, because libc's names are ours here, and what is made of them. */
#include "shim.h"

int sys_open(const char *path, int flags, mode_t mode) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int sys_close(int fd) { return (int)syscall(SYS_close, fd); }
ssize_t sys_pwrite(int fd, const void *data, size_t n, off_t at) {
  return syscall(SYS_pwrite64, fd, data, n, at);
}
int sys_stat(const char *path, struct stat *out, int flags) {
  return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, flags);
}

void say(const char *text, const char *more) {
  struct iovec parts[4] = {{(void *)"strata shim: ", 13},
                           {(void *)text, strlen(text)},
                           {(void *)more, strlen(more)},
                           {(void *)"\n", 1}};
  syscall(SYS_writev, 2, parts, 4);
}

__attribute__((noreturn)) void die(const char *text, const char *more) {
  say(text, more);
  _exit(2);
}

void pause_ms(long ms) {
  struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
  syscall(SYS_nanosleep, &time, NULL);
}

/* Waits while *word is `value`. The timeout makes a lost wake-up a delay, not a hang. */
void wait_word(u32 *word, u32 value) {
  struct timespec time = {0, 20 * 1000000};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &time, NULL, 0);
}

void wake_word(u32 *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

u64 clock_ms(void) {
  struct timespec time;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
  return (u64)time.tv_sec * 1000 + (u64)time.tv_nsec / 1000000;
}

/* No signal handler runs, and so none ends the process, until release_signals(). */
void hold_signals(sigset_t *before) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, before);
}

void release_signals(const sigset_t *before) {
  int saved = errno;
  sigprocmask(SIG_SETMASK, before, NULL);
  errno = saved;
}

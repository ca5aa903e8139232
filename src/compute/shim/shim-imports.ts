// Which libc functions the shim replaces, which may pass it by, and which may not: a table.

function names(text: string): ReadonlySet<string> {
  return new Set(text.trim().split(/\s+/));
}

/** What library/entry_points.c, library/start.c and library/own_extension.c define; a test compares the two. */
export const INTERCEPTED_IMPORTS = names(`
  open open64 __open_2 __open64_2 creat creat64 close dup pread pread64 __pread_chk __pread64_chk
  read __read_chk preadv preadv64 pwrite pwrite64 pwritev pwritev64 write copy_file_range
  ftruncate ftruncate64 truncate truncate64 unlink rename access stat stat64 lstat lstat64 __xstat
  __xstat64 __lxstat __lxstat64 mkdir symlink readlink __readlink_chk rmdir opendir posix_fadvise posix_fadvise64 posix_fallocate
  posix_fallocate64 fsync fdatasync
  syncfs sync sync_file_range prctl fopen fopen64
`);

/**
 * Functions that neither read nor write a relation, an SLRU segment or WAL: from the imports of
 * Postgres 14 to 18, their 64-bit and fortified spellings, and what the libraries linked
 * into other builds use. freopen and its family serve configuration and statistics files, which are
 * always here; lseek and fstat are right because a file that is not filled yet has its full size.
 */
export const HARMLESS_IMPORTS = names(`
  _IO_getc _IO_putc __assert __assert_fail __assert_perror_fail __ctype_b_loc
  __ctype_get_mb_cur_max __ctype_tolower_loc __ctype_toupper_loc __cxa_at_quick_exit __cxa_atexit
  __cxa_finalize __cxa_thread_atexit_impl __environ __errno_location __explicit_bzero_chk
  __fdelt_chk __fgets_chk __finite __fpclassify __fprintf_chk __fread_chk __fxstat __fxstat64
  __getcwd_chk __getdelim __gmon_start__ __h_errno_location __isinf __isnan __isnanf
  __isoc23_fscanf __isoc23_sscanf __isoc23_strtol __isoc23_strtoll __isoc23_strtoul
  __isoc23_strtoull __isoc99_fscanf __isoc99_sscanf __isoc99_vsscanf __libc_single_threaded
  __libc_start_main __longjmp_chk __mbstowcs_chk __memcpy_chk __memmove_chk __mempcpy_chk
  __memset_chk __poll_chk __powidf2 __printf_chk __progname __rawmemchr
  __realpath_chk __recv_chk __recvfrom_chk __register_atfork __sched_cpualloc __sched_cpucount
  __sched_cpufree __signbit __sigsetjmp __snprintf_chk __sprintf_chk __stack_chk_fail
  __stack_chk_guard __stpcpy_chk __stpncpy_chk __strcat_chk __strcpy_chk __strdup __strlcat_chk
  __strlcpy_chk __strncat_chk __strncpy_chk __strndup __strtok_r __syslog_chk __tls_get_addr
  __vfprintf_chk __vsnprintf_chk __vsprintf_chk __vsyslog_chk __wcstombs_chk __xpg_basename
  __xpg_strerror_r _dl_argv _exit _setjmp a64l abort abs accept accept4 acos acosf acosh alarm
  aligned_alloc arc4random arc4random_buf asin asinf asinh atan atan2 atan2f atanh atexit atof
  atoi atol atoll backtrace backtrace_symbols backtrace_symbols_fd basename bind
  bind_textdomain_codeset bindtextdomain bsearch btowc calloc cbrt ceil ceilf chdir chmod chown
  chroot clearenv clearerr clock_getres clock_gettime clock_nanosleep closedir closelog connect
  cos cosf cosh crypt crypt_r ctermid dcgettext dcngettext dgettext difftime dirfd dl_iterate_phdr
  dladdr dlclose dlerror dlopen dlsym dngettext drand48 dup2 duplocale endmntent environ
  epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait erand48 erf erfc err error errx
  eventfd execl execlp execv execve execvp exit exp exp2 expf explicit_bzero expm1 fabs fabsf
  fchdir fchmod fchown fclose fcntl fcntl64 fdopen feclearexcept feof feof_unlocked ferror
  ferror_unlocked fetestexcept fflush fflush_unlocked fgetc fgets fgets_unlocked fileno finite
  flock flockfile floor floorf fmax fmin fmod fmodf fnmatch fork fpathconf fprintf
  fputc fputc_unlocked fputs fputs_unlocked fread fread_unlocked free freeaddrinfo freeifaddrs
  freelocale freopen freopen64 frexp fscanf fseek fseeko fseeko64 fstat fstat64 fstatfs fstatfs64
  fstatvfs fstatvfs64 ftell ftello ftello64 funlockfile futimens fwrite fwrite_unlocked
  gai_strerror get_nprocs getaddrinfo getauxval getc getc_unlocked getcwd getdelim getegid
  getentropy getenv geteuid getgrgid getgrnam getgrnam_r getgroups gethostbyname gethostbyname_r
  gethostname getifaddrs getline getloadavg getlogin getmntent getnameinfo getopt getopt_long
  getopt_long_only getpagesize getpeername getpgid getpgrp getpid getppid getpriority getpwnam
  getpwnam_r getpwuid getpwuid_r getrandom getrlimit getrlimit64 getrusage getservbyname getsid
  getsockname getsockopt gettext gettimeofday getuid glob globfree gmtime gmtime_r
  gnu_get_libc_version h_errno htonl htons hypot iconv iconv_close iconv_open if_nametoindex ilogb
  inet_addr inet_aton inet_ntoa inet_ntop inet_pton initgroups ioctl isalnum isalnum_l isalpha
  isalpha_l isatty iscntrl isdigit isdigit_l isgraph isgraph_l isinf islower islower_l isnan
  isprint isprint_l ispunct ispunct_l isspace isspace_l isupper isupper_l iswalnum iswalnum_l
  iswalpha iswalpha_l iswblank iswcntrl iswcntrl_l iswctype iswdigit iswdigit_l iswgraph
  iswgraph_l iswlower iswlower_l iswprint iswprint_l iswpunct iswpunct_l iswspace iswspace_l
  iswupper iswupper_l iswxdigit isxdigit kill killpg labs lchown ldexp lfind lgamma lgamma_r link
  linkat listen llrint localeconv localtime localtime_r lockf log log10 log1p log2 logf longjmp
  lrand48 lrint lround lseek lseek64 madvise mallinfo mallinfo2 malloc malloc_trim
  malloc_usable_size mallopt mbrtowc mbsrtowcs mbstowcs mbstowcs_l mbtowc memalign memccpy memchr
  memcmp memcpy memfd_create memmem memmove mempcpy memrchr memset mincore mkdtemp mkfifo mkstemp
  mkstemp64 mktime mlock mmap mmap64 modf mprotect mremap munlock munmap nanosleep nearbyint
  newlocale nextafter ngettext nice nl_langinfo nl_langinfo_l ntohl ntohs on_exit openlog optarg
  opterr optind pathconf pclose perror personality pipe pipe2 poll popen
  posix_madvise posix_memalign posix_spawn posix_spawnp pow powf ppoll
  printf program_invocation_name program_invocation_short_name pthread_atfork pthread_attr_destroy
  pthread_attr_getstack pthread_attr_init pthread_attr_setstacksize pthread_barrier_destroy
  pthread_barrier_init pthread_barrier_wait pthread_cond_broadcast pthread_cond_destroy
  pthread_cond_init pthread_cond_signal pthread_cond_timedwait pthread_cond_wait pthread_create
  pthread_detach pthread_equal pthread_exit pthread_getattr_np pthread_getspecific
  pthread_is_threadsafe_np pthread_join pthread_key_create pthread_key_delete pthread_kill
  pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_trylock
  pthread_mutex_unlock pthread_mutexattr_destroy pthread_mutexattr_init pthread_mutexattr_settype
  pthread_once pthread_rwlock_destroy pthread_rwlock_init pthread_rwlock_rdlock
  pthread_rwlock_unlock pthread_rwlock_wrlock pthread_self pthread_setcancelstate
  pthread_setspecific pthread_sigmask putc putc_unlocked putchar putenv puts qsort qsort_r
  quick_exit raise rand rand_r random rawmemchr readdir readdir64 realloc reallocarray
  realpath recv recvfrom recvmsg regcomp regexec regfree rewind rewinddir rint rintf round
  roundf scalbn sched_getaffinity sched_setaffinity sched_yield secure_getenv seekdir select
  sem_close sem_destroy sem_getvalue sem_init sem_open sem_post sem_timedwait sem_trywait
  sem_unlink sem_wait semctl semget semop semtimedop send sendmsg sendto setbuf setegid setenv
  seteuid setgid setgroups setitimer setjmp setlocale setlogmask setmntent setpgid setpgrp
  setpriority setrlimit setrlimit64 setsid setsockopt setuid setvbuf shm_open shm_unlink shmat
  shmctl shmdt shmget shutdown sigaction sigaddset sigaltstack sigdelset sigemptyset sigfillset
  sigismember siglongjmp signal signalfd signbit sigpending sigprocmask sigsetjmp sigsuspend
  sigtimedwait sigwait sigwaitinfo sin sincos sinf sinh sleep snprintf socket socketpair sprintf
  sqrt sqrtf srand srand48 srandom sscanf statfs statfs64 statvfs statvfs64 stderr stdin stdout
  stpcpy stpncpy strcasecmp strcasecmp_l strcasestr strcat strchr strchrnul strcmp strcoll
  strcoll_l strcpy strcspn strdup strerror strerror_l strerror_r strftime strftime_l strlcat
  strlcpy strlen strncasecmp strncat strncmp strncpy strndup strnlen strpbrk strrchr strsep
  strsignal strspn strstr strtod strtof strtoimax strtok strtok_r strtol strtold strtoll strtoul
  strtoull strtoumax strverscmp strxfrm strxfrm_l sysconf sysinfo syslog system tan tanf
  tanh tcgetattr tcsetattr telldir textdomain tgamma time timegm timer_create timer_delete
  timer_settime tmpfile tolower tolower_l toupper toupper_l towctrans towlower towlower_l towupper
  towupper_l trunc truncf tsearch ttyname tzset ualarm umask uname ungetc unsetenv uselocale
  usleep utime utimensat utimes valloc vfork vfprintf vprintf vsnprintf vsprintf vsyslog vwarn
  wait wait3 wait4 waitid waitpid warn warnx wcrtomb wcscat wcschr wcscmp wcscoll wcscoll_l wcscpy
  wcslen wcsncmp wcsncpy wcsrtombs wcstombs wcstombs_l wcsxfrm wcsxfrm_l wctob wctomb wctrans
  wctype wcwidth wmemcpy wmemset
`);

/** File I/O that the shim does not know, wherever it is imported from. */
export const REFUSED_IMPORTS = names(`
  __fxstatat __fxstatat64 __openat64_2 __openat_2 aio_fsync aio_read aio_read64 aio_write
  aio_write64 close_range closefrom dup3 eaccess euidaccess faccessat fallocate fallocate64
  fdopendir fstatat fstatat64 fts_open ftw io_getevents io_setup io_submit lio_listio lio_listio64
  mkdirat msync name_to_handle_at nftw nftw64 open_by_handle_at openat openat64 preadv2 preadv64v2
  pwritev2 pwritev64v2 readv remove renameat renameat2 scandir scandir64 sendfile sendfile64
  splice statx syscall tee unlinkat vmsplice writev
`);

/*
 * name_churn.c: makes and removes files and directories without end under the shim, with an agent that has none of them.
 *
 * usage: name_churn NAMES PROCESSES; exit code 0, or 1 with a line on stderr. Each name is made, opened again, and
 * removed; with each 300 of them, as a database has, goes a directory, which is made, listed and removed. Prints how much
 * shared memory the first of the processes has touched in the end, in kB: of the shim's tables.
 *
 * The agent is a thread of the first process, so that a name costs microseconds: the shim's side alone is looked at.
 */
#define _GNU_SOURCE
#include "library/protocol.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES_OF_DATABASE 300

__attribute__((noreturn)) static void fail(const char *what, const char *name) {
  fprintf(stderr, "name_churn: %s %s (errno %d)\n", what, name, errno);
  _exit(1);
}

/* Answers one process: hello, and to all else that storage does not have it. */
static void *answer(void *argument) {
  int socket = (int)(intptr_t)argument;
  struct wire_request request;
  while (recv(socket, &request, sizeof request, MSG_WAITALL) == sizeof request) {
    struct wire_reply reply = {
        .length = sizeof reply,
        .type = request.type,
        .status = request.type == 'S' ? STATUS_ABSENT : STATUS_OK,
    };
    if (send(socket, &reply, sizeof reply, MSG_NOSIGNAL) != sizeof reply) {
      break;
    }
  }
  return NULL;
}

static void *listen_for_ever(void *argument) {
  int listener = (int)(intptr_t)argument;
  for (;;) {
    int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    pthread_t thread;
    if (socket < 0 || pthread_create(&thread, NULL, answer, (void *)(intptr_t)socket) != 0) {
      fail("accept", "");
    }
    pthread_detach(thread);
  }
  return NULL;
}

static void begin_agent(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pthread_t thread;
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0 ||
      pthread_create(&thread, NULL, listen_for_ever, (void *)(intptr_t)listener) != 0) {
    fail("agent at", path);
  }
}

static void churn_file(const char *name) {
  int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0 || close(fd) != 0) {
    fail("cannot make", name);
  }
  fd = open(name, O_RDWR);
  if (fd < 0 || close(fd) != 0) {
    fail("cannot open", name);
  }
  if (unlink(name) != 0 || open(name, O_RDONLY) >= 0 || errno != ENOENT) {
    fail("cannot remove", name);
  }
}

static void churn_directory(long number) {
  char name[64];
  sprintf(name, "base/%ld", number);
  if (mkdir(name, 0700) != 0) {
    fail("cannot make", name);
  }
  DIR *listed = opendir(name);
  if (listed == NULL || closedir(listed) != 0 || rmdir(name) != 0) {
    fail("cannot remove", name);
  }
}

static void churn(long from, long names) {
  char name[64];
  for (long i = from; i < from + names; i++) {
    sprintf(name, "base/5/%ld", 20000 + i);
    churn_file(name);
    if (i % NAMES_OF_DATABASE == 0) {
      churn_directory(20000 + i);
    }
  }
}

static void print_shared(void) {
  char line[256];
  FILE *status = fopen("/proc/self/status", "r");
  long kilobytes = -1;
  while (status != NULL && fgets(line, sizeof line, status) != NULL) {
    sscanf(line, "RssShmem: %ld", &kilobytes);
  }
  printf("%ld\n", kilobytes);
}

int main(int argc, char **argv) {
  if (argc != 3 || chdir(getenv("STRATA_SHIM_DATA_DIR")) != 0) {
    return 2;
  }
  long names = atol(argv[1]);
  int processes = atoi(argv[2]), status;
  long share = names / processes;
  begin_agent(getenv("STRATA_SHIM_SOCKET"));
  for (int i = 0; i < processes; i++) {
    if (fork() == 0) {
      churn(i * share, share);
      if (i == 0) {
        print_shared();
        fflush(stdout);
      }
      _exit(0);
    }
  }
  for (int i = 0; i < processes; i++) {
    if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      return 1;
    }
  }
  return 0;
}

/* agent.c: questions to the compute agent and its answers. */
#include "shim.h"

#include <sys/time.h>

static PER_PROCESS int agent_fd = -1;
PER_PROCESS bool talking;
PER_PROCESS u8 pages[MAX_PAGES * BLOCK];

void disconnect(void) {
  if (agent_fd >= 0) {
    sys_close(agent_fd);
  }
  agent_fd = -1;
}

static bool try_connect(void) {
  if (agent_fd >= 0) {
    return true;
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return false;
  }
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
  /* With them a signal ends recv() and send() in spite of SA_RESTART, and one that came before is noticed. */
  struct timeval turn = {0, 100 * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &turn, sizeof turn);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &turn, sizeof turn);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    sys_close(fd);
    return false;
  }
  agent_fd = fd;
  return true;
}

/* What became of sending or receiving. */
enum { DONE, BROKEN, INTERRUPTED };

/* After a send() or recv() that did nothing: go on, or how it ended. */
static int next_turn(u64 *since) {
  if (errno != EINTR && errno != EAGAIN) {
    return BROKEN;
  }
  return interrupted(since) ? INTERRUPTED : DONE;
}

static int send_all(const void *data, size_t n, u64 *since) {
  const u8 *at = data;
  while (n > 0) {
    ssize_t sent = send(agent_fd, at, n, MSG_NOSIGNAL);
    if (sent <= 0) {
      int turn = sent < 0 ? next_turn(since) : BROKEN;
      if (turn != DONE) {
        return turn;
      }
      continue;
    }
    at += sent;
    n -= (size_t)sent;
  }
  return DONE;
}

static int receive_all(void *data, size_t n, u64 *since) {
  u8 *at = data;
  while (n > 0) {
    ssize_t got = recv(agent_fd, at, n, MSG_WAITALL);
    if (got <= 0) {
      int turn = got < 0 ? next_turn(since) : BROKEN;
      if (turn != DONE) {
        return turn;
      }
      continue;
    }
    at += got;
    n -= (size_t)got;
  }
  return DONE;
}

/* The numbers that the agent knows a file by. */
static void put_key(struct wire_request *to, const struct key *key) {
  bool slru = key->kind == KIND_DIR ? key->db == UINT32_MAX : key->kind != KIND_REL;
  if (slru) {
    to->kind = WIRE_SLRU;
    to->rel_number = (key->kind == KIND_DIR ? key->rel : key->kind) - KIND_XACT;
    to->segment = key->kind == KIND_DIR ? 0 : key->rel;
    return;
  }
  to->kind = WIRE_RELATION;
  to->spc_oid = key->spc != 0 ? key->spc : key->db == 0 ? GLOBAL_TABLESPACE : DEFAULT_TABLESPACE;
  to->db_oid = key->db;
  to->rel_number = key->rel;
  to->fork = (u8)(key->forkseg >> 29);
  to->segment = key->forkseg & SEGMENT_MASK;
}

static struct wire_request as_request(struct question question) {
  struct wire_request request = {
      .length = sizeof request,
      .type = question.type,
      .version = PROTOCOL_VERSION,
      .a = question.a,
      .b = question.b,
      .c = question.c,
  };
  if (question.key != NULL) {
    put_key(&request, question.key);
  }
  return request;
}

static int send_question(struct question question, u64 *since) {
  struct wire_request request = as_request(question);
  return send_all(&request, sizeof request, since);
}

/* Ends us over an answer that cannot be right, naming what was asked. */
__attribute__((noreturn)) static void refuse_reply(const char *why, struct question question) {
  char name[MAX_PATH] = {(char)question.type, 0};
  if (question.key != NULL && question.key->kind != KIND_DIR) {
    format_path(question.key, name);
  }
  die(why, name);
}

/*
 * Before a question or a message. Where another one is under way we are in a signal handler that has interrupted it and is
 * about to end the process: what is unread of its answer would be taken for ours, such as a page's bytes for a quorum.
 */
static void begin_talk(void) {
  if (talking) {
    disconnect();
  }
  talking = true;
}

/*
 * Sends what has no reply. A message lost to a dead agent, or to an interrupt, is lost: P is a hint and F
 * repeats what W said.
 */
void notify(struct question question) { notify_all(&question, 1); }

/* The same of up to MAX_NOTIFIED together. */
void notify_all(const struct question *questions, u32 count) {
  struct wire_request requests[MAX_NOTIFIED];
  int saved = errno;
  u64 since = 0;
  for (u32 i = 0; i < count; i++) {
    requests[i] = as_request(questions[i]);
  }
  begin_talk();
  if (count > 0 && try_connect() && send_all(requests, count * sizeof *requests, &since) != DONE) {
    disconnect();
  }
  talking = false;
  errno = saved;
}

/* One question and its answer, which goes where ask() says. Anything but DONE leaves the connection useless. */
static int converse(struct question question, void *into, size_t room, void **big, struct wire_reply *reply,
                    u64 *since) {
  int result = send_question(question, since);
  if (result == DONE) {
    result = receive_all(reply, sizeof *reply, since);
  }
  if (result != DONE) {
    return result;
  }
  if (reply->length < sizeof *reply || reply->type != question.type || reply->status > STATUS_FENCED) {
    refuse_reply("the agent's reply makes no sense for ", question);
  }
  size_t payload = reply->length - sizeof *reply;
  void *target = into;
  if (payload > room) {
    if (big == NULL) {
      refuse_reply("the agent's reply is too long for ", question);
    }
    target = *big = mmap(NULL, payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (target == MAP_FAILED) {
      refuse_reply("no memory for the answer about ", question);
    }
  }
  result = receive_all(target, payload, since);
  if (result != DONE && target != into) {
    munmap(target, payload);
    /* The next try's answer may fit in `room`. */
    *big = NULL;
  }
  return result;
}

/*
 * Asks until there is an answer: when the agent goes away, connects and asks again (all requests may be
 * repeated). The payload goes to `into` when it fits in `room`, else into a fresh mapping at *big.
 * -1 with errno when interrupted: the connection is closed, so that no later question gets this answer.
 */
int ask(struct question question, void *into, size_t room, void **big, struct wire_reply *reply) {
  int saved = errno;
  u64 since = 0;
  begin_talk();
  for (int tries = 0;; tries++) {
    if (tries > 0) {
      pause_ms(tries < 20 ? 5 : 100);
      if (tries == 70) {
        say("waiting for the compute agent at ", socket_path);
      }
      if (interrupted(&since)) {
        break;
      }
    }
    if (!try_connect()) {
      continue;
    }
    int result = converse(question, into, room, big, reply, &since);
    if (result == DONE) {
      talking = false;
      errno = saved;
      return 0;
    }
    disconnect();
    if (result == INTERRUPTED) {
      break;
    }
  }
  talking = false;
  return give_up();
}

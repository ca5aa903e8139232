/*
 * announce.c: reads that Postgres announces, told to the agent some at a time.
 *
 * A bitmap scan announces one page for each that it reads. Told one by one, each is a message here, in the agent and at the pageserver.
 * While the scan is far enough ahead of its reads some are held back, so that they travel and are answered together. All of it are
 * hints, of this process alone.
 */
#include "shim.h"

/* As many announcements are told together, once as many are told of that have not been read. */
#define TOGETHER MAX_NOTIFIED

static PER_PROCESS struct question held[TOGETHER];
static PER_PROCESS u32 held_count;
static PER_PROCESS u32 ahead; /* announcements of `scanned` that were told, less the fetches since then */
static PER_PROCESS const struct file *scanned; /* whose blocks were announced last */

static void tell(void) {
  ahead += held_count;
  notify_all(held, held_count);
  held_count = 0;
}

/* Postgres will read `count` blocks from `from` on, which are not here. */
void announce(const struct file *file, u32 from, u32 count) {
  if (file != scanned) {
    tell();
    scanned = file;
    ahead = 0;
  }
  held[held_count++] = (struct question){'P', &file->key, 0, from, count};
  if (ahead < TOGETHER || held_count == TOGETHER) {
    tell();
  }
}

/* `count` blocks from `from` on are about to be asked for. */
void before_fetch(const struct file *file, u32 from, u32 count) {
  if (file != scanned) {
    return;
  }
  u32 kept = 0;
  for (u32 i = 0; i < held_count; i++) {
    if (held[i].b < from || held[i].b >= from + count) {
      held[kept++] = held[i];
    }
  }
  held_count = kept;
  ahead -= ahead > 0;
  if (ahead < TOGETHER) {
    tell();
  }
}

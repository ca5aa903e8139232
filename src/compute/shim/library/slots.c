/*
 * slots.c: the shared table of the paths that storage has, the lock of each, and a cache of those that it does not have.
 *
 * A path gets a slot when storage has it, and keeps it: there are as many as storage has files and directories. What this
 * compute makes and removes, without end, is at most in the cache. (One of its directories takes a slot where the cache has
 * forgotten it by the time that it is listed or removed.)
 */
#include "shim.h"

void *arena_take(u64 bytes) {
  u64 end = add(&region->arena_next, (bytes + 63) & ~63ull);
  if (end > arena_size) {
    die("out of room for block states", "");
  }
  return arena + end - ((bytes + 63) & ~63ull);
}

/* Forks and neighbouring file numbers land side by side, so that few pages of a table are ever touched. */
static u32 place(const struct key *key) {
  u32 segment = key->forkseg & SEGMENT_MASK, fork = key->forkseg >> 29;
  return key->rel * 4 + fork + segment * 0x9e3779b1u + key->db * 0x85ebca6bu + key->kind * 0xc2b2ae35u +
         key->spc * 0x27d4eb2fu;
}

static u8 *group_of(const struct slot *slot) { return &region->slot_groups[(slot - region->slots) / SLOT_GROUP]; }

/*
 * Open addressing; slots are never freed. The key's slot, else the first free one; NULL where there is none. Shared memory
 * is allotted when it is first read, too: without the look at the group, names that nobody has would take all of the table.
 */
static struct slot *probe_slots(const struct key *key, u32 *state) {
  u32 at = place(key);
  for (u32 probe = 0; probe < SLOTS; probe++, at++) {
    struct slot *slot = &region->slots[at & (SLOTS - 1)];
    if (load(group_of(slot)) == 0) {
      *state = SLOT_EMPTY;
      return slot;
    }
    while ((*state = load(&slot->state)) == SLOT_CLAIMED) {
      syscall(SYS_sched_yield);
    }
    if (*state == SLOT_EMPTY || memcmp(&slot->key, key, sizeof *key) == 0) {
      return slot;
    }
  }
  return NULL;
}

/* The slot of a path; NULL where nobody has made one. */
struct slot *known_slot(const struct key *key) {
  u32 state;
  struct slot *slot = probe_slots(key, &state);
  return slot == NULL || state == SLOT_EMPTY ? NULL : slot;
}

/* The slot of a path, made when there is none. */
struct slot *find_slot(const struct key *key) {
  sigset_t signals;
  u32 state;
  for (;;) {
    struct slot *slot = probe_slots(key, &state);
    if (slot == NULL) {
      die("out of room for file names", "");
    }
    if (state != SLOT_EMPTY) {
      return slot;
    }
    store(group_of(slot), 1);
    /* A handler that ends us between the two would have everybody who comes by this slot wait for ever. */
    hold_signals(&signals);
    bool claimed = swap_if(&slot->state, SLOT_EMPTY, SLOT_CLAIMED);
    if (claimed) {
      slot->key = *key;
      store(&slot->state, SLOT_NEW);
    }
    release_signals(&signals);
    if (claimed) {
      return slot;
    }
  }
}

_Static_assert(sizeof(struct key) % sizeof(u32) == 0, "a key is copied in words");
#define KEY_WORDS (sizeof(struct key) / sizeof(u32))

static struct absent_path *absent_path(const struct key *key) {
  return &region->absent_paths[place(key) & (ABSENT_PATHS - 1)];
}

/* Whether storage is known not to have the path; false where that was forgotten. */
bool is_absent(const struct key *key) {
  struct absent_path *path = absent_path(key);
  u32 version = load(&path->version);
  const u32 *wanted = (const u32 *)key, *words = (const u32 *)&path->key;
  for (u32 i = 0; i < KEY_WORDS; i++) {
    if (load(&words[i]) != wanted[i]) {
      return false;
    }
  }
  return version % 2 == 0 && load(&path->version) == version;
}

/* In place of what was there. Whoever ends in the middle leaves a place that nobody uses again. */
void note_absent(const struct key *key) {
  struct absent_path *path = absent_path(key);
  u32 version = load(&path->version);
  if (version % 2 != 0 || !swap_if(&path->version, version, version + 1)) {
    return;
  }
  const u32 *from = (const u32 *)key;
  u32 *words = (u32 *)&path->key;
  for (u32 i = 0; i < KEY_WORDS; i++) {
    store(&words[i], from[i]);
  }
  store(&path->version, version + 2);
}

void settle(struct slot *slot, u32 state) {
  store(&slot->state, state);
  wake_word(&slot->state);
}

/* The state of a path when nobody works on it; SLOT_EMPTY with errno when interrupted. */
u32 settled_state(struct slot *slot) {
  u64 since = 0;
  u32 state;
  while ((state = load(&slot->state)) == SLOT_RESOLVING) {
    if (interrupted(&since)) {
      give_up();
      return SLOT_EMPTY;
    }
    wait_word(&slot->state, state);
  }
  return state;
}

/* RESOLVING instead of `from`; false where another one was faster. */
bool try_lock_slot(struct slot *slot, u32 from) {
  sigset_t signals;
  hold_signals(&signals);
  bool locked = swap_if(&slot->state, from, SLOT_RESOLVING);
  if (locked) {
    held_slots[held_slot_count].slot = slot;
    held_slots[held_slot_count++].was = from;
  }
  release_signals(&signals);
  return locked;
}

/*
 * Takes the lock of a path: returns the state it had, which is now RESOLVING; SLOT_EMPTY with errno when
 * interrupted.
 */
u32 lock_slot(struct slot *slot) {
  for (;;) {
    u32 state = settled_state(slot);
    if (state == SLOT_EMPTY || try_lock_slot(slot, state)) {
      return state;
    }
  }
}

/* Ends the lock that was taken last. */
void unlock_slot(u32 state) {
  sigset_t signals;
  hold_signals(&signals);
  held_slot_count--;
  settle(held_slots[held_slot_count].slot, state);
  release_signals(&signals);
}

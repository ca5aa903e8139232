/* slots.c: the shared table of paths, and the lock of each. */
#include "shim.h"

void *arena_take(u64 bytes) {
  u64 end = add(&region->arena_next, (bytes + 63) & ~63ull);
  if (end > arena_size) {
    die("out of room for block states", "");
  }
  return arena + end - ((bytes + 63) & ~63ull);
}

/*
 * The slot of a path, made when there is none. Open addressing; slots are never freed. Forks and
 * neighbouring file numbers land side by side, so that few pages of the table are ever touched.
 */
struct slot *find_slot(const struct key *key) {
  u32 segment = key->forkseg & SEGMENT_MASK, fork = key->forkseg >> 29;
  u32 at = key->rel * 4 + fork + segment * 0x9e3779b1u + key->db * 0x85ebca6bu + key->kind * 0xc2b2ae35u;
  for (u32 probe = 0; probe < SLOTS; probe++, at++) {
    struct slot *slot = &region->slots[at & (SLOTS - 1)];
    u32 state = load(&slot->state);
    if (state == SLOT_EMPTY && swap_if(&slot->state, SLOT_EMPTY, SLOT_CLAIMED)) {
      slot->key = *key;
      store(&slot->state, SLOT_NEW);
      return slot;
    }
    while ((state = load(&slot->state)) == SLOT_CLAIMED) {
      syscall(SYS_sched_yield);
    }
    if (memcmp(&slot->key, key, sizeof *key) == 0) {
      return slot;
    }
  }
  die("out of room for file names", "");
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

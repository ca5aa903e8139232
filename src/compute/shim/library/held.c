/* held.c: what this process has claimed of blocks and paths, to be given back however it ends. */
#include "shim.h"

/*
 * Kept so that a claim does not outlive its process. A claim and its note are made with signals held, so
 * that exactly what is noted is ours.
 */
PER_PROCESS struct held_blocks held_blocks;
/* A path that is being resolved, perhaps for the listing of its directory, which is the first then. */
PER_PROCESS struct held_slot held_slots[2];
PER_PROCESS u32 held_slot_count;
PER_PROCESS u32 abandoned;

void blocks_changed(struct file *file) {
  add(&file->changes, 1);
  if (load(&file->waiters) > 0) {
    wake_word(&file->changes);
  }
}

void give_back_blocks(void) {
  struct file *file = held_blocks.file;
  if (file == NULL) {
    return;
  }
  for (u32 block = held_blocks.from; block < held_blocks.to; block++) {
    if (swap_if(state_of(file, block), held_blocks.state, held_blocks.before) || held_blocks.state != WRITING) {
      continue;
    }
    if (block < held_blocks.from_cut) {
      swap_if(state_of(file, block), REWRITING, PRESENT);
    } else if (swap_if(state_of(file, block), REWRITING, CUT)) {
      /* Was to be added: what is not there does not count, and would never go. */
      count_blocks(file, 0, -1);
    }
  }
  held_blocks.file = NULL;
  blocks_changed(file);
}

void give_back_all(void) {
  give_back_blocks();
  while (held_slot_count > 0) {
    held_slot_count--;
    settle(held_slots[held_slot_count].slot, held_slots[held_slot_count].was);
  }
}

/*
 * At the begin of what may wait. When something is held already we are in a signal handler that has
 * interrupted a wait and is about to end the process; the wait never goes on.
 */
void begin_wait(u32 expected_slots) {
  expect_no_error();
  if (talking || held_blocks.file != NULL || held_slot_count > expected_slots) {
    disconnect();
    give_back_all();
    talking = waits_must_end_well = reads_relation = false;
    abandoned++;
  }
}

/* After it, on the way out. */
void end_wait(u32 abandoned_before) {
  if (abandoned != abandoned_before) {
    die("file access from a signal handler that returned", "");
  }
}

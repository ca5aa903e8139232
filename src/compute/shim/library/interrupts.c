/* interrupts.c: when to stop waiting, because Postgres wants this process to do something else. */
#include "shim.h"

/*
 * Postgres's own variables and functions, as it has them for extensions: the same in 14 to 18, but where
 * a comment says otherwise. Absent in other programs.
 */
#define POSTGRES __attribute__((weak))
struct context_callback {
  struct context_callback *previous;
  void (*callback)(void *);
  void *argument;
};
extern bool InRecovery POSTGRES; /* true only in the process that replays WAL */
extern bool proc_exit_inprogress POSTGRES;
extern volatile sig_atomic_t InterruptPending POSTGRES, QueryCancelPending POSTGRES, ProcDiePending POSTGRES;
extern volatile sig_atomic_t CheckClientConnectionPending POSTGRES, ClientConnectionLost POSTGRES;
extern volatile sig_atomic_t TransactionTimeoutPending POSTGRES; /* from 17 on */
extern volatile sig_atomic_t ShutdownRequestPending POSTGRES;
extern volatile u32 InterruptHoldoffCount POSTGRES, QueryCancelHoldoffCount POSTGRES, CritSectionCount POSTGRES;
extern int client_connection_check_interval POSTGRES, MyBackendType POSTGRES;
extern struct context_callback *error_context_stack POSTGRES;
extern void ProcessInterrupts(void) POSTGRES;
extern bool IsTransactionState(void) POSTGRES;
extern bool pq_check_connection(void) POSTGRES;
extern int geterrcode(void) POSTGRES;
extern const char *GetBackendTypeDesc(int) POSTGRES;
extern void pgaio_io_perform_synchronously(void *) POSTGRES; /* from 18 on */


/*
 * A wait for the agent, or for a process that waits for it, ends when Postgres wants this process to do
 * something else: the read, open or stat fails with ECANCELED, as it could fail with EIO, and Postgres
 * raises an error. While it does, act_on_interrupt() lets it look at its interrupts first, so that the
 * client hears what CHECK_FOR_INTERRUPTS() would have said, with its SQLSTATE.
 * docs/decisions, "Reads that wait can be cancelled", says why not otherwise.
 */

/* A process that is ending still reads, for example to drop its temporary tables: it need not succeed. */
#define EXIT_PATIENCE_MS 500
/* MAKE_SQLSTATE('X', 'X', '0', '0', '0'): what errcode_for_file_access() makes of ECANCELED. */
#define ERRCODE_INTERNAL_ERROR 2600

PER_PROCESS bool waits_must_end_well; /* nobody would handle a failure: see unlink() */
PER_PROCESS bool reads_relation;      /* the call is a read of a relation's file */
static PER_PROCESS bool gave_up; /* and Postgres has not raised its error yet */

/*
 * Whether an error raised now would be a plain error. In a critical section it would be a panic, during
 * commit and abort worse, and processes without transactions (checkpointer, startup) have work that must
 * be done. From 18 on every synchronous read of a relation is in a critical section of its own, outside
 * of which its error is raised.
 */
static bool may_fail(void) {
  u32 own = reads_relation && pgaio_io_perform_synchronously != NULL ? 1 : 0;
  return !waits_must_end_well && CritSectionCount <= own && IsTransactionState();
}

/* ProcessInterrupts() would look once and arm its timer again; until then we look at each turn. */
static bool client_is_gone(void) {
  return ClientConnectionLost || (CheckClientConnectionPending && client_connection_check_interval > 0 &&
                                  !pq_check_connection());
}

/* SIGTERM is no interrupt to it, and nobody needs what it reads. */
static bool is_launcher_that_stops(void) {
  return ShutdownRequestPending && strcmp(GetBackendTypeDesc(MyBackendType), "autovacuum launcher") == 0;
}

/* Whether to end a wait. `since` is 0 at its begin and ours from then on. */
bool interrupted(u64 *since) {
  /* All of them or none: other programs than Postgres wait for ever. */
  if (ProcessInterrupts == NULL || IsTransactionState == NULL || !may_fail()) {
    return false;
  }
  if (proc_exit_inprogress) {
    *since = *since == 0 ? clock_ms() : *since;
    return clock_ms() - *since >= EXIT_PATIENCE_MS;
  }
  return (InterruptPending &&
          (ProcDiePending || (QueryCancelPending && QueryCancelHoldoffCount == 0) ||
           (&TransactionTimeoutPending != NULL && TransactionTimeoutPending) || client_is_gone())) ||
         is_launcher_that_stops();
}

/* Called by errfinish() for each report, like the functions that add context to it. */
static void act_on_interrupt(void *argument) {
  (void)argument;
  if (!gave_up || CritSectionCount != 0 || geterrcode() != ERRCODE_INTERNAL_ERROR) {
    return;
  }
  gave_up = false;
  if (!proc_exit_inprogress) {
    /* As errfinish() is about to do for this error; locks that are held are released with it. */
    InterruptHoldoffCount = 0;
    ProcessInterrupts();
  }
}

/* The result of a call whose wait interrupted() has ended. */
int give_up(void) {
  static struct context_callback callback = {NULL, act_on_interrupt, NULL};
  struct context_callback *at = error_context_stack;
  while (at != NULL && at != &callback) {
    at = at->previous;
  }
  if (at == NULL) {
    /* Whoever put the one below there takes us off with it, as does whoever catches the error. */
    callback.previous = error_context_stack;
    error_context_stack = &callback;
  }
  gave_up = true;
  errno = ECANCELED;
  return -1;
}


/* A new call begins, so whatever was given up has been reported, or nobody cared. */
void expect_no_error(void) { gave_up = false; }

bool is_recovering(void) { return &InRecovery != NULL && InRecovery; }

/* procs.c - the process table. */
#include "shm/facts/procs.h"

#include "base/clock.h"
#include "shm/segment.h"

static_assert(PROC_COUNTERS == SB_PROC_COUNTERS, "new layout version");

const char *proc_state_name(enum proc_state state)
{
    switch (state) {
    case PROC_FREE:
        return "FREE";
    case PROC_STARTING:
        return "STARTING";
    case PROC_RUNNING:
        return "RUNNING";
    case PROC_DRAINING:
        return "DRAINING";
    }
    return "UNKNOWN";
}

unsigned procs_health_index(const struct scoreboard *board)
{
    return board->geometry.n_workers;
}

unsigned procs_master_index(const struct scoreboard *board)
{
    return board->geometry.n_workers + 1;
}

unsigned procs_rows(const struct scoreboard *board)
{
    return board->geometry.n_workers + 2;
}

static void store_state(struct sb_proc *proc, enum proc_state state)
{
    atomic_store_explicit(&proc->state, (uint32_t)state, memory_order_relaxed);
}

int procs_find_free(const struct scoreboard *board)
{
    for (uint32_t process = 0; process < board->geometry.n_workers; process++) {
        const struct sb_proc *proc = segment_proc(board, process);

        if (atomic_load_explicit(&proc->state, memory_order_relaxed) == PROC_FREE)
            return (int)process;
    }
    return -1;
}

void procs_assign(struct scoreboard *board, unsigned process, uint32_t generation, bool crashed)
{
    struct sb_proc *proc = segment_proc_rw(board, process);
    uint64_t now_mono_us = clock_mono_us();

    if (proc == NULL)
        return;
    for (unsigned c = 0; c < PROC_COUNTERS; c++)
        atomic_store_explicit(&proc->counter[c], 0, memory_order_relaxed);
    atomic_store_explicit(&proc->pid, 0, memory_order_relaxed);
    atomic_store_explicit(&proc->generation, generation, memory_order_relaxed);
    atomic_store_explicit(&proc->started_mono_us, now_mono_us, memory_order_relaxed);
    /* Counts as a sign of life, so that a starting process does not look stalled. */
    atomic_store_explicit(&proc->heartbeat_mono_us, now_mono_us, memory_order_relaxed);
    if (crashed)
        atomic_fetch_add_explicit(&proc->restarts, 1, memory_order_relaxed);
    if (process < board->geometry.n_workers)
        segment_use_column(board, process);
    store_state(proc, PROC_STARTING);
}

void procs_set_pid(struct scoreboard *board, unsigned process, pid_t pid)
{
    struct sb_proc *proc = segment_proc_rw(board, process);

    if (proc != NULL)
        atomic_store_explicit(&proc->pid, (uint32_t)pid, memory_order_relaxed);
}

void procs_clear(struct scoreboard *board, unsigned process)
{
    struct sb_proc *proc = segment_proc_rw(board, process);

    if (proc == NULL)
        return;
    atomic_store_explicit(&proc->counter[PROC_CONNECTIONS_OPEN], 0, memory_order_relaxed);
    atomic_store_explicit(&proc->pid, 0, memory_order_relaxed);
    store_state(proc, PROC_FREE);
}

void procs_set_state(struct scoreboard *board, unsigned process, enum proc_state state)
{
    struct sb_proc *proc = segment_proc_rw(board, process);

    if (proc != NULL)
        store_state(proc, state);
}

void procs_heartbeat(struct scoreboard *board, unsigned process, uint64_t now_mono_us)
{
    struct sb_proc *proc = segment_proc_rw(board, process);

    if (proc != NULL)
        atomic_store_explicit(&proc->heartbeat_mono_us, now_mono_us, memory_order_relaxed);
}

void procs_count(struct scoreboard *board, unsigned process, enum proc_counter which,
                 int64_t add)
{
    struct sb_proc *proc = segment_proc_rw(board, process);

    if (proc == NULL || (unsigned)which >= PROC_COUNTERS)
        return;
    atomic_fetch_add_explicit(&proc->counter[which], (uint64_t)add, memory_order_relaxed);
}

bool procs_ending(const struct scoreboard *board)
{
    struct proc_view view;

    return procs_read(board, procs_master_index(board), &view) && view.state == PROC_DRAINING;
}

bool procs_read(const struct scoreboard *board, unsigned process, struct proc_view *out)
{
    struct sb_proc *proc = segment_proc(board, process);
    uint32_t state;

    *out = (struct proc_view){0};
    if (proc == NULL)
        return false;
    state = atomic_load_explicit(&proc->state, memory_order_relaxed);
    out->state = state <= PROC_DRAINING ? (enum proc_state)state : PROC_FREE;
    out->pid = (pid_t)(atomic_load_explicit(&proc->pid, memory_order_relaxed) & INT32_MAX);
    out->generation = atomic_load_explicit(&proc->generation, memory_order_relaxed);
    out->started_mono_us = atomic_load_explicit(&proc->started_mono_us, memory_order_relaxed);
    out->heartbeat_mono_us =
        atomic_load_explicit(&proc->heartbeat_mono_us, memory_order_relaxed);
    for (unsigned c = 0; c < PROC_COUNTERS; c++)
        out->counter[c] = atomic_load_explicit(&proc->counter[c], memory_order_relaxed);
    out->restarts = atomic_load_explicit(&proc->restarts, memory_order_relaxed);
    return true;
}

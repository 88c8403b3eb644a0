/*
 * processes.h - which of Drover's processes are well, as seen from outside.
 *
 * Each writes a heartbeat to the scoreboard at every turn of its loop.  A process without a
 * recent heartbeat is stalled, whatever the reason; a process whose pid is gone is dead.
 */
#ifndef DROVER_DROVERCTL_PROCESSES_H
#define DROVER_DROVERCTL_PROCESSES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm/facts/procs.h"

struct buf;
struct scoreboard;

#define PROCESSES_STALLED_US UINT64_C(2000000) /* silence after which a process is stalled */

enum process_health {
    PROCESS_ABSENT = 0, /* the row is free */
    PROCESS_WELL,
    PROCESS_STALLED,
    PROCESS_DEAD, /* its pid is gone and its row is not cleared yet */
};

/* Pure: `pid_exists` is what the kernel says of view->pid.  A master without a heartbeat
 * since its start does not count as stalled. */
enum process_health processes_judge(const struct proc_view *view, bool is_master,
                                    bool pid_exists, uint64_t now_mono_us);

bool processes_pid_exists(pid_t pid); /* asks the kernel; true for 0, "not known" */

struct processes {
    unsigned workers; /* rows that are not free */
    unsigned well;    /* of them: running and well */
    unsigned draining, starting, stalled, dead;
    enum process_health health, master;
    pid_t health_pid, master_pid;
    uint64_t master_started_mono_us;
    uint32_t generation, wanted; /* of the config */
    uint64_t silent_us;          /* longest silence of a stalled worker */
};

void processes_survey(struct processes *out, const struct scoreboard *board,
                      uint64_t now_mono_us);

/* Appends a sentence for each thing that is wrong, each ending in a newline. */
void processes_warn(struct buf *out, const struct processes *processes);

#endif

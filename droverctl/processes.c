/* processes.c - which of Drover's processes are well. */
#include "droverctl/processes.h"

#include <errno.h>
#include <signal.h>

#include "base/text/buf.h"
#include "droverctl/format/text.h"
#include "shm/scoreboard.h"

bool processes_pid_exists(pid_t pid)
{
    return pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH;
}

enum process_health processes_judge(const struct proc_view *view, bool is_master,
                                    bool pid_exists, uint64_t now_mono_us)
{
    uint64_t beat_mono_us = view->heartbeat_mono_us;

    if (view->state == PROC_FREE)
        return PROCESS_ABSENT;
    if (!pid_exists)
        return PROCESS_DEAD;
    if (is_master && beat_mono_us == view->started_mono_us)
        return PROCESS_WELL;
    if (now_mono_us > beat_mono_us && now_mono_us - beat_mono_us > PROCESSES_STALLED_US)
        return PROCESS_STALLED;
    return PROCESS_WELL;
}

static void count_worker(struct processes *out, const struct proc_view *view,
                         enum process_health health, uint64_t now_mono_us)
{
    if (health == PROCESS_ABSENT)
        return;
    out->workers++;
    if (health == PROCESS_DEAD) {
        out->dead++;
    } else if (health == PROCESS_STALLED) {
        uint64_t silent_us = now_mono_us - view->heartbeat_mono_us;

        out->stalled++;
        if (silent_us > out->silent_us)
            out->silent_us = silent_us;
    } else {
        out->well += view->state == PROC_RUNNING;
        out->draining += view->state == PROC_DRAINING;
        out->starting += view->state == PROC_STARTING;
    }
}

void processes_survey(struct processes *out, const struct scoreboard *board,
                      uint64_t now_mono_us)
{
    *out = (struct processes){0};
    scoreboard_config(board, &out->generation, &out->wanted);
    for (unsigned process = 0; process < procs_rows(board); process++) {
        bool is_master = process == procs_master_index(board);
        struct proc_view view;
        enum process_health health;

        if (!procs_read(board, process, &view))
            continue;
        health = processes_judge(&view, is_master, processes_pid_exists(view.pid), now_mono_us);
        if (is_master) {
            out->master = health;
            out->master_pid = view.pid;
            out->master_started_mono_us = view.started_mono_us;
        } else if (process == procs_health_index(board)) {
            out->health = health;
            out->health_pid = view.pid;
        } else {
            count_worker(out, &view, health, now_mono_us);
        }
    }
}

void processes_warn(struct buf *out, const struct processes *p)
{
    char text[TEXT_SHORT_BYTES];

    if (p->master == PROCESS_DEAD) {
        buf_printf(out, "the master (pid %d) is not running; these are its last figures\n",
                   (int)p->master_pid);
        return; /* the rest follows from it */
    }
    if (p->master == PROCESS_STALLED)
        buf_printf(out, "the master (pid %d) is stalled: it gives no sign of life\n",
                   (int)p->master_pid);
    if (p->stalled != 0 && p->stalled == p->workers)
        buf_printf(out, "every worker is stalled (%u of %u), for %s: no request is served\n",
                   p->stalled, p->workers, text_duration(text, p->silent_us));
    else if (p->stalled != 0)
        buf_printf(out, "%u of %u workers stalled, for up to %s\n", p->stalled, p->workers,
                   text_duration(text, p->silent_us));
    if (p->dead != 0)
        buf_printf(out, "%u of %u workers dead, not yet replaced by the master\n", p->dead,
                   p->workers);
    if (p->workers == 0)
        buf_str(out, "no worker is running: no request is served\n");
    if (p->health == PROCESS_STALLED)
        buf_printf(out, "the health process (pid %d) is stalled: node states are old\n",
                   (int)p->health_pid);
    else if (p->health == PROCESS_DEAD || p->health == PROCESS_ABSENT)
        buf_str(out, "the health process is not running: node states are old\n");
}

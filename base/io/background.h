/*
 * background.h - long work, of which each turn of a loop does a little.
 *
 * A task is called once in a turn, in which nothing else waits long, until it is stopped.  The
 * tasks of a `struct background` come one after the other, in the order in which they began:
 * one call in a turn for all of them together.
 */
#ifndef DROVER_BASE_BACKGROUND_H
#define DROVER_BASE_BACKGROUND_H

#include <stdbool.h>
#include <sys/queue.h>

#include "base/io/loop.h"

/* Zeroed = idle. */
struct background_task {
    void (*go_on)(struct background_task *task);
    TAILQ_ENTRY(background_task) link; /* in background->tasks iff begun */
    bool begun;
};

struct background {
    struct loop *loop; /* borrowed */
    struct timer timer;
    TAILQ_HEAD(, background_task) tasks;
};

void background_init(struct background *background, struct loop *loop);
/* No task is left. */
void background_finish(struct background *background);

/* `go_on` is called from the next turn on, never from in here; it may stop or free any task,
 * its own included.  The task is idle before. */
void background_begin(struct background *background, struct background_task *task,
                      void (*go_on)(struct background_task *task));
/* Stopping an idle one is fine. */
void background_stop(struct background *background, struct background_task *task);

#endif

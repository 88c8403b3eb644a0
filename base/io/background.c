/* background.c - long work, of which each turn of a loop does a little. */
#include "base/io/background.h"

#include <assert.h>

void background_init(struct background *background, struct loop *loop)
{
    *background = (struct background){.loop = loop};
    TAILQ_INIT(&background->tasks);
}

void background_finish(struct background *background)
{
    assert(TAILQ_EMPTY(&background->tasks));
    timer_stop(background->loop, &background->timer);
}

static void on_turn(struct timer *timer)
{
    struct background *background = CONTAINER_OF(timer, struct background, timer);
    struct background_task *task = TAILQ_FIRST(&background->tasks);

    if (task == NULL)
        return;
    /* Without any delay it might run in this very turn. */
    timer_start(background->loop, timer, 1, on_turn);
    task->go_on(task);
}

void background_begin(struct background *background, struct background_task *task,
                      void (*go_on)(struct background_task *task))
{
    assert(!task->begun);
    task->go_on = go_on;
    task->begun = true;
    TAILQ_INSERT_TAIL(&background->tasks, task, link);
    if (!timer_running(&background->timer))
        timer_start(background->loop, &background->timer, 0, on_turn);
}

void background_stop(struct background *background, struct background_task *task)
{
    if (!task->begun)
        return;
    task->begun = false;
    TAILQ_REMOVE(&background->tasks, task, link);
}

/* test_background.c - a little of long work in each turn. */
#include <criterion/criterion.h>

#include "base/attrs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/io/background.h"

static struct loop loop;
static struct background background;

static void init(void)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0, "%s", err.text);
    background_init(&background, &loop);
}

static void fini(void)
{
    background_finish(&background);
    loop_finish(&loop);
}

TestSuite(background, .init = init, .fini = fini, .timeout = 15);

struct work {
    struct background_task task;
    unsigned done, all;
};

static unsigned calls;

static void on_task(struct background_task *task)
{
    struct work *work = CONTAINER_OF(task, struct work, task);

    calls++;
    if (++work->done == work->all)
        background_stop(&background, task);
}

Test(background, a_turn_does_one_piece_and_the_first_work_comes_first)
{
    struct work first = {.all = 3}, second = {.all = 2}, stopped = {.all = 9};
    unsigned before;

    background_begin(&background, &first.task, on_task);
    background_begin(&background, &stopped.task, on_task);
    background_begin(&background, &second.task, on_task);
    cr_assert_eq(calls, 0, "not from inside");
    background_stop(&background, &stopped.task);
    background_stop(&background, &stopped.task);
    while (first.done < 3) {
        before = calls;
        loop_turn(&loop, US_PER_S);
        cr_assert_leq(calls, before + 1);
        cr_assert_eq(second.done, 0);
    }
    while (second.done < 2)
        loop_turn(&loop, US_PER_S);
    cr_assert_eq(stopped.done, 0);
    cr_assert_eq(calls, 5);
}

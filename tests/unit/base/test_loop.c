/* test_loop.c - what is due makes a turn short, and nothing else does. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"

#define LONG_US (20 * US_PER_S)

static struct loop loop;
static unsigned runs;

static void init(void)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0, "%s", err.text);
}

static void fini(void)
{
    loop_finish(&loop);
}

TestSuite(loop, .init = init, .fini = fini, .timeout = 15);

static void count(struct deferred *deferred)
{
    (void)deferred;
    runs++;
}

static void again(struct timer *timer)
{
    if (++runs < 3)
        timer_start(&loop, timer, 0, again);
}

Test(loop, a_callback_deferred_between_turns_is_not_waited_for)
{
    struct deferred deferred = {0};

    loop_defer(&loop, &deferred, count);
    loop_turn(&loop, LONG_US);
    cr_assert_eq(runs, 1);
}

Test(loop, a_timer_that_starts_itself_without_delay_is_not_waited_for)
{
    struct timer timer = {0};

    timer_start(&loop, &timer, 0, again);
    for (unsigned turn = 1; turn <= 3 && runs < 3; turn++)
        loop_turn(&loop, LONG_US);
    cr_assert_eq(runs, 3);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    (void)sock;
    cr_assert_null(err);
    runs++;
}

static void write_late(struct deferred *deferred)
{
    static h2o_socket_t *sock;
    h2o_iovec_t byte = h2o_iovec_init("x", 1);
    int pair[2];

    (void)deferred;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    sock = h2o_evloop_socket_create(loop.h2o, pair[0], H2O_SOCKET_FLAG_DONT_READ);
    h2o_socket_write(sock, &byte, 1, on_written);
}

Test(loop, the_end_of_a_write_at_the_end_of_a_turn_is_reported_in_the_next_without_a_wait)
{
    struct deferred deferred = {0};

    loop_defer(&loop, &deferred, write_late);
    loop_turn(&loop, LONG_US);
    cr_assert_eq(runs, 0);
    loop_turn(&loop, LONG_US);
    cr_assert_eq(runs, 1);
}

Test(loop, a_turn_after_callbacks_waits)
{
    struct deferred deferred = {0};
    uint64_t begin;

    loop_defer(&loop, &deferred, count);
    loop_turn(&loop, LONG_US);
    begin = clock_mono_us();
    loop_turn(&loop, 50 * US_PER_MS);
    cr_assert_geq(clock_mono_us() - begin, 49 * US_PER_MS);
}

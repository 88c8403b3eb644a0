/*
 * loop.c - monotonic timers, end-of-turn callbacks and watches on libh2o's event loop.
 *
 * Timers live in a binary heap.  A timerfd in the loop is armed for the earliest one; it is
 * re-armed only when an earlier timer appears or when it fires, so a timer that is pushed back
 * again and again (an idle timeout) costs no system call.
 */
#include "base/io/loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

struct watch {
    struct loop *loop;
    h2o_socket_t *sock; /* owned; NULL once stopped */
    void (*cb)(struct watch *watch, void *data);
    void *data;
    struct watch *next_dead;
};

/* ---- timers ---------------------------------------------------------------------------- */

static void heap_put(struct loop *loop, size_t at, struct timer *timer)
{
    loop->heap[at] = timer;
    timer->index = at + 1;
}

static void sift_up(struct loop *loop, size_t at)
{
    struct timer *timer = loop->heap[at];

    while (at > 0) {
        size_t parent = (at - 1) / 2;

        if (loop->heap[parent]->due_mono_us <= timer->due_mono_us)
            break;
        heap_put(loop, at, loop->heap[parent]);
        at = parent;
    }
    heap_put(loop, at, timer);
}

static void sift_down(struct loop *loop, size_t at)
{
    struct timer *timer = loop->heap[at];

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= loop->heap_len)
            break;
        if (child + 1 < loop->heap_len &&
            loop->heap[child + 1]->due_mono_us < loop->heap[child]->due_mono_us)
            child++;
        if (timer->due_mono_us <= loop->heap[child]->due_mono_us)
            break;
        heap_put(loop, at, loop->heap[child]);
        at = child;
    }
    heap_put(loop, at, timer);
}

static void arm(struct loop *loop)
{
    struct itimerspec at = {0};
    uint64_t due = loop->heap_len == 0 ? 0 : loop->heap[0]->due_mono_us;

    if (due == 0 || (loop->armed_mono_us != 0 && loop->armed_mono_us <= due))
        return;
    at.it_value.tv_sec = (time_t)(due / US_PER_S);
    at.it_value.tv_nsec = (long)(due % US_PER_S * 1000);
    if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        loop->armed_mono_us = due;
}

void timer_start(struct loop *loop, struct timer *timer, uint64_t delay_us,
                 void (*cb)(struct timer *timer))
{
    uint64_t now = clock_mono_us();

    timer->cb = cb;
    timer->due_mono_us = delay_us > UINT64_MAX - now ? UINT64_MAX : now + delay_us;
    if (timer->index != 0) {
        sift_up(loop, timer->index - 1);
        sift_down(loop, timer->index - 1);
    } else {
        if (loop->heap_len == loop->heap_cap) {
            size_t cap = loop->heap_cap == 0 ? 64 : loop->heap_cap * 2;
            struct timer **grown = realloc(loop->heap, cap * sizeof(struct timer *));

            if (grown == NULL)
                abort(); /* a deadline that cannot be kept is a broken invariant; h2o aborts too
                          */
            loop->heap = grown;
            loop->heap_cap = cap;
        }
        heap_put(loop, loop->heap_len++, timer);
        sift_up(loop, timer->index - 1);
    }
}

void timer_stop(struct loop *loop, struct timer *timer)
{
    size_t at = timer->index;
    struct timer *last;

    if (at == 0)
        return;
    at--;
    timer->index = 0;
    last = loop->heap[--loop->heap_len];
    if (last != timer) {
        heap_put(loop, at, last);
        sift_up(loop, at);
        sift_down(loop, last->index - 1);
    }
}

static void on_timer_fd(struct watch *watch, void *data)
{
    struct loop *loop = data;
    uint64_t fired;

    (void)watch;
    if (read(loop->timer_fd, &fired, sizeof(fired)) == (ssize_t)sizeof(fired))
        loop->armed_mono_us = 0;
}

/* Timers that a timer callback starts with no delay run in the next turn, not in this one. */
static void run_timers(struct loop *loop)
{
    uint64_t now = clock_mono_us();

    loop->now_mono_us = now;
    while (loop->heap_len != 0 && loop->heap[0]->due_mono_us <= now) {
        struct timer *timer = loop->heap[0];

        timer_stop(loop, timer);
        timer->cb(timer);
    }
}

/* ---- deferred -------------------------------------------------------------------------- */

void loop_defer(struct loop *loop, struct deferred *deferred,
                void (*cb)(struct deferred *deferred))
{
    deferred->cb = cb;
    if (deferred->queued)
        return;
    deferred->queued = true;
    TAILQ_INSERT_TAIL(&loop->queue, deferred, link);
}

void loop_undefer(struct loop *loop, struct deferred *deferred)
{
    if (!deferred->queued)
        return;
    deferred->queued = false;
    TAILQ_REMOVE(&loop->queue, deferred, link);
}

static void run_deferred(struct loop *loop)
{
    struct deferred *deferred;

    while ((deferred = TAILQ_FIRST(&loop->queue)) != NULL) {
        loop_undefer(loop, deferred);
        deferred->cb(deferred);
    }
}

/* ---- watches --------------------------------------------------------------------------- */

static void on_readable(h2o_socket_t *sock, const char *err)
{
    struct watch *watch = sock->data;

    (void)err;
    watch->cb(watch, watch->data);
}

struct watch *watch_start(struct loop *loop, int fd, void (*cb)(struct watch *, void *),
                          void *data, struct error *err)
{
    struct watch *watch = calloc(1, sizeof(*watch));
    int copy;

    if (watch == NULL) {
        (void)error_set(err, DRV_ENOMEM, "out of memory");
        return NULL;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy == -1) {
        (void)error_sys(err, "fcntl(F_DUPFD_CLOEXEC)");
        free(watch);
        return NULL;
    }
    watch->loop = loop;
    watch->cb = cb;
    watch->data = data;
    watch->sock = h2o_evloop_socket_create(loop->h2o, copy, H2O_SOCKET_FLAG_DONT_READ);
    watch->sock->data = watch;
    h2o_socket_read_start(watch->sock, on_readable);
    return watch;
}

/* Freed at the end of the turn: the caller may be inside this watch's own callback. */
void watch_stop(struct watch *watch)
{
    if (watch == NULL || watch->sock == NULL)
        return;
    h2o_socket_read_stop(watch->sock);
    h2o_socket_close(watch->sock);
    watch->sock = NULL;
    watch->next_dead = watch->loop->dead;
    watch->loop->dead = watch;
}

static void free_later(struct loop *loop)
{
    while (loop->dead != NULL) {
        struct watch *watch = loop->dead;

        loop->dead = watch->next_dead;
        free(watch);
    }
}

/* ---- libh2o's clock --------------------------------------------------------------------- */

/* libh2o's clock minus the monotonic one; 0 = not set yet.  One for the process,
 * as gettimeofday() is. */
static uint64_t h2o_ahead_us;

static void set_h2o_clock(void)
{
    h2o_ahead_us = clock_wall_ms() * US_PER_MS - clock_mono_us() / US_PER_MS * US_PER_MS;
}

/* In place of the C library's, for libh2o. */
int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    uint64_t now_us;

    (void)tz;
    if (h2o_ahead_us == 0)
        set_h2o_clock();
    now_us = clock_mono_us() + h2o_ahead_us;
    tv->tv_sec = (time_t)(now_us / US_PER_S);
    tv->tv_usec = (suseconds_t)(now_us % US_PER_S);
    return 0;
}

static uint64_t wall_clock_apart_us(void)
{
    uint64_t wall_us = clock_wall_ms() * US_PER_MS;
    uint64_t ours_us = clock_mono_us() + h2o_ahead_us;

    return wall_us > ours_us ? wall_us - ours_us : ours_us - wall_us;
}

/* The wall clock's steps reach libh2o here only, and its timers make them too. */
static void follow_wall_clock(struct loop *loop)
{
    int64_t step_ms;

    if (wall_clock_apart_us() >= US_PER_S)
        set_h2o_clock();
    if (loop->h2o_ahead_us == h2o_ahead_us)
        return;
    step_ms = (int64_t)(h2o_ahead_us - loop->h2o_ahead_us) / (int64_t)US_PER_MS;
    for (h2o_linklist_t *a = loop->h2o->_timeouts.next; a != &loop->h2o->_timeouts;
         a = a->next) {
        h2o_timeout_t *timeout = H2O_STRUCT_FROM_MEMBER(h2o_timeout_t, _link, a);

        for (h2o_linklist_t *b = timeout->_entries.next; b != &timeout->_entries; b = b->next)
            H2O_STRUCT_FROM_MEMBER(h2o_timeout_entry_t, _link, b)->registered_at +=
                (uint64_t)step_ms;
    }
    loop->h2o->_now += (uint64_t)step_ms;
    loop->h2o_ahead_us = h2o_ahead_us;
}

/* ---- the loop -------------------------------------------------------------------------- */

int loop_init(struct loop *loop, struct error *err)
{
    memset(loop, 0, sizeof(*loop));
    TAILQ_INIT(&loop->queue);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->timer_fd == -1)
        return error_sys(err, "timerfd_create");
    loop->h2o = h2o_evloop_create();
    loop->h2o_ahead_us = h2o_ahead_us;
    loop->now_mono_us = clock_mono_us();
    loop->timer_watch = watch_start(loop, loop->timer_fd, on_timer_fd, loop, err);
    if (loop->timer_watch == NULL) {
        loop_finish(loop);
        return DRV_ESYS;
    }
    return 0;
}

void loop_finish(struct loop *loop)
{
    if (loop->h2o == NULL)
        return;
    watch_stop(loop->timer_watch);
    /* libh2o 2.2.5 cannot destroy an evloop; one more turn lets it release closed sockets. */
    (void)h2o_evloop_run(loop->h2o, 0);
    free_later(loop);
    (void)close(loop->timer_fd);
    free(loop->heap);
    free(loop->h2o);
    memset(loop, 0, sizeof(*loop));
    loop->timer_fd = -1;
}

/* Is there something to do already?  libh2o looks at its own lists only after the wait. */
static bool is_work_due(const struct loop *loop)
{
    return !TAILQ_EMPTY(&loop->queue) || loop->h2o->_pending_as_client != NULL ||
           loop->h2o->_pending_as_server != NULL ||
           (loop->heap_len != 0 && loop->heap[0]->due_mono_us <= clock_mono_us());
}

void loop_turn(struct loop *loop, uint64_t max_wait_us)
{
    int32_t wait_ms = 0;

    follow_wall_clock(loop);
    if (!is_work_due(loop)) {
        arm(loop);
        wait_ms = (int32_t)((max_wait_us + 999) / 1000);
    }
    loop->now_mono_us = 0; /* the first to ask after the wait reads the clock */
    /* -1 is EINTR: an empty turn. */
    (void)h2o_evloop_run(loop->h2o, wait_ms);
    run_timers(loop);
    run_deferred(loop);
    free_later(loop);
}

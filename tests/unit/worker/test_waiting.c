/*
 * test_waiting.c - one line over eight processes, each with worker/routing/waiting.c, for one
 * slot.
 *
 * The processes share a scoreboard and eventfds, as workers do.  In the place of request.c is
 * a few lines that claim the one slot, hold it for a moment and give it back.  Every request
 * leaves in memory of the parent's when it was in line, when its worker last looked before it
 * started, and when it started.  From that the parent says whether anybody was overtaken.
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/loop.h"
#include "shm/nodes.h"
#include "shm/procs.h"
#include "shm/reap.h"
#include "shm/routing/gauges.h"
#include "shm/routing/lines.h"
#include "tests/unit/shm/board.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/routing/waiting.h"

enum { WORKERS = 8, EACH = 250, LIVES = 12, MAX_REQUESTS = WORKERS * EACH * LIVES };
#define MODEL   7
#define HOLD_US 100
#define ARRIVE_US \
    400 /* a request of each worker every so often: more than the slot can serve */
#define NO_ADVANCE (20 * US_PER_S)

enum fate { COMING = 0, IN_LINE, STARTED, DONE, LOST };

struct past {
    _Atomic uint32_t fate; /* enum fate */
    uint32_t worker, life;
    uint64_t key;
    uint64_t in_line_us, look_us, start_us;
};

struct shared {
    _Atomic uint32_t made; /* rows of `past` in use */
    _Atomic uint32_t done;
    _Atomic uint32_t most; /* at work at once */
    _Atomic uint32_t at_work;
    _Atomic uint64_t slowest_turn_us[WORKERS]; /* a worker that stands still is passed over */
    struct past past[MAX_REQUESTS];
};

struct waiter {
    struct request req;
    struct client_request client;
    struct timer hold;
    struct past *past;
};

static unsigned tries; /* calls of try_start() */
static struct shared *shared;
static struct scoreboard *board;
static int wake_fds[WORKERS];
static struct {
    struct loop loop;
    struct config config;
    struct worker_context context;
    struct timer arrivals;
    struct waiter waiter[EACH];
    unsigned came, left, life;
    uint64_t seed;
    bool polls; /* looks again from time to time, as workers do */
} w;

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* ---- a worker ---- */

static void leave(struct timer *timer)
{
    struct waiter *waiter = CONTAINER_OF(timer, struct waiter, hold);

    shared->at_work--;
    waiter->past->fate = DONE;
    shared->done++;
    gauges_release(board, w.context.slot, 0, 1, 1);
    waiting_released(&w.context);
    w.left++;
}

/* What request.c does, but for the node. */
static enum request_try try_start(struct request *req, bool beyond_slots)
{
    struct waiter *waiter = CONTAINER_OF(req, struct waiter, req);
    uint32_t now, most;

    tries++;
    if (beyond_slots || !gauges_claim(board, w.context.slot, 0, 1, 1, 1))
        return REQUEST_TRY_NO_ROOM;
    now = ++shared->at_work;
    for (most = shared->most;
         now > most && !atomic_compare_exchange_weak(&shared->most, &most, now);)
        ;
    waiter->past->look_us = loop_now_us(&w.loop); /* the turn began no later than it looked */
    waiter->past->start_us = clock_mono_us();
    waiter->past->fate = STARTED;
    waiting_remove(req);
    timer_start(&w.loop, &waiter->hold, HOLD_US, leave);
    return REQUEST_TRY_STARTED;
}

static void arrive(struct timer *timer)
{
    static const enum request_priority classes[] = {
        REQUEST_PRIORITY_DEFAULT, REQUEST_PRIORITY_INTERACTIVE, REQUEST_PRIORITY_BULK};
    struct waiter *waiter = &w.waiter[w.came++];
    struct request *req = &waiter->req;

    waiter->past = &shared->past[shared->made++];
    waiter->past->worker = w.context.slot;
    waiter->past->life = w.life;
    waiter->client.priority = classes[next_random(&w.seed) % 3];
    req->client = &waiter->client;
    req->context = &w.context;
    req->attempt = &req->pair[0];
    req->model_hash = MODEL;
    req->windows_count =
        next_random(&w.seed) % 2; /* some could be worth a place beyond slots */
    req->started_mono_us = clock_mono_us();
    cr_assert(waiting_add(req));
    waiter->past->key = req->key;
    waiter->past->in_line_us = clock_mono_us();
    waiter->past->fate = IN_LINE;
    if (!w.polls)
        timer_stop(&w.loop, &w.context.wake_timer); /* only being woken helps now */
    if (w.came < EACH)
        timer_start(&w.loop, timer, next_random(&w.seed) % (2 * ARRIVE_US), arrive);
}

static void on_woken(struct watch *watch, void *data)
{
    uint64_t count;

    (void)watch;
    (void)data;
    if (read(wake_fds[w.context.slot], &count, sizeof(count)) == sizeof(count))
        waiting_wake(&w.context);
}

static _Noreturn void work(unsigned slot, unsigned life, uint64_t seed, bool polls)
{
    struct watch *watch;
    uint64_t before_us;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(&w, 0, sizeof(w));
    w.seed = seed;
    w.life = life;
    w.polls = polls;
    w.config.policy = POLICY_FASTEST;
    w.context = (struct worker_context){.loop = &w.loop,
                                        .try_start = try_start,
                                        .config = &w.config,
                                        .board = board,
                                        .slot = slot,
                                        .wake_fds = wake_fds};
    if (loop_init(&w.loop, NULL) != 0)
        _exit(1);
    watch = watch_start(&w.loop, wake_fds[slot], on_woken, NULL, NULL);
    if (watch == NULL)
        _exit(1);
    procs_heartbeat(board, slot, clock_mono_us());
    procs_set_state(board, slot, PROC_RUNNING);
    timer_start(&w.loop, &w.arrivals, 0, arrive);
    before_us = clock_mono_us();
    while (w.left < EACH) {
        uint64_t now;

        loop_turn(&w.loop, 50 * US_PER_MS);
        now = clock_mono_us();
        procs_heartbeat(board, slot, now);
        if (now - before_us > shared->slowest_turn_us[slot])
            shared->slowest_turn_us[slot] = now - before_us;
        before_us = now;
    }
    _exit(0);
}

/* ---- the master ---- */

static pid_t start(unsigned slot, unsigned life, uint64_t seed, bool polls)
{
    pid_t pid;

    procs_assign(board, slot, 1, life != 0);
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0)
        work(slot, life, seed, polls);
    procs_set_pid(board, slot, pid);
    return pid;
}

static void begin(struct temporary *t)
{
    board = board_make(t, 1, WORKERS, 1);
    shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(shared, MAP_FAILED);
    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned slot = 0; slot < WORKERS; slot++) {
        wake_fds[slot] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        cr_assert_neq(wake_fds[slot], -1);
    }
}

static void end(struct temporary *t)
{
    for (unsigned slot = 0; slot < WORKERS; slot++)
        (void)close(wake_fds[slot]);
    (void)munmap(shared, sizeof(*shared));
    board_drop(t, board);
}

/* Waits until `done` are, and fails when nothing has moved for too long. */
static void wait_for(uint32_t done)
{
    uint32_t before = shared->done;
    uint64_t since_us = clock_mono_us();

    while (shared->done < done) {
        (void)poll(NULL, 0, 1);
        if (shared->done != before) {
            before = shared->done;
            since_us = clock_mono_us();
        }
        cr_assert_lt(clock_mono_us() - since_us, NO_ADVANCE,
                     "stuck: %u of %u are done, %u at work, %u wait", before, done,
                     shared->at_work, lines_waiting(board, MODEL));
    }
}

static void expect_end(pid_t pid)
{
    int status;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
}

/* Pairs in which b was in line before a's worker looked, should have gone first, and did not.
 */
static unsigned count_overtaken(unsigned *compared)
{
    unsigned overtaken = 0;

    *compared = 0;
    for (uint32_t i = 0; i < shared->made; i++) {
        const struct past *a = &shared->past[i];

        for (uint32_t j = 0; a->fate == DONE && j < shared->made; j++) {
            const struct past *b = &shared->past[j];

            /* One whose worker stood still was rightly passed over. */
            if (b->fate != DONE || b->in_line_us >= a->look_us || b->start_us < a->look_us ||
                shared->slowest_turn_us[b->worker] > LINES_STALE_US / 2)
                continue;
            ++*compared;
            overtaken += b->key < a->key && b->start_us > a->start_us;
        }
    }
    return overtaken;
}

Test(waiting, eight_workers_serve_one_line_in_order_and_miss_no_waking, .timeout = 240)
{
    struct temporary t;
    pid_t pid[WORKERS];
    unsigned compared, overtaken;
    uint64_t seed = 20241125;

    begin(&t);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed), false);
    wait_for(WORKERS * EACH);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    overtaken = count_overtaken(&compared);
    cr_assert_eq(overtaken, 0, "%u of %u pairs", overtaken, compared);
    cr_assert_gt(compared, WORKERS * EACH, "they waited together");
    cr_assert_eq(shared->most, 1);
    cr_assert_eq(lines_waiting_total(board), 0);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    end(&t);
}

Test(waiting, a_worker_that_is_killed_loses_its_own_requests_and_nobody_elses, .timeout = 240)
{
    struct temporary t;
    pid_t pid[WORKERS];
    unsigned life[WORKERS] = {0};
    unsigned compared, overtaken;
    uint64_t seed = 20241126;

    begin(&t);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed), true);
    for (int kills = 0; kills < 20; kills++) {
        unsigned slot = next_random(&seed) % (WORKERS - 1); /* the last one lives on */

        if (life[slot] + 1 == LIVES)
            continue;
        wait_for(shared->done + 1 + next_random(&seed) % 60);
        cr_assert_eq(kill(pid[slot], SIGKILL), 0);
        cr_assert_eq(waitpid(pid[slot], NULL, 0), pid[slot]);
        reap_process(board, slot);
        for (uint32_t i = 0; i < shared->made; i++) {
            if (shared->past[i].worker == slot && shared->past[i].fate != DONE)
                shared->past[i].fate = LOST;
        }
        pid[slot] = start(slot, ++life[slot], next_random(&seed), true);
    }
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    for (uint32_t i = 0; i < shared->made; i++) {
        const struct past *p = &shared->past[i];

        cr_assert(p->fate == DONE || (p->fate == LOST && p->life != life[p->worker]),
                  "a request of worker %u was lost", p->worker);
    }
    overtaken = count_overtaken(&compared);
    cr_assert_eq(overtaken, 0, "%u of %u pairs", overtaken, compared);
    cr_assert_eq(lines_waiting_total(board), 0);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    end(&t);
}

Test(waiting, each_of_many_lines_is_gone_through)
{
    enum { LINES = 70 };
    struct temporary t;

    begin(&t);
    procs_assign(board, 0, 1, false);
    cr_assert(gauges_claim(board, 1, 0, 1, 1, 1), "the slot is taken");
    w.context = (struct worker_context){
        .loop = &w.loop,
        .config = &w.config,
        .board = board,
        .wake_fds = wake_fds,
        .try_start = try_start,
    };
    cr_assert_eq(loop_init(&w.loop, NULL), 0);
    for (unsigned i = 0; i < LINES; i++) {
        struct request *req = &w.waiter[i].req;

        req->client = &w.waiter[i].client;
        req->context = &w.context;
        req->model_hash = MODEL + i;
        cr_assert(waiting_add(req));
    }
    loop_turn(&w.loop, 0);
    cr_expect_eq(tries, LINES, "who is first in each has been looked after");
    for (unsigned i = 0; i < LINES; i++)
        waiting_remove(&w.waiter[i].req);
    cr_expect_null(w.context.lines);
    timer_stop(&w.loop, &w.context.wake_timer);
    loop_undefer(&w.loop, &w.context.wake);
    loop_finish(&w.loop);
    end(&t);
}

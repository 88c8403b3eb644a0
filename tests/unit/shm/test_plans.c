/* test_plans.c - plans of each worker on each node, also of workers that die or stand still. */
#include "shm/queue/plans.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/reap.h"
#include "shm/segment.h"

#define NOW UINT64_C(60000000)

static struct scoreboard *make(struct temporary *t, unsigned workers)
{
    struct scoreboard *board = board_make(t, 2, workers, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned w = 0; w < workers; w++)
        procs_heartbeat(board, w, NOW);
    return board;
}

Test(plans, each_worker_adds_its_own_and_takes_them_back)
{
    struct temporary t;
    struct scoreboard *board = make(&t, 3);
    struct plans sum;

    plans_add(board, 0, 0, 1, 100);
    plans_add(board, 2, 0, 1, 50);
    plans_add(board, 2, 0, 1, 7);
    sum = plans_sum(board, 0, 1, NOW);
    cr_assert_eq(sum.count, 3);
    cr_assert_eq(sum.charged_us, 157);
    cr_assert_eq(plans_sum(board, 1, 1, NOW).count, 0, "another node");
    plans_drop(board, 2, 0, 1, 50);
    sum = plans_sum(board, 0, 1, NOW);
    cr_assert_eq(sum.count, 2);
    cr_assert_eq(sum.charged_us, 107);
    plans_drop(board, 1, 0, 1, 7);
    cr_assert_eq(plans_sum(board, 0, 1, NOW).count, 2, "never below zero");
    board_drop(&t, board);
}

Test(plans, a_plan_takes_no_place)
{
    struct temporary t;
    struct scoreboard *board = make(&t, 1);

    plans_add(board, 0, 0, 1, 100);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    cr_assert(gauges_claim(board, 0, 0, 1, 5, 1));
    cr_assert_eq(plans_sum(board, 0, 1, NOW).count, 1);
    board_drop(&t, board);
}

Test(plans, the_next_node_of_a_row_has_none_of_the_earlier_ones)
{
    struct temporary t;
    struct scoreboard *board = make(&t, 2);

    plans_add(board, 0, 0, 1, 100);
    cr_assert_eq(plans_sum(board, 0, 2, NOW).count, 0);
    plans_add(board, 0, 0, 2, 7);
    cr_assert_eq(plans_sum(board, 0, 2, NOW).count, 1);
    cr_assert_eq(plans_sum(board, 0, 2, NOW).charged_us, 7);
    plans_drop(board, 0, 0, 1, 100); /* the earlier node's: not this one's */
    cr_assert_eq(plans_sum(board, 0, 2, NOW).count, 1);
    board_drop(&t, board);
}

Test(plans, a_charge_that_does_not_fit_is_the_most_and_ends_with_the_last_plan)
{
    struct temporary t;
    struct scoreboard *board = make(&t, 1);

    plans_add(board, 0, 0, 1, UINT32_MAX - 1);
    plans_add(board, 0, 0, 1, 600000000);
    cr_assert_eq(plans_sum(board, 0, 1, NOW).charged_us, UINT32_MAX);
    plans_drop(board, 0, 0, 1, 600000000);
    plans_drop(board, 0, 0, 1, 600000000);
    cr_assert_eq(plans_sum(board, 0, 1, NOW).count, 0);
    cr_assert_eq(plans_sum(board, 0, 1, NOW).charged_us, 0);
    board_drop(&t, board);
}

Test(plans, a_worker_that_stands_still_counts_for_five_seconds)
{
    struct temporary t;
    struct scoreboard *board = make(&t, 2);

    plans_add(board, 0, 0, 1, 100);
    plans_add(board, 1, 0, 1, 10);
    procs_heartbeat(board, 1, NOW + 6 * US_PER_S);
    cr_assert_eq(plans_sum(board, 0, 1, NOW + 5 * US_PER_S).count, 2);
    cr_assert_eq(plans_sum(board, 0, 1, NOW + 5 * US_PER_S + 1).charged_us, 10);
    procs_heartbeat(board, 0, NOW + 6 * US_PER_S);
    cr_assert_eq(plans_sum(board, 0, 1, NOW + 6 * US_PER_S).count, 2, "it moves again");
    board_drop(&t, board);
}

/* ---- several processes ---- */

enum { WORKERS = 4, NODES = 2, HELD = 12, KILLS = 40 };

struct ledger {
    _Atomic uint64_t steps;
    _Atomic uint32_t resting, count[NODES];
    _Atomic uint64_t charged_us[NODES];
};

struct shared {
    _Atomic uint32_t stop;
    struct ledger ledger[WORKERS];
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static _Noreturn void work(struct scoreboard *board, struct shared *shared, unsigned w,
                           uint64_t seed)
{
    struct ledger *ledger = &shared->ledger[w];
    struct {
        unsigned node;
        uint32_t charge_us; /* 0 = none */
    } held[HELD] = {0};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (shared->stop == 0) {
        unsigned i = next_random(&seed) % HELD;

        if (held[i].charge_us != 0) {
            plans_drop(board, w, held[i].node, 1, held[i].charge_us);
            ledger->count[held[i].node]--;
            ledger->charged_us[held[i].node] -= held[i].charge_us;
            held[i].charge_us = 0;
        } else {
            held[i].node = next_random(&seed) % NODES;
            held[i].charge_us = 1 + next_random(&seed) % 1000;
            plans_add(board, w, held[i].node, 1, held[i].charge_us);
            ledger->count[held[i].node]++;
            ledger->charged_us[held[i].node] += held[i].charge_us;
        }
        procs_heartbeat(board, w, clock_mono_us());
        ledger->steps++;
    }
    ledger->resting = 1;
    for (;;)
        (void)pause();
}

static pid_t start(struct scoreboard *board, struct shared *shared, unsigned w, uint64_t seed)
{
    pid_t pid;

    memset(&shared->ledger[w], 0, sizeof(shared->ledger[w]));
    procs_assign(board, w, 1, false);
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0)
        work(board, shared, w, seed);
    return pid;
}

static void reap(struct scoreboard *board, unsigned w, pid_t pid)
{
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    reap_process(board, w);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(segment_plans(board, node)[w], 0);
}

Test(plans, sums_are_exact_after_workers_were_killed, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, NODES, WORKERS, 1);
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 20261130, now;
    pid_t pid[WORKERS];

    cr_assert_neq(shared, MAP_FAILED);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(nodes_claim(board, 1), (int)node);
    for (unsigned w = 0; w < WORKERS; w++)
        pid[w] = start(board, shared, w, next_random(&seed));
    for (int i = 0; i < KILLS; i++) {
        unsigned w = next_random(&seed) % WORKERS;
        uint64_t steps = 1 + next_random(&seed) % 3000;

        while (shared->ledger[w].steps < steps)
            (void)sched_yield();
        reap(board, w, pid[w]);
        pid[w] = start(board, shared, w, next_random(&seed));
    }
    shared->stop = 1;
    for (unsigned w = 0; w < WORKERS; w++)
        while (shared->ledger[w].resting == 0)
            (void)sched_yield();
    now = clock_mono_us();
    for (unsigned node = 0; node < NODES; node++) {
        struct plans sum, want = {0};

        for (unsigned w = 0; w < WORKERS; w++) {
            procs_heartbeat(board, w, now);
            want.count += shared->ledger[w].count[node];
            want.charged_us += shared->ledger[w].charged_us[node];
        }
        sum = plans_sum(board, node, 1, now);
        cr_assert_eq(sum.count, want.count);
        cr_assert_eq(sum.charged_us, want.charged_us);
    }
    for (unsigned w = 0; w < WORKERS; w++)
        reap(board, w, pid[w]);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(plans_sum(board, node, 1, now).count, 0);
    (void)munmap(shared, sizeof(*shared));
    board_drop(&t, board);
}

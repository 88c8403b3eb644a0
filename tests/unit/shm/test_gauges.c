/* test_gauges.c - claiming and releasing, in one process and in eight. */
#include "shm/share/gauges.h"

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

Test(gauges, a_claimed_place_is_counted_and_given_back)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 3, 1);
    struct gauge g;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(gauges_claim(board, 0, 0, 1, 100, 3));
    cr_assert(gauges_claim(board, 2, 0, 1, 50, 3));
    cr_assert(gauges_claim(board, 2, 0, 1, 7, 3));
    cr_assert_not(gauges_claim(board, 1, 0, 1, 1, 3), "full");
    g = gauges_sum(board, 0, 1);
    cr_assert_eq(g.inflight, 3);
    cr_assert_eq(g.charged_us, 157);
    gauges_prefill_done(board, 2, 0, 1, 50);
    g = board_gauge(board, 2, 0, 1);
    cr_assert_eq(g.inflight, 2);
    cr_assert_eq(g.charged_us, 7);
    gauges_release(board, 2, 0, 1, 7);
    cr_assert(gauges_claim(board, 1, 0, 1, 1, 3));
    gauges_release(board, 0, 0, 1, 100);
    gauges_release(board, 1, 0, 1, 1);
    gauges_release(board, 2, 0, 1, 0);
    g = gauges_sum(board, 0, 1);
    cr_assert_eq(g.inflight, 0);
    cr_assert_eq(g.charged_us, 0);
    gauges_release(board, 2, 0, 1, 99); /* never below zero */
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    cr_assert_not(gauges_claim(board, 0, 0, 1, 1, 0), "no places at all");
    board_drop(&t, board);
}

Test(gauges, a_new_generation_is_not_charged_for_the_old_ones_requests)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(gauges_claim(board, 0, 0, 1, 9, 1));
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_claim(board, 3), 0);
    cr_assert_eq(gauges_sum(board, 0, 2).inflight, 0);
    cr_assert_not(gauges_claim(board, 1, 0, 1, 9, 5), "that tenant is gone");
    cr_assert(gauges_claim(board, 0, 0, 2, 4, 1));
    gauges_release(board, 0, 0, 1, 9); /* the old request ends: not ours */
    cr_assert_eq(gauges_sum(board, 0, 2).inflight, 1);
    cr_assert_eq(gauges_sum(board, 0, 2).charged_us, 4);
    board_drop(&t, board);
}

Test(gauges, a_claimant_stopped_midway_delays_but_does_not_wedge_the_others)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 3, 1);
    uint64_t claiming = UINT64_C(1) << 48 | SB_GAUGE_CLAIMING;

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned stopped = 0; stopped < 3; stopped += 2) { /* a lower and a greater number */
        segment_use_column(board, stopped);
        segment_gauges(board, 0)[stopped] = claiming;
        cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0, "a claim is not yet a request");
        cr_assert_not(gauges_claim(board, 1, 0, 1, 1, 1));
        cr_assert_eq(segment_gauges(board, 0)[1], UINT64_C(1) << 48, "taken back whole");
        cr_assert(gauges_claim(board, 1, 0, 1, 1, 2), "there is room for both");
        gauges_release(board, 1, 0, 1, 1);
        gauges_clear_worker(board, stopped); /* the master has reaped it */
        cr_assert(gauges_claim(board, 1, 0, 1, 1, 1));
        gauges_release(board, 1, 0, 1, 1);
    }
    board_drop(&t, board);
}

Test(gauges, a_claim_under_way_or_an_older_word_does_not_spoil_the_sum)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 6, 1);
    struct gauge g;

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned w = 0; w < 6; w++)
        cr_assert(gauges_claim(board, w, 0, 1, 10 + w, 9));
    g = gauges_sum(board, 0, 1);
    cr_assert_eq(g.inflight, 6);
    cr_assert_eq(g.charged_us, 75);
    segment_gauges(board, 0)[4] |= SB_GAUGE_CLAIMING;
    g = gauges_sum(board, 0, 1);
    cr_assert_eq(g.inflight, 6, "a claim is not yet a request");
    cr_assert_eq(g.charged_us, 75);
    segment_gauges(board, 0)[5] ^= UINT64_C(7) << 48;
    g = gauges_sum(board, 0, 1);
    cr_assert_eq(g.inflight, 5, "another generation's");
    cr_assert_eq(g.charged_us, 60);
    board_drop(&t, board);
}

Test(gauges, rows_of_any_width_add_up)
{
    for (unsigned workers = 1; workers <= 11; workers++) {
        struct temporary t;
        struct scoreboard *board = board_make(&t, 1, workers, 1);
        struct gauge g;

        cr_assert_eq(nodes_claim(board, 1), 0);
        for (unsigned w = 0; w < workers; w++)
            gauges_enter(board, w, 0, 1);
        for (unsigned w = 0; w < workers; w += 2) {
            cr_assert(gauges_claim(board, w, 0, 1, 10, 99));
            gauges_enter(board, w, 0, 1);
        }
        g = gauges_sum(board, 0, 1);
        cr_assert_eq(g.inflight, (workers + 1) / 2);
        cr_assert_eq(g.charged_us, (workers + 1) / 2 * 10);
        gauges_enter(board, 0, 0, 2);
        cr_assert_eq(gauges_sum(board, 0, 1).inflight, (workers + 1) / 2,
                     "there is no such node");
        board_drop(&t, board);
    }
}

Test(gauges, only_columns_that_were_ever_used_are_read)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 100, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(segment_columns(board), 0);
    procs_assign(board, 3, 1, false);
    cr_assert_eq(segment_columns(board), 4);
    cr_assert(gauges_claim(board, 97, 0, 1, 5, 9));
    cr_assert_eq(segment_columns(board), 98);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 1);
    procs_assign(board, procs_master_index(board), 1, false);
    reap_process(board, 97);
    cr_assert_eq(segment_columns(board), 98);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    segment_live(board)->columns = UINT32_MAX; /* nonsense is not believed */
    cr_assert_eq(segment_columns(board), 100);
    board_drop(&t, board);
}

/* The forked claimants share this besides the scoreboard. */
struct arena {
    _Atomic uint32_t there;      /* processes that run: none begins before all do */
    _Atomic uint32_t content;    /* processes that have won SHARE times */
    _Atomic uint32_t inside;     /* holders, counted independently of the gauges */
    _Atomic uint32_t most;       /* the most ever seen inside */
    _Atomic uint32_t wins;       /* claims that returned true */
    _Atomic uint32_t losses;     /* and false */
    _Atomic uint32_t wins_by[8]; /* of each process */
};

/* So often each of them must win before they stop. */
#define SHARE 1000

static void claimant(struct scoreboard *board, struct arena *arena, unsigned worker,
                     uint32_t cap, uint32_t goal)
{
    uint64_t give_up = clock_mono_us() + 60 * US_PER_S;

    arena->there++;
    while (arena->there < 8 && clock_mono_us() < give_up)
        (void)sched_yield();
    while ((arena->wins < goal || arena->content < 8) && clock_mono_us() < give_up) {
        uint32_t now, most;

        if (!gauges_claim(board, worker, 0, 1, 10, cap)) {
            arena->losses++;
            (void)sched_yield();
            continue;
        }
        now = ++arena->inside;
        for (most = arena->most;
             now > most && !atomic_compare_exchange_weak(&arena->most, &most, now);)
            ;
        arena->wins++;
        arena->content += ++arena->wins_by[worker] == SHARE;
        if (arena->wins % 16 == 0)
            (void)sched_yield(); /* hold it across a switch of processes now and then */
        arena->inside--;
        gauges_release(board, worker, 0, 1, 10);
    }
    _exit(0);
}

static void contest(uint32_t cap, uint32_t goal)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 8, 1);
    struct arena *arena =
        mmap(NULL, sizeof(*arena), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[8];

    cr_assert_neq(arena, MAP_FAILED);
    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned w = 0; w < 8; w++) {
        pid[w] = fork();
        cr_assert_neq(pid[w], -1);
        if (pid[w] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            claimant(board, arena, w, cap, goal);
        }
    }
    for (unsigned w = 0; w < 8; w++) {
        int status;

        cr_assert_eq(waitpid(pid[w], &status, 0), pid[w]);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    cr_assert_leq(arena->most, cap, "%u held at once", arena->most);
    cr_assert_geq(arena->wins, goal, "%u wins, %u losses", arena->wins, arena->losses);
    cr_assert_gt(arena->losses, 0, "nobody competed");
    for (unsigned w = 0; w < 8; w++)
        cr_assert_geq(arena->wins_by[w], SHARE, "process %u had %u places", w,
                      arena->wins_by[w]);
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 0);
    cr_assert_eq(gauges_sum(board, 0, 1).charged_us, 0);
    (void)munmap(arena, sizeof(*arena));
    board_drop(&t, board);
}

Test(gauges, eight_processes_never_hold_one_place_twice_and_always_get_on, .timeout = 90)
{
    contest(1, 100000);
}

Test(gauges, eight_processes_never_hold_more_than_three_places, .timeout = 90)
{
    contest(3, 100000);
}

/* test_loads.c - one load per node and model, for any worker that asks or dies. */
#include "shm/share/loads.h"

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

#define NOW  (UINT64_C(100) * US_PER_S)
#define HOLD (UINT64_C(30) * US_PER_S)

Test(loads, a_model_is_loaded_once_per_node_until_done_or_expired)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 1), *reader;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(nodes_claim(board, 1), 1);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_not(loads_blocked(reader, 0, 1, 7, NOW));
    cr_assert(loads_claim(board, 0, 0, 1, 7, NOW, HOLD));
    cr_assert(loads_blocked(reader, 0, 1, 7, NOW));
    cr_assert_not(loads_claim(board, 0, 0, 1, 7, NOW, HOLD));
    cr_assert_not(loads_blocked(reader, 0, 1, 8, NOW), "another model");
    cr_assert_not(loads_blocked(reader, 1, 1, 7, NOW), "another node");
    cr_assert(loads_claim(board, 0, 0, 1, 8, NOW, HOLD));
    cr_assert(loads_claim(board, 0, 1, 1, 7, NOW, HOLD));
    loads_done(board, 0, 0, 1, 7);
    cr_assert_not(loads_blocked(reader, 0, 1, 7, NOW));
    cr_assert(loads_blocked(reader, 0, 1, 8, NOW), "only that one is done");
    cr_assert(loads_claim(board, 0, 0, 1, 7, NOW, HOLD));

    cr_assert_not(loads_claim(board, 0, 0, 1, 7, NOW + HOLD, HOLD), "to the last");
    cr_assert(loads_claim(board, 1, 0, 1, 7, NOW + HOLD + 16 * US_PER_MS, HOLD));
    cr_assert_not(loads_claim(board, 0, 0, 1, 7, NOW + HOLD + 16 * US_PER_MS, HOLD));
    loads_done(board, 0, 0, 1, 7); /* too late: it is another worker's now */
    cr_assert(loads_blocked(reader, 0, 1, 7, NOW + HOLD));
    loads_done(board, 1, 0, 1, 7);
    cr_assert_not(loads_blocked(reader, 0, 1, 7, NOW + HOLD));
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(loads, eight_models_at_a_time_and_a_new_generation_owes_nothing)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (uint64_t m = 1; m <= LOADS_PER_NODE; m++)
        cr_assert(loads_claim(board, 0, 0, 1, m, NOW, HOLD), "%u", (unsigned)m);
    cr_assert_not(loads_claim(board, 0, 0, 1, 99, NOW, HOLD));
    cr_assert(loads_blocked(board, 0, 1, 99, NOW), "all are taken");
    cr_assert_not(loads_blocked(board, 0, 1, 99, NOW + HOLD + US_PER_S), "all are over");
    loads_done(board, 0, 0, 1, 3);
    cr_assert_not(loads_blocked(board, 0, 1, 99, NOW));
    cr_assert(loads_blocked(board, 0, 1, 4, NOW), "it is being loaded");
    cr_assert(loads_claim(board, 0, 0, 1, 99, NOW, HOLD));
    cr_assert_not(loads_claim(board, 0, 0, 2, 50, NOW, HOLD),
                  "there is no such generation yet");
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_claim(board, 3), 0);
    cr_assert_not(loads_blocked(board, 0, 2, 99, NOW));
    cr_assert_not(loads_claim(board, 0, 0, 1, 98, NOW, HOLD), "that tenant is gone");
    cr_assert(loads_claim(board, 0, 0, 2, 99, NOW, HOLD), "its predecessor's claims are void");
    board_drop(&t, board);
}

Test(loads, the_claims_of_a_dead_worker_are_taken_back)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(nodes_claim(board, 1), 1);
    cr_assert(loads_claim(board, 0, 0, 1, 7, NOW, HOLD));
    cr_assert(loads_claim(board, 1, 0, 1, 8, NOW, HOLD));
    cr_assert(loads_claim(board, 1, 1, 1, 9, NOW, HOLD));
    reap_process(board, 1);
    cr_assert(loads_blocked(board, 0, 1, 7, NOW));
    cr_assert_not(loads_blocked(board, 0, 1, 8, NOW));
    cr_assert_not(loads_blocked(board, 1, 1, 9, NOW));
    cr_assert_not(loads_claim(board, 2, 0, 1, 5, NOW, HOLD), "there is no worker 2");
    board_drop(&t, board);
}

Test(loads, a_claim_ends_also_when_its_clock_wraps)
{
    /* 2^32 units of 16 ms */
    const uint64_t wrap = (UINT64_C(1) << 32) * 16 * US_PER_MS, before = wrap - US_PER_S;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(loads_claim(board, 0, 0, 1, 7, before, HOLD));
    cr_assert(loads_blocked(board, 0, 1, 7, before + HOLD));
    cr_assert_not(loads_blocked(board, 0, 1, 7, before + HOLD + 16 * US_PER_MS));
    board_drop(&t, board);
}

struct arena {
    _Atomic uint32_t inside[3]; /* of each model */
    _Atomic uint32_t broken;    /* two at once */
    _Atomic uint32_t wins;
};

static void loader(struct scoreboard *board, struct arena *arena, unsigned worker)
{
    uint64_t seed = worker;

    for (;;) {
        unsigned m;

        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        m = (unsigned)(seed >> 33) % 3;
        if (!loads_claim(board, worker, 0, 1, m, NOW, HOLD)) {
            (void)sched_yield();
            continue;
        }
        if (atomic_fetch_add(&arena->inside[m], 1) != 0)
            arena->broken++;
        if (++arena->wins % 8 == 0)
            (void)sched_yield();
        atomic_fetch_sub(&arena->inside[m], 1);
        loads_done(board, worker, 0, 1, m);
    }
}

Test(loads, of_four_processes_never_two_load_the_same_model, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1);
    struct arena *arena =
        mmap(NULL, sizeof(*arena), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t give_up = clock_mono_us() + 50 * US_PER_S;
    pid_t pid[4];

    cr_assert_neq(arena, MAP_FAILED);
    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned i = 0; i < 4; i++) {
        pid[i] = fork();
        cr_assert_neq(pid[i], -1);
        if (pid[i] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            loader(board, arena, i);
        }
    }
    while (arena->wins < 200000 && clock_mono_us() < give_up)
        (void)sched_yield();
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(kill(pid[i], SIGKILL), 0);
        cr_assert_eq(waitpid(pid[i], NULL, 0), pid[i]);
    }
    cr_assert_geq(arena->wins, 200000);
    cr_assert_eq(arena->broken, 0);
    /* The holds of the dead worker end by themselves. */
    for (unsigned m = 0; m < 3; m++)
        cr_assert(loads_claim(board, 0, 0, 1, m, NOW + 2 * HOLD, HOLD));
    (void)munmap(arena, sizeof(*arena));
    board_drop(&t, board);
}

/* test_lines.c - one queue over all workers: who is first, who is passed over, who died. */
#include "shm/routing/lines.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "board.h"
#include "shm/nodes.h"
#include "shm/procs.h"
#include "shm/reap.h"
#include "shm/routing/gauges.h"
#include "shm/segment.h"

#define MODEL_A UINT64_C(0xaaaa)
#define MODEL_B UINT64_C(0xbbbb)

/* Workers that run and showed a heartbeat at `now_mono_us`. */
static void start_workers(struct scoreboard *board, unsigned n, uint64_t now_mono_us)
{
    for (unsigned w = 0; w < n; w++) {
        procs_assign(board, w, 1, false);
        procs_set_state(board, w, PROC_RUNNING);
        procs_heartbeat(board, w, now_mono_us);
    }
}

Test(lines, the_smallest_key_goes_first_whoever_holds_it)
{
    const uint64_t now = 50 * US_PER_S;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1);
    uint64_t key = 0, models[8];
    unsigned worker = 99;

    start_workers(board, 3, now);
    cr_assert_not(lines_any(board));
    cr_assert_not(lines_first(board, MODEL_A, now, &worker, &key));
    cr_assert(lines_set(board, 0, MODEL_A, 300, 2));
    cr_assert(lines_set(board, 1, MODEL_A, 100, 1));
    cr_assert(lines_set(board, 2, MODEL_B, 50, 4));
    cr_assert(lines_any(board));
    cr_assert(lines_first(board, MODEL_A, now, &worker, &key));
    cr_assert_eq(worker, 1);
    cr_assert_eq(key, 100);
    cr_assert(lines_first(board, MODEL_B, now, &worker, NULL));
    cr_assert_eq(worker, 2);
    cr_assert_eq(lines_waiting(board, MODEL_A), 3);
    cr_assert_eq(lines_waiting(board, MODEL_B), 4);
    cr_assert_eq(lines_waiting_total(board), 7);
    cr_assert_eq(lines_models(board, models, 8), 2);
    cr_assert_eq(models[0], MODEL_A);
    cr_assert_eq(models[1], MODEL_B);
    cr_assert_eq(lines_models(board, models, 1), 1);

    cr_assert(lines_set(board, 1, MODEL_A, 0, 0));
    cr_assert(lines_first(board, MODEL_A, now, &worker, &key));
    cr_assert_eq(worker, 0);
    cr_assert_eq(key, 300);
    cr_assert(lines_set(board, 2, MODEL_A, 300, 1));
    cr_assert(lines_first(board, MODEL_A, now, &worker, &key));
    cr_assert_eq(worker, 0, "of equals the lower number");
    for (unsigned w = 0; w < 3; w++) {
        cr_assert(lines_set(board, w, MODEL_A, 0, 0));
        cr_assert(lines_set(board, w, MODEL_B, 0, 0));
    }
    cr_assert_not(lines_any(board));
    cr_assert_eq(lines_models(board, models, 8), 0);
    board_drop(&t, board);
}

Test(lines, a_worker_that_stopped_is_passed_over_until_it_moves_again)
{
    const uint64_t now = 50 * US_PER_S;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 3, 1);
    unsigned worker;

    start_workers(board, 3, now);
    cr_assert(lines_set(board, 0, MODEL_A, 1, 1));
    cr_assert(lines_set(board, 1, MODEL_A, 2, 1));
    procs_heartbeat(board, 0, now - LINES_STALE_US);
    cr_assert(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(worker, 0, "exactly as old as it may be");
    procs_heartbeat(board, 0, now - LINES_STALE_US - 1);
    cr_assert(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(worker, 1);
    cr_assert_eq(lines_waiting(board, MODEL_A), 2, "its requests still wait");
    procs_heartbeat(board, 0, now + 5); /* after the caller looked at the clock */
    cr_assert(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(worker, 0);
    procs_set_state(board, 0, PROC_DRAINING);
    cr_assert(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(worker, 0, "a draining worker still serves what it has");
    procs_set_state(board, 0, PROC_STARTING);
    cr_assert(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(worker, 1);
    reap_process(board, 1);
    reap_process(board, 0);
    cr_assert_not(lines_first(board, MODEL_A, now, &worker, NULL));
    cr_assert_eq(lines_waiting_total(board), 0);
    cr_assert_not(lines_any(board));
    board_drop(&t, board);
}

Test(lines, sixteen_models_have_a_line_and_a_line_given_up_serves_another)
{
    const uint64_t now = 50 * US_PER_S;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    uint64_t key;

    start_workers(board, 1, now);
    for (uint64_t m = 0; m < LINES_PER_WORKER; m++) /* 0 is a model hash too */
        cr_assert(lines_set(board, 0, m == 0 ? 0 : m + 100, 1000 + m, 1));
    cr_assert_not(lines_set(board, 0, 999, 1, 1));
    cr_assert(lines_set(board, 0, 999, 0, 0), "there is nothing to remove");
    cr_assert_eq(lines_waiting(board, 999), 0);
    cr_assert_eq(lines_waiting_total(board), LINES_PER_WORKER);
    cr_assert(lines_first(board, 0, now, NULL, &key));
    cr_assert_eq(key, 1000);
    cr_assert(lines_set(board, 0, 105, 0, 0));
    cr_assert(lines_set(board, 0, 999, 7, 3));
    cr_assert(lines_first(board, 999, now, NULL, &key));
    cr_assert_eq(key, 7);
    cr_assert_not(lines_first(board, 105, now, NULL, NULL));
    cr_assert_eq(lines_waiting_total(board), LINES_PER_WORKER - 1 + 3);
    board_drop(&t, board);
}

Test(lines, sums_stop_at_the_greatest_number)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);

    cr_assert(lines_set(board, 0, MODEL_A, 1, UINT32_MAX));
    cr_assert(lines_set(board, 0, MODEL_B, 1, UINT32_MAX));
    cr_assert(lines_set(board, 1, MODEL_A, 1, 5));
    cr_assert_eq(lines_waiting(board, MODEL_A), UINT32_MAX);
    cr_assert_eq(lines_waiting_total(board), UINT32_MAX);
    board_drop(&t, board);
}

/* ---- workers that are killed at random points ---- */

enum { WORKERS = 4, MODELS = 5, KILLS = 40 };

struct ledger {
    _Atomic uint64_t steps;
    _Atomic uint32_t resting;
    _Atomic uint32_t count[MODELS];
    _Atomic uint64_t key[MODELS];
    _Atomic uint64_t oldest_mono_us;
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

/* Every key tells its model, so that a mix-up shows. */
static uint64_t random_key(uint64_t *seed, unsigned model)
{
    return (uint64_t)(1 + next_random(seed) % 100000) * MODELS + model;
}

static void worker(struct scoreboard *board, struct shared *shared, unsigned w, uint64_t seed)
{
    struct ledger *ledger = &shared->ledger[w];

    procs_set_state(board, w, PROC_RUNNING);
    while (shared->stop == 0) {
        unsigned m = next_random(&seed) % MODELS;
        uint32_t count = next_random(&seed) % 4;
        uint64_t key = random_key(&seed, m);

        (void)lines_set(board, w, m + 1, key, count);
        ledger->count[m] = count;
        ledger->key[m] = key;
        ledger->oldest_mono_us = next_random(&seed) % 3 == 0 ? 0 : 1 + next_random(&seed);
        gauges_set_oldest(board, w, 0, 1, ledger->oldest_mono_us);
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
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        worker(board, shared, w, seed);
    }
    return pid;
}

static void reap(struct scoreboard *board, unsigned w, pid_t pid)
{
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    reap_process(board, w);
    cr_assert_eq(segment_waiting(board)[w], 0);
    for (unsigned i = 0; i < LINES_PER_WORKER; i++)
        cr_assert_eq(segment_lines(board, w)->line[i].count, 0);
    cr_assert_eq(segment_gauges(board, 0)[segment_oldest_at(board) + w], 0);
}

/* While they run: whoever is first waits for that model. */
static void look(const struct scoreboard *board)
{
    for (unsigned m = 0; m < MODELS; m++) {
        uint64_t key;
        unsigned w;

        if (!lines_first(board, m + 1, clock_mono_us(), &w, &key))
            continue;
        cr_assert_lt(w, WORKERS);
        cr_assert_eq(key % MODELS, m, "another model's key");
    }
}

/* Of node 0: the least of what gauges_set_oldest() wrote, whether anything is charged or not.
 */
static uint64_t least_oldest(const struct scoreboard *board)
{
    const _Atomic uint64_t *row = segment_gauges(board, 0) + segment_oldest_at(board);
    uint64_t least = 0;

    for (unsigned w = 0; w < WORKERS; w++) {
        uint64_t one = SB_OLDEST_MONO_US(atomic_load(&row[w]));

        if (one != 0 && (least == 0 || one < least))
            least = one;
    }
    return least;
}

Test(lines, lines_and_oldest_requests_are_exact_after_workers_were_killed, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, WORKERS, 1);
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 20240301, oldest = 0;
    uint32_t total = 0;
    pid_t pid[WORKERS];

    cr_assert_neq(shared, MAP_FAILED);
    cr_assert_eq(nodes_claim(board, 1), 0);
    for (unsigned w = 0; w < WORKERS; w++)
        pid[w] = start(board, shared, w, next_random(&seed));
    for (int i = 0; i < KILLS; i++) {
        unsigned w = next_random(&seed) % WORKERS;
        uint64_t steps = 1 + next_random(&seed) % 3000;

        while (shared->ledger[w].steps < steps) {
            look(board);
            (void)sched_yield();
        }
        reap(board, w, pid[w]);
        pid[w] = start(board, shared, w, next_random(&seed));
    }
    shared->stop = 1;
    for (unsigned w = 0; w < WORKERS; w++)
        while (shared->ledger[w].resting == 0)
            (void)sched_yield();

    for (unsigned m = 0; m < MODELS; m++) {
        uint64_t least = UINT64_MAX, key, latest_mono_us = 0;
        uint32_t sum = 0;
        struct proc_view view;

        for (unsigned w = 0; w < WORKERS; w++) {
            const struct ledger *ledger = &shared->ledger[w];

            sum += ledger->count[m];
            if (ledger->count[m] != 0 && ledger->key[m] < least)
                least = ledger->key[m];
            cr_assert(procs_read(board, w, &view));
            if (view.heartbeat_mono_us > latest_mono_us)
                latest_mono_us = view.heartbeat_mono_us;
        }
        total += sum;
        cr_assert_eq(lines_waiting(board, m + 1), sum);
        for (unsigned w = 0; w < WORKERS; w++)
            procs_heartbeat(board, w, latest_mono_us);
        cr_assert_eq(lines_first(board, m + 1, latest_mono_us, NULL, &key), sum != 0);
        if (sum != 0)
            cr_assert_eq(key, least);
    }
    cr_assert_eq(lines_waiting_total(board), total);
    for (unsigned w = 0; w < WORKERS; w++) {
        uint64_t one = shared->ledger[w].oldest_mono_us;

        if (one != 0 && (oldest == 0 || one < oldest))
            oldest = one;
    }
    cr_assert_eq(least_oldest(board), oldest);
    for (unsigned w = 0; w < WORKERS; w++)
        reap(board, w, pid[w]);
    cr_assert_not(lines_any(board));
    cr_assert_eq(least_oldest(board), 0);
    (void)munmap(shared, sizeof(*shared));
    board_drop(&t, board);
}

Test(lines, who_was_turned_away_is_remembered_beyond_the_end_of_the_line)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1), *reader;

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_eq(lines_pressed(reader, MODEL_A), 0);
    lines_press(board, 1, MODEL_A, 500);
    cr_assert(lines_set(board, 2, MODEL_A, 10, 3));
    lines_press(board, 2, MODEL_A, 400);
    cr_assert(lines_set(board, 2, MODEL_A, 0, 0));
    cr_assert_eq(lines_pressed(reader, MODEL_A), 500, "the latest of all workers");
    cr_assert_eq(lines_pressed(reader, MODEL_B), 0);
    cr_assert_not(lines_any(reader), "nobody waits");
    lines_press(reader, 3, MODEL_A, 900);
    cr_assert_eq(lines_pressed(reader, MODEL_A), 500, "a reader writes nothing");
    lines_clear_worker(board, 1);
    cr_assert_eq(lines_pressed(reader, MODEL_A), 400);
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(lines, another_model_that_takes_the_line_over_does_not_inherit_it)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1);

    for (uint64_t model = 1; model <= LINES_PER_WORKER; model++)
        lines_press(board, 0, model, 100);
    lines_press(board, 0, MODEL_A, 200);
    cr_assert_eq(lines_pressed(board, MODEL_A), 200);
    cr_assert_eq(lines_pressed(board, 1), 0, "the first free line was taken");
    cr_assert(lines_set(board, 0, MODEL_B, 1, 1));
    cr_assert_eq(lines_pressed(board, MODEL_B), 0);
    board_drop(&t, board);
}

/* test_model_queues.c - rows of models, counts of workers, and workers that are killed. */
#include "shm/queue/model_queues.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "board.h"
#include "shm/facts/procs.h"
#include "shm/reap.h"

Test(model_queues, a_model_keeps_its_row_and_every_other_model_has_another)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);
    bool taken[MODEL_QUEUES_ROWS] = {false};

    for (uint64_t hash = 1; hash <= 500; hash++) {
        uint32_t row = model_queues_row(board, hash * MODEL_QUEUES_OTHERS); /* one place */

        cr_assert_lt(row, MODEL_QUEUES_OTHERS);
        cr_assert_not(taken[row]);
        taken[row] = true;
    }
    for (uint64_t hash = 1; hash <= 500; hash++)
        cr_assert(taken[model_queues_row(board, hash * MODEL_QUEUES_OTHERS)]);
    board_drop(&t, board);
}

Test(model_queues, models_that_come_too_late_share_the_last_row)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);

    for (uint64_t hash = 1; hash < MODEL_QUEUES_ROWS; hash++)
        cr_assert_neq(model_queues_row(board, hash), MODEL_QUEUES_OTHERS);
    cr_assert_eq(model_queues_row(board, 5000), MODEL_QUEUES_OTHERS);
    cr_assert_eq(model_queues_row(board, 6000), MODEL_QUEUES_OTHERS);
    cr_assert_neq(model_queues_row(board, 77), MODEL_QUEUES_OTHERS, "it has its own");
    model_queues_enter(board, 1, MODEL_QUEUES_OTHERS);
    cr_assert_eq(model_queues_waiting(board, MODEL_QUEUES_OTHERS), 1);
    board_drop(&t, board);
}

Test(model_queues, a_reader_finds_rows_and_takes_none)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1), *reader;
    uint32_t row = model_queues_row(board, 7);

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_eq(model_queues_row(reader, 8), MODEL_QUEUES_OTHERS);
    cr_assert_eq(model_queues_row(reader, 7), row);
    model_queues_enter(board, 0, row);
    model_queues_enter(reader, 0, row);
    model_queues_refuse(reader, row, 5);
    cr_assert_eq(model_queues_waiting(reader, row), 1);
    cr_assert_eq(model_queues_refused_mono_us(reader, row), 0);
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(model_queues, a_models_queue_is_the_sum_over_all_workers)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 40, 1);
    uint32_t one = model_queues_row(board, 1), two = model_queues_row(board, 2);

    for (unsigned w = 0; w < 40; w += 13)
        for (unsigned i = 0; i <= w; i++)
            model_queues_enter(board, w, one);
    model_queues_enter(board, 39, two);
    model_queues_leave(board, 13, one);
    cr_assert_eq(model_queues_waiting(board, one), 1 + 14 + 27 + 40 - 1);
    cr_assert_eq(model_queues_waiting(board, two), 1);
    cr_assert_eq(model_queues_of(board, 13, one), 13);
    model_queues_leave(board, 0, one);
    model_queues_leave(board, 0, one);
    cr_assert_eq(model_queues_of(board, 0, one), 0, "not below nothing");
    board_drop(&t, board);
}

Test(model_queues, the_last_refusal_is_the_latest_of_all_workers)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);

    cr_assert_eq(model_queues_refused_mono_us(board, 3), 0);
    model_queues_refuse(board, 3, 500);
    model_queues_refuse(board, 3, 400);
    cr_assert_eq(model_queues_refused_mono_us(board, 3), 500);
    cr_assert_eq(model_queues_refused_mono_us(board, 4), 0);
    board_drop(&t, board);
}

/* ---- workers that are killed ---- */

#define WORKERS 3u
#define MODELS  5u

struct ledger {
    _Atomic uint32_t stop, steps[WORKERS], resting[WORKERS];
    _Atomic uint32_t waiting[WORKERS][MODELS];
};

static void work(struct scoreboard *board, struct ledger *ledger, unsigned w)
{
    uint64_t random = w + 1;

    while (ledger->stop == 0) {
        uint32_t model, row;

        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        model = (uint32_t)(random >> 33) % MODELS;
        row = model_queues_row(board, 100 + model);
        if (ledger->waiting[w][model] != 0 && random >> 62 == 0) {
            model_queues_leave(board, w, row);
            ledger->waiting[w][model]--;
        } else {
            model_queues_enter(board, w, row);
            ledger->waiting[w][model]++;
        }
        ledger->steps[w]++;
    }
    ledger->resting[w] = 1;
    for (;;)
        (void)pause();
}

static pid_t start(struct scoreboard *board, struct ledger *ledger, unsigned w)
{
    pid_t pid;

    ledger->steps[w] = 0;
    for (unsigned m = 0; m < MODELS; m++)
        ledger->waiting[w][m] = 0;
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(board, ledger, w);
    }
    return pid;
}

Test(model_queues, a_killed_worker_leaves_no_count_and_takes_none_from_others, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, WORKERS, 1);
    struct ledger *ledger =
        mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[WORKERS];

    cr_assert_neq(ledger, MAP_FAILED);
    for (unsigned w = 0; w < WORKERS; w++)
        pid[w] = start(board, ledger, w);
    for (unsigned kill_count = 0; kill_count < 30; kill_count++) {
        unsigned w = kill_count % WORKERS;

        while (ledger->steps[w] < 1 + kill_count * 7)
            (void)sched_yield();
        (void)kill(pid[w], SIGKILL);
        cr_assert_eq(waitpid(pid[w], NULL, 0), pid[w]);
        reap_process(board, w);
        for (unsigned m = 0; m < MODELS; m++)
            cr_assert_eq(model_queues_of(board, w, model_queues_row(board, 100 + m)), 0);
        pid[w] = start(board, ledger, w);
    }
    ledger->stop = 1;
    for (unsigned w = 0; w < WORKERS; w++)
        while (ledger->resting[w] == 0)
            (void)sched_yield();
    for (unsigned m = 0; m < MODELS; m++) {
        uint32_t sum = 0;

        for (unsigned w = 0; w < WORKERS; w++)
            sum += ledger->waiting[w][m];
        cr_assert_eq(model_queues_waiting(board, model_queues_row(board, 100 + m)), sum);
    }
    for (unsigned w = 0; w < WORKERS; w++) {
        (void)kill(pid[w], SIGKILL);
        (void)waitpid(pid[w], NULL, 0);
    }
    (void)munmap(ledger, sizeof(*ledger));
    board_drop(&t, board);
}

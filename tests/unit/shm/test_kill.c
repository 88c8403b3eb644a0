/*
 * test_kill.c - workers are killed at random points; gauges and tables are exact afterwards.
 *
 * Each worker keeps a ledger of what it holds in memory of its own, shared with the parent but
 * not with shm/'s code.  When everybody has come to rest, the survivors' gauges must equal
 * their ledgers and the dead ones' be zero.
 */
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/reap.h"
#include "shm/segment.h"
#include "shm/share/gauges.h"

#define WORKERS 4u
#define NODES   3u
#define HELD    16u
#define CAP     20u
#define KILLS   60

struct ledger {
    _Atomic uint64_t steps; /* of the present process */
    _Atomic uint32_t resting;
    _Atomic uint32_t inflight[NODES];
    _Atomic uint64_t pending[NODES];
    _Atomic uint32_t open;
};

struct shared {
    _Atomic uint32_t stop;
    struct ledger ledger[WORKERS];
};

struct held {
    int row; /* in the request table */
    unsigned node;
    uint32_t tokens; /* still pending */
    bool live;
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static void drop(struct scoreboard *board, struct ledger *ledger, unsigned w, struct held *h)
{
    gauges_release(board, w, h->node, 1, h->tokens);
    ledger->inflight[h->node]--;
    ledger->pending[h->node] -= h->tokens;
    requests_close(board, w, h->row);
    ledger->open--;
    h->live = false;
}

static void worker(struct scoreboard *board, struct shared *shared, unsigned w, uint64_t seed)
{
    struct ledger *ledger = &shared->ledger[w];
    struct held held[HELD] = {0};

    procs_set_state(board, w, PROC_RUNNING);
    while (shared->stop == 0) {
        struct held *h = &held[next_random(&seed) % HELD];
        unsigned node = next_random(&seed) % NODES;
        uint32_t tokens = next_random(&seed) % 1000;

        if (h->live && next_random(&seed) % 2 == 0) {
            gauges_prefill_done(board, w, h->node, 1, h->tokens);
            ledger->pending[h->node] -= h->tokens;
            h->tokens = 0;
            requests_phase(board, w, h->row, REQUEST_DECODE, 1);
        } else if (h->live) {
            drop(board, ledger, w, h);
        } else if (gauges_claim(board, w, node, 1, tokens, CAP)) {
            int row = requests_open(board, w, "id", "model", tokens, 1);

            *h = (struct held){.row = row, .node = node, .tokens = tokens, .live = true};
            requests_node(board, w, h->row, node, 0);
            ledger->inflight[node]++;
            ledger->pending[node] += tokens;
            ledger->open++;
            stats_count(board, node, 1, STATS_DISPATCHED, 1);
        }
        procs_heartbeat(board, w, clock_mono_us());
        ledger->steps++;
    }
    ledger->resting = 1;
    for (;;)
        (void)pause();
}

static pid_t start(struct scoreboard *board, struct shared *shared, unsigned w, uint64_t seed,
                   bool crashed)
{
    pid_t pid;

    memset(&shared->ledger[w], 0, sizeof(shared->ledger[w]));
    procs_assign(board, w, 1, crashed);
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        worker(board, shared, w, seed);
    }
    procs_set_pid(board, w, pid);
    return pid;
}

static void reap(struct scoreboard *board, unsigned w, pid_t pid)
{
    struct request_view view;

    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    reap_process(board, w);
    for (unsigned node = 0; node < NODES; node++) {
        cr_assert_eq(board_gauge(board, w, node, 1).inflight, 0);
        cr_assert_eq(board_gauge(board, w, node, 1).charged_us, 0);
        cr_assert_eq(segment_gauges(board, node)[w], 0, "not even a claim is left");
        cr_assert_leq(gauges_sum(board, node, 1).inflight, CAP);
    }
    cr_assert_eq(requests_count(board, w, NULL), 0);
    for (unsigned row = 0; row < 64; row++)
        cr_assert_not(requests_read(board, w, row, &view));
}

Test(kill, gauges_are_exact_after_workers_were_killed_in_a_loop, .timeout = 120)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, NODES, WORKERS, 64);
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 20240229, dispatched = 0;
    pid_t pid[WORKERS];
    struct proc_view view;

    cr_assert_neq(shared, MAP_FAILED);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(nodes_claim(board, 1), (int)node);
    for (unsigned w = 0; w < WORKERS; w++)
        pid[w] = start(board, shared, w, next_random(&seed), false);

    for (int i = 0; i < KILLS; i++) {
        unsigned w = next_random(&seed) % (WORKERS - 1); /* the last one survives it all */
        uint64_t steps = 50 + next_random(&seed) % 2000, now;

        while (shared->ledger[w].steps < steps)
            (void)sched_yield();
        reap(board, w, pid[w]);
        for (unsigned node = 0; node < NODES; node++, dispatched = now) {
            now = stats_read_counter(board, 0, STATS_DISPATCHED);
            cr_assert_geq(now, dispatched, "totals only grow");
        }
        pid[w] = start(board, shared, w, next_random(&seed), true);
    }

    shared->stop = 1;
    for (unsigned w = 0; w < WORKERS; w++)
        while (shared->ledger[w].resting == 0)
            (void)sched_yield();
    for (unsigned node = 0; node < NODES; node++) {
        struct gauge sum = {0};

        for (unsigned w = 0; w < WORKERS; w++) {
            struct gauge g = board_gauge(board, w, node, 1);

            cr_assert_eq(g.inflight, shared->ledger[w].inflight[node]);
            cr_assert_eq(g.charged_us, shared->ledger[w].pending[node]);
            sum.inflight += g.inflight;
            sum.charged_us += g.charged_us;
        }
        cr_assert_eq(gauges_sum(board, node, 1).inflight, sum.inflight);
        cr_assert_eq(gauges_sum(board, node, 1).charged_us, sum.charged_us);
        cr_assert_leq(sum.inflight, CAP);
    }
    for (unsigned w = 0; w < WORKERS; w++)
        cr_assert_eq(requests_count(board, w, NULL), shared->ledger[w].open);
    cr_assert(procs_read(board, WORKERS - 1, &view));
    cr_assert_eq(view.restarts, 0);
    for (unsigned w = 0; w < WORKERS; w++)
        reap(board, w, pid[w]);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(gauges_sum(board, node, 1).inflight, 0);
    (void)munmap(shared, sizeof(*shared));
    board_drop(&t, board);
}

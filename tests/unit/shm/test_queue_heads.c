/* test_queue_heads.c - the least key of a row, offers, and workers that are killed meanwhile.
 */
#include "shm/queue/queue_heads.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/queue/offers.h"
#include "shm/reap.h"
#include "shm/segment.h"
#include "shm/share/gauges.h"

#define NOW        (50 * US_PER_S)
#define GENERATION 70001u /* more than 16 bits */

/* Workers that run, and beat at `now_mono_us`. */
static void start_workers(struct scoreboard *board, unsigned n, uint64_t now_mono_us)
{
    for (unsigned w = 0; w < n; w++) {
        procs_assign(board, w, 1, false);
        procs_set_state(board, w, PROC_RUNNING);
        procs_heartbeat(board, w, now_mono_us);
    }
}

static bool least(const struct scoreboard *board, unsigned node, struct queue_head *head)
{
    return queue_heads_least(board, node, GENERATION, QUEUE_HEADS_NOBODY, NOW, head);
}

Test(queue_heads, the_least_key_of_a_nodes_row_is_first_in_whichever_worker)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 3, 12, 1);
    struct queue_head head;

    start_workers(board, 12, NOW);
    cr_assert_not(least(board, 0, &head));
    queue_heads_set(board, 0, 0, GENERATION, 300);
    queue_heads_set(board, 11, 0, GENERATION, 100);
    queue_heads_set(board, 1, 1, GENERATION, 50);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 11);
    cr_assert_eq(head.key, 100);
    cr_assert(least(board, 1, &head), "another node, another row");
    cr_assert_eq(head.worker, 1);
    cr_assert_not(least(board, 2, &head));
    queue_heads_set(board, 11, 0, GENERATION, 0);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 0);
    board_drop(&t, board);
}

Test(queue_heads, of_equal_keys_the_lower_worker_is_first)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1);
    struct queue_head head;

    start_workers(board, 4, NOW);
    queue_heads_set(board, 3, 0, GENERATION, 7);
    queue_heads_set(board, 1, 0, GENERATION, 7);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 1);
    board_drop(&t, board);
}

Test(queue_heads, a_workers_own_word_can_be_left_out)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 4, 1);
    struct queue_head head;

    start_workers(board, 4, NOW);
    queue_heads_set(board, 0, 0, GENERATION, 1);
    cr_assert_not(queue_heads_least(board, 0, GENERATION, 0, NOW, &head));
    queue_heads_set(board, 2, 0, GENERATION, 9);
    cr_assert(queue_heads_least(board, 0, GENERATION, 0, NOW, &head));
    cr_assert_eq(head.worker, 2);
    queue_heads_set_total(board, 0, 1);
    cr_assert(queue_heads_any(board, QUEUE_HEADS_NOBODY));
    cr_assert(queue_heads_any(board, 2));
    cr_assert_not(queue_heads_any(board, 0));
    board_drop(&t, board);
}

Test(queue_heads, a_word_for_another_generation_of_the_node_counts_for_nothing)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);
    struct queue_head head;

    start_workers(board, 2, NOW);
    queue_heads_set(board, 0, 0, GENERATION + 1, 1);
    queue_heads_set(board, 1, 0, GENERATION, 2);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 1);
    cr_assert(queue_heads_least(board, 0, GENERATION + 1, QUEUE_HEADS_NOBODY, NOW, &head));
    cr_assert_eq(head.worker, 0);
    cr_assert_not(queue_heads_least(board, 0, GENERATION - 1, QUEUE_HEADS_NOBODY, NOW, &head));
    board_drop(&t, board);
}

Test(queue_heads, a_worker_that_does_not_turn_is_passed_over_until_it_does)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 3, 1);
    struct queue_head head;

    start_workers(board, 3, NOW);
    queue_heads_set(board, 0, 0, GENERATION, 1);
    queue_heads_set(board, 1, 0, GENERATION, 2);
    procs_heartbeat(board, 0, NOW - QUEUE_HEADS_BEAT_US);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 0, "exactly as old as it may be");
    procs_heartbeat(board, 0, NOW - QUEUE_HEADS_BEAT_US - 1);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 1);
    procs_heartbeat(board, 0, NOW + 5); /* after the caller looked at the clock */
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 0);
    procs_set_state(board, 0, PROC_DRAINING);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 0, "a draining worker still serves what it has");
    procs_set_state(board, 0, PROC_STARTING);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.worker, 1);
    board_drop(&t, board);
}

Test(queue_heads, a_dead_worker_leaves_neither_words_nor_total_nor_offers)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 70, 3, 1);
    struct node_set nodes = {0};
    struct queue_head head;

    start_workers(board, 3, NOW);
    for (unsigned node = 0; node < 70; node++) {
        queue_heads_set(board, 1, node, GENERATION, 5);
        offers_set(board, 1, node);
    }
    queue_heads_set(board, 2, 3, GENERATION, 6);
    queue_heads_set_total(board, 1, 4);
    queue_heads_set_total(board, 2, 1);
    offers_set(board, 2, 3);
    reap_process(board, 1);
    procs_assign(board, 1, 1, true);
    procs_set_state(board, 1, PROC_RUNNING);
    procs_heartbeat(board, 1, NOW);
    cr_assert_not(least(board, 4, &head));
    cr_assert(least(board, 3, &head));
    cr_assert_eq(head.worker, 2, "another worker's is still there");
    cr_assert_eq(queue_heads_total(board), 1);
    offers_take(board, 1, &nodes);
    cr_assert_eq(node_set_pop(&nodes), -1);
    offers_take(board, 2, &nodes);
    cr_assert_eq(node_set_pop(&nodes), 3);
    board_drop(&t, board);
}

Test(queue_heads, keys_and_totals_keep_to_their_bounds)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1);
    struct queue_head head;

    start_workers(board, 2, NOW);
    queue_heads_set(board, 0, 0, GENERATION, UINT64_MAX);
    cr_assert(least(board, 0, &head));
    cr_assert_eq(head.key, QUEUE_HEADS_MAX_KEY);
    queue_heads_set_total(board, 0, UINT32_MAX);
    queue_heads_set_total(board, 1, 5);
    cr_assert_eq(queue_heads_total(board), UINT32_MAX);
    board_drop(&t, board);
}

Test(queue_heads, a_reader_writes_nothing)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1), *reader;
    struct node_set nodes = {0};
    struct queue_head head;

    start_workers(board, 2, NOW);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    queue_heads_set(reader, 0, 0, GENERATION, 1);
    queue_heads_set_total(reader, 0, 1);
    offers_set(reader, 0, 0);
    cr_assert_not(queue_heads_any(board, QUEUE_HEADS_NOBODY));
    offers_take(board, 0, &nodes);
    cr_assert_eq(node_set_pop(&nodes), -1);
    queue_heads_set(board, 0, 0, GENERATION, 1);
    offers_set(board, 0, 0);
    queue_heads_clear_worker(reader, 0);
    offers_take(reader, 0, &nodes);
    cr_assert_eq(node_set_pop(&nodes), -1);
    cr_assert(least(reader, 0, &head));
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(offers, each_worker_takes_its_own_once)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 200, 2, 1);
    struct node_set nodes = {0};

    offers_set(board, 0, 0);
    offers_set(board, 0, 64);
    offers_set(board, 0, 199);
    offers_set(board, 0, 199);
    offers_set(board, 1, 7);
    offers_set(board, 0, 200); /* out of range */
    offers_set(board, 2, 0);
    node_set_add(&nodes, 5); /* what was to be looked at already stays */
    offers_take(board, 0, &nodes);
    cr_assert_eq(node_set_pop(&nodes), 0);
    cr_assert_eq(node_set_pop(&nodes), 5);
    cr_assert_eq(node_set_pop(&nodes), 64);
    cr_assert_eq(node_set_pop(&nodes), 199);
    cr_assert_eq(node_set_pop(&nodes), -1);
    offers_take(board, 0, &nodes);
    cr_assert_eq(node_set_pop(&nodes), -1);
    offers_take(board, 1, &nodes);
    cr_assert_eq(node_set_pop(&nodes), 7);
    board_drop(&t, board);
}

/* ---- workers that are killed at random points ---- */

enum { WORKERS = 4, NODES = 5, KILLS = 40 };

struct ledger {
    _Atomic uint64_t steps;
    _Atomic uint32_t resting;
    _Atomic uint64_t key[NODES];
    _Atomic uint32_t total;
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

/* Every key contains worker and node, so that a mix-up shows. */
static uint64_t random_key(uint64_t *seed, unsigned w, unsigned node)
{
    return ((uint64_t)(1 + next_random(seed) % 100000) * WORKERS + w) * NODES + node;
}

static void work(struct scoreboard *board, struct shared *shared, unsigned w, uint64_t seed)
{
    struct ledger *ledger = &shared->ledger[w];

    procs_set_state(board, w, PROC_RUNNING);
    while (shared->stop == 0) {
        unsigned node = next_random(&seed) % NODES;
        uint64_t key = next_random(&seed) % 4 == 0 ? 0 : random_key(&seed, w, node);
        uint32_t total = next_random(&seed) % 4;

        queue_heads_set(board, w, node, GENERATION, key);
        queue_heads_set_total(board, w, total);
        offers_set(board, next_random(&seed) % WORKERS, node);
        ledger->key[node] = key;
        ledger->total = total;
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
        work(board, shared, w, seed);
    }
    return pid;
}

static void reap(struct scoreboard *board, unsigned w, pid_t pid)
{
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    reap_process(board, w);
    cr_assert_eq(segment_queue_totals(board)[w], 0);
    for (unsigned node = 0; node < NODES; node++)
        cr_assert_eq(segment_queue_heads(board, node)[w], 0);
}

/* While they run. */
static void look(const struct scoreboard *board)
{
    for (unsigned node = 0; node < NODES; node++) {
        struct queue_head head;

        if (!queue_heads_least(board, node, GENERATION, QUEUE_HEADS_NOBODY, clock_mono_us(),
                               &head))
            continue;
        cr_assert_eq(head.key % NODES, node, "another node's key");
        cr_assert_eq(head.key / NODES % WORKERS, head.worker, "another worker's key");
    }
}

Test(queue_heads, words_and_totals_are_exact_after_workers_were_killed, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, NODES, WORKERS, 1);
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 20240301, now;
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
    now = clock_mono_us();
    for (unsigned w = 0; w < WORKERS; w++) {
        while (shared->ledger[w].resting == 0)
            (void)sched_yield();
        procs_heartbeat(board, w, now);
        total += shared->ledger[w].total;
    }
    cr_assert_eq(queue_heads_total(board), total);
    for (unsigned node = 0; node < NODES; node++) {
        uint64_t want = 0;
        struct queue_head head = {0};

        for (unsigned w = 0; w < WORKERS; w++) {
            uint64_t key = shared->ledger[w].key[node];

            want = key != 0 && (want == 0 || key < want) ? key : want;
        }
        cr_assert_eq(queue_heads_least(board, node, GENERATION, QUEUE_HEADS_NOBODY, now, &head),
                     want != 0);
        cr_assert_eq(head.key, want);
    }
    for (unsigned w = 0; w < WORKERS; w++)
        reap(board, w, pid[w]);
    cr_assert_not(queue_heads_any(board, QUEUE_HEADS_NOBODY));
    (void)munmap(shared, sizeof(*shared));
    board_drop(&t, board);
}

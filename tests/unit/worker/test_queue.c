/*
 * test_queue.c - the queue of one worker: order, need, rights, offers, words.
 *
 * The board and the gauges are real; what is not is the request.  An entry of these tests takes
 * the lowest node of its reach() that it has a right to and that has a slot free.
 */
#include "worker/queue/queue.h"

#include <criterion/criterion.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "policy/route/times.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/queue/offers.h"
#include "shm/queue/queue_heads.h"
#include "shm/segment.h"
#include "shm/share/gauges.h"
#include "tests/unit/shm/board.h"

enum { NODES = 80, WORKERS = 3, ENTRIES = 12000 };
#define ME 1u /* the worker under test */

struct wait {
    struct queue_entry entry;
    struct node_set reach;
    uint64_t until_mono_us;
    bool declines;
    bool plans;   /* does not start, and calls itself planned */
    int moves_to; /* with `plans`: the only node of its reach then; 0 = as before */
    int at;       /* the node it runs on; -1 = it does not run */
};

static struct temporary temporary;
static struct scoreboard *board;
static struct loop loop;
static struct queue queue;
static struct route_times times;
static int wake_fds[WORKERS];
static struct wait waits[ENTRIES];
static struct wait *started[ENTRIES];
static struct wait *priced[ENTRIES];
static unsigned started_count, tries, reaches, beyond_tries, priced_count;

static void move_plan(struct wait *wait)
{
    if (wait->moves_to == 0)
        return;
    memset(&wait->reach, 0, sizeof(wait->reach));
    node_set_add(&wait->reach, (unsigned)wait->moves_to);
    wait->plans = false;
    queue_move(&queue, &wait->entry, 1000 + (uint64_t)wait->moves_to);
}

static enum queue_start start(struct queue_entry *entry, const struct queue_rights *rights)
{
    struct wait *wait = CONTAINER_OF(entry, struct wait, entry);
    struct node_set nodes = rights->slots;
    int node;

    if (rights->overcommit_only) {
        beyond_tries++;
        priced[priced_count++ % ENTRIES] = wait;
        return QUEUE_DECLINED;
    }
    if (wait->plans) {
        tries++;
        move_plan(wait);
        return QUEUE_PLANNED;
    }
    tries++;
    if (wait->declines)
        return QUEUE_DECLINED;
    while ((node = node_set_pop(&nodes)) != -1) {
        if (!node_set_has(&wait->reach, (unsigned)node) ||
            !gauges_claim(board, ME, (unsigned)node, 1, 0, 1))
            continue;
        wait->at = node;
        started[started_count++] = wait;
        queue_remove(&queue, entry);
        return QUEUE_STARTED;
    }
    return QUEUE_LOST;
}

static void reach(const struct queue_entry *entry, struct queue_reach *out)
{
    const struct wait *wait = CONTAINER_OF(entry, struct wait, entry);

    reaches++;
    out->nodes = wait->reach;
    out->until_mono_us = wait->until_mono_us;
    for (unsigned n = 0; n < NODES; n++)
        out->generation[n] = 1;
}

static const struct queue_owner owner = {.start = start, .reach = reach};

static void begin(void)
{
    static const struct node_info info = {.name = "node", .slots = 1};

    board = board_make(&temporary, NODES, WORKERS, 1);
    for (unsigned n = 0; n < NODES; n++) {
        cr_assert_eq(nodes_claim(board, 1), (int)n);
        nodes_publish(board, n, &info);
        nodes_set_state(board, n, NODE_UP, NODE_REASON_NONE, 1);
        cr_assert(gauges_claim(board, 0, n, 1, 0, 1), "every place is taken at first");
    }
    for (unsigned w = 0; w < WORKERS; w++) {
        procs_assign(board, w, 1, false);
        procs_set_state(board, w, PROC_RUNNING);
        wake_fds[w] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        cr_assert_neq(wake_fds[w], -1);
    }
    cr_assert_eq(loop_init(&loop, NULL), 0);
    times = route_times(1);
    queue_init(&queue, &loop, board, ME, wake_fds, 0, &times, &owner);
}

static void end(void)
{
    for (unsigned i = 0; i < ENTRIES; i++)
        queue_remove(&queue, &waits[i].entry);
    loop_turn(&loop, 0);
    cr_expect_not(queue_heads_any(board, QUEUE_HEADS_NOBODY), "all is withdrawn");
    queue_finish(&queue);
    loop_finish(&loop);
    for (unsigned w = 0; w < WORKERS; w++)
        (void)close(wake_fds[w]);
    board_drop(&temporary, board);
}

TestSuite(queue, .init = begin, .fini = end, .timeout = 60);

static void reaches_only(struct wait *wait, unsigned node)
{
    memset(&wait->reach, 0, sizeof(wait->reach));
    node_set_add(&wait->reach, node);
}

/* A request that could use this node alone, unless more are added to its reach. */
static struct wait *add(unsigned i, uint64_t key, unsigned node)
{
    struct wait *wait = &waits[i];

    if (wait->until_mono_us == 0)
        wait->until_mono_us = UINT64_MAX;
    wait->at = -1;
    node_set_add(&wait->reach, node);
    cr_assert_eq(queue_add(&queue, &wait->entry, 1000 + node, key), 0);
    return wait;
}

static void beat(unsigned worker)
{
    procs_heartbeat(board, worker, clock_mono_us());
}

/* Another worker makes room, and offers it to the one under test. */
static void offer(unsigned node)
{
    gauges_release(board, 0, node, 1, 0);
    offers_set(board, ME, node);
    queue_woken(&queue);
}

static uint64_t word(unsigned node)
{
    return *(segment_queue_heads(board, node) + ME) & QUEUE_HEADS_MAX_KEY;
}

static bool is_awake(unsigned worker)
{
    uint64_t count;

    return read(wake_fds[worker], &count, sizeof(count)) == sizeof(count);
}

static bool is_offered(unsigned worker, unsigned node)
{
    struct node_set nodes = {0};

    offers_take(board, worker, &nodes);
    return node_set_has(&nodes, node);
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

Test(queue, entries_start_in_the_order_of_their_keys_and_of_equal_ones_in_that_of_arrival)
{
    enum { COUNT = 400 };
    uint64_t seed = 7;

    for (unsigned i = 0; i < COUNT; i++)
        add(i, 1 + next_random(&seed) % 100, 0);
    for (unsigned i = 0; i < COUNT; i += 7)
        queue_remove(&queue, &waits[i].entry);
    for (unsigned i = 0; i < COUNT; i += 7)
        add(i, 1 + next_random(&seed) % 100, 0);
    gauges_release(board, 0, 0, 1, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        queue_room(&queue, 0);
        loop_turn(&loop, 0);
        cr_assert_eq(started_count, i + 1);
        gauges_release(board, ME, 0, 1, 0);
    }
    for (unsigned i = 1; i < COUNT; i++) {
        const struct queue_entry *a = &started[i - 1]->entry, *b = &started[i]->entry;

        cr_assert_leq(a->key, b->key);
    }
}

Test(queue, keys_of_several_classes_are_put_in_their_places)
{
    enum { COUNT = 3000 };
    uint64_t seed = 11;

    for (unsigned i = 0; i < COUNT; i++)
        add(i, 1000 + i + next_random(&seed) % 3 * 700, 0);
    gauges_release(board, 0, 0, 1, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        queue_room(&queue, 0);
        loop_turn(&loop, 0);
        gauges_release(board, ME, 0, 1, 0);
    }
    cr_assert_eq(started_count, COUNT);
    for (unsigned i = 1; i < COUNT; i++)
        cr_assert_leq(started[i - 1]->entry.key, started[i]->entry.key);
}

Test(queue, an_entry_that_cannot_use_a_node_does_not_stand_before_one_that_can)
{
    add(0, 10, 0);
    add(1, 20, 1);
    loop_turn(&loop, 0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1);
    cr_assert_eq(started[0], &waits[1]);
}

Test(queue, a_node_that_both_could_use_goes_to_the_lower_key_whatever_its_need)
{
    add(0, 20, 0);
    node_set_add(&waits[1].reach, 0);
    add(1, 10, 1);
    loop_turn(&loop, 0);
    cr_assert_eq(word(0), 10);
    cr_assert_eq(word(1), 10);
    offer(0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1);
    cr_assert_eq(started[0], &waits[1]);
    cr_assert_eq(word(0), 20);
    cr_assert_eq(word(1), 0);
}

Test(queue, words_have_the_least_key_of_each_node_among_many_lists)
{
    uint64_t least[NODES], seed = 3;

    memset(least, 0, sizeof(least));
    for (unsigned i = 0; i < 2000; i++) {
        unsigned node = next_random(&seed) % NODES, other = next_random(&seed) % NODES;
        uint64_t key = 1 + next_random(&seed) % 100000;

        /* A need of its own for each pair of nodes. */
        reaches_only(&waits[i], node);
        node_set_add(&waits[i].reach, other);
        waits[i].until_mono_us = UINT64_MAX;
        cr_assert_eq(queue_add(&queue, &waits[i].entry, node * NODES + other, key), 0);
        least[node] = least[node] == 0 || key < least[node] ? key : least[node];
        least[other] = least[other] == 0 || key < least[other] ? key : least[other];
    }
    loop_turn(&loop, 0);
    for (unsigned n = 0; n < NODES; n++)
        cr_assert_eq(word(n), least[n]);
    cr_assert_eq(queue_heads_total(board), 2000);
}

Test(queue, a_place_that_another_workers_request_is_first_for_is_offered_on)
{
    add(0, 20, 0);
    loop_turn(&loop, 0);
    queue_heads_set(board, 2, 0, 1, 10);
    queue_heads_set_total(board, 2, 1);
    beat(2);
    offer(0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 0);
    cr_assert(is_offered(2, 0));
    cr_assert(is_awake(2));
    cr_assert_not(is_awake(0));
    queue_heads_set(board, 2, 0, 1, 30);
    queue_room(&queue, 0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1, "now it is first");
    cr_assert_not(is_awake(2), "and nothing is left to offer");
    queue_heads_clear_worker(board, 2);
}

Test(queue, of_equal_keys_the_lower_worker_is_first)
{
    add(0, 20, 0);
    add(1, 20, 1);
    loop_turn(&loop, 0);
    queue_heads_set(board, 0, 0, 1, 20);
    queue_heads_set_total(board, 0, 1);
    queue_heads_set(board, 2, 1, 1, 20);
    queue_heads_set_total(board, 2, 1);
    beat(0);
    beat(2);
    offer(0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1);
    cr_assert_eq(started[0], &waits[1]);
    cr_assert(is_offered(0, 0));
    queue_heads_clear_worker(board, 0);
    queue_heads_clear_worker(board, 2);
}

Test(queue, a_worker_that_does_not_turn_is_passed_over)
{
    add(0, 20, 0);
    loop_turn(&loop, 0);
    queue_heads_set(board, 2, 0, 1, 10);
    queue_heads_set_total(board, 2, 1);
    procs_heartbeat(board, 2, clock_mono_us() - QUEUE_HEADS_BEAT_US - US_PER_MS);
    offer(0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1);
    queue_heads_clear_worker(board, 2);
}

Test(queue, several_places_on_a_node_go_to_several_in_one_turn)
{
    add(0, 1, 0);
    add(1, 2, 0);
    add(2, 3, 1);
    loop_turn(&loop, 0);
    offer(0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 2);
    cr_assert_eq(started[0], &waits[0]);
    cr_assert_eq(started[1], &waits[2]);
}

Test(queue, an_entry_that_declines_a_node_lets_the_next_have_it)
{
    add(0, 1, 0)->declines = true;
    node_set_add(&waits[1].reach, 0);
    add(1, 2, 1);
    loop_turn(&loop, 0);
    cr_assert_eq(word(0), 1);
    offer(0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1);
    cr_assert_eq(started[0], &waits[1]);
    cr_assert_leq(tries, 2);
}

Test(queue, a_declined_node_is_asked_again_soon)
{
    add(0, 1, 0)->declines = true;
    loop_turn(&loop, 0);
    offer(0);
    loop_turn(&loop, 0);
    cr_assert_eq(tries, 1);
    cr_assert_eq(word(0), 0, "it does not stand before others meanwhile");
    waits[0].declines = false;
    for (int i = 0; i < 1000 && started_count == 0; i++)
        loop_turn(&loop, 10 * US_PER_MS);
    cr_assert_eq(started_count, 1);
}

Test(queue, a_pause_that_ends_brings_the_node_back_without_any_news)
{
    struct wait *wait = add(0, 1, 0);

    reaches_only(wait, 1);
    wait->until_mono_us = clock_mono_us() + 30 * US_PER_MS;
    gauges_release(board, 0, 0, 1, 0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 0);
    reaches_only(wait, 0);
    for (int i = 0; i < 1000 && started_count == 0; i++) {
        loop_turn(&loop, 10 * US_PER_MS);
        if (clock_mono_us() > wait->until_mono_us)
            wait->until_mono_us = UINT64_MAX;
    }
    cr_assert_eq(started_count, 1);
}

Test(queue, a_place_that_came_free_before_the_words_were_published_is_found_with_them)
{
    gauges_release(board, 0, 0, 1, 0);
    add(0, 1, 0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 1, "in the same turn");
}

Test(queue, a_node_that_is_not_announced_is_found)
{
    nodes_set_state(board, 0, NODE_DOWN, NODE_REASON_NONE, 1);
    gauges_release(board, 0, 0, 1, 0);
    add(0, 1, 0);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 0);
    nodes_set_state(board, 0, NODE_UP, NODE_REASON_NONE, 1);
    for (int i = 0; i < 1000 && started_count == 0; i++)
        loop_turn(&loop, 10 * US_PER_MS);
    cr_assert_eq(started_count, 1);
}

Test(queue, reach_is_asked_once_until_it_is_renewed)
{
    for (unsigned i = 0; i < 500; i++)
        add(i, 1 + i, i % 2);
    loop_turn(&loop, 0);
    for (int i = 0; i < 20; i++) {
        queue_room(&queue, 0);
        loop_turn(&loop, 0);
    }
    cr_assert_leq(reaches, 2);
    for (unsigned i = 0; i < 500; i++)
        reaches_only(&waits[i], 2 + i % 2);
    queue_renew(&queue);
    loop_turn(&loop, 0);
    cr_assert_eq(reaches, 4);
    cr_assert_eq(word(0), 0);
    cr_assert_eq(word(2), 1);
    cr_assert_eq(word(3), 2);
}

/* ---- rights ---- */

static struct queue_rights rights_of(uint64_t key, struct queue_entry *entry)
{
    struct queue_reach reached = queue_reach(&queue);
    struct queue_rights rights;

    for (unsigned n = 0; n < 2; n++) {
        node_set_add(&reached.nodes, n);
        reached.generation[n] = 1;
    }
    queue_rights(&queue, entry, key, &reached.nodes, &rights);
    return rights;
}

Test(queue, a_newcomer_may_take_anything_while_nothing_waits)
{
    struct queue_rights rights;

    cr_assert(queue_is_idle(&queue));
    rights = rights_of(5, NULL);
    cr_assert(node_set_has(&rights.slots, 0));
    cr_assert(node_set_has(&rights.beyond, 1));
}

Test(queue, a_newcomer_has_its_key_and_no_other_right)
{
    struct queue_rights rights;

    add(0, 10, 0);
    cr_assert_not(queue_is_idle(&queue), "not even before the turn ends");
    rights = rights_of(11, NULL);
    cr_assert_not(node_set_has(&rights.slots, 0));
    cr_assert(node_set_has(&rights.slots, 1), "nothing waits for this one");
    rights = rights_of(9, NULL);
    cr_assert(node_set_has(&rights.slots, 0), "a retry that came earlier");
    rights = rights_of(10, NULL);
    cr_assert_not(node_set_has(&rights.slots, 0), "of equals the one that waits");
}

Test(queue, a_newcomer_yields_to_the_other_workers_as_well)
{
    struct queue_rights rights;

    queue_heads_set(board, 2, 1, 1, 10);
    queue_heads_set_total(board, 2, 1);
    beat(2);
    cr_assert_not(queue_is_idle(&queue));
    rights = rights_of(11, NULL);
    cr_assert(node_set_has(&rights.slots, 0));
    cr_assert_not(node_set_has(&rights.slots, 1));
    rights = rights_of(9, NULL);
    cr_assert(node_set_has(&rights.slots, 1));
    queue_heads_clear_worker(board, 2);
}

Test(queue, an_entry_yields_to_those_before_it_and_not_to_itself)
{
    struct queue_rights rights;

    add(0, 10, 0);
    add(1, 20, 1);
    add(2, 30, 0);
    add(3, 10, 2);
    rights = rights_of(10, &waits[0].entry);
    cr_assert(node_set_has(&rights.slots, 0));
    cr_assert(node_set_has(&rights.slots, 1));
    rights = rights_of(20, &waits[1].entry);
    cr_assert_not(node_set_has(&rights.slots, 0));
    cr_assert(node_set_has(&rights.slots, 1));
    rights = rights_of(30, &waits[2].entry);
    cr_assert_not(node_set_has(&rights.slots, 0));
    cr_assert_not(node_set_has(&rights.slots, 1));
}

Test(queue, two_lists_with_equal_keys_do_not_wait_for_each_other)
{
    add(0, 10, 0);
    add(1, 10, 1);
    node_set_add(&waits[0].reach, 1);
    node_set_add(&waits[1].reach, 0);
    loop_turn(&loop, 0);
    offer(0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(started_count, 2);
}

Test(queue, a_cache_match_yields_to_what_has_waited_five_seconds_longer)
{
    const uint64_t key = 60 * US_PER_S;
    struct queue_rights rights;

    add(0, key, 0);
    queue_heads_set(board, 2, 1, 1, key);
    queue_heads_set_total(board, 2, 1);
    beat(2);
    rights = rights_of(key + 5 * US_PER_S, NULL);
    cr_assert(node_set_has(&rights.beyond, 0));
    cr_assert(node_set_has(&rights.beyond, 1));
    cr_assert_not(node_set_has(&rights.slots, 0), "slots are another matter");
    rights = rights_of(key + 5 * US_PER_S + 1, NULL);
    cr_assert_not(node_set_has(&rights.beyond, 0));
    cr_assert_not(node_set_has(&rights.beyond, 1));
    times = route_times(50);
    rights = rights_of(key + US_PER_S / 10, NULL);
    cr_assert(node_set_has(&rights.beyond, 0) && node_set_has(&rights.beyond, 1));
    rights = rights_of(key + US_PER_S / 10 + 1, NULL);
    cr_assert_not(node_set_has(&rights.beyond, 0), "it is 5 s to engines that are sped up");
    cr_assert_not(node_set_has(&rights.beyond, 1));
    queue_heads_clear_worker(board, 2);
}

Test(queue, the_first_few_are_looked_at_for_places_beyond_the_slots)
{
    for (unsigned i = 0; i < 100; i++)
        add(i, 1 + i, i % 3);
    for (int i = 0; i < 100 && beyond_tries == 0; i++)
        loop_turn(&loop, 10 * US_PER_MS);
    cr_assert_eq(beyond_tries, 16);
}

/* Nothing can be done for those with the lower keys, whatever they are. */
Test(queue, entries_behind_many_others_are_looked_at_by_turns)
{
    enum { FRONT = 60, OWN_NEED = 40, LAST = 3 };
    uint64_t until = clock_mono_us() + 10 * US_PER_S;
    unsigned seen = 0;

    for (unsigned i = 0; i < FRONT; i++)
        add(i, 1 + i, i < OWN_NEED ? i : 70);
    for (unsigned i = FRONT; i < FRONT + LAST; i++)
        add(i, 1 + i, 71);
    while (seen != (1 << LAST) - 1 && clock_mono_us() < until) {
        loop_turn(&loop, 10 * US_PER_MS);
        for (unsigned i = 0; i < priced_count; i++)
            if (priced[i] >= &waits[FRONT])
                seen |= 1u << (priced[i] - &waits[FRONT]);
        priced_count = 0;
    }
    cr_assert_eq(seen, (1 << LAST) - 1);
}

/* The last that was looked at is behind those that always are, so the one after it is next. */
Test(queue, the_entry_whose_turn_is_next_may_leave)
{
    enum { COUNT = 60, ALWAYS = 16 };
    ptrdiff_t last = -1;

    for (unsigned i = 0; i < COUNT; i++)
        add(i, 1 + i, 70);
    for (unsigned i = 0; i < 1000 && last < ALWAYS; i++) {
        loop_turn(&loop, 10 * US_PER_MS);
        if (priced_count != 0)
            last = priced[priced_count - 1] - waits;
    }
    cr_assert(last >= ALWAYS && last + 2 < COUNT);
    queue_remove(&queue, &waits[last + 1].entry);
    priced_count = 0;
    for (unsigned i = 0; i < 1000 && priced_count <= ALWAYS; i++)
        loop_turn(&loop, 10 * US_PER_MS);
    cr_assert_gt(priced_count, ALWAYS);
    cr_assert_eq(priced[ALWAYS] - waits, last + 2);
}

/* ---- many ---- */

Test(queue, thousands_that_wait_cost_a_turn_little)
{
    uint64_t before_us, took_us;

    for (unsigned i = 0; i < ENTRIES; i++)
        add(i, 1 + i, i % NODES);
    loop_turn(&loop, 0);
    before_us = clock_mono_us();
    for (int i = 0; i < 100; i++) {
        queue_remove(&queue, &waits[5000 + i].entry);
        queue_room(&queue, 0);
        loop_turn(&loop, 0);
    }
    took_us = clock_mono_us() - before_us;
    cr_assert_lt(took_us, 100 * 2 * US_PER_MS, "%llu us a turn",
                 (unsigned long long)took_us / 100);
    cr_assert_leq(reaches, 2 * NODES + 200);
}

Test(queue, requests_before_another_are_counted_by_the_nodes_that_they_share)
{
    struct node_set nodes = {0};

    for (unsigned i = 0; i < 10; i++)
        add(i, 1 + i, 0);
    for (unsigned i = 0; i < 3; i++)
        queue_remove(&queue, &waits[i].entry);
    for (unsigned i = 3; i < 10; i++)
        cr_assert_eq(queue_ahead(&queue, &waits[i].entry, 1 + i, &waits[i].reach), i - 3);
    for (unsigned i = 10; i < 14; i++) {
        node_set_add(&waits[i].reach, 0);
        add(i, 5, 1);
    }
    node_set_add(&nodes, 0);
    cr_assert_eq(queue_ahead(&queue, NULL, 20, &nodes), 7 + 4 / 2.0);
    cr_assert_eq(queue_ahead(&queue, NULL, 4, &nodes), 1);
    cr_assert_eq(queue_ahead(&queue, &waits[9].entry, 10, &nodes), 6 + 4 / 2.0);
    node_set_remove(&nodes, 0);
    node_set_add(&nodes, 7);
    cr_assert_eq(queue_ahead(&queue, NULL, 20, &nodes), 0);
}

Test(queue, rights_are_places_out_of_the_nodes_cap)
{
    struct queue_rights rights = {0};

    cr_assert_eq(queue_rights_cap(NULL, 3, 1, 4, 6), 6);
    cr_assert_eq(queue_rights_cap(&rights, 3, 1, 4, 6), 1, "a slot that is not its own");
    cr_assert_eq(queue_rights_cap(&rights, 3, 4, 4, 6), 4);
    node_set_add(&rights.slots, 3);
    cr_assert_eq(queue_rights_cap(&rights, 3, 1, 4, 6), 6);
    cr_assert_eq(queue_rights_cap(&rights, 3, 4, 4, 6), 4);
    node_set_add(&rights.beyond, 3);
    cr_assert_eq(queue_rights_cap(&rights, 3, 4, 4, 6), 6);
    rights.overcommit_only = true;
    cr_assert_eq(queue_rights_cap(&rights, 3, 1, 4, 6), 1);
    cr_assert_eq(queue_rights_cap(&rights, 3, 5, 4, 6), 6);
    cr_assert_eq(queue_rights_cap(&rights, 3, 1, 4, 0), 0, "never more than the cap");
}

/* ---- plans ---- */

Test(queue, an_entry_that_moves_its_plan_leaves_the_node_to_the_next)
{
    add(0, 10, 1)->plans = true;
    waits[0].moves_to = 2;
    add(1, 20, 1);
    loop_turn(&loop, 0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(waits[0].at, -1);
    cr_assert_eq(waits[1].at, 1);
    cr_assert_eq(word(1), 0);
    cr_assert_eq(word(2), 10, "it waits for the other node now");
    offer(2);
    loop_turn(&loop, 0);
    cr_assert_eq(waits[0].at, 2);
}

Test(queue, an_entry_that_keeps_its_plan_is_asked_again_later)
{
    add(0, 10, 1)->plans = true;
    loop_turn(&loop, 0);
    offer(1);
    loop_turn(&loop, 0);
    cr_assert_eq(tries, 1, "once a turn");
    cr_assert_eq(waits[0].at, -1);
}

Test(queue, an_entry_that_has_a_plan_is_not_before_one_that_has_none)
{
    struct node_set nodes = {.word = {1}};

    waits[0].entry.planned = true;
    add(0, 10, 0);
    node_set_add(&waits[1].reach, 1); /* another need */
    cr_assert_eq(queue_add(&queue, &waits[1].entry, 7, 11), 0);
    waits[1].reach.word[0] = 1;
    cr_assert_eq(queue_ahead(&queue, NULL, 20, &nodes), 1);
}

Test(queue, entries_with_equal_keys_are_priced_too)
{
    for (unsigned i = 0; i < 10; i++)
        add(i, 5, i % 2);
    for (int i = 0; i < 100 && beyond_tries == 0; i++)
        loop_turn(&loop, 10 * US_PER_MS);
    cr_assert_eq(beyond_tries, 10);
    for (unsigned i = 0; i < 10; i++)
        for (unsigned j = 0; j < i; j++)
            cr_assert_neq(priced[i], priced[j], "twice");
}

Test(queue, void_plans_are_priced_sixty_four_a_turn)
{
    for (unsigned i = 0; i < 1000; i++)
        add(i, 1 + i, 0);
    loop_turn(&loop, 0);
    beyond_tries = 0;
    for (unsigned i = 0; i < 1000; i++)
        queue_price(&queue, &waits[i].entry);
    queue_remove(&queue, &waits[500].entry);
    loop_turn(&loop, 0);
    cr_assert_geq(beyond_tries, 64);
    cr_assert_leq(beyond_tries, 64 + 16, "those, and the first few if the timer was due");
    for (int i = 0; i < 40; i++)
        loop_turn(&loop, 0);
    cr_assert_geq(beyond_tries, 999, "all but the one that left");
}

Test(queue, a_node_that_was_declined_is_not_put_off_by_others_that_are_declined_later)
{
    struct wait *wait = add(0, 10, 0);
    uint64_t until;

    node_set_add(&wait->reach, 1);
    wait->declines = true;
    loop_turn(&loop, 0);
    offer(0);
    loop_turn(&loop, 0);
    until = clock_mono_us() + US_PER_S;
    wait->declines = false;
    /* Node 1 is offered again and again, and taken by another worker each time. */
    for (uint64_t n = 0; wait->at == -1 && clock_mono_us() < until; n++) {
        wait->declines = n % 2 == 0;
        loop_turn(&loop, US_PER_MS);
    }
    cr_assert_eq(wait->at, 0);
}

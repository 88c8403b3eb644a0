/* test_slot_limit.c - how many requests an engine runs at once, learned from scripted engines.
 */
#include "node/slot_limit.h"

#include <criterion/criterion.h>
#include <string.h>

#define MS    UINT64_C(1000)
#define STEP  (10 * MS)
#define CROWD 600

/* A simulated engine that runs `room` requests at once, first come first served, and a client
 * that keeps `clients` requests open, as far as the limit lets it. */
struct bench {
    struct slot_limit limit;
    struct slot_run runs[CROWD];
    uint64_t begun[CROWD], sent[CROWD];
    unsigned order[CROWD];
    unsigned inside, ended, most;
    unsigned room, clients;
    unsigned left; /* requests that may still come; 0 = no end */
    uint64_t prefill_us, decode_us, now;
};

static void run_for(struct bench *b, uint64_t us)
{
    uint64_t until = b->now + us;

    for (; b->now < until; b->now += STEP) {
        unsigned kept = 0;

        for (unsigned i = 0; i < b->inside; i++) { /* those that end */
            unsigned r = b->order[i];

            if (b->begun[r] != 0 && b->now >= b->begun[r] + b->prefill_us + b->decode_us) {
                (void)slot_limit_end(&b->limit, &b->runs[r], b->now);
                b->ended++;
            } else {
                b->order[kept++] = r;
            }
        }
        b->inside = kept;
        while (b->inside < b->clients && b->inside < b->limit.limit) {
            for (unsigned r = 0; r < CROWD; r++)
                if (!b->runs[r].runs) {
                    slot_limit_start(&b->limit, &b->runs[r], 1000, b->now);
                    b->begun[r] = 0;
                    b->order[b->inside++] = r;
                    break;
                }
        }
        if (b->inside > b->most)
            b->most = b->inside;
        for (unsigned i = 0; i < b->inside && i < b->room; i++)
            if (b->begun[b->order[i]] == 0)
                b->begun[b->order[i]] = b->now;
        for (unsigned i = 0; i < b->inside && i < b->room; i++)
            if (b->now >= b->begun[b->order[i]] + b->prefill_us)
                (void)slot_limit_content(&b->limit, &b->runs[b->order[i]], b->now);
    }
}

static struct bench *bench(uint32_t first, unsigned room, unsigned clients)
{
    static struct bench b;

    memset(&b, 0, sizeof(b));
    b.now = 1000000;
    b.room = room;
    b.clients = clients;
    b.prefill_us = 200 * MS;
    b.decode_us = 1000 * MS;
    slot_limit_init(&b.limit, 0, 0);
    slot_limit_engine(&b.limit, 0, first);
    return &b;
}

Test(slot_limit, the_operators_number_is_fixed)
{
    struct slot_limit limit;
    struct slot_figures figures = {.running = 3, .waiting = 50, .kv_used_fraction = 1};

    slot_limit_init(&limit, 3, 3);
    slot_limit_engine(&limit, 16, 8);
    cr_assert_eq(limit.limit, 3);
    cr_assert_eq(slot_limit_source(&limit), SLOT_SOURCE_CONFIGURED);
    cr_assert_not(slot_limit_looked(&limit, &figures));
    cr_assert_eq(limit.limit, 3);
}

Test(slot_limit, the_engines_number_stands_within_the_operators_bounds)
{
    struct slot_limit limit;

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 16, 8);
    cr_assert_eq(limit.limit, 16);
    cr_assert_eq(slot_limit_source(&limit), SLOT_SOURCE_ENGINE);
    slot_limit_engine(&limit, SLOT_LIMIT_MOST + 9, 8);
    cr_assert_eq(limit.limit, SLOT_LIMIT_MOST + 9, "an engine that says so is believed");
    slot_limit_init(&limit, 2, 6);
    slot_limit_engine(&limit, 16, 8);
    cr_assert_eq(limit.limit, 6);
}

Test(slot_limit, a_first_guess_is_called_a_guess)
{
    struct slot_limit limit;

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 0, 1);
    cr_assert_eq(limit.limit, 1);
    cr_assert_eq(slot_limit_source(&limit), SLOT_SOURCE_LEARNED); /* one runs everywhere */
    slot_limit_engine(&limit, 0, 8);
    cr_assert_eq(limit.limit, 8);
    cr_assert_eq(slot_limit_source(&limit), SLOT_SOURCE_GUESSED);
}

Test(slot_limit, an_engine_of_one_is_known_after_ten_requests)
{
    struct bench *b = bench(1, 1, 6);

    while (b->ended < 10)
        run_for(b, STEP);
    cr_assert_eq(b->limit.limit, 1);
    cr_assert_eq(b->limit.proven, 1);
    cr_assert_leq(b->most, 2, "%u were sent to it at once", b->most);
}

Test(slot_limit, an_engine_of_four_is_known_after_ten_requests)
{
    struct bench *b = bench(1, 4, 10);

    while (b->ended < 10)
        run_for(b, STEP);
    cr_assert_eq(b->limit.proven, 4);
    cr_assert_eq(b->limit.limit, 4, "%u", b->limit.limit);
    cr_assert_eq(slot_limit_source(&b->limit), SLOT_SOURCE_LEARNED);
}

Test(slot_limit, an_engine_of_one_behind_a_guess_of_eight_is_found_out)
{
    struct bench *b = bench(8, 1, 6);

    run_for(b, 12000 * MS);
    cr_assert_eq(b->limit.limit, 1);
}

Test(slot_limit, six_run_at_once_where_six_can)
{
    struct bench *b = bench(8, 6, 6);

    run_for(b, 1300 * MS);
    cr_assert_eq(b->ended, 6);
    cr_assert_geq(b->limit.limit, 6);
}

Test(slot_limit, a_wide_engine_is_found_to_be_wide)
{
    struct bench *b = bench(8, 100, 120);

    run_for(b, 30000 * MS);
    cr_assert_eq(b->limit.limit, 100, "%u, proven %u", b->limit.limit, b->limit.proven);
}

/* Long prompts with short answers: nearly all requests show content after another's end,
 * although the engine runs all at once. */
Test(slot_limit, short_answers_do_not_refute_a_guess)
{
    struct bench *b = bench(8, 100, 5);

    b->prefill_us = 2000 * MS;
    b->decode_us = 60 * MS;
    for (unsigned n = 1; n <= 5; n++) { /* they come one after the other */
        b->clients = n;
        run_for(b, 410 * MS);
    }
    run_for(b, 60000 * MS);
    cr_assert_geq(b->limit.limit, 8);
}

Test(slot_limit, a_refuted_guess_is_tried_again_later_and_seldom)
{
    struct bench *b = bench(1, 2, 6);
    unsigned above = 0, seen = 0;

    run_for(b, 20000 * MS);
    cr_assert_eq(b->limit.limit, 2);
    for (unsigned i = 0; i < 360; i++) { /* an hour */
        run_for(b, 10000 * MS);
        seen++;
        above += b->limit.limit > 2;
    }
    cr_assert_gt(b->limit.backoff_us, 8 * SLOT_LIMIT_PROBE_MIN_US);
    cr_assert_leq(above, seen / 20, "%u of %u", above, seen);
}

Test(slot_limit, an_engine_that_became_wider_is_found_by_the_next_guess)
{
    struct bench *b = bench(1, 1, 6);

    run_for(b, 20000 * MS);
    cr_assert_eq(b->limit.limit, 1);
    b->room = 6;
    run_for(b, 61000 * MS);
    cr_assert_geq(b->limit.limit, 6);
}

Test(slot_limit, a_restart_begins_anew)
{
    struct bench *b = bench(1, 6, 6);

    run_for(b, 20000 * MS);
    cr_assert_geq(b->limit.limit, 6);
    slot_limit_forget(&b->limit);
    cr_assert_eq(b->limit.limit, 1);
    cr_assert_eq(b->limit.proven, 1);
    b->room = 1; /* what still runs from before proves nothing now */
    run_for(b, 300 * MS);
    cr_assert_eq(b->limit.proven, 1);
}

Test(slot_limit, content_right_after_anothers_end_proves_nothing)
{
    struct slot_limit limit;
    struct slot_run a, b;

    slot_limit_init(&limit, 0, 0);
    slot_limit_start(&limit, &a, 10, 1);
    slot_limit_start(&limit, &b, 10, 1);
    cr_assert_not(slot_limit_content(&limit, &a, 50));
    cr_assert_not(slot_limit_content(&limit, &b, 100)); /* read before a's end */
    (void)slot_limit_end(&limit, &a, 101);
    cr_assert_not(slot_limit_content(&limit, &b, 100 + SLOT_LIMIT_SETTLE_US));
    cr_assert_eq(limit.proven, 1);
    (void)slot_limit_end(&limit, &b, 200 + SLOT_LIMIT_SETTLE_US);
    (void)slot_limit_end(&limit, &b, 200 + SLOT_LIMIT_SETTLE_US);
    cr_assert_eq(limit.count, 0);
}

Test(slot_limit, a_run_that_has_said_its_end_runs_beside_no_other)
{
    struct slot_limit limit;
    struct slot_run a, b, c;

    slot_limit_init(&limit, 0, 0);
    slot_limit_start(&limit, &a, 10, 1);
    slot_limit_start(&limit, &b, 10, 1);
    slot_limit_start(&limit, &c, 10, 1);
    cr_assert_not(slot_limit_content(&limit, &a, 50));
    cr_assert_not(slot_limit_content(&limit, &b, 50));
    a.over = true; /* its connection ends late */
    cr_assert_not(slot_limit_content(&limit, &c, 100));
    cr_assert_not(slot_limit_content(&limit, &c, 100 + SLOT_LIMIT_SETTLE_US));
    cr_assert_eq(limit.proven, 2);
}

Test(slot_limit, of_requests_at_one_time_the_last_may_begin_first)
{
    struct slot_limit limit;
    struct slot_run runs[8];
    uint64_t now = 100;

    slot_limit_init(&limit, 0, 0);
    for (int i = 0; i < 8; i++)
        slot_limit_start(&limit, &runs[i], 10, 1);
    for (int i = 5; i < 8; i++)
        cr_assert_not(slot_limit_content(&limit, &runs[i], now));
    now += SLOT_LIMIT_SETTLE_US;
    for (int i = 5; i < 8; i++)
        cr_assert_not(slot_limit_content(&limit, &runs[i], now));
    cr_assert_eq(limit.proven, 3);
}

/* ---- figures ---- */

static void fill(struct slot_limit *limit, struct slot_run *runs)
{
    for (uint32_t i = 0; limit->count < limit->limit; i++)
        if (!runs[i].runs)
            slot_limit_start(limit, &runs[i], 10, 1);
}

Test(slot_limit, a_full_limit_doubles_while_nothing_waits_and_the_cache_has_room)
{
    static struct slot_run runs[CROWD];
    struct slot_limit limit;
    struct slot_figures figures = {.kv_used_fraction = 0.1f};

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 0, 8);
    cr_assert_not(slot_limit_looked(&limit, &figures)); /* not full */
    for (uint32_t want = 16; want <= 256; want *= 2) {
        fill(&limit, runs);
        figures.running = limit.limit;
        cr_assert(slot_limit_looked(&limit, &figures));
        cr_assert_eq(limit.limit, want);
    }
    cr_assert_eq(slot_limit_source(&limit), SLOT_SOURCE_LEARNED);
}

Test(slot_limit, the_cache_bounds_the_step)
{
    static struct slot_run runs[CROWD];
    struct slot_limit limit;
    struct slot_figures figures = {.running = 32, .kv_used_fraction = 0.7f};

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 0, 32);
    fill(&limit, runs);
    cr_assert(slot_limit_looked(&limit, &figures));
    cr_assert_eq(limit.limit, 44); /* 32 x 0.98 / 0.7 = 44.8 */
    fill(&limit, runs);
    figures = (struct slot_figures){.running = 44, .kv_used_fraction = 0.96f};
    cr_assert_not(slot_limit_looked(&limit, &figures));
}

Test(slot_limit, many_that_wait_twice_bring_it_back)
{
    static struct slot_run runs[CROWD];
    struct slot_limit limit;
    struct slot_figures figures = {.running = 64, .waiting = 64, .kv_used_fraction = 0.5f};

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 0, 128);
    fill(&limit, runs);
    cr_assert_not(slot_limit_looked(&limit, &figures));
    cr_assert(slot_limit_looked(&limit, &figures));
    cr_assert_eq(limit.limit, 72);
    figures.waiting = 8; /* a few that wait are right: the engine never runs dry */
    cr_assert_not(slot_limit_looked(&limit, &figures));
    cr_assert_not(slot_limit_looked(&limit, &figures));
}

Test(slot_limit, a_preemption_takes_a_twentieth_and_steps_are_small_from_then_on)
{
    static struct slot_run runs[CROWD];
    struct slot_limit limit;
    struct slot_figures figures = {.running = 60, .kv_used_fraction = 0.9f, .preemptions = 7};

    slot_limit_init(&limit, 0, 0);
    slot_limit_engine(&limit, 0, 60);
    fill(&limit, runs);
    (void)slot_limit_looked(&limit, &figures); /* preemptions of before we looked */
    fill(&limit, runs);
    figures.preemptions = 8;
    cr_assert(slot_limit_looked(&limit, &figures));
    cr_assert_eq(limit.limit, 56);
    figures = (struct slot_figures){.running = 56, .kv_used_fraction = 0.4f, .preemptions = 8};
    cr_assert(slot_limit_looked(&limit, &figures));
    cr_assert_eq(limit.limit, 57);
}

Test(slot_limit, the_operators_bounds_hold_whatever_is_learned)
{
    struct bench *b = bench(1, 100, 200);

    slot_limit_init(&b->limit, 2, 20);
    slot_limit_engine(&b->limit, 0, 1);
    cr_assert_eq(b->limit.limit, 2);
    run_for(b, 30000 * MS);
    cr_assert_eq(b->limit.limit, 20);
}

/* test_model.c - step times, slots and caches, with times worked out by hand. */
#include <criterion/criterion.h>
#include <string.h>

#include "sim/model/sim_model.h"

#define MAX_TOKENS 64
#define MS(n)      ((uint64_t)(n)*1000)
#define START_US   MS(1000) /* 0 means "never" to the model */

/* One request of a test: it leaves after `wanted` tokens. */
struct job {
    struct sim_seq seq;
    uint32_t wanted;
    uint32_t n;
    uint64_t at_us[MAX_TOKENS]; /* of its tokens, from the start of the test */
};

struct bench {
    struct sim_model model;
    uint64_t now_us;
};

/* 1 ms a prompt token, 10 ms a step, 1 ms a request in decode. */
static const struct sim_model_config PLAIN = {
    .slots = 2,
    .prefill_tokens_per_s = 1000,
    .base_us = 10000,
    .slope_us = 1000,
    .chunk_tokens = 512,
    .cache = SIM_CACHE_NONE,
    .block_tokens = 16,
    .cache_blocks = 100,
    .spread = 1,
};

static void begin(struct bench *b, const struct sim_model_config *config)
{
    memset(b, 0, sizeof(*b));
    cr_assert_eq(sim_model_init(&b->model, config), 0);
    b->now_us = START_US;
}

static void on_token(struct sim_seq *seq, void *data)
{
    struct job *job = CONTAINER_OF(seq, struct job, seq);
    struct bench *b = data;

    cr_assert_lt(job->n, MAX_TOKENS);
    job->at_us[job->n++] = b->now_us - START_US;
    if (job->n == job->wanted)
        sim_model_remove(&b->model, seq);
}

static void add(struct bench *b, struct job *job, uint32_t prompt_tokens, uint32_t wanted)
{
    job->seq.prompt_tokens = prompt_tokens;
    job->wanted = wanted;
    sim_model_add(&b->model, &job->seq);
}

/* Lets the model run until it is idle or the time is over. */
static void run_until(struct bench *b, uint64_t ms)
{
    uint64_t due = sim_model_advance(&b->model, b->now_us, on_token, b);

    while (due != 0 && due <= START_US + MS(ms)) {
        b->now_us = due;
        due = sim_model_advance(&b->model, b->now_us, on_token, b);
    }
    if (b->now_us < START_US + MS(ms))
        b->now_us = START_US + MS(ms);
}

Test(sim_model, one_request_pays_prefill_once_and_a_step_a_token)
{
    struct bench b;
    struct job a = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 100, 3);
    run_until(&b, 10000);
    cr_assert_eq(a.n, 3);
    cr_assert_eq(a.at_us[0], MS(110), "10 + 100 * 1");
    cr_assert_eq(a.at_us[1], MS(121), "10 + 1 * 1");
    cr_assert_eq(a.at_us[2], MS(132));
    cr_assert_eq(b.model.progress, 103, "100 prompt tokens and 3 of output");
    cr_assert_eq(b.model.running, 0);
    sim_model_finish(&b.model);
}

Test(sim_model, a_long_prompt_takes_several_chunks)
{
    struct bench b;
    struct job a = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 1000, 1);
    run_until(&b, 10000);
    cr_assert_eq(a.at_us[0], MS(522 + 498), "10 + 512, then 10 + 488");
    sim_model_finish(&b.model);
}

Test(sim_model, prefill_is_first_come_first_served_within_a_chunk)
{
    struct bench b;
    struct job first = {0}, second = {0};

    begin(&b, &PLAIN);
    add(&b, &first, 600, 1);
    add(&b, &second, 100, 1);
    run_until(&b, 10000);
    cr_assert_eq(first.at_us[0], MS(522 + 198), "512, then 88 of the first and 100");
    cr_assert_eq(second.at_us[0], MS(720));
    sim_model_finish(&b.model);
}

Test(sim_model, a_prefill_slows_those_that_decode)
{
    struct bench b;
    struct job a = {0}, late = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 100, 4);
    run_until(&b, 115); /* the step from 110 to 121 is under way */
    add(&b, &late, 50, 2);
    run_until(&b, 10000);
    cr_assert_eq(a.at_us[1], MS(121), "the newcomer waits for the next step");
    cr_assert_eq(a.at_us[2], MS(121 + 61), "10 + 1 + 50");
    cr_assert_eq(late.at_us[0], MS(182));
    cr_assert_eq(a.at_us[3], MS(182 + 12), "10 + 2 * 1");
    cr_assert_eq(late.at_us[1], MS(194));
    sim_model_finish(&b.model);
}

Test(sim_model, a_third_request_waits_for_one_of_two_slots)
{
    struct bench b;
    struct job a = {0}, c = {0}, d = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 100, 2);
    add(&b, &c, 100, 5);
    add(&b, &d, 10, 1);
    run_until(&b, 211); /* 210: both have their first token; the next step ends at 222 */
    cr_assert_eq(b.model.queued, 1);
    cr_assert_eq(b.model.running, 2);
    run_until(&b, 10000);
    cr_assert_eq(a.at_us[0], MS(210), "10 + 200");
    cr_assert_eq(a.at_us[1], MS(222), "10 + 2");
    cr_assert_eq(d.seq.admitted_mono_us - START_US, MS(222));
    cr_assert_eq(d.at_us[0], MS(222 + 21), "10 + 1 for the other's token + 10");
    sim_model_finish(&b.model);
}

Test(sim_model, removing_a_request_frees_its_slot_at_once)
{
    struct bench b;
    struct job a = {0}, c = {0}, d = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 400, 1);
    add(&b, &c, 400, 1);
    add(&b, &d, 10, 1);
    run_until(&b, 1);
    sim_model_remove(&b.model, &a.seq);
    cr_assert_eq(b.model.running, 1);
    cr_assert_eq(b.model.n_free, 1);
    run_until(&b, 10000);
    cr_assert_eq(a.n, 0);
    /* The first step was planned with 400 of a and 112 of c: 522 ms.  Then 288 of c and 10. */
    cr_assert_eq(c.at_us[0], MS(522 + 308));
    cr_assert_eq(d.at_us[0], MS(830));
    sim_model_remove(&b.model, &a.seq); /* again does nothing */
    cr_assert_eq(b.model.n_free, 2);
    sim_model_finish(&b.model);
}

Test(sim_model, a_stalled_request_keeps_its_slot_and_costs_nothing)
{
    struct bench b;
    struct job a = {0}, c = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 100, 9);
    add(&b, &c, 100, 3);
    run_until(&b, 215);
    a.seq.stalled = true; /* still gets the token of the step under way */
    run_until(&b, 10000);
    cr_assert_eq(a.n, 2);
    cr_assert_eq(c.at_us[2], MS(222 + 11), "alone in its step");
    cr_assert_eq(b.model.running, 1);
    a.seq.stalled = false;
    cr_assert_neq(sim_model_advance(&b.model, b.now_us, on_token, &b), 0);
    sim_model_finish(&b.model);
}

Test(sim_model, a_slow_request_gets_every_third_token)
{
    struct bench b;
    struct job a = {0};

    begin(&b, &PLAIN);
    a.seq.stride = 3;
    add(&b, &a, 100, 3);
    run_until(&b, 10000);
    cr_assert_eq(a.at_us[0], MS(110));
    cr_assert_eq(a.at_us[1], MS(110 + 33));
    cr_assert_eq(a.at_us[2], MS(110 + 66));
    sim_model_finish(&b.model);
}

Test(sim_model, a_rate_ignores_prefill_and_batch)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job a = {0}, c = {0}, d = {0};

    config.rate = 100;
    begin(&b, &config);
    add(&b, &a, 5000, 3);
    add(&b, &c, 1, 2);
    add(&b, &d, 1, 1);
    run_until(&b, 1000);
    cr_assert_eq(a.at_us[0], 0);
    cr_assert_eq(a.at_us[1], MS(10));
    cr_assert_eq(a.at_us[2], MS(20));
    cr_assert_eq(c.at_us[0], 0);
    cr_assert_eq(c.at_us[1], MS(10));
    cr_assert_eq(d.at_us[0], MS(10), "a slot is free when c has its two tokens");
    sim_model_finish(&b.model);
}

Test(sim_model, spread_gives_the_streams_turns)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job a = {0}, c = {0};

    config.rate = 100;
    config.spread = 2; /* a turn every 5 ms, slots 1, 0, 1, ... */
    begin(&b, &config);
    add(&b, &a, 10, 3);
    add(&b, &c, 10, 3);
    run_until(&b, 1000);
    cr_assert_eq(c.at_us[1], MS(5));
    cr_assert_eq(a.at_us[1], MS(10));
    cr_assert_eq(c.at_us[2], MS(15));
    cr_assert_eq(a.at_us[2], MS(20));
    sim_model_finish(&b.model);
}

Test(sim_model, a_late_call_does_not_lose_time_but_a_very_late_one_does)
{
    struct bench b;
    struct job a = {0};

    begin(&b, &PLAIN);
    add(&b, &a, 100, 9);
    (void)sim_model_advance(&b.model, START_US, on_token, &b);
    /* 5 ms late: the next step counts from 110. */
    cr_assert_eq(sim_model_advance(&b.model, START_US + MS(115), on_token, &b),
                 START_US + MS(121));
    /* a second late: from now. */
    cr_assert_eq(sim_model_advance(&b.model, START_US + MS(1121), on_token, &b),
                 START_US + MS(1132));
    cr_assert_eq(a.n, 2);
    sim_model_finish(&b.model);
}

/* ---- caches ---------------------------------------------------------------------------- */

/* Runs one prompt of `n` blocks and `tokens` tokens alone, and returns what was cached. */
static uint32_t cached(struct bench *b, const uint64_t *blocks, size_t n, uint32_t tokens)
{
    struct job job = {.seq = {.blocks = blocks, .n_blocks = n}};

    add(b, &job, tokens, 1);
    run_until(b, 1000000);
    cr_assert_eq(job.n, 1);
    b->now_us = START_US;
    return job.seq.cached_tokens;
}

static const uint64_t A[] = {101, 102, 103}, B[] = {101, 102, 203}, C[] = {301, 302, 303};

Test(sim_model, the_block_cache_finds_leading_blocks)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job job = {.seq = {.blocks = A, .n_blocks = 3}};

    config.cache = SIM_CACHE_BLOCK;
    begin(&b, &config);
    cr_assert_eq(cached(&b, A, 3, 56), 0);
    cr_assert_eq(cached(&b, B, 3, 56), 32, "two blocks of 16");
    cr_assert_eq(cached(&b, A, 3, 48), 47, "the last prompt token is always worked on");
    cr_assert_eq(cached(&b, A + 1, 2, 56), 32, "blocks 102 and 103 are there");
    add(&b, &job, 56, 1);
    run_until(&b, 100000);
    cr_assert_eq(job.at_us[0], MS(18), "10 + 56 - 48");
    sim_model_finish(&b.model);
}

Test(sim_model, the_block_cache_forgets_the_least_recently_used)
{
    struct sim_model_config config = PLAIN;
    struct bench b;

    config.cache = SIM_CACHE_BLOCK;
    config.cache_blocks = 5;
    begin(&b, &config);
    cr_assert_eq(cached(&b, A, 3, 60), 0);
    cr_assert_eq(cached(&b, C, 3, 60), 0); /* room for five: the end of A, 103, goes */
    cr_assert_eq(cached(&b, A, 3, 60), 32);
    /* Now A is used most recently and 303 went for 103. */
    cr_assert_eq(cached(&b, C, 3, 60), 32);
    sim_model_finish(&b.model);
}

Test(sim_model, a_cancelled_prefill_leaves_nothing_in_the_block_cache)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job job = {.seq = {.blocks = A, .n_blocks = 3}};

    config.cache = SIM_CACHE_BLOCK;
    begin(&b, &config);
    add(&b, &job, 56, 1);
    run_until(&b, 1);
    sim_model_remove(&b.model, &job.seq);
    cr_assert_eq(cached(&b, A, 3, 56), 0);
    sim_model_finish(&b.model);
}

Test(sim_model, the_slot_cache_chooses_the_slot_with_the_longest_match)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job a = {.seq = {.blocks = A, .n_blocks = 3}};
    struct job c = {.seq = {.blocks = C, .n_blocks = 3}};

    config.cache = SIM_CACHE_SLOT;
    begin(&b, &config);
    add(&b, &a, 56, 1);
    add(&b, &c, 56, 1);
    run_until(&b, 100000);
    cr_assert_neq(a.seq.slot, c.seq.slot);
    b.now_us = START_US;
    cr_assert_eq(cached(&b, B, 3, 56), 32, "in the slot that had A");
    cr_assert_eq(cached(&b, C, 3, 56), 48, "the other slot still has C");
    cr_assert_eq(cached(&b, A, 3, 56), 32, "B took the place of A's last block");
    sim_model_finish(&b.model);
}

Test(sim_model, the_slot_cache_takes_the_longest_idle_slot_below_ten_percent)
{
    struct sim_model_config config = PLAIN;
    struct bench b;
    struct job a = {.seq = {.blocks = A, .n_blocks = 3}};
    struct job c = {.seq = {.blocks = C, .n_blocks = 3}};
    struct job d = {.seq = {.blocks = C, .n_blocks = 1}};
    struct job e = {.seq = {.blocks = C, .n_blocks = 1}};

    config.cache = SIM_CACHE_SLOT;
    begin(&b, &config);
    add(&b, &a, 56, 1);
    add(&b, &c, 56, 2); /* ends later: the slot of A is idle longest */
    run_until(&b, 100000);
    b.now_us = START_US;
    add(&b, &d, 159, 1); /* 16 of 159 is just over 10 % */
    run_until(&b, 100000);
    cr_assert_eq(d.seq.slot, c.seq.slot);
    cr_assert_eq(d.seq.cached_tokens, 16);
    b.now_us = START_US;
    add(&b, &e, 160, 1); /* 16 of 160 is not */
    run_until(&b, 100000);
    cr_assert_eq(e.seq.slot, a.seq.slot);
    cr_assert_eq(e.seq.cached_tokens, 0);
    sim_model_finish(&b.model);
}

Test(sim_model, without_a_cache_nothing_is_cached)
{
    struct bench b;

    begin(&b, &PLAIN);
    cr_assert_eq(cached(&b, A, 3, 56), 0);
    cr_assert_eq(cached(&b, A, 3, 56), 0);
    sim_model_finish(&b.model);
}

Test(sim_model, block_names_are_chained)
{
    uint64_t x[4], y[4];
    char p[64], q[64];

    memset(p, 'p', sizeof(p));
    memcpy(q, p, sizeof(q));
    q[20] = 'q'; /* in the second block of four tokens */
    cr_assert_eq(sim_blocks(x, 4, 7, p, 63, 4), 3, "63 bytes hold three blocks of 16");
    cr_assert_eq(sim_blocks(y, 4, 7, q, 64, 4), 4);
    cr_assert_eq(x[0], y[0]);
    cr_assert_neq(x[1], y[1]);
    cr_assert_neq(x[2], y[2], "equal bytes after unequal ones");
    cr_assert_neq(x[0], x[1], "equal bytes at another place");
    cr_assert_eq(sim_blocks(y, 4, 8, p, 63, 4), 3);
    cr_assert_neq(x[0], y[0], "another seed");
}

Test(sim_model, four_bytes_are_a_token)
{
    cr_assert_eq(sim_tokens(0), 1);
    cr_assert_eq(sim_tokens(4), 1);
    cr_assert_eq(sim_tokens(5), 2);
}

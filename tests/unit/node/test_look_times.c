/* test_look_times.c - when an engine is looked at: a test for each rule, on a virtual clock. */
#include <criterion/criterion.h>

#include "base/clock.h"
#include "node/engine/look/look_times.h"

#define START_US (1000 * US_PER_S)
#define MS(ms)   ((uint64_t)(ms)*US_PER_MS)

/* An engine, its schedule, and the looks that were due. */
struct rig {
    struct look_times times;
    struct look_facts facts;
    uint64_t now_us;
    unsigned light, load, full;
    uint64_t last_us; /* the latest look */
};

static void begin(struct rig *r, uint64_t idle_us)
{
    *r = (struct rig){.facts = {.reachable = true, .has_models = true, .shows_load = true},
                      .now_us = START_US};
    look_times_init(&r->times, idle_us);
    look_times_ended(&r->times, LOOK_FULL, true, r->now_us, r->now_us);
}

static void look(struct rig *r, const struct look_due *due)
{
    if (due->at_mono_us > r->now_us)
        r->now_us = due->at_mono_us;
    r->last_us = r->now_us;
    r->light += due->level == LOOK_LIGHT;
    r->load += due->level == LOOK_LOAD;
    r->full += due->level == LOOK_FULL;
    look_times_ended(&r->times, due->level, r->facts.reachable, r->now_us, r->now_us);
}

/* Makes every look that is due in the next `ms`. */
static void pass(struct rig *r, unsigned ms)
{
    uint64_t until_us = r->now_us + MS(ms);
    struct look_due due;

    r->light = r->load = r->full = 0;
    for (due = look_times_next(&r->times, &r->facts); due.at_mono_us <= until_us;
         due = look_times_next(&r->times, &r->facts))
        look(r, &due);
    r->now_us = until_us;
}

static struct look_due due(const struct rig *r)
{
    return look_times_next(&r->times, &r->facts);
}

static void expect_next(const struct rig *r, enum look_level level, unsigned after_ms)
{
    struct look_due next = due(r);

    cr_assert_eq(next.level, level, "level %d", (int)next.level);
    cr_assert_eq(next.at_mono_us, r->now_us + MS(after_ms), "after %lld us",
                 (long long)(next.at_mono_us - r->now_us));
}

Test(look_times, the_first_look_is_full_and_at_once)
{
    struct look_facts nothing = {0};
    struct look_times times;
    struct look_due first;

    look_times_init(&times, 0);
    first = look_times_next(&times, &nothing);
    cr_assert_eq(first.level, LOOK_FULL);
    cr_assert_eq(first.at_mono_us, 0);
}

Test(look_times, an_idle_engine_has_a_light_look_each_5_s_and_a_full_one_each_60_s)
{
    struct rig r;

    begin(&r, 0);
    pass(&r, 600 * 1000);
    cr_assert_eq(r.full, 10);
    cr_assert_eq(r.light, 110);
    cr_assert_eq(r.load, 0);
}

Test(look_times, a_remote_engine_has_one_look_each_300_s)
{
    struct rig r;

    begin(&r, 0);
    r.facts.remote = true;
    r.facts.shows_load = false;
    pass(&r, 24 * 3600 * 1000);
    cr_assert_eq(r.full, 288);
    cr_assert_eq(r.light + r.load, 0);
}

Test(look_times, a_remote_engine_is_not_looked_at_because_an_answer_takes_long)
{
    struct rig r;

    begin(&r, 0);
    r.facts.remote = true;
    r.facts.shows_load = false;
    r.facts.runs = 1;
    r.facts.heard_mono_us = r.now_us;
    pass(&r, 120 * 1000);
    cr_assert_eq(r.full + r.light + r.load, 0);
}

Test(look_times, the_time_between_idle_looks_can_be_set)
{
    struct rig r;

    begin(&r, 20 * US_PER_S);
    r.facts.remote = true;
    pass(&r, 600 * 1000);
    cr_assert_eq(r.full, 10);
    cr_assert_eq(r.light, 20);
    begin(&r, 3600 * US_PER_S);
    pass(&r, 24 * 3600 * 1000);
    cr_assert_eq(r.full, 24);
    cr_assert_eq(r.light + r.load, 0);
}

Test(look_times, an_engine_without_models_is_looked_at_in_full)
{
    struct rig r;

    begin(&r, 0);
    r.facts.has_models = false;
    pass(&r, 60 * 1000);
    cr_assert_eq(r.full, 60);
    cr_assert_eq(r.light + r.load, 0);
    r.facts.remote = true;
    pass(&r, 600 * 1000);
    cr_assert_eq(r.full, 10);
    cr_assert_eq(r.light + r.load, 0);
}

Test(look_times, an_engine_that_cannot_be_used_has_two_full_looks_a_second)
{
    struct rig r;

    begin(&r, 0);
    r.facts.reachable = false;
    r.facts.runs = 3;
    pass(&r, 60 * 1000);
    cr_assert_eq(r.full, 120);
    cr_assert_eq(r.light + r.load, 0);
}

Test(look_times, a_remote_engine_that_cannot_be_used_is_asked_ever_less_often)
{
    struct rig r;

    begin(&r, 0);
    r.facts.reachable = false;
    r.facts.remote = true;
    /* 0.5, 1.0, 2, 4, 8, 16 and then 30 s apart: the first failure waits for the second */
    pass(&r, 31500);
    cr_assert_eq(r.full, 6);
    pass(&r, 300 * 1000);
    cr_assert_eq(r.full, 10);
    look_times_ended(&r.times, LOOK_FULL, true, r.now_us, r.now_us);
    expect_next(&r, LOOK_FULL, 500);
}

Test(look_times, a_loading_engine_has_a_full_look_each_second)
{
    struct rig r;

    begin(&r, 0);
    r.facts.loading = true;
    pass(&r, 60 * 1000);
    cr_assert_eq(r.full, 60);
    cr_assert_eq(r.light + r.load, 0);
}

Test(look_times, a_busy_engine_is_looked_at_less_than_once_a_second)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 1;
    pass(&r, 60 * 1000);
    cr_assert_eq(r.load, 49);
    cr_assert_eq(r.full, 1);
    cr_assert_eq(r.light, 0);
}

Test(look_times, the_load_is_looked_at_when_a_run_begins_on_an_idle_engine)
{
    struct rig r;

    begin(&r, 0);
    pass(&r, 9000);
    r.facts.runs = 1;
    cr_assert_eq(due(&r).level, LOOK_LOAD);
    cr_assert_leq(due(&r).at_mono_us, r.now_us);
}

Test(look_times, runs_of_others_keep_the_engine_busy)
{
    struct rig r;

    begin(&r, 0);
    r.facts.others_run = true;
    expect_next(&r, LOOK_LOAD, 1200);
    r.facts.others_run = false;
    expect_next(&r, LOOK_LIGHT, 5000);
}

Test(look_times, without_a_load_to_show_only_silence_is_a_reason_to_look)
{
    struct rig r;

    begin(&r, 0);
    r.facts.shows_load = false;
    r.facts.runs = 1;
    r.facts.heard_mono_us = r.now_us + MS(900);
    expect_next(&r, LOOK_LIGHT, 1900);
    r.facts.heard_mono_us = r.now_us + MS(9900);
    expect_next(&r, LOOK_LIGHT, 5000);
    r.facts.heard_mono_us = r.now_us;
    pass(&r, 12000);
    cr_assert_eq(r.light, 10);
    cr_assert_eq(r.load + r.full, 0);
}

Test(look_times, after_a_cancel_before_the_first_token_the_engine_has_1200_ms_of_quiet)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 2;
    for (unsigned ms = 0; ms < 2400; ms += 50) {
        begin(&r, 0);
        r.facts.runs = 2;
        r.now_us += MS(ms);
        look_times_cancelled(&r.times, false, r.now_us);
        cr_assert_geq(due(&r).at_mono_us, r.now_us + MS(1200), "%u ms", ms);
    }
    begin(&r, 0);
    look_times_cancelled(&r.times, false, r.now_us);
    r.facts.others_run = true; /* the engine has not noticed */
    expect_next(&r, LOOK_LOAD, 1200);
    pass(&r, 3600);
    cr_assert_eq(r.load, 3, "then again 1.2 s apart");
    r.facts.others_run = false;
    expect_next(&r, LOOK_LIGHT, 5000);
}

Test(look_times, a_cancelled_run_is_looked_for_though_nothing_else_runs)
{
    struct rig r;

    begin(&r, 0);
    pass(&r, 10 * 1000);
    look_times_cancelled(&r.times, false, r.now_us);
    expect_next(&r, LOOK_LOAD, 1200);
    pass(&r, 1200);
    cr_assert_eq(r.load, 1);
    expect_next(&r, LOOK_LIGHT, 5000);
}

Test(look_times, a_look_from_before_the_cancel_does_not_settle_it)
{
    struct rig r;

    begin(&r, 0);
    look_times_cancelled(&r.times, false, r.now_us + MS(10));
    look_times_ended(&r.times, LOOK_LOAD, true, r.now_us, r.now_us + MS(20));
    expect_next(&r, LOOK_LOAD, 1220);
}

Test(look_times, after_a_cancel_behind_the_first_token_two_looks_come_soon)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 1;
    pass(&r, 3000);
    look_times_cancelled(&r.times, true, r.now_us);
    expect_next(&r, LOOK_LOAD, 50);
    r.facts.others_run = true;
    pass(&r, 50);
    cr_assert_eq(r.load, 1);
    expect_next(&r, LOOK_LOAD, 250);
    pass(&r, 250);
    cr_assert_eq(r.load, 1);
    expect_next(&r, LOOK_LOAD, 1200);
    begin(&r, 0);
    look_times_cancelled(&r.times, true, r.now_us);
    pass(&r, 5000);
    cr_assert_eq(r.load, 1, "it is idle: nothing is left to look for");
}

Test(look_times, many_cancels_do_not_make_many_looks)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 8;
    r.facts.others_run = true;
    for (unsigned i = 0; i < 1000; i++) {
        unsigned before = r.load;

        look_times_cancelled(&r.times, true, r.now_us);
        pass(&r, 10);
        r.load += before;
    }
    cr_assert_leq(r.load, 41); /* 10 s, 250 ms apart */
}

Test(look_times, a_cancel_before_the_first_token_goes_before_all_looks_that_are_due)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 1;
    r.facts.others_run = true;
    look_times_cancelled(&r.times, true, r.now_us);
    look_times_cancelled(&r.times, false, r.now_us + MS(20));
    cr_assert_eq(due(&r).at_mono_us, r.now_us + MS(1220));
    pass(&r, 1220);
    begin(&r, 0);
    pass(&r, 59900);
    look_times_cancelled(&r.times, false, r.now_us);
    expect_next(&r, LOOK_LOAD, 1200);
}

Test(look_times, a_broken_run_brings_a_full_look_at_once_and_then_one_a_second)
{
    struct rig r;

    begin(&r, 0);
    r.facts.runs = 1;
    pass(&r, 10 * 1000);
    look_times_trouble(&r.times, r.now_us);
    expect_next(&r, LOOK_FULL, 0);
    pass(&r, 0);
    cr_assert_eq(r.full, 1);
    look_times_trouble(&r.times, r.now_us);
    expect_next(&r, LOOK_FULL, 1000);
    pass(&r, 1000);
    cr_assert_eq(r.full, 1);
    expect_next(&r, LOOK_LOAD, 1200);
}

Test(look_times, a_broken_run_is_looked_into_though_another_was_cancelled)
{
    struct rig r;

    begin(&r, 0);
    pass(&r, 10 * 1000);
    look_times_cancelled(&r.times, false, r.now_us);
    look_times_trouble(&r.times, r.now_us);
    expect_next(&r, LOOK_FULL, 0);
}

Test(look_times, trouble_at_a_remote_engine_costs_six_looks_a_minute_at_most)
{
    struct rig r;

    begin(&r, 0);
    r.facts.remote = true;
    r.facts.shows_load = false;
    pass(&r, 100 * 1000);
    for (unsigned i = 0; i < 600; i++) {
        unsigned before = r.full;

        look_times_trouble(&r.times, r.now_us);
        pass(&r, 100);
        r.full += i == 0 ? 0 : before;
    }
    cr_assert_leq(r.full, 7);
    cr_assert_geq(r.full, 6);
}

Test(look_times, a_full_look_that_began_before_the_trouble_does_not_end_it)
{
    struct rig r;

    begin(&r, 0);
    pass(&r, 3000);
    look_times_trouble(&r.times, r.now_us + MS(5));
    look_times_ended(&r.times, LOOK_FULL, true, r.now_us, r.now_us + MS(10));
    expect_next(&r, LOOK_FULL, 1010);
}

Test(look_times, work_after_a_pause_brings_a_full_look_where_answers_may_hide_another_model)
{
    struct rig r;

    begin(&r, 0);
    r.facts.any_model = true;
    pass(&r, 9000);
    r.facts.runs = 1;
    r.facts.busy_mono_us = r.now_us;
    expect_next(&r, LOOK_FULL, 0);
    pass(&r, 0);
    expect_next(&r, LOOK_LOAD, 1200);
    begin(&r, 0);
    r.facts.any_model = true;
    pass(&r, 3000);
    r.facts.runs = 1;
    r.facts.busy_mono_us = r.now_us;
    cr_assert_eq(due(&r).level, LOOK_LOAD, "the last full look was 3 s ago");
}

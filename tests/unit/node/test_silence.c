/* test_silence.c - how long an answer may be silent: each rule of node/silence.h. */
#include <criterion/criterion.h>

#include "node/silence.h"

#define S UINT64_C(1000000)

/* load 900 s, first content 600 s, idle 300 s. */
static const struct silence_limits limits = {900 * S, 600 * S, 300 * S};
static const struct silence_signs none = {0};

static struct silence started(const struct silence_signs *signs)
{
    struct silence s;

    silence_start(&s, &limits, signs, 1000 * S);
    return s;
}

static enum silence_verdict verdict_at(struct silence *s, const struct silence_signs *signs,
                                       uint64_t at_s)
{
    return silence_look(s, signs, (1000 + at_s) * S).verdict;
}

/* The engine's count of work, read at that second. */
static struct silence_signs work(uint64_t figure, uint64_t at_s)
{
    return (struct silence_signs){
        .work = figure, .read_mono_us = (1000 + at_s) * S, .counts = true};
}

Test(silence, without_signs_the_first_content_has_its_limit_and_no_node_is_blamed)
{
    struct silence s = started(&none);

    cr_assert_eq(verdict_at(&s, &none, 599), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &none, 600), SILENCE_UNEXPLAINED);
    cr_assert_str_eq(silence_missing(&s), "first token");
}

Test(silence, a_count_that_stands_still_for_the_limit_blames_the_engine)
{
    struct silence_signs at = work(7, 0);
    struct silence s = started(&at);

    for (uint64_t at_s = 1; at_s < 600; at_s++) {
        at = work(7, at_s);
        cr_assert_eq(verdict_at(&s, &at, at_s), SILENCE_BORNE);
    }
    at = work(7, 600);
    cr_assert_eq(verdict_at(&s, &at, 600), SILENCE_STALLED);
}

Test(silence, a_count_that_moves_puts_the_limit_off)
{
    struct silence_signs at = work(7, 0);
    struct silence s = started(&at);

    at = work(8, 500);
    cr_assert_eq(verdict_at(&s, &at, 500), SILENCE_BORNE);
    at = work(8, 1099);
    cr_assert_eq(verdict_at(&s, &at, 1099), SILENCE_BORNE);
    at = work(8, 1100);
    cr_assert_eq(verdict_at(&s, &at, 1100), SILENCE_STALLED);
}

Test(silence, a_figure_that_not_all_work_changes_is_life_but_no_proof)
{
    struct silence_signs at = work(7, 0);
    struct silence s = started(&at);

    at = work(8, 500);
    at.counts = false;
    cr_assert_eq(verdict_at(&s, &at, 500), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &at, 1099), SILENCE_BORNE);
    at.read_mono_us = 2100 * S;
    cr_assert_eq(verdict_at(&s, &at, 1100), SILENCE_UNEXPLAINED);
}

Test(silence, a_count_that_falls_has_moved_too)
{
    struct silence_signs at = work(700, 0);
    struct silence s = started(&at);

    at = work(3, 500);
    cr_assert_eq(verdict_at(&s, &at, 500), SILENCE_BORNE);
    cr_assert_eq(silence_signs_of_life(&s), 1);
    at = work(3, 1000);
    cr_assert_eq(verdict_at(&s, &at, 1000), SILENCE_BORNE);
}

Test(silence, the_first_reading_of_a_count_is_no_sign_of_life)
{
    struct silence s = started(&none);
    struct silence_signs at = work(7, 100);

    cr_assert_eq(verdict_at(&s, &at, 100), SILENCE_BORNE);
    cr_assert_eq(silence_signs_of_life(&s), 0);
}

Test(silence, a_count_that_is_not_readable_any_more_proves_nothing)
{
    struct silence_signs at = work(7, 0);
    struct silence s = started(&at);

    at = work(7, 599); /* the last reading; the limit is over at 600 */
    cr_assert_eq(verdict_at(&s, &at, 602), SILENCE_BORNE, "it may still be read");
    cr_assert_eq(verdict_at(&s, &at, 603), SILENCE_UNEXPLAINED);
}

Test(silence, a_figure_that_is_read_at_the_limit_decides)
{
    struct silence s = started(&none);
    struct silence_signs at = work(7, 599); /* the first reading */

    cr_assert_eq(verdict_at(&s, &at, 600), SILENCE_BORNE);
    at = work(8, 601);
    cr_assert_eq(verdict_at(&s, &at, 601), SILENCE_BORNE);
    at = work(8, 1200);
    cr_assert_eq(verdict_at(&s, &at, 1200), SILENCE_BORNE);
    at = work(8, 1201);
    cr_assert_eq(verdict_at(&s, &at, 1201), SILENCE_STALLED);
}

Test(silence, a_ping_is_life_but_no_content)
{
    struct silence s = started(&none);

    silence_heard(&s, false, 1500 * S);
    cr_assert_eq(verdict_at(&s, &none, 1099), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &none, 1100), SILENCE_UNEXPLAINED);
    cr_assert_str_eq(silence_missing(&s), "first token");
}

Test(silence, after_content_the_idle_limit_counts)
{
    struct silence s = started(&none);

    silence_heard(&s, true, 1010 * S);
    cr_assert_eq(verdict_at(&s, &none, 309), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &none, 310), SILENCE_UNEXPLAINED);
    cr_assert_str_eq(silence_missing(&s), "token");
}

Test(silence, a_count_that_moves_bears_silence_inside_an_answer)
{
    struct silence_signs at = work(1, 0);
    struct silence s = started(&at);

    silence_heard(&s, true, 1010 * S);
    for (uint64_t at_s = 20; at_s < 2000; at_s += 100) {
        at = work(at_s, at_s);
        cr_assert_eq(verdict_at(&s, &at, at_s), SILENCE_BORNE, "cut at %u s", (unsigned)at_s);
    }
}

Test(silence, a_load_has_a_limit_of_its_own_and_blames_no_node)
{
    struct silence_signs loading = {.loading = true};
    struct silence s = started(&loading);

    cr_assert(silence_is_loading(&s));
    cr_assert_eq(verdict_at(&s, &loading, 899), SILENCE_BORNE);
    loading.work = 5; /* readable, and standing still: a load does not show in it */
    loading.read_mono_us = 1900 * S;
    cr_assert_eq(verdict_at(&s, &loading, 900), SILENCE_UNEXPLAINED);
    cr_assert_str_eq(silence_missing(&s), "loaded model");
}

Test(silence, after_the_load_the_first_content_has_its_whole_limit)
{
    struct silence_signs loading = {.loading = true};
    struct silence s = started(&loading);

    cr_assert_eq(verdict_at(&s, &none, 800), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &none, 1399), SILENCE_BORNE);
    cr_assert_eq(verdict_at(&s, &none, 1400), SILENCE_UNEXPLAINED);
    cr_assert_str_eq(silence_missing(&s), "first token");
}

Test(silence, an_answer_shows_that_the_model_is_there_whatever_the_look_said)
{
    struct silence_signs loading = {.loading = true};
    struct silence s = started(&loading);

    silence_heard(&s, true, 1001 * S);
    cr_assert_eq(verdict_at(&s, &loading, 300), SILENCE_BORNE);
    cr_assert_not(silence_is_loading(&s));
    cr_assert_eq(verdict_at(&s, &loading, 301), SILENCE_UNEXPLAINED);
}

Test(silence, no_limit_runs_while_the_caller_takes_no_bytes)
{
    struct silence_signs at = work(7, 0);
    struct silence s = started(&at);

    silence_heard(&s, true, 1010 * S);
    silence_pause(&s, true, 1010 * S);
    at = work(7, 5000);
    cr_assert_eq(verdict_at(&s, &at, 5000), SILENCE_BORNE);
    silence_pause(&s, false, 6000 * S);
    at = work(7, 5299);
    cr_assert_eq(verdict_at(&s, &at, 5299), SILENCE_BORNE);
    at = work(7, 5300);
    cr_assert_eq(verdict_at(&s, &at, 5300), SILENCE_STALLED);
}

Test(silence, looks_come_each_second_and_at_the_limit)
{
    struct silence s = started(&none);

    cr_assert_eq(silence_look(&s, &none, 1000 * S).again_us, 1 * S);
    cr_assert_eq(silence_look(&s, &none, 1599 * S + S / 2).again_us, S / 2);
    cr_assert_eq(silence_look(&s, &none, 1000 * S).limit_us, 600 * S);
}

Test(silence, zero_is_no_limit)
{
    static const struct silence_limits no_limits = {0};
    struct silence s;

    silence_start(&s, &no_limits, &none, 1000 * S);
    cr_assert_eq(verdict_at(&s, &none, 100000), SILENCE_BORNE);
    silence_heard(&s, true, 100000 * S);
    cr_assert_eq(verdict_at(&s, &none, 900000), SILENCE_BORNE);
}

static struct silence_signs gone(uint64_t at_s)
{
    return (struct silence_signs){.gone_mono_us = (1000 + at_s) * S};
}

Test(silence, an_answer_whose_engine_was_found_gone_since_its_last_bytes_is_lost)
{
    struct silence s = started(&none);
    struct silence_signs at = gone(9);

    silence_heard(&s, true, 1010 * S);
    cr_assert_eq(verdict_at(&s, &none, 100), SILENCE_BORNE, "nothing shows that it is gone");
    cr_assert_eq(verdict_at(&s, &at, 100), SILENCE_BORNE, "bytes came since");
    at = gone(101);
    cr_assert_eq(verdict_at(&s, &at, 102), SILENCE_BORNE, "the next look may find it");
    at = gone(0);
    cr_assert_eq(verdict_at(&s, &at, 103), SILENCE_BORNE, "as it did");
    at = gone(104);
    cr_assert_eq(verdict_at(&s, &at, 106), SILENCE_LEFT);
}

Test(silence, an_answer_that_has_not_begun_or_is_not_read_is_not_lost)
{
    struct silence s = started(&none);
    struct silence_signs at = gone(2);

    cr_assert_eq(verdict_at(&s, &at, 50), SILENCE_BORNE, "no content: its prompt is read, say");
    silence_heard(&s, true, 1100 * S);
    silence_pause(&s, true, 1106 * S);
    at = gone(107);
    for (uint64_t at_s = 107; at_s < 120; at_s++)
        cr_assert_eq(verdict_at(&s, &at, at_s), SILENCE_BORNE, "nobody reads");
    silence_pause(&s, false, 1120 * S);
    cr_assert_eq(verdict_at(&s, &at, 120), SILENCE_BORNE);
}

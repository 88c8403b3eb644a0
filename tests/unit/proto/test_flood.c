/* test_flood.c - what is too much of what a peer should not do often. */
#include <criterion/criterion.h>
#include <nghttp2/nghttp2.h>

#include "proto/rpc/h2/flood.h"

#define START UINT64_C(1000)

/* Counts `n` events at `now`; the word of the last. */
static const char *count(struct flood *f, enum flood_event event, unsigned n, uint64_t now)
{
    const char *why = NULL;

    while (n-- != 0)
        why = flood_count(f, event, now);
    return why;
}

Test(flood, each_kind_has_its_limit_and_its_word)
{
    static const struct {
        enum flood_event event;
        unsigned limit;
        const char *word;
    } kinds[] = {{FLOOD_PING, 100, "too_many_pings"},
                 {FLOOD_SETTINGS, 20, "too_many_settings"},
                 {FLOOD_FAULT, 50, "too_many_errors"},
                 {FLOOD_REFUSAL, 2000, "too_many_streams"}};
    struct flood f = {0};

    for (size_t i = 0; i < 4; i++) {
        cr_expect_null(count(&f, kinds[i].event, kinds[i].limit, START));
        cr_expect_str_eq(count(&f, kinds[i].event, 1, START), kinds[i].word);
    }
}

/* 20 SETTINGS in each 10 s are let pass for ever; the 21st within them is not. */
Test(flood, frames_spread_over_time_are_no_flood)
{
    struct flood f = {0};

    for (uint64_t round = 0; round < 5; round++)
        cr_expect_null(count(&f, FLOOD_SETTINGS, 20, START + round * (FLOOD_SPAN_US + 1)));
    cr_expect_not_null(
        count(&f, FLOOD_SETTINGS, 1, START + 4 * (FLOOD_SPAN_US + 1) + FLOOD_SPAN_US));
}

/* 1 MiB * 8 = 8388608 bytes may be read with nothing useful among them, and up to seven more
 * because the eighth is rounded down. */
Test(flood, useless_bytes_end_it_after_eight_mebibytes)
{
    struct flood f = {.read_bytes = 8388608 + 7};

    cr_expect_null(flood_waste(&f));
    f.read_bytes++;
    cr_expect_str_eq(flood_waste(&f), "too_many_empty_frames");
    f.useful_bytes = 1;
    cr_expect_null(flood_waste(&f));
}

/* 255 bytes of padding around 5 of data count as useful; so do 9 + 4 bytes of WINDOW_UPDATE for
 * every two that they let us send: 13 / 8 = 1. */
Test(flood, an_eighth_that_is_useful_is_enough_for_ever)
{
    struct flood f = {0};

    for (unsigned i = 0; i < 20000000; i += 1000) {
        f.read_bytes += UINT64_C(13) * 1000;
        f.useful_bytes += UINT64_C(2) * 1000;
    }
    cr_expect_null(flood_waste(&f));
}

Test(flood, only_resets_for_what_the_peer_did_are_counted)
{
    cr_expect_eq(flood_of_reset(NGHTTP2_NO_ERROR), FLOOD_EVENTS);
    cr_expect_eq(flood_of_reset(NGHTTP2_CANCEL), FLOOD_EVENTS);
    cr_expect_eq(flood_of_reset(NGHTTP2_REFUSED_STREAM), FLOOD_REFUSAL);
    cr_expect_eq(flood_of_reset(NGHTTP2_FLOW_CONTROL_ERROR), FLOOD_FAULT);
    cr_expect_eq(flood_of_reset(NGHTTP2_STREAM_CLOSED), FLOOD_FAULT);
    cr_expect_eq(flood_of_reset(NGHTTP2_INTERNAL_ERROR), FLOOD_FAULT);
}

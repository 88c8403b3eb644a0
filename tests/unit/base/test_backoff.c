/* test_backoff.c - when a child that ended on its own is started again. */
#include "base/backoff.h"

#include <criterion/criterion.h>

#define S UINT64_C(1000000)

Test(backoff, the_first_end_is_forgiven_and_later_ones_wait_twice_as_long_up_to_five_seconds)
{
    static const uint64_t waits_us[] = {0,       100000,  200000,  400000, 800000,
                                        1600000, 3200000, 5000000, 5000000};
    struct backoff backoff = {0};

    for (size_t i = 0; i < sizeof(waits_us) / sizeof(waits_us[0]); i++)
        cr_assert_eq(backoff_next_us(&backoff, 59 * S), waits_us[i], "end %zu", i);
}

Test(backoff, a_minute_up_gives_a_clean_record)
{
    struct backoff backoff = {0};

    for (int i = 0; i < 20; i++)
        (void)!backoff_next_us(&backoff, 0);
    cr_assert_eq(backoff_next_us(&backoff, 0), 5 * S);
    cr_assert_eq(backoff_next_us(&backoff, 60 * S), 0);
    cr_assert_eq(backoff_next_us(&backoff, 1), 100000);
}

Test(backoff, it_stays_at_the_cap_for_ever)
{
    struct backoff backoff = {0};

    for (int i = 0; i < 100000; i++)
        cr_assert_leq(backoff_next_us(&backoff, 0), 5 * S);
    cr_assert_eq(backoff_next_us(&backoff, 0), 5 * S);
}

Test(crash_meter, the_eleventh_end_within_a_minute_raises_the_alarm_once)
{
    struct crash_meter meter = {0};
    uint64_t now = 1000 * S;

    for (int i = 0; i < 10; i++)
        cr_assert_not(crash_meter_note(&meter, now + (uint64_t)i * S), "end %d", i + 1);
    cr_assert(crash_meter_note(&meter, now + 11 * S));
    for (int i = 0; i < 50; i++)
        cr_assert_not(crash_meter_note(&meter, now + 12 * S));
}

Test(crash_meter, a_new_minute_counts_anew_and_may_raise_it_again)
{
    struct crash_meter meter = {0};
    uint64_t now = 1000 * S;
    int alarms = 0;

    for (int i = 0; i < 180; i++) /* one a second for three minutes */
        alarms += crash_meter_note(&meter, now + (uint64_t)i * S);
    cr_assert_eq(alarms, 3);
}

Test(crash_meter, ten_a_minute_are_no_alarm)
{
    struct crash_meter meter = {0};

    for (int i = 0; i < 100; i++)
        cr_assert_not(crash_meter_note(&meter, 1000 * S + (uint64_t)i * 6 * S));
}

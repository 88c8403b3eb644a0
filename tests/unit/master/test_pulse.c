/* test_pulse.c - silence of a child, and silence of our own. */
#include "master/pulse.h"

#include <criterion/criterion.h>

#define S UINT64_C(1000000)

Test(pulse, one_look_a_second)
{
    struct pulse pulse = {0};

    cr_assert(pulse_due(&pulse, 100 * S));
    cr_assert(!pulse_due(&pulse, 100 * S + 999999));
    cr_assert(pulse_due(&pulse, 101 * S));
}

Test(pulse, silence_counts_from_the_last_heartbeat)
{
    struct pulse pulse = {0};

    cr_assert(pulse_due(&pulse, 100 * S));
    for (uint64_t t = 101; t <= 110; t++)
        cr_assert(pulse_due(&pulse, t * S));
    cr_assert_eq(pulse_silent_us(&pulse, 104 * S, 110 * S), 6 * S);
    cr_assert_eq(pulse_silent_us(&pulse, 110 * S, 110 * S), 0);
    cr_assert_eq(pulse_silent_us(&pulse, 999 * S, 110 * S), 0, "it lies in our future");
}

Test(pulse, time_in_which_we_stood_still_does_not_count)
{
    struct pulse pulse = {0};

    cr_assert(pulse_due(&pulse, 100 * S));
    cr_assert(pulse_due(&pulse, 101 * S));
    /* The whole group was stopped for a minute; the child's last beat was before that. */
    cr_assert(pulse_due(&pulse, 161 * S));
    cr_assert_eq(pulse_silent_us(&pulse, 101 * S, 161 * S), 0);
    cr_assert(pulse_due(&pulse, 162 * S));
    cr_assert_eq(pulse_silent_us(&pulse, 101 * S, 162 * S), 1 * S);
    /* It does not come back either: five seconds more and it counts as lost. */
    for (uint64_t t = 163; t <= 167; t++)
        cr_assert(pulse_due(&pulse, t * S));
    cr_assert_gt(pulse_silent_us(&pulse, 101 * S, 167 * S), PULSE_LIMIT_US);
}

Test(pulse, a_late_look_is_no_gap)
{
    struct pulse pulse = {0};

    cr_assert(pulse_due(&pulse, 99 * S));
    cr_assert(pulse_due(&pulse, 100 * S));
    cr_assert(pulse_due(&pulse, 102 * S + S / 2));
    cr_assert_eq(pulse_silent_us(&pulse, 100 * S, 102 * S + S / 2), 2 * S + S / 2);
}

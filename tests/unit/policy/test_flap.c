/* test_flap.c - how long a node waits that comes and goes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "policy/fault/flap.h"

#define FIRST (10 * US_PER_S)

static struct flap *new_flap(void)
{
    struct flap *flap = calloc(1, sizeof(*flap));

    cr_assert_not_null(flap);
    return flap;
}

Test(flap, the_third_loss_costs_10_s_and_the_next_ones_twice_as_much_up_to_a_minute)
{
    /* One every 3 s after it could be back: 0, 0, 10, 20, 40, then 80 cut to 60. */
    static const uint64_t wait_s[] = {0, 0, 10, 20, 40, 60, 60};
    struct flap *flap = new_flap();
    uint64_t now = 100 * US_PER_S;

    for (unsigned i = 0; i < sizeof(wait_s) / sizeof(wait_s[0]); i++) {
        flap_lost(flap, "a", FIRST, now);
        cr_assert_eq(flap_wait_us(flap, "a", now), wait_s[i] * US_PER_S, "loss %u", i + 1);
        cr_assert_eq(flap_wait_us(flap, "b", now), 0, "another node");
        now += wait_s[i] * US_PER_S;
        cr_assert_eq(flap_wait_us(flap, "a", now), 0, "it has waited");
        now += 3 * US_PER_S;
    }
    free(flap);
}

Test(flap, a_minute_of_peace_and_all_is_forgotten)
{
    struct flap *flap = new_flap();
    uint64_t now = 100 * US_PER_S;

    for (int i = 0; i < 3; i++)
        flap_lost(flap, "a", FIRST, now);
    cr_assert_eq(flap_wait_us(flap, "a", now), FIRST);
    now += FIRST + 60 * US_PER_S;
    flap_lost(flap, "a", FIRST, now);
    cr_assert_eq(flap_wait_us(flap, "a", now), 2 * FIRST, "to the second");
    now += 2 * FIRST + 60 * US_PER_S + 1;
    flap_lost(flap, "a", FIRST, now);
    cr_assert_eq(flap_wait_us(flap, "a", now), 0);
    free(flap);
}

Test(flap, no_name_waits_when_it_is_off_and_the_oldest_name_makes_room)
{
    struct flap *flap = new_flap();
    char name[32];

    for (int i = 0; i < 5; i++)
        flap_lost(flap, "off", 0, US_PER_S);
    cr_assert_eq(flap_wait_us(flap, "off", US_PER_S), 0);
    for (unsigned i = 0; i < FLAP_PLACES; i++) {
        (void)snprintf(name, sizeof(name), "n%u", i);
        for (int k = 0; k < 3; k++)
            flap_lost(flap, name, FIRST, 10 * US_PER_S + i);
    }
    cr_assert_eq(flap_wait_us(flap, "n0", 10 * US_PER_S), FIRST);
    for (int k = 0; k < 3; k++)
        flap_lost(flap, "one-more", FIRST, 11 * US_PER_S);
    cr_assert_eq(flap_wait_us(flap, "n0", 10 * US_PER_S), 0);
    cr_assert_eq(flap_wait_us(flap, "n1", 10 * US_PER_S + 1), FIRST);
    cr_assert_eq(flap_wait_us(flap, "one-more", 11 * US_PER_S), FIRST);
    free(flap);
}

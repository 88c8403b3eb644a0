/* test_noise.c - which nodes may have another line in the log. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "policy/fault/noise.h"

static struct noise noise;
static const uint64_t start = UINT64_C(50000000);
static uint32_t missed;

static unsigned allowed(const char *name, unsigned lines, uint64_t now_mono_us)
{
    unsigned n = 0;

    for (unsigned i = 0; i < lines; i++)
        n += noise_allows(&noise, name, now_mono_us, &missed);
    return n;
}

Test(noise, a_name_has_a_burst_and_then_a_line_every_ten_seconds)
{
    cr_assert_eq(allowed("a", 1000, start), NOISE_BURST);
    cr_assert_eq(allowed("a", 1000, start + NOISE_REFILL_US - 1), 0u);
    cr_assert(noise_allows(&noise, "a", start + NOISE_REFILL_US, &missed));
    cr_assert_eq(missed, 2000 - NOISE_BURST);
    cr_assert_eq(allowed("a", 1000, start + NOISE_REFILL_US), 0u);
    cr_assert_eq(allowed("a", 1000, start + 100 * NOISE_BURST * NOISE_REFILL_US), NOISE_BURST);
}

Test(noise, other_names_have_their_own_lines)
{
    cr_assert_eq(allowed("a", 1000, start), NOISE_BURST);
    cr_assert_eq(allowed("b", 3, start), 3u);
    cr_assert_eq(missed, 0u);
}

Test(noise, names_made_up_in_a_loop_are_bounded_and_disturb_no_known_one)
{
    char name[16];
    unsigned n = allowed("a", 1, start);

    for (unsigned i = 0; i < 50000; i++) {
        (void)snprintf(name, sizeof(name), "n%u", i);
        n += allowed(name, 1, start);
    }
    cr_assert_eq(n, NOISE_PLACES);
    cr_assert_eq(allowed("a", 10, start), 10u);
    cr_assert_eq(allowed("new", 5, start + NOISE_REFILL_US), 5u);
}

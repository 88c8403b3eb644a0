/* test_crowd.c - who goes first when strangers have taken all the room. */
#include <criterion/criterion.h>

#include "base/io/crowd.h"

static struct crowd crowd;
static struct crowd_member members[8];

static void come(unsigned i, uint64_t key)
{
    cr_assert_eq(crowd_join(&crowd, &members[i], key), 0);
}

static void goes_first(unsigned i)
{
    cr_assert_eq(crowd_first_out(&crowd), &members[i], "member %u does not go first", i);
    crowd_leave(&crowd, &members[i]);
}

Test(crowd, the_oldest_of_the_address_that_has_most_goes_first)
{
    come(0, 1); /* the oldest of all, alone at its address */
    come(1, 2);
    come(2, 3);
    come(3, 3);
    come(4, 2);
    come(5, 3);
    goes_first(2); /* three at 3 */
    goes_first(1); /* two and two: the one that came first */
    goes_first(3);
    goes_first(0); /* each is alone */
    goes_first(4);
    goes_first(5);
    cr_assert_null(crowd_first_out(&crowd));
    cr_assert_eq(crowd.count, 0u);
}

Test(crowd, a_member_that_left_may_leave_again_and_come_back_as_the_youngest)
{
    come(0, 1);
    come(1, 1);
    crowd_leave(&crowd, &members[0]);
    crowd_leave(&crowd, &members[0]);
    cr_assert_eq(crowd.count, 1u);
    come(0, 1);
    goes_first(1);
    goes_first(0);
}

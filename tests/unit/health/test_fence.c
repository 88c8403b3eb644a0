/* test_fence.c - of two nodes of one name, which is the older. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "health/registry/fence.h"

Test(fence, a_holder_that_lost_its_name_is_older_until_it_holds_it_again)
{
    static struct fence fence;
    const uint8_t x[16] = {1}, y[16] = {2};

    cr_assert_not(fence_is_older(&fence, "a", x));
    fence_lost(&fence, "a", x);
    fence_lost(&fence, "a", x);
    cr_assert_eq(fence.next, 1, "once is enough");
    cr_assert(fence_is_older(&fence, "a", x));
    cr_assert_not(fence_is_older(&fence, "a", y));
    cr_assert_not(fence_is_older(&fence, "b", x), "of that name");
    fence_holds(&fence, "a", x);
    cr_assert_not(fence_is_older(&fence, "a", x));
}

Test(fence, the_oldest_memory_makes_room)
{
    static struct fence fence;
    uint8_t id[16] = {0};

    for (unsigned i = 1; i <= FENCE_PLACES + 1; i++) {
        memcpy(id, &i, sizeof(i));
        fence_lost(&fence, "a", id);
    }
    memset(id, 0, sizeof(id));
    id[0] = 1;
    cr_assert_not(fence_is_older(&fence, "a", id));
    id[0] = 2;
    cr_assert(fence_is_older(&fence, "a", id));
}

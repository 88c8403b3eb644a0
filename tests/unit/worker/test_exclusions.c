/* test_exclusions.c - a node that failed for a request stays excluded, whatever comes after. */
#include <criterion/criterion.h>

#include "worker/select/exclusions.h"

static const struct excluded_node *find(const struct exclusions *e, unsigned node)
{
    for (uint32_t i = 0; i < e->count; i++) {
        if (e->of[i].node == node)
            return &e->of[i];
    }
    return NULL;
}

static void add(struct exclusions *e, unsigned node, uint32_t generation, uint64_t until,
                uint64_t now)
{
    cr_assert_not(exclusions_add(
        e,
        (struct excluded_node){.node = node, .generation = generation, .until_mono_us = until},
        now));
}

Test(exclusions, as_many_failures_as_attempts_and_resumes_are_remembered)
{
    struct exclusions e = {0};

    for (unsigned node = 0; node < 32; node++)
        add(&e, node, 1, UINT64_MAX, 1000 + node);
    for (unsigned node = 0; node < 32; node++)
        cr_assert_not_null(find(&e, node), "node %u is forgotten", node);
    exclusions_finish(&e);
}

Test(exclusions, full_nodes_never_push_a_failed_one_out)
{
    struct exclusions e = {0};

    add(&e, 0, 1, UINT64_MAX, 0);
    for (unsigned node = 1; node <= 200; node++)
        add(&e, node, 1, 1000000 + node, 10);
    cr_assert_eq(e.count, EXCLUSIONS_MAX);
    cr_assert_eq(find(&e, 0)->until_mono_us, UINT64_MAX);
    cr_assert_not_null(find(&e, 200), "the latest pause is there");
    exclusions_finish(&e);
}

Test(exclusions, a_node_has_one_entry_and_a_pause_that_is_over_makes_room)
{
    struct exclusions e = {0};

    add(&e, 5, 1, 100, 0);
    add(&e, 5, 1, UINT64_MAX, 50);
    cr_assert_eq(e.count, 1);
    cr_assert_eq(e.of[0].until_mono_us, UINT64_MAX);
    add(&e, 6, 1, 100, 50);
    add(&e, 7, 1, 200, 100);
    cr_assert_eq(e.count, 2, "the pause of node 6 is over");
    cr_assert_eq(e.of[1].node, 7);
    add(&e, 5, 2, 300, 150);
    cr_assert_eq(e.count, 3, "another generation is another node");
    exclusions_finish(&e);
}

Test(exclusions, a_node_that_was_away_and_is_full_now_is_only_full)
{
    struct exclusions e = {0};

    cr_assert(exclusions_add(
        &e,
        (struct excluded_node){.node = 5, .generation = 1, .until_mono_us = 9, .away = true},
        0));
    cr_assert(find(&e, 5)->away);
    add(&e, 5, 1, 20, 10);
    cr_assert_eq(e.count, 1);
    cr_assert_not(find(&e, 5)->away);
    exclusions_finish(&e);
}

Test(exclusions, a_node_has_failed_for_good_or_for_as_long_as_it_is_away)
{
    struct exclusions e = {0};

    cr_assert_not(exclusions_failed(&e, 5, 1, 0));
    add(&e, 5, 1, UINT64_MAX, 0);
    add(&e, 6, 1, 100, 0);
    exclusions_add(
        &e,
        (struct excluded_node){.node = 7, .generation = 1, .until_mono_us = 100, .away = true},
        0);
    cr_assert(exclusions_failed(&e, 5, 1, 1000));
    cr_assert_not(exclusions_failed(&e, 5, 2, 1000), "another node has its row");
    cr_assert_not(exclusions_failed(&e, 6, 1, 99), "it is full");
    cr_assert(exclusions_failed(&e, 7, 1, 99));
    cr_assert_not(exclusions_failed(&e, 7, 1, 100));
    exclusions_finish(&e);
}

static bool add_away(struct exclusions *e, unsigned node, uint64_t until, uint64_t now)
{
    return exclusions_add(
        e,
        (struct excluded_node){
            .node = node, .generation = 1, .until_mono_us = until, .away = true},
        now);
}

Test(exclusions, a_node_that_is_away_again_and_again_is_one_node)
{
    struct exclusions e = {0};

    cr_assert(add_away(&e, 5, 10, 0));
    cr_assert(add_away(&e, 6, 20, 10), "another one");
    cr_assert_not(add_away(&e, 5, 30, 20));
    add(&e, 7, 1, 40, 30);
    add(&e, 5, 1, 50, 40);
    cr_assert_not(add_away(&e, 5, 60, 50), "it was full in between");
    cr_assert_not(add_away(&e, 6, 70, 60));
    exclusions_finish(&e);
}

/* test_model_shares.c - no ejection leaves less than half of a model's nodes. */
#include "health/model_shares.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct model_shares shares;

static void tear_down(void)
{
    model_shares_finish(&shares);
}

TestSuite(model_shares, .fini = tear_down);

static struct node_info serving(const char *first, const char *second)
{
    struct node_info info = {.models_count = second == NULL ? 1 : 2};

    (void)strlcpy(info.models[0].id, first, sizeof(info.models[0].id));
    if (second != NULL)
        (void)strlcpy(info.models[1].id, second, sizeof(info.models[1].id));
    return info;
}

Test(model_shares, the_only_node_of_a_model_stays)
{
    struct node_info only = serving("m", NULL);

    model_shares_add(&shares, &only, NODE_UP);
    cr_assert_not(model_shares_allow(&shares, &only, NODE_UP));
}

Test(model_shares, one_of_two_may_go_and_then_the_other_must_stay)
{
    struct node_info a = serving("m", NULL), b = serving("m", NULL);

    model_shares_add(&shares, &a, NODE_UP);
    model_shares_add(&shares, &b, NODE_UP);
    cr_assert(model_shares_allow(&shares, &a, NODE_UP));
    model_shares_move(&shares, &a, NODE_UP, NODE_EJECTED);
    cr_assert_not(model_shares_allow(&shares, &b, NODE_UP));
    model_shares_move(&shares, &a, NODE_EJECTED, NODE_UP);
    cr_assert(model_shares_allow(&shares, &b, NODE_UP));
}

Test(model_shares, each_model_of_the_node_has_to_keep_its_half)
{
    struct node_info both = serving("m", "rare"), other = serving("m", NULL);

    model_shares_add(&shares, &both, NODE_UP);
    model_shares_add(&shares, &other, NODE_UP);
    cr_assert_not(model_shares_allow(&shares, &both, NODE_UP), "rare has no other node");
    cr_assert(model_shares_allow(&shares, &other, NODE_UP));
    both.models[1].alias_of = 1;
    cr_assert(model_shares_allow(&shares, &both, NODE_UP), "an alias is no model of its own");
}

Test(model_shares, a_node_that_drains_or_has_not_joined_is_none)
{
    struct node_info a = serving("m", NULL), b = serving("m", NULL), c = serving("m", NULL);

    model_shares_add(&shares, &a, NODE_UP);
    model_shares_add(&shares, &b, NODE_DRAINING);
    model_shares_add(&shares, &c, NODE_JOINING);
    cr_assert_not(model_shares_allow(&shares, &a, NODE_UP));
    model_shares_move(&shares, &b, NODE_DRAINING, NODE_UP);
    cr_assert(model_shares_allow(&shares, &a, NODE_UP));
}

Test(model_shares, a_node_that_is_out_asks_whether_it_is_needed)
{
    struct node_info a = serving("m", NULL), b = serving("m", NULL);

    /* Out in the middle of a drain: as if it were UP. */
    model_shares_add(&shares, &a, NODE_DRAINING);
    model_shares_add(&shares, &b, NODE_UP);
    cr_assert(model_shares_allow(&shares, &a, NODE_DRAINING));
    model_shares_move(&shares, &b, NODE_UP, NODE_DOWN);
    cr_assert_not(model_shares_allow(&shares, &a, NODE_DRAINING), "nobody else is left");
}

Test(model_shares, a_thousand_models_are_kept_apart)
{
    static struct node_info nodes[32];

    for (unsigned n = 0; n < 32; n++) {
        nodes[n].models_count = NODE_MAX_MODELS;
        for (unsigned m = 0; m < NODE_MAX_MODELS; m++) /* two nodes have the same ones */
            (void)snprintf(nodes[n].models[m].id, sizeof(nodes[n].models[m].id), "m-%u-%u",
                           n / 2, m);
        model_shares_add(&shares, &nodes[n], NODE_UP);
    }
    cr_assert_eq(shares.count, 16 * NODE_MAX_MODELS);
    for (unsigned n = 0; n < 32; n += 2) {
        cr_assert(model_shares_allow(&shares, &nodes[n], NODE_UP));
        model_shares_move(&shares, &nodes[n], NODE_UP, NODE_EJECTED);
        cr_assert_not(model_shares_allow(&shares, &nodes[n + 1], NODE_UP));
    }
    model_shares_clear(&shares);
    cr_assert_eq(shares.count, 0);
    cr_assert_not(model_shares_allow(&shares, &nodes[0], NODE_UP), "the only one now");
}

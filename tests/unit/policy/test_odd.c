/* test_odd.c - a node's share of contradicted answers against its peers'. */
#include "policy/fault/odd.h"

#include <criterion/criterion.h>
#include <math.h>

static struct odd_counts of(uint32_t answered, uint32_t contradicted)
{
    return (struct odd_counts){.answered = answered, .contradicted = contradicted};
}

Test(odd, a_node_that_is_always_contradicted_is_odd_beside_one_that_never_is)
{
    cr_expect(odd_is(of(0, 5), of(30, 0), 80));
    cr_expect(odd_is(of(0, 20), of(20, 0), 80));
    cr_expect(odd_is(of(30, 30), of(60, 0), 80), "half of the time is enough");
    cr_expect(!odd_is(of(0, 4), of(1000, 0), 80), "too few");
    cr_expect(!odd_is(of(0, 9), of(4, 0), 80), "nobody to compare with");
    cr_expect(!odd_is(of(0, 20), of(20, 0), 0), "the rule is off");
}

Test(odd, one_clients_word_is_none_where_others_are_answered)
{
    struct odd_counts node = of(20, 20);

    node.contradicted_clients = 1 << 3;
    node.answered_clients = 1 << 3 | 1 << 7;
    cr_expect(odd_is(node, of(40, 0), 80), "one other may be a friend of the node");
    node.answered_clients = 1 << 7 | 1 << 8;
    cr_expect(!odd_is(node, of(40, 0), 80), "a client with odd requests, of a strict engine");
    node.contradicted_clients = 1 << 3 | 1 << 9;
    cr_expect(odd_is(node, of(40, 0), 80), "two clients agree");
    node.contradicted_clients = node.answered_clients = 1 << 3;
    cr_expect(odd_is(node, of(40, 0), 80), "there is no other client");
}

Test(odd, nodes_that_are_all_alike_are_not_odd)
{
    cr_expect(!odd_is(of(0, 50), of(0, 50), 80));
    cr_expect(!odd_is(of(60, 40), of(70, 30), 80));
    cr_expect(!odd_is(of(12, 8), of(19, 1), 80), "chance");
    cr_expect(!odd_is(of(900, 100), of(1000, 0), 80), "a tenth is no reason to go");
}

/* Four nodes on which one answer in five is empty by chance: for hours none is odd. */
Test(odd, chance_makes_none_odd)
{
    uint64_t state = 88172645463325252u;

    for (int round = 0; round < 500; round++) {
        struct odd_counts node[4] = {0};

        for (int i = 0; i < 400; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if (state / 7 % 5 == 0)
                node[i % 4].contradicted++;
            else
                node[i % 4].answered++;
        }
        for (int n = 0; n < 4; n++) {
            struct odd_counts best = {0};

            for (int peer = 0; peer < 4; peer++)
                if (peer != n)
                    best = odd_better(best, node[peer]);
            cr_assert(!odd_is(node[n], best, 80), "round %d", round);
        }
    }
}

Test(odd, the_best_peer_is_the_measure)
{
    struct odd_counts best = odd_better(of(0, 40), of(20, 0));

    cr_expect_eq(best.answered, 20);
    best = odd_better(of(20, 0), of(2, 0));
    cr_expect_eq(best.answered, 20, "one of two answers is no measure");
    best = odd_better(of(0, 0), of(0, 40));
    cr_expect_eq(best.contradicted, 40);
    best = odd_better(of(20, 0), of(50, 0));
    cr_expect_eq(best.answered, 50, "of two alike the one that shows more");
}

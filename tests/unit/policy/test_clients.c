/* test_clients.c - shares of what is limited, and who gives way. */
#include <criterion/criterion.h>

#include "policy/share/clients.h"

#define MIB ((size_t)1 << 20)

Test(clients, a_client_is_there_as_long_as_it_has_a_connection)
{
    struct clients table = {0};
    struct client_share *a = client_join(&table, 1), *b = client_join(&table, 2);

    cr_expect_eq(client_join(&table, 1), a);
    cr_expect_neq(a, b);
    cr_expect_eq(a->connections, 2);
    cr_expect_eq(client_connections(&table, 1), 2);
    cr_expect_eq(client_connections(&table, 3), 0);
    cr_expect_eq(table.count, 2);
    client_hold(&table, a, 10);
    client_hold(&table, a, 5);
    client_hold(&table, b, 0);
    cr_expect_eq(table.holders, 1);
    client_release(&table, a, 15);
    cr_expect_eq(table.holders, 0);
    client_leave(&table, a);
    client_leave(&table, b);
    cr_expect_eq(table.count, 1);
    client_leave(&table, a);
    cr_expect_eq(table.count, 0);
}

/* Many that fall into the same buckets. */
Test(clients, a_crowd_comes_and_goes)
{
    static struct clients table;
    static struct client_share *all[5000];

    for (unsigned i = 0; i < 5000; i++)
        all[i] = client_join(&table, i);
    cr_expect_eq(table.count, 5000);
    for (unsigned i = 0; i < 5000; i++)
        cr_expect_eq(all[i]->key, i);
    for (unsigned i = 0; i < 5000; i += 2)
        client_leave(&table, all[i]);
    for (unsigned i = 1; i < 5000; i += 2)
        client_leave(&table, all[i]);
    cr_expect_eq(table.count, 0);
}

static enum share_verdict judge(size_t held, unsigned clients, size_t mine, size_t one,
                                size_t n)
{
    struct share_facts facts = {512 * MIB, held * MIB, clients, mine * MIB, one * MIB, n * MIB};

    return share_judge(&facts);
}

Test(clients, shares_act_when_nine_tenths_are_taken)
{
    cr_expect_eq(judge(0, 0, 0, 0, 460), SHARE_FITS);
    cr_expect_eq(judge(445, 1, 445, 15, 15), SHARE_FITS, "one client alone, up to nine tenths");
    cr_expect_eq(judge(450, 1, 450, 15, 15), SHARE_OVER, "and no more");
    cr_expect_eq(judge(450, 1, 0, 0, 15), SHARE_FITS, "another one finds room");
    cr_expect_eq(judge(465, 2, 15, 0, 15), SHARE_FITS, "also for a second body");
    cr_expect_eq(judge(500, 2, 50, 50, 15), SHARE_FULL, "until nothing is left");
    cr_expect_eq(judge(500, 2, 160, 100, 15), SHARE_OVER, "but not beyond a third");
    cr_expect_eq(judge(600, 2, 10, 0, 1), SHARE_FULL);
    cr_expect_eq(judge(600, 2, 300, 0, 1), SHARE_OVER);
}

Test(clients, one_body_of_a_client_may_take_all)
{
    cr_expect_eq(judge(0, 0, 0, 0, 512), SHARE_FITS);
    cr_expect_eq(judge(500, 1, 500, 500, 12), SHARE_FITS);
    cr_expect_eq(judge(500, 1, 500, 500, 13), SHARE_FULL);
    cr_expect_eq(judge(500, 1, 500, 499, 12), SHARE_OVER);
}

static struct give_way_candidate make(uint32_t connections, enum give_way how, uint64_t since)
{
    return (struct give_way_candidate){
        .connections = connections, .share = 30, .how = how, .since_mono_us = since};
}

Test(clients, connections_give_way_in_the_order_of_the_table)
{
    /* Each gives way before all below it. */
    const struct give_way_candidate order[] = {
        make(90, GIVE_WAY_IDLE, 7),   make(90, GIVE_WAY_SILENT, 5),
        make(90, GIVE_WAY_HEAD, 4),   make(90, GIVE_WAY_UNREAD, 3),
        make(90, GIVE_WAY_UPLOAD, 2), make(31, GIVE_WAY_IDLE, 1),
        make(30, GIVE_WAY_IDLE, 2),   make(1, GIVE_WAY_IDLE, 3),
        make(29, GIVE_WAY_SILENT, 1), make(30, GIVE_WAY_HEAD, 1),
        make(1, GIVE_WAY_UPLOAD, 1),
    };
    const size_t n = sizeof(order) / sizeof(order[0]);

    for (size_t i = 0; i < n; i++) {
        cr_expect(!gives_way_before(&order[i], &order[i]));
        for (size_t k = i + 1; k < n; k++) {
            cr_expect(gives_way_before(&order[i], &order[k]), "%zu before %zu", i, k);
            cr_expect(!gives_way_before(&order[k], &order[i]), "%zu after %zu", k, i);
        }
    }
}

Test(clients, no_client_gives_way_to_one_that_has_as_much)
{
    const struct give_way_candidate idle = make(5, GIVE_WAY_IDLE, 1);
    const struct give_way_candidate busy = make(90, GIVE_WAY_NEVER, 1);

    cr_expect(gives_way_to(&idle, false, 0));
    cr_expect(gives_way_to(&idle, false, 4));
    cr_expect(!gives_way_to(&idle, false, 5));
    cr_expect(gives_way_to(&idle, true, 5), "its own");
    cr_expect(!gives_way_to(&busy, false, 0));
    cr_expect(!gives_way_to(&busy, true, 90));
}

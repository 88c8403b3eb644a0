/* test_addresses.c - the addresses of a name as a set, and stable names for the nodes there. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "health/names/addresses.h"

static struct net_addr addr(const char *text)
{
    struct net_addr out;

    cr_assert_eq(net_parse(&out, text, NULL), 0, "%s", text);
    return out;
}

Test(addresses, a_set_is_sorted_and_has_nothing_twice)
{
    const struct net_addr list[] = {addr("10.0.0.9:80"), addr("10.0.0.1:80"),
                                    addr("10.0.0.9:80"), addr("10.0.0.10:80")};
    struct addresses set;

    addresses_set(&set, list, 4);
    cr_assert_eq(set.count, 3);
    cr_assert_str_eq(set.at[0].text, "10.0.0.10:80", "by text: it only has to be stable");
    cr_assert_str_eq(set.at[1].text, "10.0.0.1:80");
    cr_assert_str_eq(set.at[2].text, "10.0.0.9:80");
    addresses_set(&set, list, 0);
    cr_assert_eq(set.count, 0);
}

Test(addresses, the_other_family_is_the_same_machine_again)
{
    const struct net_addr list[] = {addr("[::1]:80"), addr("127.0.0.1:80"), addr("[::2]:80")};
    struct addresses set;

    addresses_set(&set, list, 3);
    cr_assert_eq(set.count, 2);
    cr_assert_str_eq(set.at[0].text, "[::1]:80");
    addresses_set(&set, &list[1], 2);
    cr_assert_eq(set.count, 1);
    cr_assert_str_eq(set.at[0].text, "127.0.0.1:80");
}

Test(addresses, more_than_64_are_cut)
{
    struct net_addr list[70];
    struct addresses set;
    char text[32];

    for (int i = 0; i < 70; i++) {
        (void)snprintf(text, sizeof(text), "10.0.0.%d:80", i);
        list[i] = addr(text);
    }
    addresses_set(&set, list, 70);
    cr_assert_eq(set.count, 64);
}

static void expect_name(const char *name, const char *address, unsigned count,
                        const char *wanted)
{
    struct address a = {.addr = addr(address)};
    char out[NODE_NAME_BYTES];

    addresses_name(out, name, &a, count);
    cr_assert_str_eq(out, wanted);
    cr_assert(addresses_is_name(out, name), "%s", out);
}

Test(addresses, one_address_keeps_the_name_and_several_add_themselves)
{
    expect_name("gpu", "10.0.0.1:80", 1, "gpu");
    expect_name("gpu", "10.0.0.1:80", 2, "gpu-10.0.0.1");
    expect_name("gpu-farm", "[2001:db8::7]:80", 3, "gpu-farm-2001_db8__7");
}

Test(addresses, a_long_name_loses_its_end_and_not_its_address)
{
    /* 63 characters in all: a dash and 10.200.30.40 leave 50 for the name. */
    expect_name("n23456789012345678901234567890123456789012345678901234567890123",
                "10.200.30.40:80", 2,
                "n2345678901234567890123456789012345678901234567890-10.200.30.40");
}

Test(addresses, names_of_other_nodes_are_not_taken_for_derived_ones)
{
    cr_assert(addresses_is_name("gpu", "gpu"));
    cr_assert_not(addresses_is_name("gpu2", "gpu"));
    cr_assert_not(addresses_is_name("gp-10.0.0.1", "gpu"));
    cr_assert_not(addresses_is_name("cpu-10.0.0.1", "gpu"));
    cr_assert_not(addresses_is_name("-10.0.0.1", "gpu"));
}

/* test_strikes.c - limits on failures by address. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>

#include "base/io/net.h"
#include "health/registry/strikes.h"

static struct strikes strikes;
static const uint64_t start = UINT64_C(50000000);

static uint64_t key_of(const char *host)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

    if (inet_pton(AF_INET, host, &in.sin_addr) == 1)
        return net_peer_key((const struct sockaddr *)&in);
    cr_assert_eq(inet_pton(AF_INET6, host, &in6.sin6_addr), 1);
    return net_peer_key((const struct sockaddr *)&in6);
}

Test(strikes, ten_failures_in_a_burst_block_and_nine_do_not)
{
    uint64_t key = key_of("192.0.2.1");

    for (int i = 0; i < 9; i++)
        strikes_note(&strikes, key, start);
    cr_assert_not(strikes_blocked(&strikes, key, start));
    strikes_note(&strikes, key, start);
    cr_assert(strikes_blocked(&strikes, key, start));
    cr_assert_not(strikes_blocked(&strikes, key_of("192.0.2.2"), start), "only that address");
}

Test(strikes, one_is_forgiven_each_second)
{
    uint64_t key = key_of("192.0.2.1");

    for (int i = 0; i < 500; i++)
        strikes_note(&strikes, key, start);
    cr_assert(strikes_blocked(&strikes, key, start + STRIKES_REFILL_US - 1));
    cr_assert_not(strikes_blocked(&strikes, key, start + STRIKES_REFILL_US));
    strikes_note(&strikes, key, start + STRIKES_REFILL_US);
    cr_assert(strikes_blocked(&strikes, key, start + STRIKES_REFILL_US));
}

Test(strikes, a_host_cannot_hide_behind_the_rest_of_its_v6_network)
{
    uint64_t key = key_of("2001:db8::1");

    for (int i = 0; i < 10; i++)
        strikes_note(&strikes, key, start);
    cr_assert(strikes_blocked(&strikes, key_of("2001:db8::ffff:1"), start));
    cr_assert_not(strikes_blocked(&strikes, key_of("2001:db8:0:1::1"), start));
}

Test(strikes, each_v4_host_counts_for_itself_behind_a_v6_listener)
{
    uint64_t key = key_of("::ffff:192.0.2.1");

    for (int i = 0; i < 10; i++)
        strikes_note(&strikes, key, start);
    cr_assert(strikes_blocked(&strikes, key_of("192.0.2.1"), start));
    cr_assert_not(strikes_blocked(&strikes, key_of("::ffff:192.0.2.2"), start));
}

Test(strikes, unix_peers_are_not_limited)
{
    struct sockaddr un = {.sa_family = AF_UNIX};

    cr_assert_eq(net_peer_key(&un), 0);
    for (int i = 0; i < 50; i++)
        strikes_note(&strikes, 0, start);
    cr_assert_not(strikes_blocked(&strikes, 0, start));
}

Test(strikes, a_flood_of_addresses_does_not_free_the_worst_one)
{
    uint64_t key = key_of("192.0.2.1");

    for (int i = 0; i < 10; i++)
        strikes_note(&strikes, key, start);
    for (uint64_t other = 1; other < 1000; other++)
        strikes_note(&strikes, (UINT64_C(1) << 63) | (other << 8), start);
    cr_assert(strikes_blocked(&strikes, key, start));
}

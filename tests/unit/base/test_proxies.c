/* test_proxies.c - addresses of clients, and the proxies whose word on them counts. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/secure/proxies.h"

TestSuite(proxies, .timeout = 60);

static struct peer_address address_of(const char *text)
{
    struct peer_address address;

    if (strcmp(text, "unix") == 0)
        return (struct peer_address){.local = true};
    cr_assert(peer_address_parse(&address, text, strlen(text)), "%s", text);
    return address;
}

Test(proxies, an_address_is_the_same_however_it_came)
{
    struct sockaddr_storage sa = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&sa;
    struct peer_address one = address_of("192.0.2.7"), other;
    char text[PEER_TEXT_BYTES];

    v4->sin_family = AF_INET;
    cr_assert_eq(inet_pton(AF_INET, "192.0.2.7", &v4->sin_addr), 1);
    peer_address_of(&other, &sa);
    cr_assert_eq(memcmp(&one, &other, sizeof(one)), 0);
    cr_assert_eq(peer_address_key(&one), net_peer_key((struct sockaddr *)&sa));

    sa = (struct sockaddr_storage){0};
    v6->sin6_family = AF_INET6;
    cr_assert_eq(inet_pton(AF_INET6, "::ffff:192.0.2.7", &v6->sin6_addr), 1);
    peer_address_of(&other, &sa);
    cr_assert_eq(memcmp(&one, &other, sizeof(one)), 0);
    peer_address_text(text, &other);
    cr_assert_str_eq(text, "192.0.2.7");

    cr_assert_eq(inet_pton(AF_INET6, "2001:db8::1", &v6->sin6_addr), 1);
    peer_address_of(&other, &sa);
    peer_address_text(text, &other);
    cr_assert_str_eq(text, "2001:db8::1");
    cr_assert_eq(peer_address_key(&other), net_peer_key((struct sockaddr *)&sa));

    sa = (struct sockaddr_storage){.ss_family = AF_UNIX};
    peer_address_of(&other, &sa);
    cr_assert(other.local);
    peer_address_text(text, &other);
    cr_assert_str_eq(text, "unix");
    cr_assert_eq(peer_address_key(&other), 0);
}

Test(proxies, other_text_is_no_address)
{
    static const char *const wrong[] = {
        "",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.4 ",
        " 1.2.3.4",
        "::g",
        "1.2.3.4:80",
        "localhost",
        "11111111111111111111111111111111111111111111111111111"};
    struct peer_address address;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        cr_assert_not(peer_address_parse(&address, wrong[i], strlen(wrong[i])), "%s", wrong[i]);
    cr_assert_not(peer_address_parse(&address, "1.2.3.4\0", 8));
}

Test(proxies, an_entry_stands_for_what_it_says_and_no_more)
{
    static const struct {
        const char *entry, *address;
        bool is;
    } cases[] = {
        {"10.0.0.7", "10.0.0.7", true},
        {"10.0.0.7", "10.0.0.8", false},
        {"10.0.0.0/8", "10.255.1.2", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "::", false},
        {"192.168.4.0/22", "192.168.7.255", true},
        {"192.168.4.0/22", "192.168.8.0", false},
        {"0.0.0.0/0", "1.2.3.4", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "1.2.3.4", true},
        {"::/0", "2001:db8::1", true},
        {"::ffff:10.0.0.7", "10.0.0.7", true},
        {"2001:db8::/33", "2001:db8:7fff::1", true},
        {"2001:db8::/33", "2001:db8:8000::1", false},
        {"::1", "::1", true},
        {"::1", "127.0.0.1", false},
        {"unix", "unix", true},
        {"unix", "127.0.0.1", false},
        {"::/0", "unix", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct peer_address address = address_of(cases[i].address);
        struct proxy_net list[2];
        struct error err;

        cr_assert_eq(proxy_net_parse(&list[0], "198.51.100.1", &err), 0);
        cr_assert_eq(proxy_net_parse(&list[1], cases[i].entry, &err), 0, "%s: %s",
                     cases[i].entry, err.text);
        cr_assert_eq(proxies_have(list, 2, &address), cases[i].is, "%s has %s", cases[i].entry,
                     cases[i].address);
        cr_assert_not(proxies_have(list, 0, &address));
    }
}

Test(proxies, a_wrong_entry_is_refused_with_the_reason)
{
    static const struct {
        const char *entry, *why;
    } cases[] = {
        {"balancer.lan", "an entry is ADDRESS"}, {"", "an entry is ADDRESS"},
        {"10.0.0.0/33", "has 0 to 32 bits"},     {"::/129", "has 0 to 128 bits"},
        {"10.0.0.0/", "has 0 to 32 bits"},       {"10.0.0.0/8x", "has 0 to 32 bits"},
        {"10.0.0.0/-1", "has 0 to 32 bits"},     {"10.0.0.1/8", "has bits beyond its first 8"},
        {"2001:db8::1/64", "has bits beyond"},   {"10.0.0.1:80", "an entry is ADDRESS"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct proxy_net net;
        struct error err;

        cr_assert_eq(proxy_net_parse(&net, cases[i].entry, &err), DRV_EINVAL, "%s",
                     cases[i].entry);
        cr_assert_not_null(strstr(err.text, cases[i].why), "%s: %s", cases[i].entry, err.text);
    }
}

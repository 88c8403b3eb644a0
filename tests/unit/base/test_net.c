/* test_net.c - addresses as text, sockets that listen. */
#include "base/io/net.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

Test(net, host_and_port_are_split)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } good[] = {
        {"127.0.0.1:80", "127.0.0.1", 80},       {"box-1.lan:65535", "box-1.lan", 65535},
        {"localhost:0", "localhost", 0},         {"[::1]:8080", "::1", 8080},
        {"[fe80::1%eth0]:1", "fe80::1%eth0", 1}, {"a_b:08", "a_b", 8},
    };
    char host[64];
    uint16_t port;
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        cr_assert_eq(net_split(good[i].text, host, sizeof(host), &port, &err), 0, "%s",
                     good[i].text);
        cr_assert_str_eq(host, good[i].host);
        cr_assert_eq(port, good[i].port, "%s", good[i].text);
    }
}

Test(net, text_that_is_no_address_is_refused_with_the_reason)
{
    static const struct {
        const char *text, *reason;
    } bad[] = {
        {"", "the port is missing"},
        {"host", "the port is missing"},
        {"host:", "the port is missing"},
        {":80", "the host is missing"},
        {"host:65536", "not a number from 0 to 65535"},
        {"host:999999", "not a number from 0 to 65535"},
        {"host:-1", "not a number from 0 to 65535"},
        {"host:8o", "not a number from 0 to 65535"},
        {"host: 80", "not a number from 0 to 65535"},
        {"::1:80", "needs brackets"},
        {"[::1]", "the port is missing"},
        {"[::1]80", "the port is missing"},
        {"[::1:80", "bracket is not closed"},
        {"[]:80", "no IPv6 address"},
        {"[1.2.3.4]:80", "no IPv6 address"},
        {"[::g]:80", "no IPv6 address"},
        {"a b:80", "character no host can have"},
        {"http://x:80", "needs brackets"},
        {"x/y:80", "character no host can have"},
    };
    char host[64];
    uint16_t port;
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_assert_eq(net_split(bad[i].text, host, sizeof(host), &port, &err), DRV_EINVAL, "%s",
                     bad[i].text);
        cr_assert_not_null(strstr(err.text, bad[i].reason), "%s: %s", bad[i].text, err.text);
    }
}

Test(net, a_host_that_does_not_fit_is_refused)
{
    char host[4];
    uint16_t port;

    cr_assert_eq(net_split("abc:1", host, sizeof(host), &port, NULL), 0);
    cr_assert_eq(net_split("abcd:1", host, sizeof(host), &port, NULL), DRV_EINVAL);
}

Test(net, numeric_addresses_survive_a_round_trip)
{
    static const char *const texts[] = {"10.0.0.5:80", "[::1]:80", "[2001:db8::1]:65535",
                                        "unix:/run/x.sock"};
    struct net_addr addr;
    char out[NET_TEXT_BYTES];

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        cr_assert_eq(net_parse(&addr, texts[i], NULL), 0, "%s", texts[i]);
        net_format(out, sizeof(out), &addr);
        cr_assert_str_eq(out, texts[i]);
    }
}

Test(net, parsing_never_looks_a_name_up)
{
    struct net_addr addr;
    struct error err;

    cr_assert_eq(net_parse(&addr, "localhost:80", &err), DRV_EINVAL);
    cr_assert_eq(net_resolve(&addr, "localhost:80", &err), 0, "%s", err.text);
}

Test(net, unix_paths_are_absolute_and_fit)
{
    struct net_addr addr;
    char text[200];

    cr_assert_eq(net_parse(&addr, "unix:relative", NULL), DRV_EINVAL);
    cr_assert_eq(net_parse(&addr, "unix:", NULL), DRV_EINVAL);
    memset(text, 'a', sizeof(text));
    memcpy(text, "unix:/", 6);
    text[5 + 107] = '\0'; /* the path has 107 characters: one less than sun_path */
    cr_assert_eq(net_parse(&addr, text, NULL), 0);
    text[5 + 107] = 'a';
    text[5 + 108] = '\0';
    cr_assert_eq(net_parse(&addr, text, NULL), DRV_EINVAL);
}

Test(net, host_and_port_are_taken_apart)
{
    struct net_addr addr;
    char host[NET_TEXT_BYTES];

    cr_assert_eq(net_parse(&addr, "[::1]:443", NULL), 0);
    net_format_host(host, sizeof(host), &addr);
    cr_assert_str_eq(host, "::1");
    cr_assert_eq(net_port(&addr), 443);
    cr_assert_eq(net_parse(&addr, "unix:/x", NULL), 0);
    net_format_host(host, sizeof(host), &addr);
    cr_assert_str_eq(host, "");
    cr_assert_eq(net_port(&addr), 0);
}

Test(net, a_v4_address_in_v6_clothes_is_undressed_and_no_other)
{
    struct net_addr addr;
    char text[NET_TEXT_BYTES];

    cr_assert_eq(net_parse(&addr, "[::ffff:192.0.2.7]:8082", NULL), 0);
    net_unmap(&addr);
    net_format(text, sizeof(text), &addr);
    cr_assert_str_eq(text, "192.0.2.7:8082");
    cr_assert_eq(net_parse(&addr, "[2001:db8::7]:8082", NULL), 0);
    net_unmap(&addr);
    net_format(text, sizeof(text), &addr);
    cr_assert_str_eq(text, "[2001:db8::7]:8082");
}

Test(net, listening_on_port_0_gets_a_port_that_is_then_taken)
{
    struct net_addr addr;
    struct error err;
    char text[NET_TEXT_BYTES];
    int fd = net_listen("127.0.0.1:0", 16, &err);

    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    cr_assert((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    cr_assert_eq(net_local(&addr, fd, &err), 0);
    cr_assert_neq(net_port(&addr), 0);
    net_format(text, sizeof(text), &addr);
    cr_assert_eq(net_listen(text, 16, &err), DRV_ESYS);
    cr_assert_not_null(strstr(err.text, "bind: Address already in use"), "%s", err.text);
    (void)close(fd);
}

Test(net, a_stale_unix_socket_is_replaced_and_a_live_one_or_a_file_is_not)
{
    char dir[] = "/tmp/drover-net-XXXXXX", text[64];
    struct error err;
    struct stat st;
    int fd, again;

    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(text, sizeof(text), "unix:%s/s", dir);
    fd = net_listen(text, 16, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert_eq(net_listen(text, 16, &err), DRV_ESYS, "the live one was replaced");
    (void)close(fd);
    again = net_listen(text, 16, &err);
    cr_assert_geq(again, 0, "%s", err.text);
    (void)close(again);
    (void)unlink(text + 5);

    fd = open(text + 5, O_CREAT | O_WRONLY, 0600);
    (void)close(fd);
    cr_assert_eq(net_listen(text, 16, &err), DRV_ESYS);
    cr_assert_eq(lstat(text + 5, &st), 0, "the file was removed");
    (void)unlink(text + 5);
    (void)rmdir(dir);
}

Test(net, private_addresses_are_distinguished_from_public_ones)
{
    static const char *const private[] = {
        "127.0.0.1",   "127.8.8.8",     "10.0.0.1",       "172.16.0.1",  "172.31.255.255",
        "192.168.1.9", "169.254.10.10", "100.64.0.1",     "100.127.0.1", "::1",
        "fe80::1",     "fd12:3456::1",  "::ffff:10.0.0.1"};
    static const char *const public[] = {"8.8.8.8",
                                         "172.15.0.1",
                                         "172.32.0.1",
                                         "192.167.0.1",
                                         "100.63.0.1",
                                         "100.128.0.1",
                                         "2600::1",
                                         "::ffff:8.8.8.8",
                                         "11.0.0.1",
                                         "localhost",
                                         ""};

    for (size_t i = 0; i < sizeof(private) / sizeof(private[0]); i++)
        cr_assert(net_is_private(private[i]), "%s", private[i]);
    for (size_t i = 0; i < sizeof(public) / sizeof(public[0]); i++)
        cr_assert_not(net_is_private(public[i]), "%s", public[i]);
}

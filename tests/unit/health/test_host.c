/* test_host.c - Host headers that a rebound name cannot have. */
#include <criterion/criterion.h>
#include <string.h>

#include "health/admin/host.h"

static bool local(const char *host)
{
    return host_is_local(host, strlen(host));
}

Test(host, addresses_and_localhost_are_meant_for_us)
{
    cr_expect(local("127.0.0.1"));
    cr_expect(local("127.0.0.1:8081"));
    cr_expect(local("192.168.1.20:8081"));
    cr_expect(local("localhost"));
    cr_expect(local("LocalHost:8081"));
    cr_expect(local("[::1]"));
    cr_expect(local("[::1]:8081"));
}

Test(host, names_are_not)
{
    cr_expect_not(local("rebind.example.com"));
    cr_expect_not(local("rebind.example.com:8081"));
    cr_expect_not(local("localhost.example.com"));
    cr_expect_not(local("127.0.0.1.example.com"));
    cr_expect_not(local(""));
    cr_expect_not(local(":8081"));
    cr_expect_not(local("[::1"));
    cr_expect_not(local("[::1]x.example.com"));
    cr_expect_not(local("[example.com]"));
    cr_expect_not(local("0x7f.1"), "no browser sends it for a name, and we need not know it");
    cr_expect_not(host_is_local("localhost\0.example.com", 22));
}

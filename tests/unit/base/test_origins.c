/* test_origins.c - which web pages may use the API. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/secure/origins.h"

TestSuite(origins, .timeout = 60);

static bool listed(const char *pattern, const char *origin)
{
    return origin_is_listed(&pattern, 1, origin, strlen(origin));
}

Test(origins, a_pattern_stands_for_what_it_says_and_no_more)
{
    static const struct {
        const char *pattern, *origin;
        bool is;
    } cases[] = {
        {"loopback", "http://localhost", true},
        {"loopback", "https://LOCALHOST:3000", true},
        {"loopback", "http://127.0.0.1:5173", true},
        {"loopback", "http://127.8.9.10", true},
        {"loopback", "http://[::1]:8080", true},
        {"loopback", "http://chat.localhost:1", true},
        {"loopback", "http://127.0.0.1.example.com", false},
        {"loopback", "http://127.0.0.1.", false},
        {"loopback", "http://127.example.com", false},
        {"loopback", "http://127.0.0", false},
        {"loopback", "http://localhost.example.com", false},
        {"loopback", "http://evil-localhost", false},
        {"loopback", "http://.localhost", false},
        {"loopback", "app://localhost", false},
        {"loopback", "http://0.0.0.0:3000", false},
        {"loopback", "http://192.168.0.2", false},
        {"loopback", "null", false},
        {"https://chat.example.com", "https://chat.example.com", true},
        {"HTTPS://Chat.example.com", "https://chat.EXAMPLE.com", true},
        {"https://chat.example.com:443", "https://chat.example.com", true},
        {"https://chat.example.com", "https://chat.example.com:443", true},
        {"http://chat.example.com:80", "http://chat.example.com", true},
        {"https://chat.example.com", "http://chat.example.com", false},
        {"https://chat.example.com", "https://chat.example.com:8443", false},
        {"https://chat.example.com:*", "https://chat.example.com:8443", true},
        {"https://chat.example.com:*", "https://chat.example.com", true},
        {"https://chat.example.com:8443", "https://chat.example.com", false},
        {"https://chat.example.com", "https://chat.example.com.evil.org", false},
        {"https://chat.example.com", "https://evil.org/https://chat.example.com", false},
        {"https://chat.example.com", "https://chat.example.com@evil.org", false},
        {"https://chat.example.com", "https://xchat.example.com", false},
        {"https://*.example.com", "https://a.b.example.com", true},
        {"https://*.example.com", "https://example.com", false},
        {"https://*.example.com", "https://.example.com", false},
        {"https://*.example.com", "https://badexample.com", false},
        {"https://*.example.com", "https://a.example.com:1", false},
        {"https://*.example.com:*", "https://a.example.com:1", true},
        {"app://*", "app://obsidian.md", true},
        {"app://*", "application://obsidian.md", false},
        {"chrome-extension://*", "chrome-extension://abcdef", true},
        {"http://*", "http://anything:81", true},
        {"http://*:81", "http://anything:82", false},
        {"null", "null", true},
        {"null", "http://null", false},
        {"*", "null", true},
        {"*", "https://anything.example", true},
        {"http://[fe80::1]:3000", "http://[fe80::1]:3000", true},
        {"http://[fe80::1]:3000", "http://[fe80::1]:3001", false},
        {"loopback", "", false},
        {"loopback", "://", false},
        {"loopback", "http://", false},
        {"loopback", "http://[::1", false},
        {"loopback", "http://localhost:", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(listed(cases[i].pattern, cases[i].origin), cases[i].is, "%s of %s",
                     cases[i].origin, cases[i].pattern);
}

Test(origins, any_pattern_of_the_list_is_enough_and_an_empty_list_means_none)
{
    static const char *const list[] = {"https://a.example", "app://*"};

    cr_expect(origin_is_listed(list, 2, "app://x", 7));
    cr_expect(origin_is_listed(list, 2, "https://a.example", 17));
    cr_expect_not(origin_is_listed(list, 1, "app://x", 7));
    cr_expect_not(origin_is_listed(NULL, 0, "http://localhost", 16));
}

Test(origins, a_pattern_that_cannot_match_is_refused_with_the_reason)
{
    static const struct {
        const char *pattern, *says;
    } cases[] = {
        {"https://chat.example.com/", "no path"},
        {"https://chat.example.com/x", "SCHEME://HOST"},
        {"chat.example.com", "SCHEME://HOST"},
        {"localhost:3000", "SCHEME://HOST"},
        {"", "SCHEME://HOST"},
        {"://x", "SCHEME://HOST"},
        {"*://x", "SCHEME://HOST"},
        {"https://:1", "SCHEME://HOST"},
        {"https://a b", "SCHEME://HOST"},
        {"https://u@h", "SCHEME://HOST"},
        {"https://a.*.com", "before a dot"},
        {"https://*a.com", "before a dot"},
        {"https://*.*.com", "before a dot"},
        {"https://a:0", "1 to 65535"},
        {"https://a:65536", "1 to 65535"},
        {"https://a:8x", "1 to 65535"},
    };
    static const char *const good[] = {
        "loopback",        "null",    "*",          "https://a",
        "https://a:1",     "app://*", "http://*:*", "http://[::1]:3000",
        "https://*.a.b:*",
    };
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cr_assert_eq(origin_pattern_check(cases[i].pattern, &err), DRV_EINVAL, "%s",
                     cases[i].pattern);
        cr_expect_not_null(strstr(err.text, cases[i].says), "%s: %s", cases[i].pattern,
                           err.text);
    }
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        cr_expect_eq(origin_pattern_check(good[i], &err), 0, "%s: %s", good[i], err.text);
}

/* test_proxy_line.c - the PROXY line with which a balancer begins a connection. */
#include "worker/http/framing/proxy_line.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "base/secure/proxies.h"

TestSuite(proxy_line, .timeout = 60);

#define V2      "\r\n\r\n\0\r\nQUIT\n"
#define TEXT(s) s, sizeof(s) - 1

struct line {
    const char *bytes;
    size_t n;
    enum proxy_line is;
    const char *client;
};

static const struct line lines[] = {
    {TEXT("PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080\r\n"), PROXY_LINE_CLIENT, "198.51.100.7"},
    {TEXT("PROXY TCP6 2001:db8::5 fd00::1 4711 8080\r\n"), PROXY_LINE_CLIENT, "2001:db8::5"},
    {TEXT("PROXY UNKNOWN\r\n"), PROXY_LINE_OWN, NULL},
    {TEXT("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), PROXY_LINE_OWN, NULL},
    {TEXT(V2 "\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x12\x67\x1f\x90"),
     PROXY_LINE_CLIENT, "198.51.100.7"},
    {TEXT(V2 "\x21\x12\x00\x0f\xc6\x33\x64\x07\x0a\x00\x00\x01\x12\x67\x1f\x90\x04\x00\x00"),
     PROXY_LINE_CLIENT, "198.51.100.7"}, /* an extension behind it */
    {TEXT(V2
          "\x21\x21\x00\x24\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05"
          "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x12\x67\x1f\x90"),
     PROXY_LINE_CLIENT, "2001:db8::5"},
    {TEXT(V2 "\x20\x00\x00\x00"), PROXY_LINE_OWN, NULL},
    {TEXT(V2 "\x21\x00\x00\x00"), PROXY_LINE_OWN, NULL},
};

Test(proxy_line, each_form_is_read_however_it_is_cut)
{
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        char bytes[256], text[PEER_TEXT_BYTES];
        struct peer_address client;
        size_t len = 0;

        memcpy(bytes, lines[i].bytes, lines[i].n);
        memcpy(bytes + lines[i].n, "GET / HTTP/1.1\r\n", 16);
        for (size_t n = 1; n < lines[i].n; n++)
            cr_assert_eq(proxy_line_parse(&client, &len, bytes, n), PROXY_LINE_MORE,
                         "line %zu, %zu bytes", i, n);
        for (size_t n = lines[i].n; n <= lines[i].n + 16; n++) {
            cr_assert_eq(proxy_line_parse(&client, &len, bytes, n), lines[i].is, "line %zu", i);
            cr_assert_eq(len, lines[i].n, "line %zu", i);
            if (lines[i].client == NULL)
                continue;
            peer_address_text(text, &client);
            cr_assert_str_eq(text, lines[i].client);
        }
    }
}

Test(proxy_line, other_beginnings_are_no_line)
{
    static const char *const others[] = {
        "POST / HTTP/1.1\r\n", "PROXIED", "GET", "\r\nGET /", "\x16\x03\x01", "PRI * HTTP/2.0"};
    struct peer_address client;
    size_t len;

    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        cr_assert_eq(proxy_line_parse(&client, &len, others[i], strlen(others[i])),
                     PROXY_LINE_NONE, "%s", others[i]);
    cr_assert_eq(proxy_line_parse(&client, &len, NULL, 0), PROXY_LINE_MORE);
    cr_assert_eq(proxy_line_parse(&client, &len, "P", 1), PROXY_LINE_MORE);
    cr_assert_eq(proxy_line_parse(&client, &len, "\r\n", 2), PROXY_LINE_MORE);
}

Test(proxy_line, damaged_lines_are_refused)
{
    static const struct line wrong[] = {
        {TEXT("PROXY \r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100.7 10.0.0.1 4711 80800\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100.7 10.0.0.1 4711 \r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080 9\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100 10.0.0.1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 2001:db8::5 fd00::1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP6 198.51.100.7 10.0.0.1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4  10.0.0.1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY UDP4 198.51.100.7 10.0.0.1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 198.51.100.7\0 10.0.0.1 4711 8080\r\n"), PROXY_LINE_BAD, NULL},
        {TEXT("PROXY TCP4 11111111111111111111111111111111111111111111111111111111111111111111"
              "1111111111111111111111111111111111111111"),
         PROXY_LINE_BAD, NULL},
        {TEXT(V2 "\x11\x11\x00\x0c"), PROXY_LINE_BAD, NULL}, /* another version */
        {TEXT(V2 "\x22\x11\x00\x0c"), PROXY_LINE_BAD, NULL}, /* another command */
        {TEXT(V2 "\x21\x11\xff\xff"), PROXY_LINE_BAD, NULL}, /* too long */
        {TEXT(V2 "\x21\x11\x00\x04\xc6\x33\x64\x07"), PROXY_LINE_BAD, NULL}, /* too short */
        {TEXT(V2 "\x21\x41\x00\x00"), PROXY_LINE_BAD, NULL},
    };
    struct peer_address client;
    size_t len;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        cr_assert_eq(proxy_line_parse(&client, &len, wrong[i].bytes, wrong[i].n), wrong[i].is,
                     "%zu", i);
}

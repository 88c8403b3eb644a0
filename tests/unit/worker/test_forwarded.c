/* test_forwarded.c - the client of a request that came through proxies. */
#include "worker/http/framing/forwarded.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"

TestSuite(forwarded, .timeout = 60);

static struct proxy_net trusted[2];

static void trust(void)
{
    struct error err;

    cr_assert_eq(proxy_net_parse(&trusted[0], "10.0.0.0/8", &err), 0);
    cr_assert_eq(proxy_net_parse(&trusted[1], "fd00::/8", &err), 0);
}

/* The client by a line, when the peer is `peer`; *more as forwarded_walk() says. */
static const char *client_by(const char *peer, const char *line, bool *more)
{
    static char text[PEER_TEXT_BYTES];
    struct peer_address hop;

    cr_assert(peer_address_parse(&hop, peer, strlen(peer)));
    *more = forwarded_walk(&hop, line, strlen(line), trusted, ARRAY_LEN(trusted));
    peer_address_text(text, &hop);
    return text;
}

Test(forwarded, only_what_trusted_proxies_added_counts, .init = trust)
{
    static const struct {
        const char *peer, *line, *client;
        bool more;
    } cases[] = {
        {"192.0.2.1", "198.51.100.7", "192.0.2.1", false}, /* no proxy */
        {"10.0.0.1", "198.51.100.7", "198.51.100.7", true},
        {"10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7",
         false}, /* the client wrote 6.6.6.6 */
        {"10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7", false},
        {"10.0.0.1", "198.51.100.7,10.0.0.3,fd00::2", "198.51.100.7", true},
        {"10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2", true},
        {"10.0.0.1", " 198.51.100.7:4711 ", "198.51.100.7", true},
        {"10.0.0.1", "\"[2001:db8::5]:4711\"", "2001:db8::5", true},
        {"10.0.0.1", "[2001:db8::5]", "2001:db8::5", true},
        {"10.0.0.1", "2001:db8::5", "2001:db8::5", true},
        {"10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7", true},
        {"10.0.0.1", "unknown", "10.0.0.1", false},
        {"10.0.0.1", "", "10.0.0.1", false},
        {"10.0.0.1", ",", "10.0.0.1", false},
        {"10.0.0.1", "198.51.100.7,", "10.0.0.1", false},
        {"10.0.0.1", "[2001:db8::5]x", "10.0.0.1", false},
        {"10.0.0.1", "[2001:db8::5", "10.0.0.1", false},
        {"10.0.0.1", "\"", "10.0.0.1", false},
        {"10.0.0.1", "evil.example, 10.0.0.2", "10.0.0.2", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        bool more;
        const char *client = client_by(cases[i].peer, cases[i].line, &more);

        cr_assert_str_eq(client, cases[i].client, "%s by '%s': %s", cases[i].peer,
                         cases[i].line, client);
        cr_assert_eq(more, cases[i].more, "'%s'", cases[i].line);
    }
}

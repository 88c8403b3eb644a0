/* proxy_line.c - the PROXY line with which a balancer begins a connection. */
#include "worker/http/framing/proxy_line.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "base/secure/proxies.h"

#define V1_MAX_BYTES 107 /* with its CRLF */
#define V1_WORDS     6
#define V2_HEAD      16
#define V2_MAX_BYTES 2048 /* behind that: addresses, and extensions, which are passed over */

static const char v1_sign[] = "PROXY ";
static const char v2_sign[] = "\r\n\r\n\0\r\nQUIT\n";

static bool begins(const char *bytes, size_t n, const char *sign, size_t sign_len)
{
    return memcmp(bytes, sign, n < sign_len ? n : sign_len) == 0;
}

struct line_word {
    const char *at;
    size_t len;
};

static bool is_word(const struct line_word *word, const char *text)
{
    return word->len == strlen(text) && memcmp(word->at, text, word->len) == 0;
}

static bool is_port(const struct line_word *word)
{
    unsigned number = 0;

    for (size_t i = 0; i < word->len; i++) {
        if (word->at[i] < '0' || word->at[i] > '9')
            return false;
        number = number * 10 + (unsigned)(word->at[i] - '0');
        if (number > UINT16_MAX)
            return false;
    }
    return word->len != 0;
}

static unsigned split(struct line_word words[V1_WORDS + 1], const char *p, const char *end)
{
    unsigned n = 0;

    while (n <= V1_WORDS) {
        const char *space = memchr(p, ' ', (size_t)(end - p));

        words[n++] = (struct line_word){p, (size_t)((space == NULL ? end : space) - p)};
        if (space == NULL)
            break;
        p = space + 1;
    }
    return n;
}

static bool is_family(const struct line_word *family, const struct line_word *address)
{
    bool v6 = memchr(address->at, ':', address->len) != NULL;

    return is_word(family, v6 ? "TCP6" : "TCP4");
}

/* "PROXY TCP4 SOURCE DESTINATION PORT PORT" */
static enum proxy_line parse_v1(struct peer_address *client, size_t *len, const char *bytes,
                                size_t n)
{
    const char *lf = memchr(bytes, '\n', n < V1_MAX_BYTES ? n : V1_MAX_BYTES);
    struct line_word words[V1_WORDS + 1] = {0};
    struct peer_address target;
    unsigned count;

    if (lf == NULL)
        return n < V1_MAX_BYTES ? PROXY_LINE_MORE : PROXY_LINE_BAD;
    *len = (size_t)(lf - bytes) + 1;
    if (lf[-1] != '\r')
        return PROXY_LINE_BAD;
    count = split(words, bytes, lf - 1);
    if (is_word(&words[1], "UNKNOWN"))
        return PROXY_LINE_OWN;
    if (count != V1_WORDS || !is_family(&words[1], &words[2]) ||
        !is_family(&words[1], &words[3]) || !is_port(&words[4]) || !is_port(&words[5]) ||
        !peer_address_parse(&target, words[3].at, words[3].len) ||
        !peer_address_parse(client, words[2].at, words[2].len))
        return PROXY_LINE_BAD;
    return PROXY_LINE_CLIENT;
}

static enum proxy_line take_v2(struct peer_address *client, unsigned family, const char *p,
                               size_t n)
{
    struct sockaddr_storage sa = {0};

    if (family == 0 || family == 3) /* none, or a Unix socket */
        return PROXY_LINE_OWN;
    if (family == 1 && n >= 12) {
        sa.ss_family = AF_INET;
        peer_address_of(client, &sa);
        memcpy(client->raw + 12, p, 4);
        return PROXY_LINE_CLIENT;
    }
    if (family == 2 && n >= 36) {
        *client = (struct peer_address){.local = false};
        memcpy(client->raw, p, sizeof(client->raw));
        return PROXY_LINE_CLIENT;
    }
    return PROXY_LINE_BAD;
}

static enum proxy_line parse_v2(struct peer_address *client, size_t *len, const char *bytes,
                                size_t n)
{
    unsigned version, command, behind;

    if (n < V2_HEAD)
        return PROXY_LINE_MORE;
    version = (uint8_t)bytes[12] >> 4;
    command = (uint8_t)bytes[12] & 0xf;
    behind = (unsigned)(uint8_t)bytes[14] << 8 | (uint8_t)bytes[15];
    if (version != 2 || command > 1 || behind > V2_MAX_BYTES)
        return PROXY_LINE_BAD;
    if (n < V2_HEAD + behind)
        return PROXY_LINE_MORE;
    *len = V2_HEAD + behind;
    if (command == 0) /* LOCAL: a check of the balancer's own */
        return PROXY_LINE_OWN;
    return take_v2(client, (uint8_t)bytes[13] >> 4, bytes + V2_HEAD, behind);
}

enum proxy_line proxy_line_parse(struct peer_address *client, size_t *len, const char *bytes,
                                 size_t n)
{
    if (n == 0)
        return PROXY_LINE_MORE;
    if (begins(bytes, n, v1_sign, sizeof(v1_sign) - 1))
        return n < sizeof(v1_sign) - 1 ? PROXY_LINE_MORE : parse_v1(client, len, bytes, n);
    if (begins(bytes, n, v2_sign, sizeof(v2_sign) - 1))
        return n < sizeof(v2_sign) - 1 ? PROXY_LINE_MORE : parse_v2(client, len, bytes, n);
    return PROXY_LINE_NONE;
}

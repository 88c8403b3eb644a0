/*
 * surface.c - the API families: routes, error bodies and error events, the strict reading of a
 * request's head, and what proxies say of clients.
 *
 * Input: a byte (surface, error), a byte for the operation, then `METHOD PATH` and a line end,
 * then anything.
 */
#include "worker/api/surface.h"

#include "base/error.h"
#include "base/secure/proxies.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "tests/fuzz/fuzz.h"
#include "worker/http/framing/forwarded.h"
#include "worker/http/framing/proxy_line.h"
#include "worker/http/framing/strict_head.h"

static void route(const char *text, size_t n)
{
    const char *space = memchr(text, ' ', n);
    size_t method = space == NULL ? n : (size_t)(space - text);
    const char *path = space == NULL ? text + n : space + 1;
    struct route r = surface_route(text, method, path, (size_t)(text + n - path));

    MUST(r.kind != ROUTE_BAD_METHOD || r.allow != NULL);
    MUST(r.kind != ROUTE_INFER || (r.operation >= 1 && r.operation <= 31));
    if (r.kind == ROUTE_MODEL)
        MUST(r.tail >= path && r.tail + r.tail_len <= text + n);
}

/* The JSON of one event or line; all of `out` must be such. */
static void check_event(struct buf *out, enum surface surface)
{
    char *text = input_text(buf_head(out), buf_size(out));
    struct json_value root;

    for (char *line = text, *next; *line != '\0'; line = next) {
        next = line + strcspn(line, "\n");
        if (*next == '\n')
            *next++ = '\0';
        MUST(strchr(line, '\r') == NULL);
        if (surface != SURFACE_OLLAMA && strncmp(line, "data: ", 6) != 0) {
            MUST(line[0] == '\0' || strncmp(line, "event: error", 12) == 0);
            continue;
        }
        if (surface != SURFACE_OLLAMA)
            line += 6;
        MUST(strcmp(line, "[DONE]") == 0 || json_check(&root, line, strlen(line), NULL) == 0);
    }
    free(text);
}

/* The text of an address is that address. */
static void check_address(const struct peer_address *address)
{
    char text[PEER_TEXT_BYTES];
    struct peer_address again;

    peer_address_text(text, address);
    MUST(peer_address_parse(&again, text, strlen(text)));
    MUST(memcmp(again.raw, address->raw, sizeof(again.raw)) == 0);
    MUST(peer_address_key(&again) == peer_address_key(address));
}

/* As it comes, and at once with all that is behind it. */
static void proxy_line(const char *bytes, size_t n)
{
    struct peer_address client, again;
    size_t len = 0, len_again = 0, k = 0;
    enum proxy_line is = PROXY_LINE_MORE;

    while (is == PROXY_LINE_MORE && k < n)
        is = proxy_line_parse(&client, &len, bytes, ++k);
    if (n == 0)
        return;
    MUST(proxy_line_parse(&again, &len_again, bytes, n) == is);
    if (is != PROXY_LINE_CLIENT && is != PROXY_LINE_OWN)
        return;
    MUST(len == k && len_again == k);
    if (is == PROXY_LINE_CLIENT) {
        check_address(&client);
        check_address(&again);
    }
}

static void forwarded(const char *value, size_t n)
{
    struct proxy_net trusted[2];
    struct peer_address hop;
    struct error err;

    MUST(proxy_net_parse(&trusted[0], "10.0.0.0/8", &err) == 0);
    MUST(proxy_net_parse(&trusted[1], "fd00::/8", &err) == 0);
    hop = trusted[0].address;
    if (forwarded_walk(&hop, value, n, trusted, 2))
        MUST(n != 0);
    check_address(&hop);
    hop = (struct peer_address){.raw = {0x20, 0x01}};
    MUST(!forwarded_walk(&hop, value, n, trusted, 2) && hop.raw[0] == 0x20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint32_t choice = input_byte(&in);
    enum surface surface = (enum surface)(choice % 3);
    enum api_error error = (enum api_error)(1 + choice / 3 % API_ERROR_OVERLOADED);
    int operation = (int)(input_byte(&in) % 32);
    char *raw = input_copy(in.at, in.left), *text = input_text(in.at, in.left);
    struct strict_head head;
    struct json_value root;
    struct buf out = BUF_INIT;

    route(raw, in.left);
    proxy_line(raw, in.left);
    forwarded(raw, in.left);
    MUST(api_error_status(error, surface) >= 400 && api_error_reason(error)[0] != '\0');
    surface_error_body(&out, surface, error, text, (choice & 128) != 0 ? text : NULL, "id");
    MUST(json_check(&root, buf_head(&out), buf_size(&out), NULL) == 0);
    buf_reset(&out);
    surface_error_event(&out, surface, operation, error, text, "id", choice);
    check_event(&out, surface);
    if (strict_head_check(&head, raw, in.left) == NULL) {
        MUST(head.head_len <= in.left && head.head_len <= STRICT_HEAD_MAX_BYTES);
        MUST(memchr(raw, '\0', head.head_len) == NULL);
        MUST(memcmp(raw + head.head_len - 4, "\r\n\r\n", 4) == 0);
    }
    buf_finish(&out);
    free(raw);
    free(text);
    return 0;
}

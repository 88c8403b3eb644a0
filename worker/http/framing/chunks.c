/* chunks.c - takes the framing of chunks off a body. */
#include "worker/http/framing/chunks.h"

#include <string.h>

#include "base/text/json.h"

/* More are not read as a size: 2^60 bytes. */
#define MAX_DIGITS 15

static bool take_digit(struct chunks *c, uint8_t byte)
{
    int digit = json_hex_value((char)byte);

    if (digit >= 0) {
        c->odd |= c->digits != 0 && c->left == 0;
        c->left = c->left << 4 | (uint64_t)digit;
        return ++c->digits <= MAX_DIGITS;
    }
    c->state = byte == '\r' ? CHUNKS_SIZE_LF : CHUNKS_EXTENSION;
    c->odd |= byte != '\r';
    return c->digits != 0 && (byte == '\r' || byte == ';' || byte == ' ' || byte == '\t');
}

/* A byte of an extension or a trailer, or the CR that ends it. */
static bool take_ignored(struct chunks *c, uint8_t byte, enum chunks_state at_end)
{
    if (byte == '\r')
        c->state = at_end;
    else if ((byte < 0x20 && byte != '\t') || byte == 0x7F)
        return false;
    return ++c->ignored <= CHUNKS_MAX_IGNORED;
}

static bool take_exactly(struct chunks *c, uint8_t byte, uint8_t expected,
                         enum chunks_state next)
{
    c->state = next;
    return byte == expected;
}

static bool end_size(struct chunks *c, uint8_t byte)
{
    c->digits = 0;
    return take_exactly(c, byte, '\n', c->left == 0 ? CHUNKS_TRAILER : CHUNKS_DATA);
}

/* A byte that is not of the body.  False: it is wrong. */
static bool take_byte(struct chunks *c, uint8_t byte)
{
    switch (c->state) {
    case CHUNKS_SIZE:
        return take_digit(c, byte);
    case CHUNKS_EXTENSION:
        return take_ignored(c, byte, CHUNKS_SIZE_LF);
    case CHUNKS_SIZE_LF:
        return end_size(c, byte);
    case CHUNKS_DATA_CR:
        return take_exactly(c, byte, '\r', CHUNKS_DATA_LF);
    case CHUNKS_DATA_LF:
        return take_exactly(c, byte, '\n', CHUNKS_SIZE);
    case CHUNKS_TRAILER:
        if (byte == '\r')
            return take_exactly(c, byte, '\r', CHUNKS_LAST_LF);
        c->state = CHUNKS_IN_TRAILER;
        c->odd = true;
        return byte != ' ' && byte != '\t' && take_ignored(c, byte, CHUNKS_TRAILER_LF);
    case CHUNKS_IN_TRAILER:
        return take_ignored(c, byte, CHUNKS_TRAILER_LF);
    case CHUNKS_TRAILER_LF:
        return take_exactly(c, byte, '\n', CHUNKS_TRAILER);
    case CHUNKS_DATA:
    case CHUNKS_LAST_LF:
        break;
    }
    return false;
}

enum chunks_result chunks_take(struct chunks *c, uint8_t *bytes, size_t n, size_t *body,
                               size_t *rest)
{
    size_t at = 0;

    *body = *rest = 0;
    while (at < n) {
        size_t take;

        if (c->state == CHUNKS_LAST_LF) {
            *rest = n - at - 1;
            return bytes[at] == '\n' ? CHUNKS_END : CHUNKS_BAD;
        }
        if (c->state != CHUNKS_DATA) {
            if (!take_byte(c, bytes[at++]))
                return CHUNKS_BAD;
            continue;
        }
        take = c->left < n - at ? (size_t)c->left : n - at;
        memmove(bytes + *body, bytes + at, take);
        *body += take;
        at += take;
        c->left -= take;
        if (c->left == 0)
            c->state = CHUNKS_DATA_CR;
    }
    return CHUNKS_MORE;
}

/* http_answer.c - an HTTP/1.1 answer, as its bytes come in. */
#include "tests/bench/http_answer.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t http_answer_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* False: it was only a word in between, the real one follows. */
static bool head_complete(struct http_answer *a)
{
    a->head[a->head_len] = '\0';
    a->matched = 0;
    if (sscanf(a->head, "HTTP/1.%*c %u", &a->status) != 1)
        a->status = 1;
    if (a->status == 100) {
        a->head_len = 0;
        a->status = 0;
        return false;
    }
    a->part = strcasestr(a->head, "\r\ntransfer-encoding: chunked") != NULL
                  ? HTTP_ANSWER_PART_SIZE
                  : HTTP_ANSWER_PART_RAW;
    return true;
}

/* True: the head is complete. */
static bool take_head_byte(struct http_answer *a, char c)
{
    if (a->head_len < sizeof(a->head) - 1)
        a->head[a->head_len++] = c;
    a->matched = c == "\r\n\r\n"[a->matched] ? a->matched + 1 : (c == '\r');
    return a->matched == 4 && head_complete(a);
}

static void take_size_byte(struct http_answer *a, char c)
{
    if (c == '\n')
        a->part = a->chunk_left != 0 ? HTTP_ANSWER_PART_DATA : HTTP_ANSWER_PART_TRAILER;
    else if (c >= '0' && c <= '9')
        a->chunk_left = a->chunk_left * 16 + (uint64_t)(c - '0');
    else if ((c | 32) >= 'a' && (c | 32) <= 'f')
        a->chunk_left = a->chunk_left * 16 + (uint64_t)((c | 32) - 'a' + 10);
}

static enum http_answer_event take_body(struct http_answer *a, const char **bytes, size_t *n,
                                        const char **body, size_t *body_len)
{
    size_t take = *n;

    if (a->part == HTTP_ANSWER_PART_DATA) {
        if (take > a->chunk_left)
            take = (size_t)a->chunk_left;
        a->chunk_left -= take;
        if (a->chunk_left == 0)
            a->part = HTTP_ANSWER_PART_DATA_END;
    }
    *body = *bytes;
    *body_len = take;
    *bytes += take;
    *n -= take;
    return HTTP_ANSWER_BODY;
}

enum http_answer_event http_answer_next(struct http_answer *a, const char **bytes, size_t *n,
                                        const char **body, size_t *body_len)
{
    while (*n != 0) {
        char c = **bytes;

        switch (a->part) {
        case HTTP_ANSWER_PART_DATA:
        case HTTP_ANSWER_PART_RAW:
            return take_body(a, bytes, n, body, body_len);
        case HTTP_ANSWER_PART_END:
            *n = 0;
            return HTTP_ANSWER_END;
        case HTTP_ANSWER_PART_HEAD:
        case HTTP_ANSWER_PART_SIZE:
        case HTTP_ANSWER_PART_DATA_END:
        case HTTP_ANSWER_PART_TRAILER:
            break;
        }
        (*bytes)++;
        (*n)--;
        if (a->part == HTTP_ANSWER_PART_SIZE) {
            take_size_byte(a, c);
        } else if (a->part == HTTP_ANSWER_PART_HEAD) {
            if (take_head_byte(a, c))
                return HTTP_ANSWER_HEAD;
        } else if (c == '\n' && a->part == HTTP_ANSWER_PART_DATA_END) {
            a->part = HTTP_ANSWER_PART_SIZE;
        } else if (c == '\n') { /* of the trailer, which is empty */
            a->part = HTTP_ANSWER_PART_END;
            return HTTP_ANSWER_END;
        }
    }
    return HTTP_ANSWER_MORE;
}

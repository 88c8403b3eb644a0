/*
 * http_answer.h - an HTTP/1.1 answer, as its bytes come in: for the load clients.
 *
 * Knows chunked answers and those that end with their connection; the peers give no others to a
 * stream.  Keeps the head's first bytes and copies nothing of the body.
 */
#ifndef TESTS_BENCH_HTTP_ANSWER_H
#define TESTS_BENCH_HTTP_ANSWER_H

#include <stddef.h>
#include <stdint.h>

enum http_answer_part {
    HTTP_ANSWER_PART_HEAD = 0,
    HTTP_ANSWER_PART_SIZE,
    HTTP_ANSWER_PART_DATA,
    HTTP_ANSWER_PART_DATA_END,
    HTTP_ANSWER_PART_RAW,
    HTTP_ANSWER_PART_TRAILER,
    HTTP_ANSWER_PART_END,
};

/* Zeroed, it waits for a head. */
struct http_answer {
    enum http_answer_part part;
    uint32_t matched; /* bytes of the head's end seen so far */
    uint32_t head_len;
    uint32_t status; /* 0 until the status line was read; 1: it is none */
    uint64_t chunk_left;
    char head[1024]; /* what fits, with NUL once it is complete */
};

enum http_answer_event {
    HTTP_ANSWER_MORE = 0, /* all bytes are taken */
    HTTP_ANSWER_HEAD,     /* the head is complete (100 is passed over) */
    HTTP_ANSWER_BODY,     /* *body has *body_len bytes of it, in the input */
    HTTP_ANSWER_END,      /* a chunked answer is over */
};

/* Takes bytes off the front of (*bytes)[0..*n) up to the next event. */
enum http_answer_event http_answer_next(struct http_answer *a, const char **bytes, size_t *n,
                                        const char **body, size_t *body_len);

/* CLOCK_MONOTONIC. */
uint64_t http_answer_now_us(void);

#endif

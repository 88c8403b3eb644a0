/*
 * curl_loop.h - libcurl transfers on the event loop, without threads of ours.
 *
 * libcurl's sockets live in an epoll set of their own, which the loop watches as one
 * descriptor; its timeout is one of the loop's timers.
 */
#ifndef DROVER_NODE_CURL_LOOP_H
#define DROVER_NODE_CURL_LOOP_H

#include <curl/curl.h>
#include <stdbool.h>

#include "base/attrs.h"
#include "base/io/loop.h"

struct error;

struct curl_loop {
    struct loop *loop;   /* borrowed */
    CURLM *multi;        /* owned */
    int epoll_fd;        /* owned */
    struct watch *watch; /* owned */
    struct timer timer;
    unsigned inside; /* depth of calls into libcurl that may call back */
};

/* One transfer; the caller embeds it and owns `easy`. */
struct curl_job {
    CURL *easy;
    /* The transfer is over; the easy handle is out of the set. */
    void (*on_done)(struct curl_job *job, CURLcode code);
};

/* DRV_ESYS, DRV_ENOMEM. */
MUST_CHECK int curl_loop_init(struct curl_loop *cl, struct loop *loop, struct error *err);
void curl_loop_finish(struct curl_loop *cl); /* after every job is out */

/* Starts a transfer; calls back only from the loop.  DRV_ENOMEM. */
MUST_CHECK int curl_loop_add(struct curl_loop *cl, struct curl_job *job);

/* Takes a transfer out and closes its connection when it is not over.  Not from inside a
 * callback of libcurl's: see `inside`. */
void curl_loop_remove(struct curl_loop *cl, struct curl_job *job);

/* Frees request headers, overwritten first: one of them may be a key.  NULL is fine. */
void curl_loop_free_headers(struct curl_slist *headers);

#endif
